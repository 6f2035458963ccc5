"""Records usage in batches: what arrives while one transaction runs shares the next one, and one call to billing.

There is no timer: alone, a usage is written at once. The queue is bounded, and a caller who gives up waiting tears
nothing: the batch goes on without them.
"""

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.deadline import leave_deadline
from libs.common.errors import Conflict, OperationIdReused, Overloaded, Refusal
from libs.common.ids import new_id
from services.metering.clients.billing import BillingClient, Charge, Charged
from services.metering.model.catalogue import Catalogue
from services.metering.model.domain import PriceVersion, cost_nanos, format_nanos
from services.metering.usage import store
from services.metering.usage.domain import (
    PENDING,
    PENDING_PRICE,
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
)
from services.metering.usage.pace import Pace
from services.metering.usage.store import Key

_log = structlog.get_logger("usage")

BATCH_MAX: Final = 500
TRIES_MAX: Final = 4
DONE_MAX: Final = 2_000
_BATCHES_IN_FLIGHT_MAX: Final = 16
_AUTHORIZATIONS_REMEMBERED_MAX: Final = 50_000


@dataclass(slots=True)
class _Submission:
    works: Sequence[Work]
    answer: "asyncio.Future[list[Outcome]]"
    context: contextvars.Context


@dataclass(slots=True)
class _Batch:
    """Usages on their way: what was new, and what became of each work, by its place."""

    works: list[Work]
    outcomes: list[Outcome | None]
    fresh: list[tuple[int, Recorded]] = field(default_factory=list)
    twins: list[tuple[int, int]] = field(default_factory=list)
    """Works whose operation id stands in the batch before, with the place of the first."""


