"""Records usage in batches (see `libs.common.group_commit`): one transaction, then one call to billing for all charges.

The transaction writes the usage with its charges in the outbox, so a usage is durable before billing is asked. The
relay sends every charge again that billing does not confirm.

While Postgres writes a batch, the next one is priced and counted, and billing is asked for the one before. The batches
of a shard are written one after another, in the order in which they began; one that fails and is tried again may come
after the next.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database
from libs.common.errors import OperationIdReused, Refusal
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.shards import Shards
from services.metering.errors import AuthorizationLapsed, CostTooLarge
from services.metering.model.catalogue import Catalogue
from services.metering.quota.counter_store import Counted
from services.metering.quota.counters import CAREFUL_BATCHES
from services.metering.quota.quick_store import QuickChange
from services.metering.usage import store
from services.metering.usage.announcements import UsageEvents, announce_usage
from services.metering.usage.charging import Charging
from services.metering.usage.counting import Counting
from services.metering.usage.dimensions import KnownDimensions
from services.metering.usage.domain import (
    LAPSED,
    Accepted,
    Authorization,
    LimitState,
    Outcome,
    Recorded,
    Work,
    charge_of,
    charged,
    differing_field,
    lapsed,
    repeat_of,
)
from services.metering.usage.dropped_store import find_dropped, repeat_of_dropped
from services.metering.usage.last_settlements import LastRecorded, LastSettlements
from services.metering.usage.named_subscriptions import NamedSubscriptions
from services.metering.usage.proposals import Proposals
from services.metering.usage.rows import NO_ROWS, Rows, rows_of
from services.metering.usage.store import Key

_log = structlog.get_logger("usage")

BATCH_MAX: Final = 500
_BATCHES_RUNNING_MAX: Final = 16
_SHARDS_IN_ROUND_MAX: Final = 3
"""How many shards have a batch in a round; see the same of billing's ledger."""
_FULL_AT: Final = 100
"""The number of waiting items from which a batch begins beside a running one: growing further would save little."""
_GATHERED_AT: Final = 16
"""A call with at least so many items is written at once, although an earlier batch still waits for billing."""
_WAIT_MAX_S: Final = 0.05
"""How long a smaller batch waits for a running one. It is short, so that a slow billing delays no batch for long."""
_AUTHORIZATIONS_REMEMBERED_MAX: Final = 50_000


def writer_limits(items_max: int, queued_max: int) -> BatchLimits:
    """Return the limits of a writer whose batches each wait for billing, so that many run at once."""
    return BatchLimits(
        items_max=items_max,
        queued_max=queued_max,
        running_max=_BATCHES_RUNNING_MAX,
        shards_max=_SHARDS_IN_ROUND_MAX,
        full_at=_FULL_AT,
        wait_max_s=_WAIT_MAX_S,
        gathered_at=_GATHERED_AT,
    )


@dataclass(slots=True)
class _Batch:
    """The works of a batch, which of them are new, and the outcome of each. A place is an index into `works`."""

    database: Database
    works: Sequence[Work]
    outcomes: list[Outcome | None]
    fresh: list[tuple[int, Recorded]] = field(default_factory=list)
    twins: list[tuple[int, int]] = field(default_factory=list)
    """Places of works whose operation id occurs earlier in the batch, each with the place of its first occurrence."""
    proposed: list[tuple[int, Recorded]] = field(default_factory=list)
    """Usages as they are to be written, with their places."""
    rows: Rows = NO_ROWS
    """The same as rows."""
    changes: Sequence[tuple[Key, QuickChange]] = ()
    """What they change in counters of limits if all of them are new."""
    counted: Mapping[Key, Counted] = field(default_factory=dict)
    """What these counters have after it."""
    repeats: list[tuple[int, Work]] = field(default_factory=list)
    """Works that may have been recorded before, with their places."""
    in_parts: dict[int, Work] = field(default_factory=dict)
    """Works of calls that were settled in parts until now, by place."""
    limits: dict[str, Sequence[LimitState]] = field(default_factory=dict)
    """Where the limits stand that new usage is counted in, by usage id."""


