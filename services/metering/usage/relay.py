"""The relay: sends the charges again that billing has not confirmed, until it does.

A charge is written to the outbox together with its usage, and leaves it when billing confirms. The process that
recorded the usage tries first. A charge that is still there some seconds later is sent by the relay: after a crash, or
while billing is away. Billing knows the operation id, so a charge that is sent twice is made once.

A charge that billing refuses, for instance because the account keeps another currency, stays in the outbox as REFUSED
and is tried again at long intervals, unless a correction gives it up (see `given_up`).
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.shards import Shards
from services.metering.clients.billing import BATCH_MAX, TRANSACTION_NOT_FOUND, BillingClient, Charged, NotCharged
from services.metering.usage import given_up, store
from services.metering.usage.charging import Charging
from services.metering.usage.domain import PENDING, REFUSED
from services.metering.usage.store import DueCharge, Key

_log = structlog.get_logger("relay")

LEASE: Final = timedelta(seconds=10)
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 60.0
REFUSED_BACKOFF_FIRST_S: Final = 60.0
REFUSED_BACKOFF_MAX_S: Final = 3_600.0
REFUSED_METRIC: Final = "tollhouse.charges_refused"
_DOUBLINGS_MAX: Final = 9
_REVERSALS_EVERY_S: Final = 5.0


class Relay:
    """Sends the charges in the outbox for as long as the service runs."""

    def __init__(
        self, shards: Shards, billing: BillingClient, charging: Charging, clock: Clock, *, every_s: float
    ) -> None:
        self._shards = shards
        self._billing = billing
        self._charging = charging
        self._clock = clock
        self._every_s = every_s
        self._reversals_at_s = dict.fromkeys(shards, 0.0)
        """When reversals that were given up are looked at next, by shard."""
        self._refused_charges = metrics.get_meter("tollhouse").create_counter(
            REFUSED_METRIC,
            description="Charges that billing refused, counted once an attempt.",
        )

    async def run(self) -> NoReturn:
        """Send due charges of every shard again and again until cancelled."""
        await self._shards.visit(self._visit, every_s=self._every_s)

    async def _visit(self, database: Database) -> None:
        await self._charging.flush_idle(database)
        await self.send_due(database)
        if asyncio.get_running_loop().time() >= self._reversals_at_s[database]:
            await self._send_reversals(database)
            self._reversals_at_s[database] = asyncio.get_running_loop().time() + _REVERSALS_EVERY_S

    async def _send_reversals(self, database: Database) -> None:
        """Make the reversals due that were given up with charges which were made after all, window by window."""
        until: Key | None = store.FIRST_KEY
        while until is not None:
            after = until
            async with database.raw_connection() as connection:
                until = await store.window_end(connection, after)
                await given_up.send_reversals(
                    connection, after=after, until=until or store.LAST_KEY, now=self._clock.now()
                )

    async def send_due(self, database: Database) -> None:
        """Send whatever is due in a shard, window by window, and stop early when billing is away."""
        after: Key = store.FIRST_KEY
        while True:
            async with database.raw_connection() as connection:
                until = await store.window_end(connection, after)
            while True:
                due = await self._take(database, after, until)
                if due and not await self._send(database, due):
                    return
                if len(due) < BATCH_MAX:
                    break
            if until is None:
                return
            after = until

    async def _take(self, database: Database, after: Key, until: Key | None) -> Sequence[DueCharge]:
        now = self._clock.now()
        async with database.raw_connection() as connection:
            return await store.take_due(
                connection, after=after, until=until, now=now, lease_time=now + LEASE, limit=BATCH_MAX
            )

    async def _send(self, database: Database, due: Sequence[DueCharge]) -> bool:
        """Send charges and note what became of each; tell whether billing answered."""
        results = await self._billing.charge([charge for charge, _ in due])
        done: list[Key] = []
        failed: dict[Key, tuple[str, str, datetime, int]] = {}
        unfounded: list[Key] = []
        now = self._clock.now()
        for (charge, attempt_count), result in zip(due, results, strict=True):
            key = (charge.organization_id, charge.operation_id)
            if isinstance(result, Charged):
                done.append(key)
            elif result.final:
                failed[key] = (REFUSED, result.reason, now + refused_backoff(attempt_count), attempt_count)
            else:
                failed[key] = (PENDING, result.reason, now + backoff(attempt_count), attempt_count)
                if result.reason == TRANSACTION_NOT_FOUND:
                    unfounded.append(key)
        async with database.raw_transaction() as connection:
            if done:
                await store.finish(connection, done)
            if failed:
                await store.put_back(connection, failed)
            if unfounded:
                await given_up.give_up_reversed(connection, unfounded)
        if failed:
            self._refused_charges.add(sum(state == REFUSED for state, *_ in failed.values()))
            reasons = sorted({reason for _, reason, *_ in failed.values()})
            _log.warning("charges not made", charges=len(failed), reasons=reasons)
        return any(isinstance(result, Charged) or _is_final(result) for result in results)


def _is_final(result: Charged | NotCharged) -> bool:
    return isinstance(result, NotCharged) and result.final


def backoff(attempt_count: int) -> timedelta:
    """Return how long to wait after the attempt of this number: a random time below a bound that doubles each time."""
    ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(attempt_count, _DOUBLINGS_MAX))
    return timedelta(seconds=random.uniform(0, ceiling_s))


def refused_backoff(attempt_count: int) -> timedelta:
    """Return how long to wait before billing is asked again for a charge that it refuses.

    Somebody must change something first, such as open an account in the currency, so the attempts are far apart.
    RetryCharges asks at once.
    """
    ceiling_s = min(REFUSED_BACKOFF_MAX_S, REFUSED_BACKOFF_FIRST_S * 2 ** min(attempt_count, _DOUBLINGS_MAX))
    return timedelta(seconds=random.uniform(ceiling_s / 2, ceiling_s))
