"""Reads usage page by page and yields the pieces of a file.

Nothing holds a snapshot: rows are never changed, and those that were written after the file's as_of_time are left out.
A page is read while the one before it is written out, so a stream has two pages in memory at most. Writing lines out
takes the process's time, so it is done a slice at a time, between which other calls go on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from libs.common.clock import Clock
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.model.catalogue import Catalogue
from services.metering.model.units import Units
from services.metering.usage.beginnings import full_hour_after, full_hour_before
from services.metering.usage.dropped_store import refuse_dropped_range
from services.metering.usage.export import store
from services.metering.usage.export.domain import Asked, Place, Totals, place_after
from services.metering.usage.export.forms import Form
from services.metering.usage.export.store import Key, Row
from services.metering.usage.reports import walk

PAGE_ROWS: Final = 2_000
"""How many rows a page has; corrections of its last usage may add 200."""
SLICE_ROWS: Final = 200
"""How many rows are written out at once: for about 4 ms."""
_SLICE_MAX: Final = 1_500_000
"""A longer slice is written out in halves."""
_PIECE: Final = 500_000
"""A piece is sent when it has so many bytes."""
_READERS: Final = 4
_LOOKED_AT: Final = 100


class Piece(NamedTuple):
    """Some rows of a file, and where it goes on."""

    text: bytes
    place: Place


class _Rows(NamedTuple):
    """The rows of a page that follow a place, and the page's last key."""

    place: Place
    rows: Sequence[Row]
    until: Key


class Exports:
    """Usage as files."""

    def __init__(self, shards: Shards, catalogue: Catalogue, clock: Clock) -> None:
        self._shards = shards
        self.catalogue = catalogue
        self.clock = clock
        self._readers = asyncio.Semaphore(_READERS)

    @property
    def units(self) -> Units:
        """The units of the catalogue."""
        return self.catalogue.units

    async def pieces(self, asked: Asked, form: Form, place: Place, totals: Totals) -> AsyncGenerator[Piece]:
        """Yield the pieces of a file from a place on; `totals` has them all when the next one is asked for."""
        if place == Place() and not totals.size:
            totals.add_text(form.head, 0)
            yield Piece(form.head, place)
        async with aclosing(self._ahead(asked, place)) as pages:
            async for page in pages:
                await self.catalogue.refresh()
                piece, begin, done = bytearray(), page.place, 0
                for text, count, rows in _slices(form, page.rows):
                    totals.add_rows(page.rows[done : done + count])
                    totals.add_text(text, rows)
                    done += count
                    piece += text
                    if len(piece) >= _PIECE and done < len(page.rows):
                        place = place_after(begin, page.rows, done, form.key_of)
                        yield Piece(bytes(piece), place)
                        piece.clear()
                    await asyncio.sleep(0)
                if piece:
                    yield Piece(bytes(piece), Place(begin.organization_id, page.until))

    async def _ahead(self, asked: Asked, place: Place) -> AsyncGenerator[_Rows]:
        """Yield pages, each of which is read while the one before it is used."""
        pages = self._pages(asked, place)
        reading = asyncio.ensure_future(anext(pages, None))
        try:
            while (page := await reading) is not None:
                reading = asyncio.ensure_future(anext(pages, None))
                yield page
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await pages.aclose()

    async def _pages(self, asked: Asked, place: Place) -> AsyncGenerator[_Rows]:
        """Yield the pages of all organizations from a place on, those without rows left out."""
        if place.organization_id:
            async for page in self._pages_of(asked, place):
                yield page
        elif asked.organization_id:
            async for page in self._pages_of(asked, Place(asked.organization_id)):
                yield page
        if asked.organization_id:
            return
        hours = full_hour_before(asked.span.start_time), full_hour_after(asked.span.end_time)
        begin = place.organization_id or NIL
        async for batch in walk(self._shards, asked.organization_ids, begin, *hours, size=_LOOKED_AT):
            for organization_id in batch.organization_ids:
                async for page in self._pages_of(asked, Place(organization_id)):
                    yield page

    async def _pages_of(self, asked: Asked, place: Place) -> AsyncIterator[_Rows]:
        """Yield the pages of one organization from a place on.

        Raises:
            UsageMonthDropped: usage of its range was dropped, so the file would lack it.
        """
        organization_id, span = place.organization_id, asked.span
        shard = self._shards.of(organization_id)
        async with self._readers, shard.raw_connection() as connection:
            await refuse_dropped_range(connection, organization_id, span.start_time, span.end_time)
            dimension_ids = await store.dimensions_of(connection, organization_id, asked.filters)
        after, sent = place.after or (span.start_time, NIL), place.sent
        while True:
            async with self._readers, shard.raw_transaction() as connection:
                await connection.execute(store.PLAN_BY_KEY)
                end = await store.page_end(connection, organization_id, after, span.end_time, PAGE_ROWS)
                until = end or (span.end_time, NIL)
                page = store.Page(organization_id, after, until, span.as_of_time)
                rows = await store.rows_of(connection, page, asked.filters, dimension_ids, asked.written)
            if rows:
                yield _Rows(Place(organization_id, after, sent), rows[sent:], until)
            if end is None:
                break
            after, sent = end, 0
        # A month that was dropped meanwhile may have taken rows away that were not read yet.
        async with self._readers, shard.raw_connection() as connection:
            await refuse_dropped_range(connection, organization_id, span.start_time, span.end_time)


def _slices(form: Form, rows: Sequence[Row]) -> Iterator[tuple[bytes, int, int]]:
    """Yield lines of text, with how many of the rows given and how many of the file's they are."""
    for start in range(0, len(rows), SLICE_ROWS):
        yield from _cut(form, rows[start : start + SLICE_ROWS])


def _cut(form: Form, rows: Sequence[Row]) -> Iterator[tuple[bytes, int, int]]:
    lines = form.lines_of(rows)
    if len(lines.text) > _SLICE_MAX and len(rows) > 1:
        middle = len(rows) // 2
        yield from _cut(form, rows[:middle])
        yield from _cut(form, rows[middle:])
    else:
        yield lines.text, len(rows), lines.rows
