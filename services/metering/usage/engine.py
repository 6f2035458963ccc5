"""Records usage in batches (see `libs.common.group_commit`): one transaction, then one call to billing for all charges.

The transaction writes the usage with its charges in the outbox, so a usage is durable before billing is asked. The next
batch is written while billing still answers this one. The relay sends every charge again that billing does not confirm.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import OperationIdReused, Refusal
from libs.common.group_commit import BatchLimits, GroupCommit
from libs.common.ids import new_id
from libs.common.shards import Shards
from services.metering.clients.billing import BillingClient, Charge, Charged
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import PriceVersion, rate
from services.metering.model.rates import STANDARD_TIER, Unpriced
from services.metering.usage import store
from services.metering.usage.dimensions import Dimensions, KnownDimensions, dimension_id
from services.metering.usage.domain import (
    PENDING,
    PENDING_PRICE,
    REFUSED,
    SETTLED,
    Accepted,
    Authorization,
    Cost,
    Outcome,
    Recorded,
    Work,
    charge_kind,
    completed,
    differing_field,
    dimensions_of,
    rated_cost,
)
from services.metering.usage.store import Key

_log = structlog.get_logger("usage")

BATCH_MAX: Final = 500
DONE_MAX: Final = 2_000
_BATCHES_RUNNING_MAX: Final = 16
_SHARDS_IN_ROUND_MAX: Final = 3
"""How many shards have a batch in a round; see the same of billing's ledger."""
_FULL_AT: Final = 100
"""The number of waiting items from which a batch begins beside a running one: growing further would save little."""
_WAIT_MAX_S: Final = 0.05
"""How long a smaller batch waits for a running one. It is short, so that a slow billing delays no batch for long."""
_AUTHORIZATIONS_REMEMBERED_MAX: Final = 50_000
_REFUSED_AGAIN_AFTER: Final = timedelta(minutes=1)


