"""Reading what a check covers: a walk's ranges one after the other, or a sweep's windows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, Protocol, TypeVar

from libs.common.database import Database, Transaction
from libs.common.errors import DeadlineExceeded, Kind, Refusal, Unavailable
from libs.common.ids import NIL
from libs.common.integrity import store
from libs.common.integrity.domain import Digests, Finding, Key, Pages, Progress, Range, Scope, Sweep, Walk, Window
from libs.common.timestamps import micros_of
from libs.common.windows import Span, Windows

_T = TypeVar("_T")

FINDINGS_MAX: Final = 1_000
_FOUND_MAX: Final = FINDINGS_MAX + 1
ROWS_MAX: Final = 50_000
_ROWS_DIVISOR: Final = 5
"""By how much a range becomes smaller when it could not be read within the time of a statement."""
_WINDOW_FACTOR: Final = 2
"""How many times `rows_max` a window may have; about `rows_max` are wanted."""
_ROWS_PER_PAGE: Final = 50
"""Roughly, to begin with."""
_NO_LIMIT: Final = 2**31
_ORGANIZATIONS_MAX: Final = 1_000
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)
_MICROSECOND: Final = timedelta(microseconds=1)


class CheckFailed(Refusal):
    """A statement of a check failed or took too long, so that nothing can be said about all that is stored."""

    kind = Kind.ABORTED
    reason = "CHECK_FAILED"
    template = "The check of {invariants} over the rows of {table} {range} did not finish: {cause}"

    @property
    def took_too_long(self) -> bool:
        return isinstance(self.__cause__, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Piece:
    """One range or window that was checked."""

    rows: int
    findings: Sequence[Finding] = ()
    digests: Digests = ()
    until: Key | None = None
    """Where a range ended; None if it was the last, and for a window."""
    is_all: bool = False
    """Whether it is known that nothing else is to be read."""


class Takes(Protocol):
    """Takes each piece when all of it was read, so that what is tried again counts once."""

    def __call__(self, check: Walk | Sweep, piece: Piece, progress: Progress) -> None: ...


class Reading:
    """The reading of one schema within a scope, at most `rows_max` rows with one statement, or twice that in windows.

    Each piece is read in a snapshot of its own. `take_digests` takes the digests of each; without it none are read. A
    method fails with `CheckFailed` where a piece cannot be read.
    """

    def __init__(
        self,
        database: Database,
        scope: Scope,
        rows_max: int,
        take: Takes,
        take_digests: Callable[[Digests], None] | None = None,
    ) -> None:
        self._database = database
        self._scope = scope
        self._rows_max = rows_max
        self._window_rows_max = _WINDOW_FACTOR * rows_max
        self._take = take
        self._take_digests = take_digests

    async def read(self, check: Walk | Sweep) -> None:
        """Check everything that a walk or sweep reads."""
        if isinstance(check, Sweep):
            pieces = self._windows(check)
        elif check.by_pages and self._scope.organization_id is None and await self._pages_of(check):
            pieces = self._pages(check)
        else:
            pieces = self._ranges(check)
        progress: Progress | None = None
        async for piece in pieces:
            if progress is None:
                progress = Progress(check.table, 0, 0 if piece.is_all else await self._estimate(check))
            progress = progress.after(piece.rows)
            self._take(check, piece, progress)
            if self._take_digests is not None:
                self._take_digests(piece.digests)

    async def _estimate(self, check: Walk | Sweep) -> int:
        """Return roughly how many rows there are to read; 0 if nobody knows."""
        if not self._scope.is_everything:
            return 0
        return await self._tried(partial(store.estimate_rows, table=check.table), check, "")

    async def empty(self, walks: Sequence[Walk]) -> frozenset[str]:
        """Return those of the walks' tables that have no rows; none where that cannot be found out quickly."""
        tables = sorted({walk.table for walk in walks})
        try:
            filled = await self._tried(partial(store.find_filled, tables=tables), walks[0], "")
        except CheckFailed:
            return frozenset()
        return frozenset(tables) - filled

    async def organizations(self, check: Walk | Sweep, tables: Sequence[str]) -> AsyncIterator[list[str]]:
        """Yield the organizations that have rows in the tables, some at a time, or the only one of the scope."""
        if self._scope.organization_id is not None:
            yield [self._scope.organization_id]
            return
        after, found = NIL, [NIL]
        while found:
            read = partial(store.organizations_after, tables=tables, after=after, limit=_ORGANIZATIONS_MAX)
            found = await self._tried(read, check, f"of organizations after {after}")
            if found:
                yield found
                after = found[-1]

    async def _ranges(self, walk: Walk) -> AsyncIterator[Piece]:
        """Check one range after the other. One that takes too long is tried again with fewer rows."""
        after: Key | None = None
        more, rows = True, self._rows_max
        while more:
            where = "from the first on" if after is None else f"from {'/'.join(map(str, after))} on"
            try:
                piece = await self._tried(partial(self._check_range, walk, after, rows), walk, where)
            except CheckFailed as failed:
                if not failed.took_too_long or rows <= walk.rows_min:
                    raise
                rows = max(rows // _ROWS_DIVISOR, walk.rows_min)
                continue
            yield piece
            after, more = piece.until, piece.until is not None

    async def _pages(self, walk: Walk) -> AsyncIterator[Piece]:
        """Check some pages after the others, to the end that the table has by then."""
        first, step = 0, max(self._rows_max // _ROWS_PER_PAGE, 1)
        while first < await self._pages_of(walk):
            pages = Pages(first, first + step)
            where = f"in the pages from {first} on"
            try:
                piece = await self._tried(partial(self._check_pages, walk, pages), walk, where)
            except CheckFailed as failed:
                if not failed.took_too_long or step == 1:
                    raise
                step = max(step // _ROWS_DIVISOR, 1)
                continue
            yield piece
            first = pages.end

    async def _pages_of(self, walk: Walk) -> int:
        return await self._tried(partial(store.count_pages, table=walk.table), walk, "in all pages")

    async def _check_pages(self, walk: Walk, pages: Pages, tx: Transaction) -> Piece:
        piece = await self._look(tx, walk, pages)
        if self._take_digests is not None:
            return piece
        return replace(piece, rows=await store.count_in_pages(tx, walk, self._scope, pages))

    async def _check_range(self, walk: Walk, after: Key | None, rows_max: int, tx: Transaction) -> Piece:
        """Check the next range, of at most `rows_max` rows."""
        if not walk.key:
            return await self._look(tx, walk, Range(None, None))
        until = await store.find_bound(tx, walk, self._scope, after, rows_max)
        range_ = Range(after, until)
        rows = rows_max if until is not None else await store.count_rows(tx, walk, self._scope, range_)
        is_all = after is None and until is None
        if not rows:
            return Piece(0, is_all=is_all)  # A violation is one of a row.
        return replace(await self._look(tx, walk, range_), rows=rows, until=until, is_all=is_all)

    async def _windows(self, sweep: Sweep) -> AsyncIterator[Piece]:
        """Check one window after the other, of some organizations at a time."""
        unit_us = sweep.unit // _MICROSECOND
        async for organization_ids in self.organizations(sweep, sweep.tables):
            find = partial(store.find_span, sweep=sweep, organization_ids=organization_ids)
            span = await self._tried(find, sweep, _where(organization_ids))
            if span is None:
                continue
            start_us = span.start
            if self._scope.since_time is not None:
                start_us = max(start_us, micros_of(self._scope.since_time - sweep.early))
            whole = Span(start_us // unit_us * unit_us, -(-span.end // unit_us) * unit_us)
            windows = Windows(whole, rows_wanted=self._rows_max, rows_max=self._window_rows_max, unit=unit_us)
            while not windows.done:
                window = Window(organization_ids, windows.next)
                piece = await self._try_window(sweep, window)
                if windows.take(self._window_rows_max + 1 if piece is None else piece.rows):
                    async for one in self._pieces(sweep, window, piece):
                        yield one

    async def _pieces(self, sweep: Sweep, window: Window, piece: Piece | None) -> AsyncIterator[Piece]:
        """Yield what was read of a window; if it was too large, check it in halves, each of which may be divided."""
        if piece is not None:
            yield piece
            return
        middle = len(window.organization_ids) // 2
        for half in (window.organization_ids[:middle], window.organization_ids[middle:]):
            smaller = Window(half, window.span)
            async for one in self._pieces(sweep, smaller, await self._try_window(sweep, smaller)):
                yield one

    async def _try_window(self, sweep: Sweep, window: Window) -> Piece | None:
        """Check a window; None if it has too many rows, or takes too long, and can be divided.

        The smallest, a unit of time of one organization, is checked whatever it has.
        """
        length_us = window.span.end - window.span.start
        is_smallest = len(window.organization_ids) == 1 and length_us <= sweep.unit // _MICROSECOND
        rows_max = _NO_LIMIT if is_smallest else self._window_rows_max
        try:
            return await self._tried(
                partial(self._check_window, sweep, window, rows_max), sweep, _where(window.organization_ids)
            )
        except CheckFailed as failed:
            if not failed.took_too_long or is_smallest:
                raise
            return None

    async def _check_window(self, sweep: Sweep, window: Window, rows_max: int, tx: Transaction) -> Piece | None:
        """Check a window; None if it has more than `rows_max` rows."""
        rows = await store.count_window(tx, sweep, self._scope, window, rows_max + 1)
        return None if rows > rows_max else replace(await self._look(tx, sweep, window), rows=rows)

    async def _look(self, tx: Transaction, check: Walk | Sweep, part: store.Part) -> Piece:
        """Return the violations in a part, and its digests with the number of rows that these are of."""
        digests: Digests = ()
        rows = 0
        if self._take_digests is not None:
            digests, new_rows = await store.read_digests(tx, check, self._scope, part)
            rows = new_rows + sum(count for _, count, _ in digests)
            if isinstance(check, Walk) and not new_rows:
                return Piece(rows, digests=digests)
        if isinstance(check, Sweep) and check.suspects:
            assert isinstance(part, Window)
            part = part._replace(organization_ids=await store.find_suspects(tx, check, self._scope, part))
            if not part.organization_ids:
                return Piece(rows, digests=digests)
        return Piece(rows, await store.find_violations(tx, check, self._scope, part, _FOUND_MAX), digests)

    async def _tried(self, read: Callable[[Transaction], Awaitable[_T]], check: Walk | Sweep, where: str) -> _T:
        """Read in a snapshot, and again for a while if the database or a free connection cannot be had.

        Raises:
            CheckFailed: it did not work; says which invariants and which rows are concerned.
        """
        for pause_s in (*_PAUSES_S, None):
            try:
                async with self._database.snapshot() as tx:
                    await store.prepare(tx)
                    return await read(tx)
            except Unavailable as refusal:
                if pause_s is None:
                    raise self._failure(check, where, refusal) from refusal
                await asyncio.sleep(pause_s)
            except Refusal as refusal:
                raise self._failure(check, where, refusal) from refusal
            except Exception as error:
                error.add_note(self._failure(check, where, error).message)
                raise
        raise AssertionError("the last pause is None")

    def _failure(self, check: Walk | Sweep, where: str, cause: Exception) -> CheckFailed:
        names = ", ".join(invariant.name for invariant in check.invariants)
        table = f"{self._database.schema}.{check.table}"
        return CheckFailed(invariants=names, table=table, range=where, cause=str(cause))


def _where(organization_ids: Sequence[str]) -> str:
    more = f" and {len(organization_ids) - 1} more" if len(organization_ids) > 1 else ""
    return f"of organization {organization_ids[0]}{more}"
