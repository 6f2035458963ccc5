"""Corrects recorded usage: what it was stays, what changes is stored beside it, and money, sums and limits follow.

A correction is decided on what the usage is at that moment, and written in one transaction: it locks the usage, looks
whether it is still so, and stores the correction with what it takes out of the hourly sums and puts into them, with its
movements of money in the outbox, and with the counters of limits, which are locked last and in the order of their keys,
as by new usage. A process that dies before the commit has changed nothing; after it, the relay makes the movements.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

import structlog

from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, Database, RawConnection
from libs.common.errors import Conflict, NotFound, OperationIdReused, Refusal
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.clients.billing import AccountBalance, Charged, NotCharged
from services.metering.model.catalogue import Catalogue
from services.metering.quota import counter_store
from services.metering.usage import store as usage_store
from services.metering.usage.charging import Charging
from services.metering.usage.correction import counter_changes, store
from services.metering.usage.correction.domain import (
    Correction,
    CorrectionCharge,
    CorrectionKind,
    Counted,
    Movement,
    Source,
    State,
    due_for,
    movements,
    priced,
    recounted,
    refused_sources,
    require_correctable,
    require_currency,
)
from services.metering.usage.correction.store import Mark, Planned
from services.metering.usage.counting import Counting
from services.metering.usage.dimensions import KnownDimensions
from services.metering.usage.domain import PENDING, REFUSED, SETTLED, Authorization, Recorded, month_of
from services.metering.usage.dropped_store import find_dropped, find_links, month_text, sealed_months
from services.metering.usage.store import Key
from services.metering.usage.tries import tries
from services.metering.usage_errors import NothingToAmend, UsageDropped, UsageMonthDropped

_log = structlog.get_logger("corrections")

_PRICED: Final = b"price"
"""The fingerprint of corrections that price usage. No request has it."""
RUNNING_MAX: Final = 2
"""How many transactions of corrections a process runs at once in a shard; usage has the other connections."""


class Wanted(NamedTuple):
    """A correction that is asked for."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    kind: CorrectionKind
    usage_operation_id: str
    reason: str
    change: Callable[[State, Catalogue], Recorded | None]
    """Returns what usage is afterwards, or raises the refusal; None where it is voided."""
    actor: str = ""
    """Who asks for it, where that is not who calls."""

    @property
    def key(self) -> Key:
        return self.organization_id, self.operation_id

    @property
    def usage_key(self) -> Key:
        return self.organization_id, self.usage_operation_id


def wanted_price(organization_id: str, usage_id: str, usage_operation_id: str) -> Wanted:
    """Return the correction that prices usage which was corrected while it waited for a price."""

    def change(state: State, catalogue: Catalogue) -> Recorded:
        work = state.usage.work
        version = catalogue.price(work.model, work.organization_id, work.occur_time)
        if state.usage.cost is not None:
            raise NothingToAmend(operation_id=work.operation_id)
        return state.usage._replace(cost=priced(work, version, catalogue.units))

    # A usage that was priced, and then restored or amended, has a price. So it gets only one in this way.
    return Wanted(
        organization_id,
        f"price:{usage_id}",
        _PRICED,
        CorrectionKind.PRICE,
        usage_operation_id,
        "",
        change,
    )


class Corrected(NamedTuple):
    """The correction is stored, now or before."""

    correction: Correction
    replayed: bool
    balance: AccountBalance | None = None


Outcome = Corrected | Refusal
Also = Callable[[RawConnection, Sequence[Outcome]], Awaitable[None]]
"""What is written in the transaction of corrections when their outcomes are known: after all but counters of limits."""


@dataclass(slots=True)
class _Read:
    """What corrections are decided on."""

    known: Mapping[Key, Correction] = field(default_factory=dict)
    states: Mapping[Key, State] = field(default_factory=dict)
    sources: Mapping[Key, Sequence[Source]] = field(default_factory=dict)
    authorizations: Mapping[Key, Authorization] = field(default_factory=dict)
    metrics: Mapping[Key, tuple[str, str]] = field(default_factory=dict)
    dropped: Mapping[Key, tuple[bytes, datetime]] = field(default_factory=dict)
    """The operations whose usage was dropped, each with its time."""


