"""Records the input of authorized calls whose settlement does not come, where their organization's policy says so.

Of calls that were settled in parts the last part is recorded, whatever the policy says. What a call has reserved of
limits is given back as soon as its hold has ended, whatever the policy says, too.

1. The authorizations of the organizations that charge for lapses are walked through once each, in the order in which
   they were made. What is neither settled, cancelled nor declined by then is noted as a check. Authorizations that
   reserve something of limits are noted when they are made, and this note is deleted with their settlement. Those that
   are extended, and calls of which a part is settled, are noted when that is done.
2. Checks that are due are taken under a lease, so several processes share them. Each is decided by what is stored, the
   policy, and the hold as billing knows it, and is deleted then.
3. Usage goes through the usage engine like any other. The operation id is recorded once, whoever comes first: the
   settlement, this process or another one.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, OperationIdReused, Unavailable
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.admission import lapse_store, policy_store, store
from services.metering.admission.domain import HOLD_LATE, Stored
from services.metering.admission.lapse import (
    Lapsed,
    Later,
    Over,
    Verdict,
    verdict,
    work_of_lapsed,
    work_of_last_part,
)
from services.metering.admission.policy import Entry, LapseCharge
from services.metering.admission.store import Key
from services.metering.clients.billing import BillingClient
from services.metering.model.catalogue import Catalogue
from services.metering.quota.counters import give_back
from services.metering.usage import part_store
from services.metering.usage.domain import Accepted, Work
from services.metering.usage.engine import UsageEngine
from services.metering.usage.part_store import LastRequest

_log = structlog.get_logger("lapses")

METRIC: Final = "tollhouse.authorizations_lapsed"
RECORDED: Final = "recorded"
RELEASED: Final = "released"
LEASE: Final = timedelta(seconds=60)
"""After which time a check that was taken and not decided is taken again."""
SETTLED_WITHIN: Final = timedelta(seconds=30)
"""How old an authorization is at least when it is walked past: whoever writes one has done so by then, and most are
settled."""
CHECKS_MAX: Final = 200
"""How many checks are decided together."""
_QUESTIONS_MAX: Final = 16
"""How many questions about holds are with billing at once."""
_MICROSECOND: Final = timedelta(microseconds=1)
_WALK_WITHIN_S: Final = 2.0
"""How long one visit walks on where there is more to walk through."""


@dataclass(slots=True)
class _Checks:
    """Checks that were taken, and what became of them. What is in neither is taken again when the lease ends."""

    lease_time: datetime
    done: list[Key] = field(default_factory=list)
    later: dict[Key, datetime] = field(default_factory=dict)
    works: dict[Key, Work] = field(default_factory=dict)
    """What is to be recorded."""
    billing_is_away: bool = False
    """Whether billing could not be asked about a hold. It is asked about no other one then."""


class Lapses:
    """Finds authorizations that lapse, and records what is charged of them, for as long as the service runs."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        billing: BillingClient,
        engine: UsageEngine,
        clock: Clock,
        read_part: Callable[[bytes], Work],
        *,
        every_s: float,
    ) -> None:
        """`read_part` reads the settlement that is stored with a part."""
        self._shards = shards
        self._catalogue = catalogue
        self._billing = billing
        self._engine = engine
        self._clock = clock
        self._read_part = read_part
        self._every_s = every_s
        self.counts = {RECORDED: 0, RELEASED: 0}
        """How many authorizations lapsed since the process began, by outcome."""
        self._questions = asyncio.Semaphore(_QUESTIONS_MAX)
        self._lapsed = metrics.get_meter("tollhouse").create_counter(
            METRIC,
            description="Authorizations that lapsed without a settlement and were looked at for what is charged, by"
            " outcome: their usage was recorded, or nothing was.",
        )

    async def run(self) -> NoReturn:
        """Look at every shard again and again until cancelled."""
        await self._shards.visit(self.look, every_s=self._every_s)

    async def look(self, database: Database) -> None:
        """Decide what is due in a shard, and note what may lapse next."""
        await self._check_due(database)
        await self._walk(database)

    async def _walk(self, database: Database) -> None:
        """Walk through the new authorizations of every organization that charges for lapses.

        Each has its turn in a pass. Where there is more than that, passes are made for two seconds.
        """
        stop_s = time.monotonic() + _WALK_WITHIN_S
        is_more = True
        while is_more and time.monotonic() < stop_s:
            is_more = await self._pass(database)

    async def _pass(self, database: Database) -> bool:
        """Take some steps in each organization; return whether one has more to walk through."""
        after: str | None = NIL
        is_more = False
        while after is not None:
            now = self._clock.now()
            async with database.raw_connection() as connection:
                walked = await lapse_store.walk(connection, after, now - SETTLED_WITHIN, now)
            after = walked.last_organization_id
            is_more = is_more or walked.is_more
        return is_more

    async def _check_due(self, database: Database) -> None:
        """Decide whatever is due in a shard, window by window, and stop early when billing is away."""
        after: Key = lapse_store.FIRST_KEY
        while True:
            async with database.raw_connection() as connection:
                until = await lapse_store.window_end(connection, after)
            while True:
                now = self._clock.now()
                lease_time = now + LEASE
                async with database.raw_connection() as connection:
                    keys = await lapse_store.take_due(
                        connection, after=after, until=until, now=now, lease_time=lease_time, limit=CHECKS_MAX
                    )
                checks = _Checks(lease_time)
                if keys:
                    await self._check(database, keys, checks)
                if checks.billing_is_away:
                    _log.warning("lapses wait for billing", schema=database.schema)
                    return
                if len(keys) < CHECKS_MAX:
                    break
            if until is None:
                return
            after = until

    async def _check(self, database: Database, keys: Sequence[Key], checks: _Checks) -> None:
        """Decide checks that were taken. One that fails is logged, and keeps no other from its turn."""
        await self._catalogue.refresh()
        async with database.raw_connection() as connection:
            stored = await store.find(connection, keys)
            entries = await policy_store.find(connection, {organization_id for organization_id, _ in keys})
            parts = await part_store.last_requests(connection, keys)
        reserving = await self._give_back(database, stored, checks)
        await asyncio.gather(
            *(
                self._judge(key, stored.get(key), entries.get(key[0]), parts.get(key), checks)
                for key in keys
                if key not in reserving
            )
        )
        if checks.works:
            await self._record(checks)
        async with database.raw_connection() as connection:
            if checks.done:
                await lapse_store.finish(connection, checks.done, checks.lease_time)
            if checks.later:
                await lapse_store.put_off(connection, checks.later, checks.lease_time)

    async def _give_back(self, database: Database, stored: Mapping[Key, Stored], checks: _Checks) -> set[Key]:
        """Give back what calls have reserved of limits whose holds have ended; return those that still reserve some.

        These are looked at when their holds have ended. One that fails is logged, and taken again when the lease ends.
        """
        ended_before = self._clock.now() - HOLD_LATE
        reserving = {key: one for key, one in stored.items() if one.reserves and not one.settled}
        due = [key for key, one in reserving.items() if one.cancelled or one.declined or one.expire_time < ended_before]
        for key in reserving.keys() - set(due):
            checks.later[key] = reserving[key].expire_time + HOLD_LATE + _MICROSECOND
        failed = await self._give_back_each(database, due, ended_before) if due else []
        return {*failed, *checks.later}

    async def _give_back_each(self, database: Database, keys: Sequence[Key], ended_before: datetime) -> list[Key]:
        """Give back what calls have reserved, in halves where one is at fault; return those for which it failed.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            async with database.raw_transaction() as connection:
                await give_back(connection, keys, ended_before=ended_before)
        except Unavailable:
            raise
        except Conflict:
            _log.warning("reservations wait for busy counters", schema=database.schema, reservations=len(keys))
            return [*keys]
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one must not reach the others.
            if len(keys) == 1:
                ((organization_id, operation_id),) = keys
                _log.warning(
                    "reservation not given back",
                    organization_id=organization_id,
                    operation_id=operation_id,
                    exc_info=error,
                )
                return [*keys]
            middle = len(keys) // 2
            first = await self._give_back_each(database, keys[:middle], ended_before)
            return first + await self._give_back_each(database, keys[middle:], ended_before)
        return []

    async def _judge(
        self, key: Key, stored: Stored | None, entry: Entry | None, part: LastRequest | None, checks: _Checks
    ) -> None:
        try:
            judged, work = await self._judged(stored, entry, part, checks)
        except Unavailable:
            checks.billing_is_away = True
            return
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one must not reach the others.
            _log.warning("lapse not decided", organization_id=key[0], operation_id=key[1], exc_info=error)
            return
        if isinstance(judged, Later):
            checks.later[key] = judged.check_time
        elif work is not None:
            checks.works[key] = work
        else:
            checks.done.append(key)
            if isinstance(judged, Lapsed):
                self._count(RELEASED)

    async def _judged(
        self, stored: Stored | None, entry: Entry | None, part: LastRequest | None, checks: _Checks
    ) -> tuple[Verdict, Work | None]:
        """Return what is to be done about an authorization, and the usage to record of it, if there is any.

        Raises:
            Unavailable: billing cannot be reached.
        """
        if stored is None:
            return Over(), None
        part_time = None if part is None else part.create_time
        judged = verdict(stored, entry, stored.expire_time, self._clock.now(), part_time)
        work = self._work(stored, judged.charge, part) if isinstance(judged, Lapsed) else None
        if work is None or not stored.pinned.amount:
            return judged, work
        async with self._questions:
            if checks.billing_is_away:
                raise Unavailable(dependency="billing")
            hold = await self._billing.find_hold(work.organization_id, work.operation_id)
        if part is not None:
            end_time = stored.expire_time if hold is None else hold.expire_time
            judged = verdict(stored, entry, end_time, self._clock.now(), part_time)
            return judged, None if isinstance(judged, Later) else work
        if hold is None:
            # No hold was ever placed, since billing was away or had declined: the call never began.
            return judged, None
        if hold.is_over:
            return Over(), None
        judged = verdict(stored, entry, hold.expire_time, self._clock.now())
        return judged, None if isinstance(judged, Later) else work

    def _work(self, stored: Stored, charge: LapseCharge, part: LastRequest | None) -> Work | None:
        if part is not None:
            return work_of_last_part(self._read_part(part.request))
        return work_of_lapsed(stored, charge, self._catalogue.units)

    async def _record(self, checks: _Checks) -> None:
        outcomes = await self._engine.record(list(checks.works.values()))
        for key, outcome in zip(checks.works, outcomes, strict=True):
            if isinstance(outcome, Accepted):
                checks.done.append(key)
                if not outcome.replayed:
                    self._count(RECORDED)
            elif isinstance(outcome, OperationIdReused):
                checks.done.append(key)  # The settlement has come in the meantime.
            else:
                _log.warning("lapse not recorded", organization_id=key[0], operation_id=key[1], exc_info=outcome)

    def _count(self, outcome: str) -> None:
        self.counts[outcome] += 1
        self._lapsed.add(1, {"outcome": outcome})