class UsageEngine:
    """Takes works, makes them durable, charges them, and says what became of each."""

    def __init__(
        self,
        database: Database,
        catalogue: Catalogue,
        billing: BillingClient,
        clock: Clock,
        *,
        queue_max: int,
        relay_after: timedelta,
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._billing = billing
        self._clock = clock
        self._queue_max = queue_max
        self._relay_after = relay_after
        self._queue: deque[_Submission] = deque()
        self._queued = 0
        self._writer: asyncio.Task[None] | None = None
        self._pace = Pace()
        self._in_flight = asyncio.Semaphore(_BATCHES_IN_FLIGHT_MAX)
        self._done: dict[Key, None] = {}
        self._authorizations: OrderedDict[Key, Authorization] = OrderedDict()

    async def record(self, works: Sequence[Work]) -> list[Outcome]:
        """Record works, at most 500, and return what became of each, in their order.

        Raises:
            Overloaded: too many works are waiting already; none was taken.
        """
        if self._queued + len(works) > self._queue_max:
            raise Overloaded
        answer: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Submission(works, answer, contextvars.copy_context()))
        self._queued += len(works)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(), name="usage writer")
        else:
            self._pace.note_waiting(self._queued)
        return await answer

    def remember(self, authorization: Authorization) -> None:
        """Keep an authorization at hand for the settlement that is likely to follow."""
        self._authorizations[authorization.organization_id, authorization.operation_id] = authorization
        if len(self._authorizations) > _AUTHORIZATIONS_REMEMBERED_MAX:
            self._authorizations.popitem(last=False)

    async def flush(self) -> None:
        """Delete the outbox rows of confirmed charges that no batch has taken along yet."""
        done = self._take_done()
        if not done:
            return
        try:
            async with self._database.raw_connection() as connection:
                await store.finish(connection, done)
        except BaseException:
            self._done.update(done)
            raise

    async def close(self) -> None:
        """Return when nothing is under way any more."""
        while self._writer is not None or self._pace.under_way:
            await asyncio.wait([task for task in (self._writer, *self._pace.under_way) if task is not None])
        try:
            await self.flush()
        except Refusal:
            _log.warning("confirmed charges stay in the outbox and will be sent once more")

    async def _write_all(self) -> None:
        leave_deadline()
        try:
            while self._queue:
                await self._in_flight.acquire()
                await asyncio.sleep(0)  # Calls that are being read at this moment join the batch.
                submissions = self._take()
                task = submissions[0].context.run(
                    asyncio.create_task, self._process(submissions, written := asyncio.Event())
                )
                self._pace.start(task)
                await written.wait()
                await self._pace.let_some_gather(self._queued)
        finally:
            self._writer = None

    def _take(self) -> list[_Submission]:
        """Take what is queued, as far as it fits a batch; a single submission always does."""
        taken = [self._queue.popleft()]
        count = len(taken[0].works)
        while self._queue and count + len(self._queue[0].works) <= BATCH_MAX:
            count += len(self._queue[0].works)
            taken.append(self._queue.popleft())
        self._queued -= count
        return taken

    async def _process(self, submissions: list[_Submission], written: asyncio.Event) -> None:
        leave_deadline()
        works = [work for submission in submissions for work in submission.works]
        batch = _Batch(works, [None] * len(works))
        try:
            try:
                await self._write(batch)
            finally:
                written.set()
            await self._charge(batch)
            self._answer(submissions, batch)
        except BaseException as error:
            for submission in submissions:
                if not submission.answer.done():
                    submission.answer.set_exception(_shareable(error))
            if not isinstance(error, Exception):
                raise
        finally:
            self._in_flight.release()

    async def _write(self, batch: _Batch) -> None:
        await self._catalogue.refresh()
        places = self._first_places(batch)
        authorizations = await self._authorizations_of(batch.works)
        now = self._clock.now()
        await self._know_all_prices(batch.works, places, authorizations)
        proposed = [self._propose(batch.works[place], authorizations, now) for place in places]
        new = await self._commit(proposed, now)
        repeats: list[tuple[int, Recorded]] = []
        for place, recorded in zip(places, proposed, strict=True):
            (batch.fresh if recorded.usage_id in new else repeats).append((place, recorded))
        if repeats:
            await self._answer_repeats(batch, repeats)

    @staticmethod
    def _first_places(batch: _Batch) -> list[int]:
        """Return the places of the works whose operation id comes first in the batch, and note the others."""
        first: dict[Key, int] = {}
        places: list[int] = []
        for place, work in enumerate(batch.works):
            earlier = first.setdefault((work.organization_id, work.operation_id), place)
            if earlier == place:
                places.append(place)
            else:
                batch.twins.append((place, earlier))
        return places

    async def _authorizations_of(self, works: Sequence[Work]) -> dict[Key, Authorization]:
        found: dict[Key, Authorization] = {}
        missing: list[Key] = []
        for work in works:
            if work.settles:
                key = (work.organization_id, work.operation_id)
                known = self._authorizations.pop(key, None)
                if known is None:
                    missing.append(key)
                else:
                    found[key] = known
        if missing:
            async with self._database.raw_connection() as connection:
                for authorization in await store.find_authorizations(connection, missing):
                    found[authorization.organization_id, authorization.operation_id] = authorization
        return found

    async def _know_all_prices(
        self, works: Sequence[Work], places: Sequence[int], authorizations: dict[Key, Authorization]
    ) -> None:
        """Ask the database once more before saying that something has no price."""
        if all(self._version(works[place], _of(works[place], authorizations)) for place in places):
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
        if version is None:
            return Recorded(work, new_id(), None, now, PENDING_PRICE)
        amount = format_nanos(cost_nanos(version, work.tokens))
        kind = charge_kind(amount, authorization)
        cost = Cost(amount, version.prices.currency_code, version.price_version_id, kind)
        return Recorded(work, new_id(), cost, now, SETTLED if kind is None else PENDING)

    async def _commit(self, proposed: list[Recorded], now: datetime) -> set[str]:
        """Write the batch; a conflict with another process is tried again a few times."""
        done = self._take_done()
        try:
            for attempt in range(1, TRIES_MAX + 1):
                try:
                    async with self._database.raw_connection() as connection:
                        return await store.record(
                            connection, proposed, now=now, due_time=now + self._relay_after, done=done
                        )
                except Conflict:
                    if attempt == TRIES_MAX:
                        raise
            raise Conflict
        except BaseException:
            self._done.update(done)
            raise

    def _take_done(self) -> dict[Key, None]:
        if len(self._done) <= DONE_MAX:
            done, self._done = self._done, {}
            return done
        done = {}
        while len(done) < DONE_MAX:
            done[self._done.popitem()[0]] = None
        return done

    async def _answer_repeats(self, batch: _Batch, repeats: list[tuple[int, Recorded]]) -> None:
        keys = [(recorded.work.organization_id, recorded.work.operation_id) for _, recorded in repeats]
        async with self._database.raw_connection() as connection:
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
                self._done[key] = None
                settled = recorded._replace(settlement=SETTLED)
                balance = result.balance if result.balance.posted else None
                batch.outcomes[place] = Accepted(settled, False, balance, result.released, result.overrun)
            elif result.final:
                refused[key] = ("DEAD", result.reason, self._clock.now())
        if refused:
            await self._park(refused)

    async def _park(self, refused: dict[Key, tuple[str, str, datetime]]) -> None:
        """Set charges aside that billing will never make; left undone, the relay comes to the same end."""
        _log.error("billing refuses charges", reasons=sorted({reason for _, reason, _ in refused.values()}))
        try:
            async with self._database.raw_connection() as connection:
                await store.put_back(connection, refused)
        except Refusal:
            _log.warning("refused charges could not be parked", charges=len(refused))

    def _answer(self, submissions: list[_Submission], batch: _Batch) -> None:
        for place, earlier in batch.twins:
            batch.outcomes[place] = _twin_outcome(batch, place, earlier)
        start = 0
        for submission in submissions:
            end = start + len(submission.works)
            outcomes = [outcome for outcome in batch.outcomes[start:end] if outcome is not None]
            start = end
            if not submission.answer.done():
                submission.answer.set_result(outcomes)


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


def _shareable(error: BaseException) -> Exception:
    """Return an error that many waiting callers may raise: a cancelled batch is an outage to them."""
    return error if isinstance(error, Exception) else Overloaded()