class Corrections:
    """Corrects usage."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        counting: Counting,
        charging: Charging,
        clock: Clock,
        *,
        relay_after: timedelta,
    ) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._counting = counting
        self.charging = charging
        self._clock = clock
        self.relay_after = relay_after
        self._dimensions = KnownDimensions()
        self.turns = {database: asyncio.Semaphore(RUNNING_MAX) for database in shards}
        """Who holds one of a shard runs a transaction of corrections in it."""

    async def correct(self, wanted: Wanted, *, validate_only: bool = False) -> Corrected:
        """Make one correction; or only return what it would be.

        Raises:
            Refusal: what `correct_all` says.
        """
        (outcome,) = await self.correct_all([wanted], validate_only=validate_only)
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    async def correct_all(
        self, wanted: Sequence[Wanted], *, validate_only: bool = False, also: Also | None = None
    ) -> list[Outcome]:
        """Make corrections of different usages of one shard, in one transaction; one outcome for each, in their order.

        `also` is called in that transaction. Where it raises, nothing is corrected, and the exception is passed on.

        A correction is refused, and nothing of it changed, where its usage does not exist (NotFound), its operation id
        named another correction (OperationIdReused), or for what its kind says.

        Raises:
            Conflict: the usages were corrected by others meanwhile, again and again.
            Unavailable: the limits of an organization cannot be read.
        """
        database = self._shards.of(wanted[0].organization_id)
        async for _ in tries():
            async with self.turns[database]:
                try:
                    outcomes = await self._try(database, wanted, also, validate_only=validate_only)
                except ConstraintViolation:
                    continue  # Another process has used an operation id meanwhile: it is known now.
            if outcomes is not None:
                return outcomes if validate_only else await self._charge(database, outcomes)
        raise Conflict

    async def of_usage(
        self, organization_id: str, usage_id: str, *, before: int | None, limit: int
    ) -> list[Correction]:
        """Return the latest corrections of a usage."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.corrections_of_usage(connection, organization_id, usage_id, before=before, limit=limit)

    async def of_organization(
        self, organization_id: str, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[Correction]:
        """Return the latest corrections of an organization."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.corrections_of_organization(connection, organization_id, before=before, limit=limit)

    async def marks(self, usages: Sequence[Recorded]) -> tuple[dict[str, Mark], dict[Key, str]]:
        """Return what corrections have made of usages, by usage id, and the dropped usages that usages correct.

        Usage without any is left out.
        """
        marks: dict[str, Mark] = {}
        links: dict[Key, str] = {}
        by_shard: dict[Database, list[Recorded]] = {}
        for usage in usages:
            by_shard.setdefault(self._shards.of(usage.work.organization_id), []).append(usage)
        for database, some in by_shard.items():
            async with database.raw_connection() as connection:
                marks |= await store.find_marks(connection, some)
                keys = [(one.work.organization_id, one.work.operation_id) for one in some]
                links |= await find_links(connection, keys)
        return marks, links

    async def _try(
        self, database: Database, wanted: Sequence[Wanted], also: Also | None, *, validate_only: bool
    ) -> list[Outcome] | None:
        """Make the corrections, unless a usage was changed meanwhile: None then, and nothing is written."""
        await self._catalogue.refresh()
        read = await self._read(database, wanted)
        now = self._clock.now()
        outcomes: dict[int, Outcome] = {}
        planned: dict[int, Planned] = {}
        for place, one in enumerate(wanted):
            if one.key in read.known:
                outcomes[place] = _repeat(read.known[one.key], one)
                continue
            try:
                planned[place] = self._plan(one, read, now)
            except Refusal as refusal:
                outcomes[place] = refusal
        await self._refuse_sealed(database, planned, outcomes, now)
        counted = await self._count(database, list(planned.values()), read)
        planned = dict(zip(planned, counted, strict=True))
        outcomes |= {place: Corrected(one.correction, replayed=False) for place, one in planned.items()}
        listed = [outcomes[place] for place in range(len(wanted))]
        if validate_only or not (planned or also):
            return listed
        written = await self._write(
            database, counted, now, None if also is None else partial(_with_outcomes, also, listed)
        )
        return listed if written else None

    async def _read(self, database: Database, wanted: Sequence[Wanted]) -> _Read:
        usage_keys = {one.usage_key for one in wanted}
        async with database.raw_connection() as connection:
            states = await store.find_states(connection, usage_keys)
            originals = {(key[0], state.original.usage_id): state.original for key, state in states.items()}
            sources = await store.find_sources(connection, originals) if originals else {}
            authorizations = await usage_store.find_authorizations(connection, list(states)) if states else []
            dropped = await find_dropped(connection, usage_keys - states.keys())
            counters = {(key[0], counter_id) for key, state in states.items() for counter_id in state.counted}
            metrics = await counter_store.metrics(connection, counters) if counters else {}
            # Last: a correction that another call has made is known then, if what it changed was read.
            known = await store.find_corrections(connection, [one.key for one in wanted])
        found = {(one.organization_id, one.operation_id): one for one in authorizations}
        if any(
            usage.cost is not None
            and usage.cost.price_version_id is not None
            and self._catalogue.version(usage.cost.price_version_id) is None
            for usage, *_ in states.values()
        ):
            await self._catalogue.refresh_for_unknown()
        return _Read(known, states, sources, found, metrics, dropped)

    @staticmethod
    async def _refuse_sealed(
        database: Database, planned: dict[int, Planned], outcomes: dict[int, Outcome], now: datetime
    ) -> None:
        """Refuse corrections of usage that was, is or would be in a month which is dropped, or will be."""
        if not planned:
            return
        moments = {
            place: [(one.correction.organization_id, moment) for moment in one.moments]
            for place, one in planned.items()
        }
        async with database.raw_connection() as connection:
            sealed = await sealed_months(connection, [one for each in moments.values() for one in each], now)
        for place, each in moments.items():
            for organization_id, moment in each:
                if (organization_id, month_of(moment)) in sealed:
                    outcomes[place] = UsageMonthDropped(organization_id=organization_id, month=month_text(moment))
                    planned.pop(place, None)

    def _plan(self, wanted: Wanted, read: _Read, now: datetime) -> Planned:
        """Decide a correction, all but what it counts in limits."""
        state = read.states.get(wanted.usage_key)
        if wanted.usage_key in read.dropped:
            month = month_text(read.dropped[wanted.usage_key][1])
            raise UsageDropped(operation_id=wanted.usage_operation_id, month=month)
        if state is None:
            raise NotFound(resource_type="usage", resource_name=wanted.usage_operation_id)
        require_correctable(state, wanted.kind)
        after = wanted.change(state, self._catalogue)
        correction_id = new_id()
        sources = read.sources[wanted.organization_id, state.usage.usage_id]
        if wanted.kind is CorrectionKind.AMEND and after is not None:
            require_currency(sources, state.usage, after)
        due = due_for(after)
        refused = refused_sources(sources, due)
        moved = movements([one for one in sources if one not in refused], due)
        given_back = [Movement(one.left, one.currency_code, one.operation_id) for one in refused if one.left]
        all_charges = [
            CorrectionCharge(f"correction:{correction_id}:{position}", movement, PENDING)
            for position, movement in enumerate([*moved, *given_back])
        ]
        correction = Correction(
            wanted.organization_id,
            wanted.operation_id,
            wanted.fingerprint,
            wanted.kind,
            wanted.usage_operation_id,
            state.usage.usage_id,
            state.number + 1,
            wanted.reason,
            wanted.actor or current_actor(),
            now,
            state.now,
            after,
            all_charges[: len(moved)],
        )
        counted = {} if state.voided else state.counted
        ids = [one.operation_id for one in refused]
        return Planned(correction, state, counted, {}, all_charges[len(moved) :], ids)

    async def _count(self, database: Database, planned: Sequence[Planned], read: _Read) -> list[Planned]:
        """Add what each correction makes its usage count in limits, and create the counters that are missing."""
        remaining = [one for one in planned if one.correction.after is not None and one.correction.before is not None]
        proposed = [
            (one.correction.after, read.authorizations.get(one.operation_key))
            for one in remaining
            if one.correction.after is not None
        ]
        elsewhere: dict[Key, Counted] = {}
        if proposed:
            plain = [(usage._replace(counts=None), authorization) for usage, authorization in proposed]
            for one, usage in zip(remaining, await self._counting.propose(database, plain), strict=True):
                elsewhere[one.usage_key] = {} if usage.counts is None else usage.counts.amounts
        missing = {(key[0], counter_id) for key, found in elsewhere.items() for counter_id in found} - set(read.metrics)
        metrics = dict(read.metrics)
        if missing:
            async with database.raw_connection() as connection:
                metrics |= await counter_store.metrics(connection, missing)
        return [
            one._replace(after_counted=self._counted_after(one, read, elsewhere.get(one.usage_key, {}), metrics))
            for one in planned
        ]

    def _counted_after(
        self, planned: Planned, read: _Read, elsewhere: Counted, metrics: Mapping[Key, tuple[str, str]]
    ) -> Counted:
        before, after = planned.correction.before, planned.correction.after
        if after is None:
            return {}
        if before is None:
            return planned.state.counted
        if not planned.state.counted and not elsewhere:
            return {}
        is_free = planned.operation_key not in read.authorizations and after.lease_id is None
        if is_free and after.work.occur_time != before.work.occur_time:
            return elsewhere
        known = {key[1]: metric for key, metric in metrics.items() if key[0] == planned.usage_key[0]}
        beside = {} if after.lease_id is not None else elsewhere
        return recounted(planned.state, after, known, beside, self._catalogue.units)

    async def _write(
        self,
        database: Database,
        planned: Sequence[Planned],
        now: datetime,
        also: Callable[[RawConnection], Awaitable[None]] | None,
    ) -> bool:
        """Write corrections in one transaction, if every usage is as it was; tell whether it was."""
        lines = [one for each in planned for one in (each.correction.before, each.correction.after) if one is not None]
        await usage_store.know_dimensions(database, self._dimensions, lines)
        async with database.raw_transaction() as connection:
            if planned and not await store.lock(connection, planned):
                return False
            if planned:
                await store.write(connection, planned, now=now, due_time=now + self.relay_after)
            if also is not None:
                await also(connection)
            if planned:
                counted = [(one.usage_key[0], one.before_counted, one.after_counted) for one in planned]
                await counter_changes.change_counters(connection, counted)
        return True

    async def _charge(self, database: Database, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Ask billing for the movements of new corrections, and return the outcomes with what became of them.

        A movement that could not be made is left to the relay.
        """
        new = [
            (place, one.correction)
            for place, one in enumerate(outcomes)
            if isinstance(one, Corrected) and not one.replayed and one.correction.charges
        ]
        charges = [charge for _, correction in new for charge in store.charges_of(correction)]
        results: list[Charged | NotCharged] = []
        try:
            results = await self.charging.charge(database, charges)
        except Exception as error:  # noqa: BLE001 -- the corrections are durable, and the relay makes their movements.
            _log.error("movements of corrections failed and are left to the relay", exc_info=error)
            return list(outcomes)
        answered = list(outcomes)
        for place, correction in new:
            count = len(correction.charges)
            own, results = results[:count], results[count:]
            answered[place] = _with_results(correction, own)
        return answered


async def _with_outcomes(also: Also, outcomes: Sequence[Outcome], connection: RawConnection) -> None:
    await also(connection, outcomes)


def _with_results(correction: Correction, results: Sequence[Charged | NotCharged]) -> Corrected:
    balance = None
    charges: list[CorrectionCharge] = []
    for charge, result in zip(correction.charges, results, strict=True):
        if isinstance(result, Charged):
            balance = result.balance if result.balance.posted else balance
            charges.append(charge._replace(settlement=SETTLED))
        elif result.final:
            charges.append(charge._replace(settlement=REFUSED, refusal_reason=result.reason))
        else:
            charges.append(charge)
    return Corrected(correction._replace(charges=charges), replayed=False, balance=balance)


def _repeat(known: Correction, wanted: Wanted) -> Outcome:
    if known.fingerprint == wanted.fingerprint:
        return Corrected(known, replayed=True)
    fields = (
        ("usage_operation_id", known.usage_operation_id, wanted.usage_operation_id),
        ("kind", known.kind, wanted.kind),
        ("reason", known.reason, wanted.reason),
    )
    differing = next((name for name, before, now in fields if before != now), "update_mask")
    return OperationIdReused(operation_id=wanted.operation_id, field=differing)