def writer_limits(items_max: int, queued_max: int) -> BatchLimits:
    """Return the limits of a writer whose batches each wait for billing, so that many run at once."""
    return BatchLimits(
        items_max=items_max,
        queued_max=queued_max,
        running_max=_BATCHES_RUNNING_MAX,
        shards_max=_SHARDS_IN_ROUND_MAX,
        full_at=_FULL_AT,
        wait_max_s=_WAIT_MAX_S,
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


class UsageEngine:
    """Stores works durably, charges them, and returns the outcome of each."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        billing: BillingClient,
        clock: Clock,
        *,
        queue_max: int,
        relay_after: timedelta,
    ) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._billing = billing
        self._clock = clock
        self._relay_after = relay_after
        limits = writer_limits(BATCH_MAX, queue_max)
        self._commits: GroupCommit[Work, Accepted] = GroupCommit(
            "usage", self._run, shards, limits, lambda work: work.organization_id
        )
        self._done: dict[Database, dict[Key, None]] = {database: {} for database in shards}
        """Confirmed charges, by shard: the next batch of the shard deletes them from the outbox."""
        self._done_apart: dict[Database, dict[Key, None]] = {database: {} for database in shards}
        """Confirmed charges whose deletion failed together with a batch: `flush` deletes them without a batch."""
        self._authorizations: OrderedDict[Key, Authorization] = OrderedDict()
        self._known_dimensions = KnownDimensions()

    async def record(self, works: Sequence[Work]) -> list[Outcome]:
        """Record works, at most 500, and return the outcome of each, in their order.

        Raises:
            Overloaded: too many works are waiting already; none was taken.
        """
        return await self._commits.submit(works)

    def remember(self, authorization: Authorization) -> None:
        """Cache an authorization for the settlement that is likely to follow."""
        self._authorizations[authorization.organization_id, authorization.operation_id] = authorization
        if len(self._authorizations) > _AUTHORIZATIONS_REMEMBERED_MAX:
            self._authorizations.popitem(last=False)

    async def flush(self, database: Database) -> None:
        """Delete the outbox rows of confirmed charges of a shard that no batch has deleted yet."""
        done = {**self._take_done(database), **self._done_apart[database]}
        self._done_apart[database] = {}
        if not done:
            return
        try:
            async with database.raw_connection() as connection:
                await store.finish(connection, done)
        except BaseException:
            self._done_apart[database].update(done)
            raise

    async def close(self) -> None:
        """Take no more works, and return when every submitted one is answered."""
        await self._commits.drain()
        for database in self._shards:
            try:
                await self.flush(database)
            except Refusal:
                _log.warning("confirmed charges stay in the outbox and will be sent once more", schema=database.schema)

    async def _run(
        self, database: Database, works: Sequence[Work], let_next_begin: Callable[[], None]
    ) -> list[Outcome]:
        batch = _Batch(database, works, [None] * len(works))
        await self._write(batch)
        let_next_begin()
        try:
            await self._charge(batch)
        except Exception as error:  # noqa: BLE001 -- the usage is durable: it is acknowledged, and the relay charges it.
            _log.error("a batch of charges failed and is left to the relay", exc_info=error)
        return _outcomes(batch)

    async def _write(self, batch: _Batch) -> None:
        await self._catalogue.refresh()
        places = self._first_places(batch)
        authorizations = await self._authorizations_of(batch)
        now = self._clock.now()
        await self._know_all_prices(batch.works, places, authorizations)
        proposed = [self._propose(batch.works[place], authorizations, now) for place in places]
        new = await self._commit(batch.database, proposed, now)
        repeats: list[tuple[int, Recorded]] = []
        for place, recorded in zip(places, proposed, strict=True):
            (batch.fresh if recorded.usage_id in new else repeats).append((place, recorded))
        if repeats:
            await self._answer_repeats(batch, repeats)

    @staticmethod
    def _first_places(batch: _Batch) -> list[int]:
        """Return the place of each operation id's first work in the batch, and note the other works as twins."""
        first: dict[Key, int] = {}
        places: list[int] = []
        for place, work in enumerate(batch.works):
            earlier = first.setdefault((work.organization_id, work.operation_id), place)
            if earlier == place:
                places.append(place)
            else:
                batch.twins.append((place, earlier))
        return places

    async def _authorizations_of(self, batch: _Batch) -> dict[Key, Authorization]:
        found: dict[Key, Authorization] = {}
        missing: list[Key] = []
        for work in batch.works:
            if work.settles:
                key = (work.organization_id, work.operation_id)
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

    async def _know_all_prices(
        self, works: Sequence[Work], places: Sequence[int], authorizations: dict[Key, Authorization]
    ) -> None:
        """Refresh the catalogue from the database once more if it has no price for one of the works."""
        if all(
            works[place].stated is not None or self._version(works[place], _of(works[place], authorizations))
            for place in places
        ):
            return
        await self._catalogue.refresh_for_unknown()

    def _version(self, work: Work, authorization: Authorization | None) -> PriceVersion | None:
        if authorization is not None and authorization.model == work.model:
            return self._catalogue.version(authorization.price_version_id)
        return self._catalogue.price(work.model, work.organization_id, work.occur_time)

    def _propose(self, work: Work, authorizations: dict[Key, Authorization], now: datetime) -> Recorded:
        authorization = _of(work, authorizations)
        version = self._version(work, authorization)
        if authorization is not None:
            work = completed(work, authorization)
        elif work.service_tier is None:
            work = work._replace(service_tier=STANDARD_TIER)
        model = self._catalogue.model(work.model)
        dimensions = dimensions_of(work, model.provider if model is not None else "")
        cost = self._cost(work, version, authorization)
        if cost is None:
            return Recorded(work, new_id(), None, now, PENDING_PRICE, dimensions=dimensions)
        settlement = SETTLED if cost.charge_kind is None else PENDING
        return Recorded(work, new_id(), cost, now, settlement, dimensions=dimensions)

    def _cost(self, work: Work, version: PriceVersion | None, authorization: Authorization | None) -> Cost | None:
        """Return what a work costs: what the caller states, else by the price; None while no price is known."""
        is_held = authorization is not None and authorization.amount > 0
        if work.stated is not None:
            kind = charge_kind(costs=work.stated.amount != "0", is_held=is_held, environment=work.environment)
            return Cost(work.stated.amount, work.stated.currency_code, None, kind)
        if version is None:
            return None
        tier = work.service_tier or STANDARD_TIER
        rated = rate(version, work.tokens, work.quantities, tier, self._catalogue.units, work.occur_time)
        if isinstance(rated, Unpriced):
            return None
        kind = charge_kind(costs=rated.amount_nanos > 0, is_held=is_held, environment=work.environment)
        return rated_cost(rated, version, kind)

    async def _commit(self, database: Database, proposed: list[Recorded], now: datetime) -> set[str]:
        """Write the batch, and with it delete the outbox rows of charges that billing has confirmed in the meantime."""
        done = self._take_done(database)
        unknown: dict[tuple[str, str], Dimensions] = {}
        for one in proposed:
            key = one.work.organization_id, dimension_id(one.dimensions)
            if key not in self._known_dimensions:
                unknown[key] = one.dimensions
        try:
            async with database.raw_connection() as connection:
                if unknown:
                    await store.add_dimensions(connection, unknown)
                return await store.record(connection, proposed, now=now, due_time=now + self._relay_after, done=done)
        except BaseException:
            self._done_apart[database].update(done)
            unknown = {}
            raise
        finally:
            for key in unknown:
                self._known_dimensions.add(key)

    def _take_done(self, database: Database) -> dict[Key, None]:
        waiting = self._done[database]
        if len(waiting) <= DONE_MAX:
            self._done[database] = {}
            return waiting
        done: dict[Key, None] = {}
        while len(done) < DONE_MAX:
            done[waiting.popitem()[0]] = None
        return done

    async def _answer_repeats(self, batch: _Batch, repeats: list[tuple[int, Recorded]]) -> None:
        keys = [(recorded.work.organization_id, recorded.work.operation_id) for _, recorded in repeats]
        async with batch.database.raw_connection() as connection:
            stored = await store.find(connection, keys)
        for (place, recorded), key in zip(repeats, keys, strict=True):
            before, fingerprint = stored[key]
            if fingerprint == recorded.work.fingerprint:
                batch.outcomes[place] = Accepted(before, replayed=True)
            else:
                differs = differing_field(before.work, recorded.work)
                batch.outcomes[place] = OperationIdReused(operation_id=key[1], field=differs)

    async def _charge(self, batch: _Batch) -> None:
        costly = [
            (place, recorded, charge) for place, recorded in batch.fresh if (charge := _charge_of(recorded)) is not None
        ]
        for place, recorded in batch.fresh:
            batch.outcomes[place] = Accepted(recorded, replayed=False)
        if not costly or self._billing.seems_down:
            return
        results = await self._billing.charge([charge for _, _, charge in costly])
        refused: dict[Key, tuple[str, str, datetime]] = {}
        for (place, recorded, charge), result in zip(costly, results, strict=True):
            key = (charge.organization_id, charge.operation_id)
            if isinstance(result, Charged):
                self._done[batch.database][key] = None
                settled = recorded._replace(settlement=SETTLED)
                balance = result.balance if result.balance.posted else None
                batch.outcomes[place] = Accepted(settled, False, balance, result.released, result.overrun)
            elif result.final:
                refused[key] = (REFUSED, result.reason, self._clock.now() + _REFUSED_AGAIN_AFTER)
                not_charged = recorded._replace(settlement=REFUSED, refusal_reason=result.reason)
                batch.outcomes[place] = Accepted(not_charged, replayed=False)
        if refused:
            await self._note_refused(batch.database, refused)

    async def _note_refused(self, database: Database, refused: dict[Key, tuple[str, str, datetime]]) -> None:
        """Store why billing refuses charges. If that fails, the relay sends them again and stores the reason."""
        _log.error("billing refuses charges", reasons=sorted({reason for _, reason, _ in refused.values()}))
        try:
            async with database.raw_connection() as connection:
                await store.put_back(connection, refused)
        except Refusal:
            _log.warning("refused charges could not be noted", charges=len(refused))


def _outcomes(batch: _Batch) -> list[Outcome]:
    """Return the outcome of each work. If an operation id occurs twice in the batch, the second work is a repeat."""
    for place, earlier in batch.twins:
        batch.outcomes[place] = _twin_outcome(batch, place, earlier)
    outcomes = [outcome for outcome in batch.outcomes if outcome is not None]
    assert len(outcomes) == len(batch.works), "every work has an outcome"
    return outcomes


def _of(work: Work, authorizations: dict[Key, Authorization]) -> Authorization | None:
    return authorizations.get((work.organization_id, work.operation_id)) if work.settles else None


def _charge_of(recorded: Recorded) -> Charge | None:
    work, cost = recorded.work, recorded.cost
    if cost is None or cost.charge_kind is None:
        return None
    return Charge(
        work.organization_id,
        work.operation_id,
        cost.charge_kind,
        cost.amount,
        cost.currency_code,
        work.project_id,
        work.model,
    )


def _twin_outcome(batch: _Batch, place: int, earlier: int) -> Outcome | None:
    first = batch.outcomes[earlier]
    before, now = batch.works[earlier], batch.works[place]
    if before.fingerprint != now.fingerprint:
        return OperationIdReused(operation_id=now.operation_id, field=differing_field(before, now))
    return Accepted(first.recorded, replayed=True) if isinstance(first, Accepted) else first
