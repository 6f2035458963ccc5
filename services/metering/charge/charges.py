"""Lists charges, for other services to compare with their own, and charges that billing has not confirmed."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from libs.common.audit.recording import Changed, record_event
from libs.common.charge_filter import ChargeFilter
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.digests import Digests
from libs.common.ids import MAX, NIL
from libs.common.pages import page_size
from libs.common.shard_pages import by_shard, place_in_token, token_after
from libs.common.shards import Shards
from libs.common.timestamps import EPOCH, micros_of, moment_of
from libs.common.windows import Span, Windows
from services.metering.charge import dropped_store, store, usage_store
from services.metering.charge.domain import (
    MICROSECOND,
    ROWS_MAX,
    ROWS_WANTED,
    SHORTEST_US,
    Charge,
    ChargedUsage,
    PendingCharge,
    Window,
)

_CHARGES_DEFAULT: Final = 1_000
_CHARGES_MAX: Final = 10_000
_ORGANIZATIONS: Final = "organizations"
_ORGANIZATIONS_MAX: Final = 1_000
_SCANNED_MAX: Final = 100_000
"""How many operations a page of charges in buckets looks at."""


class Charges:
    """The charges that metering asks billing for."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def page(self, wanted: ChargeFilter, size: int, page_token: str) -> tuple[list[Charge], str]:
        """Return a page of charges, and the token of the next.

        They come shard by shard, in each by (organization_id, operation_id). A page ends with its shard.
        """
        fingerprint, first = f"charges/{wanted.fingerprint}", (wanted.organization_id or NIL, "")
        shards = self._shards if wanted.organization_id is None else Shards([self._shards.of(wanted.organization_id)])
        number, after = place_in_token(page_token, fingerprint, first, len(shards))
        page, last = await _page(shards[number], wanted, after, page_size(size, _CHARGES_DEFAULT, _CHARGES_MAX))
        return page, token_after(number, last, fingerprint, first, len(shards))

    async def usage_of(self, organization_id: str, charges: Sequence[Charge]) -> dict[str, ChargedUsage]:
        """Return the usage behind charges of an organization, by operation; parts of calls have none."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await usage_store.usage_of(connection, organization_id, [one.operation_id for one in charges])

    async def organizations(self, size: int, page_token: str) -> tuple[list[str], str, datetime]:
        """Return a page of organizations with usage, the token of the next, and the time.

        They come shard by shard, in each by id. A page ends with its shard.
        """
        size = page_size(size, _ORGANIZATIONS_MAX, _ORGANIZATIONS_MAX)
        number, after = place_in_token(page_token, _ORGANIZATIONS, (NIL,), len(self._shards))
        async with self._shards[number].transaction() as connection:
            page = await store.organizations_after(connection, after[0], size)
        last = (page[-1],) if len(page) == size else None
        return page, token_after(number, last, _ORGANIZATIONS, (NIL,), len(self._shards)), self._clock.now()

    async def these_organizations(self, organization_ids: Sequence[str]) -> tuple[list[str], datetime]:
        """Return those of the organizations that have usage, and the time."""
        found: list[str] = []
        for shard, ids in by_shard(self._shards, organization_ids):
            async with shard.transaction() as connection:
                found += await store.these_organizations(connection, ids)
        return found, self._clock.now()

    async def digest(
        self,
        organization_ids: Sequence[str],
        bucket_count: int,
        since_time: datetime | None,
        until_time: datetime | None,
    ) -> AsyncIterator[Digests | int]:
        """Yield how many rows each statement has read, and after each shard the digests of its organizations."""
        for shard, ids in by_shard(self._shards, organization_ids):
            async with shard.raw_transaction() as connection:
                await connection.execute(store.PLAN_PARTS)
                span = await store.usage_span(connection, ids, since_time or EPOCH)
            digests = Digests()
            if span is not None:
                window = Window(ids, span[0], span[1] + MICROSECOND)
                async for rows in _digest(shard, window, bucket_count, until_time, digests):
                    yield rows
            async for rows in _digest_parts(shard, ids, bucket_count, (since_time, until_time), digests):
                yield rows
            async for rows in _digest_dropped(shard, ids, bucket_count, (since_time, until_time), digests):
                yield rows
            yield digests

    async def list_pending(
        self, *, refused_only: bool, after: tuple[datetime, str, str], limit: int
    ) -> Sequence[PendingCharge]:
        """Return charges that billing has not confirmed, the oldest first over all shards."""
        oldest: list[PendingCharge] = []
        for shard in self._shards:
            async with shard.transaction() as connection:
                oldest += await store.list_pending(connection, refused_only=refused_only, after=after, limit=limit)
            oldest = sorted(oldest, key=lambda charge: charge.key)[:limit]
        return oldest

    async def retry(self, organization_id: str, operation_ids: Sequence[str]) -> int:
        """Make an organization's charges due: those of the operations named, or all that billing refuses."""
        now = self._clock.now()
        async with self._shards.of(organization_id).transaction() as connection:
            count = await store.retry(connection, organization_id=organization_id, operation_ids=operation_ids, now=now)
            if count:
                # One event for all of them; the operations are named as far as an event has room.
                await record_event(
                    connection,
                    now=now,
                    organization_id=organization_id,
                    resource_type="charge",
                    resource_id=operation_ids[0] if len(operation_ids) == 1 else "",
                    changed=(
                        Changed("charge_count", after=str(count)),
                        *(Changed("operation_id", after=operation_id) for operation_id in operation_ids[:50]),
                    ),
                )
            return count


