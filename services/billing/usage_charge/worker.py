"""Charges what plans charge for the usage of periods that are over, and keeps it right when usage comes late.

Of each time that is over metering is asked what was used. What it comes to, less what was charged, is one movement:

1. It is written as planned, with the quantity and the amount, while the time's row is locked.
2. The ledger makes it. Its operation id follows from the time and the movement's number.
3. It is noted as made, and when the time is looked at again.

A process may die between any two of them: whoever looks at the time next finds the planned movement, and makes that one
first. Whoever takes a time has it for a minute; several processes share the work. While metering is away the times
wait, and nothing else does.
"""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal, Unavailable
from libs.common.shards import Shards
from libs.common.text import storable
from services.billing.clients.usages import Usages, UsedQuantity, WantedQuantity
from services.billing.ledger.domain import Decline
from services.billing.ledger.engine import Engine
from services.billing.ledger.rendering import refusal_of
from services.billing.subscription.charger import is_passing
from services.billing.subscription.usage_periods import next_look
from services.billing.usage_charge import store
from services.billing.usage_charge.domain import Movement, Stored, minimum_amount

_log = structlog.get_logger("usage_charges")
_meter = metrics.get_meter("tollhouse")
_moved = _meter.create_counter("tollhouse.usage_charges_moved", description="Movements for the usage of periods.")
_failed = _meter.create_counter("tollhouse.usage_charges_failed", description="Usage charges that failed.")

_AT_ONCE: Final = 4
_TAKEN_AT_ONCE: Final = 40
_KEPT: Final = timedelta(minutes=2)
"""How long a time is kept from others by whoever looks at it. After a crash it is looked at so much later."""
_AGAIN_AFTER: Final = timedelta(seconds=30)
_DOUBLINGS_MAX: Final = 7
"""What fails is tried again after 30 seconds, then after twice as long each time, up to about an hour."""
_ERROR_CHARS_MAX: Final = 256
_NOTHING: Final = UsedQuantity(Decimal(0), ())


class UsageCharges:
    """Visits the shards. Several processes may do so at once."""

    def __init__(self, shards: Shards, engine: Engine, usages: Usages | None, clock: Clock, every_s: float) -> None:
        """`usages` is None where billing knows no metering: then what is due waits for a process that does."""
        self._shards = shards
        self._engine = engine
        self._usages = usages
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Look at all times of a shard that are due."""
        while self._usages is not None and await self._look_at_some(database):
            pass

    async def _look_at_some(self, database: Database) -> bool:
        """Look at some times that are due; return whether there may be more that can be looked at now."""
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            found = await store.take(connection, now, now + _KEPT, _TAKEN_AT_ONCE)
        turns, away = asyncio.Semaphore(_AT_ONCE), asyncio.Event()

        async def look_at(taken: Stored) -> None:
            async with turns:
                try:
                    if away.is_set():
                        raise Unavailable(dependency="metering")
                    await self._look_at(database, taken)
                except Exception as error:  # noqa: BLE001 -- the others must have their turn, whatever the cause.
                    if is_passing(error):
                        away.set()
                    await self._note_failure(database, taken, error)

        # Minimums come after the usage charges that count towards them.
        for some in ([one for one in found if one.charge], [one for one in found if not one.charge]):
            async with asyncio.TaskGroup() as group:
                for taken in some:
                    group.create_task(look_at(taken))
        if away.is_set():
            _log.warning("usage charges wait for what they need", schema=database.schema)
        return bool(found) and not away.is_set()

    async def _look_at(self, database: Database, taken: Stored) -> None:
        """Charge what a time comes to, or give back what it comes to less."""
        used = _NOTHING if taken.charge is None else await self._used(taken)
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            found = await store.lock(connection, taken)
            if found is None:
                return
            stored, movement = found
            if movement is None and used.dropped_months and not stored.is_new:
                # What was counted before it was dropped stands, and nothing changes any more in a dropped month.
                await store.done(connection, stored, now, None)
                return
            again = now if movement is not None else _next_look(stored, used, now)
            if movement is None:
                if stored.charge is not None:
                    amount = stored.charge.amount(used.quantity, stored.base)
                else:
                    charged, waits = await store.charged_within(connection, stored)
                    if waits:
                        await store.postpone(connection, stored, now + _AGAIN_AFTER, 0, "")
                        return
                    # It is looked at when one of those changes.
                    amount, again = minimum_amount(stored.base, charged), None
                movement = stored.movement_to(used.quantity, amount)
                await store.plan(connection, stored, used.quantity, movement, now)
            if stored.charge is not None and (stored.is_new or movement is not None):
                await store.wake_minimum(connection, stored, now)
            if movement is None:
                await store.done(connection, stored, now, again)
                return
        await self._move(stored, movement)
        async with database.raw_transaction() as connection:
            await store.moved(connection, stored, movement)
            await store.done(connection, stored, now, again)
            if stored.charge is not None and stored.is_new:
                await store.wake_minimum(connection, stored, now)

    async def _used(self, taken: Stored) -> UsedQuantity:
        assert taken.charge is not None
        assert self._usages is not None
        key = taken.organization_id, taken.subscription_id, taken.with_unsubscribed
        unit = taken.charge.unit, taken.charge.models
        used = await self._usages.quantity(WantedQuantity(*key, *unit, taken.start, taken.end))
        if used.priced_models and taken.is_new:
            _log.warning(
                "usage is charged twice, by its rate card and by the plan",
                organization_id=taken.organization_id,
                plan_code=taken.plan_code,
                usage_charge_code=taken.code,
                unit=taken.charge.unit,
                models=used.priced_models,
            )
        if used.dropped_months and taken.is_new:
            _log.warning(
                "usage was dropped before it was charged, and is not charged",
                organization_id=taken.organization_id,
                subscription_id=taken.subscription_id,
                plan_code=taken.plan_code,
                usage_charge_code=taken.code,
                months=used.dropped_months,
            )
        return used

    async def _move(self, stored: Stored, movement: Movement) -> None:
        (answer,) = await self._engine.submit([stored.command(movement)])
        if isinstance(answer, Decline):
            raise refusal_of(answer)
        if isinstance(answer, Exception):
            raise answer
        _moved.add(1)

    async def _note_failure(self, database: Database, taken: Stored, error: Exception) -> None:
        text = f"{error.reason}: {error.message}" if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        passing = is_passing(error)
        if not passing:
            _failed.add(1)
            _log.warning(
                "usage could not be charged",
                organization_id=taken.organization_id,
                subscription_id=taken.subscription_id,
                usage_charge_code=taken.code,
                exc_info=error,
            )
        after = _AGAIN_AFTER if passing else _AGAIN_AFTER * 2 ** min(taken.attempts, _DOUBLINGS_MAX)
        attempts = taken.attempts if passing else taken.attempts + 1
        async with database.raw_transaction() as connection:
            later = self._clock.now() + after
            await store.postpone(connection, taken, later, attempts, storable(text, _ERROR_CHARS_MAX))


def _next_look(stored: Stored, used: UsedQuantity, now: datetime) -> datetime | None:
    """Return when a time is looked at again; never where some of its usage was dropped."""
    return None if used.dropped_months else next_look(stored.end, now)