class UsageEngine:
    """Stores works durably, charges them, and returns the outcome of each."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        charging: Charging,
        counting: Counting,
        named_subscriptions: NamedSubscriptions,
        clock: Clock,
        events: UsageEvents,
        *,
        queue_max: int,
        relay_after: timedelta,
    ) -> None:
        self.on_recorded: Callable[[float], None] = lambda began_s: None
        """Called when works were recorded, with the time of the monotonic clock at which that began."""
        self._events = events
        self._named_subscriptions = named_subscriptions
        self._shards = shards
        self._catalogue = catalogue
        self._charging = charging
        self._clock = clock
        self._relay_after = relay_after
        self._commits: GroupCommit[Work, Accepted] = GroupCommit(
            "usage", self._run, shards, writer_limits(BATCH_MAX, queue_max), lambda work: work.organization_id
        )
        self._turns = {database: asyncio.Lock() for database in shards}
        """Held by the batch of each shard that is being written."""
        self._authorizations: OrderedDict[Key, Authorization] = OrderedDict()
        self._dimensions = KnownDimensions()
        self._proposals = Proposals(catalogue)
        self._counting = counting
        self._careful_batches = 0
        self._last_settlements = LastSettlements(
            *(self._proposals, self._counting, self._dimensions, clock, events), relay_after=relay_after
        )

    async def record(self, works: Sequence[Work]) -> list[Outcome]:
        """Record works, at most 500, and return the outcome of each, in their order.

        Raises:
            Overloaded: too many works are waiting already; none was taken.
        """
        began_s = time.monotonic()
        await self._named_subscriptions.know(works)
        outcomes = await self._commits.submit(works)
        self.on_recorded(began_s)
        return outcomes

    def remember(self, authorization: Authorization) -> None:
        """Cache an authorization for the settlement that is likely to follow."""
        self._authorizations[authorization.organization_id, authorization.operation_id] = authorization
        if len(self._authorizations) > _AUTHORIZATIONS_REMEMBERED_MAX:
            self._authorizations.popitem(last=False)

    async def close(self) -> None:
        """Take no more works, and return when every submitted one is answered."""
        await self._commits.drain()
        for database in self._shards:
            try:
                await self._charging.flush(database)
            except Refusal:
                _log.warning("confirmed charges stay in the outbox and will be sent once more", schema=database.schema)

    async def _run(
        self, database: Database, works: Sequence[Work], let_next_begin: Callable[[], None]
    ) -> list[Outcome]:
        batch = _Batch(database, works, [None] * len(works))
        now = self._clock.now()
        await self._propose(batch, now)
        async with self._turns[database]:
            let_next_begin()
            new_ids = await self._write(batch, now) if batch.proposed else ()
        await self._note_new(batch, new_ids)
        if batch.repeats:
            await self._answer_repeats(batch)
        if batch.in_parts:
            await self._record_last(batch)
        try:
            await self._charge(batch)
        except Exception as error:  # noqa: BLE001 -- the usage is durable: it is acknowledged, and the relay charges it.
            _log.error("a batch of charges failed and is left to the relay", exc_info=error)
        return _outcomes(batch)

    async def _propose(self, batch: _Batch, now: datetime) -> None:
        """Price the works of a batch, and find out what they count in limits. Only counters are created here."""
        await self._catalogue.refresh()
        places = self._first_places(batch)
        authorizations = await self._authorizations_of(batch)
        wanted = [(batch.works[place], _of(batch.works[place], authorizations)) for place in places]
        await self._proposals.know_prices(wanted)
        proposed: list[tuple[int, Recorded]] = []
        refused = dict(await self._named_subscriptions.refusals(wanted))
        for number, (place, (work, authorization)) in enumerate(zip(places, wanted, strict=True)):
            if number not in refused:
                try:
                    proposed.append((place, self._proposals.propose(work, authorization, now)))
                    continue
                except CostTooLarge as too_large:
                    refused[number] = too_large
            # Unless it is a repeat: what was recorded of it holds.
            batch.outcomes[place] = refused[number]
            batch.repeats.append((place, work))
        if proposed:
            counted = await self._counting.propose(
                batch.database, [(one, authorizations.get(_key(one.work))) for _, one in proposed]
            )
            batch.proposed = [(place, one) for (place, _), one in zip(proposed, counted, strict=True)]
            batch.rows = rows_of(counted)
            batch.changes = self._counting.changes(counted)
            await store.know_dimensions(batch.database, self._dimensions, counted)

    @staticmethod
    def _first_places(batch: _Batch) -> list[int]:
        """Return the place of each operation id's first work in the batch, and note the other works as twins."""
        first: dict[Key, int] = {}
        places: list[int] = []
        for place, work in enumerate(batch.works):
            earlier = first.setdefault(_key(work), place)
            if earlier == place:
                places.append(place)
            else:
                batch.twins.append((place, earlier))
        return places

    async def _authorizations_of(self, batch: _Batch) -> dict[Key, Authorization]:
        found: dict[Key, Authorization] = {}
        missing: list[Key] = []
        for work in batch.works:
            key = _key(work)
            if work.settles or self._counting.is_sought(key):
                known = self._authorizations.pop(key, None)
                if known is None:
                    missing.append(key)
                else:
                    found[key] = known
        if missing:
            async with batch.database.raw_connection() as connection:
                for authorization in await store.find_authorizations(connection, missing):
                    found[authorization.organization_id, authorization.operation_id] = authorization
        return found

    async def _write(self, batch: _Batch, now: datetime) -> Collection[str]:
        """Write what is proposed, and with it delete the outbox rows of charges that billing has confirmed meanwhile.

        Return the ids of the usages that were new. One statement is enough, unless limits count some of it and
        something is not as it seems, or some of it is announced: then it is one transaction.
        """
        wanted = await self._events.wanted(batch.database, batch.rows.recorded)
        done = self._charging.take_done(batch.database)
        try:
            if all(one.counts is None for one in batch.rows.recorded):
                return await self._record(batch, wanted, now, done)
            if not self._careful_batches and batch.changes:
                if await self._record_counted(batch, wanted, now, done):
                    return {one.usage_id for one in batch.rows.recorded}
            else:
                self._careful_batches = max(0, self._careful_batches - 1)
            return await self._record_carefully(batch, wanted, now, done)
        except BaseException:
            self._charging.keep_done(batch.database, done)
            raise

    async def _record(
        self, batch: _Batch, wanted: Sequence[Recorded], now: datetime, done: Collection[Key]
    ) -> Collection[str]:
        """Write a batch that no limit counts; return the ids of what was new."""
        database = batch.database
        async with database.raw_transaction() if wanted else database.raw_connection() as connection:
            new_ids = await store.record(connection, batch.rows, now=now, due_time=self._due(now), done=done)
            await announce_usage(connection, wanted, new_ids, now)
        return new_ids

    async def _record_counted(
        self, batch: _Batch, wanted: Sequence[Recorded], now: datetime, done: Collection[Key]
    ) -> bool:
        """Write and count a batch whose every usage is new.

        False if it must be done the careful way: nothing is written then.
        """
        database = batch.database
        try:
            async with database.raw_transaction() if wanted else database.raw_connection() as connection:
                counted = await store.record_counted(
                    connection, batch.rows, batch.changes, now=now, due_time=self._due(now), done=done
                )
                if counted:
                    await announce_usage(connection, wanted, {one.usage_id for one in wanted}, now)
        except ConstraintViolation:
            self._careful_batches = CAREFUL_BATCHES
            return False
        if not counted:
            return False
        self._counting.forget(batch.rows.recorded)
        batch.counted = {key: found for (key, _), found in zip(batch.changes, counted, strict=True)}
        return True

    async def _record_carefully(
        self, batch: _Batch, wanted: Sequence[Recorded], now: datetime, done: Collection[Key]
    ) -> Collection[str]:
        """Write a batch and count what is new of it; return the ids of that."""
        async with batch.database.raw_transaction() as connection:
            new_ids = await store.record(connection, batch.rows, now=now, due_time=self._due(now), done=done)
            new = [one for one in batch.rows.recorded if one.usage_id in new_ids]
            batch.counted = await self._counting.add(connection, new)
            await announce_usage(connection, wanted, new_ids, now)
        return new_ids

    def _due(self, now: datetime) -> datetime:
        """Return when the relay sends a charge that billing has not confirmed."""
        return now + self._relay_after

    async def _note_new(self, batch: _Batch, new_ids: Collection[str]) -> None:
        """Tell what of a written batch is new, and where the limits stand that it is counted in."""
        for place, recorded in batch.proposed:
            if recorded.usage_id in new_ids:
                batch.fresh.append((place, recorded))
            else:
                batch.repeats.append((place, recorded.work))
        if batch.counted:
            new = [recorded for _, recorded in batch.fresh]
            batch.limits |= await self._counting.states(batch.database, new, batch.counted)

    async def _answer_repeats(self, batch: _Batch) -> None:
        """Answer works whose operation ids are taken, by usage or by parts of the same call, or that cost too much."""
        keys = [_key(work) for _, work in batch.repeats]
        async with batch.database.raw_connection() as connection:
            stored = await store.find(connection, keys)
            dropped = await find_dropped(connection, set(keys) - stored.keys())
        for (place, work), key in zip(batch.repeats, keys, strict=True):
            if key in stored:
                batch.outcomes[place] = repeat_of(*stored[key], work)
            elif key in dropped:
                batch.outcomes[place] = repeat_of_dropped(work.operation_id, dropped[key], work.fingerprint)
            elif batch.outcomes[place] is None:
                batch.in_parts[place] = batch.works[place]

    async def _record_last(self, batch: _Batch) -> None:
        """Record the usage of calls that were settled in parts."""
        for place, end in (await self._last_settlements.record(batch.database, batch.in_parts)).items():
            if isinstance(end, LastRecorded):
                batch.fresh.append((place, end.recorded))
                batch.limits[end.recorded.usage_id] = end.limits
            else:
                batch.outcomes[place] = end

    async def _charge(self, batch: _Batch) -> None:
        for place, recorded in batch.fresh:
            batch.outcomes[place] = Accepted(recorded, replayed=False, limits=batch.limits.get(recorded.usage_id, ()))
        costly = [
            (place, recorded, charge) for place, recorded in batch.fresh if (charge := charge_of(recorded)) is not None
        ]
        results = await self._charging.charge(batch.database, [charge for _, _, charge in costly])
        for (place, recorded, _), result in zip(costly, results, strict=True):
            batch.outcomes[place] = charged(recorded, result, batch.limits.get(recorded.usage_id, ()))


def _outcomes(batch: _Batch) -> list[Outcome]:
    """Return the outcome of each work. If an operation id occurs twice in the batch, the second work is a repeat."""
    for place, earlier in batch.twins:
        batch.outcomes[place] = _twin_outcome(batch, place, earlier)
    outcomes = [outcome for outcome in batch.outcomes if outcome is not None]
    assert len(outcomes) == len(batch.works), "every work has an outcome"
    return outcomes


def _key(work: Work) -> Key:
    return work.organization_id, work.operation_id


def _of(work: Work, authorizations: dict[Key, Authorization]) -> Authorization | None:
    return authorizations.get(_key(work)) if work.settles else None


def _twin_outcome(batch: _Batch, place: int, earlier: int) -> Outcome | None:
    first = batch.outcomes[earlier]
    before, now = batch.works[earlier], batch.works[place]
    if isinstance(first, AuthorizationLapsed):
        return first
    if before.fingerprint != now.fingerprint:
        if before.fingerprint == LAPSED and isinstance(first, Accepted):
            return lapsed(first.recorded)
        return OperationIdReused(operation_id=now.operation_id, field=differing_field(before, now))
    return Accepted(first.recorded, replayed=True) if isinstance(first, Accepted) else first