async def _page(
    shard: Database, wanted: ChargeFilter, after: tuple[str, ...], size: int
) -> tuple[list[Charge], tuple[str, str] | None]:
    """Return a page of a shard's charges, and where the next begins; None at the end of the shard."""
    async with shard.raw_transaction() as connection:
        if wanted.organization_id is None or not (wanted.operation_ids or wanted.buckets):
            return await store.charges_after(connection, wanted, (after[0], after[1]), size)
        if wanted.buckets:
            await connection.execute(store.PLAN_PARTS)
            operation_ids, end = await store.operations_in_buckets(connection, wanted, after[1], _SCANNED_MAX, size)
            page, _ = await store.charges_of(connection, wanted, operation_ids, after[1], size)
        else:
            page, end = await store.charges_of(connection, wanted, wanted.operation_ids, after[1], size)
    return page, None if end is None else (wanted.organization_id, end)


async def _digest(
    shard: Database, whole: Window, bucket_count: int, until_time: datetime | None, digests: Digests
) -> AsyncIterator[int]:
    """Add the digests of a window part by part; yield how many rows each part had."""
    if len(whole.organization_ids) == 1:
        async for rows in _digest_one(shard, whole, bucket_count, until_time, digests):
            yield rows
        return
    span = Span(micros_of(whole.start), micros_of(whole.end))
    windows = Windows(span, rows_wanted=ROWS_WANTED, rows_max=ROWS_MAX, shortest=SHORTEST_US)
    while not windows.done:
        start, end = map(moment_of, windows.next)
        window = whole._replace(start=start, end=end)
        async with shard.raw_transaction() as connection:
            await connection.execute(store.PLAN_PARTS)
            rows = await store.count_usage(connection, window, ROWS_MAX + 1)
            if not windows.take(rows):
                continue
            if rows <= ROWS_MAX:
                digests.add(await store.window_digests(connection, window, bucket_count, until_time))
        if rows <= ROWS_MAX:
            yield rows
            continue
        for organization_id in window.organization_ids:
            alone = window._replace(organization_ids=(organization_id,))
            async for rows in _digest_one(shard, alone, bucket_count, until_time, digests):
                yield rows


async def _digest_one(
    shard: Database, window: Window, bucket_count: int, until_time: datetime | None, digests: Digests
) -> AsyncIterator[int]:
    """The same for a window of one organization, which may have any number of rows at one moment."""
    after: tuple[datetime, str] | None = window.start - MICROSECOND, MAX
    while after is not None:
        async with shard.raw_transaction() as connection:
            await connection.execute(store.PLAN_PARTS)
            last = await store.end_of_part(connection, window.organization_ids[0], after, window.end, ROWS_WANTED)
            parts = await store.part_digests(connection, window, after, last, bucket_count, until_time)
        digests.add(parts)
        yield ROWS_WANTED if last else sum(part.charge_count for part in parts)
        after = last


async def _digest_parts(
    shard: Database,
    organization_ids: Sequence[str],
    bucket_count: int,
    times: tuple[datetime | None, datetime | None],
    digests: Digests,
) -> AsyncIterator[int]:
    """Add the digests of what parts of calls capture, organization by organization; yield how many rows were read."""
    async with shard.raw_connection() as connection:
        found = await store.organizations_with_parts(connection, organization_ids)
    for organization_id in found:
        after: str | None = ""
        while after is not None:
            async with shard.raw_transaction() as connection:
                await connection.execute(store.PLAN_PARTS)
                last = await store.end_of_parts(connection, organization_id, after, ROWS_WANTED)
                parts = await store.digests_of_parts(connection, organization_id, after, last, times, bucket_count)
            digests.add(parts)
            yield ROWS_WANTED if last else sum(part.charge_count for part in parts)
            after = last


async def _digest_dropped(
    shard: Database,
    organization_ids: Sequence[str],
    bucket_count: int,
    times: tuple[datetime | None, datetime | None],
    digests: Digests,
) -> AsyncIterator[int]:
    """Add the digests of dropped usage, organization by organization; yield how many rows were read."""
    async with shard.raw_connection() as connection:
        found = await dropped_store.organizations_with_dropped(connection, organization_ids)
    for organization_id in found:
        after: tuple[datetime, str] | None = (times[0] or EPOCH) - MICROSECOND, MAX
        while after is not None:
            async with shard.raw_transaction() as connection:
                await connection.execute(store.PLAN_PARTS)
                last = await dropped_store.end_of_dropped(connection, organization_id, after, ROWS_WANTED)
                parts = await dropped_store.digests_of_dropped(
                    connection, organization_id, after, last, bucket_count, times[1]
                )
            digests.add(parts)
            yield ROWS_WANTED if last else sum(part.charge_count for part in parts)
            after = last
