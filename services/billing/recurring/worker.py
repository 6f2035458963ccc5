"""Works off next steps: what follows from payments of plans, and from what providers say of subscriptions.

What is to be done is in the table, so nothing is lost when the process ends. Several processes share the work.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.shards import Shards
from libs.common.text import storable
from services.billing import next_steps
from services.billing.next_steps import NextStep, StepKind
from services.billing.payment import store as payment_store
from services.billing.payment.domain import Payment
from services.billing.payment.provider import ProviderError
from services.billing.recurring import store
from services.billing.recurring.following import SOON, Following
from services.billing.recurring.purchases import Purchases

_log = structlog.get_logger("recurring")
_LANES: Final = ((StepKind.PAYMENT,), (StepKind.EXTERNAL_SUBSCRIPTION, StepKind.SUBSCRIPTION))
"""Kinds of steps that are done side by side: what was paid does not wait for a provider that is told something."""
_LOOK_EVERY_S: Final = 1.0
_TOGETHER_MAX: Final = 64
_AT_ONCE: Final = 4
_DONE_WITHIN_S: Final = 45.0
"""Less than the time for which a step is claimed."""
_RETRY_FIRST_S: Final = 5.0
_RETRY_MAX_S: Final = 3_600.0
_DOUBLINGS_MAX: Final = 10
_FAILURE_CHARS_MAX: Final = 256


class RecurringWorker:
    """Does next steps as long as the process runs."""

    def __init__(self, shards: Shards, purchases: Purchases, following: Following, clock: Clock) -> None:
        self._shards = shards
        self._purchases = purchases
        self._following = following
        self._clock = clock

    async def run(self) -> NoReturn:
        """Look at all shards again and again."""
        sweeps = [partial(self._sweep, lane) for lane in _LANES]
        await asyncio.gather(*(self._shards.visit(sweep, every_s=_LOOK_EVERY_S) for sweep in sweeps))
        raise AssertionError("a visit never ends")

    async def sweep(self, database: Database) -> int:
        """Do what is due in a shard; return how many steps were tried."""
        return sum(await asyncio.gather(*(self._sweep(lane, database) for lane in _LANES)))

    async def _sweep(self, lane: Collection[StepKind], database: Database) -> int:
        turns, tried = asyncio.Semaphore(_AT_ONCE), 0

        async def do(step: NextStep) -> None:
            async with turns:
                await self._do(database, step)

        while True:
            async with database.raw_transaction() as connection:
                steps = await next_steps.claim(connection, self._clock.now(), lane, _TOGETHER_MAX)
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(do(step))
            tried += len(steps)
            if len(steps) < _TOGETHER_MAX:
                return tried

    async def _do(self, database: Database, step: NextStep) -> None:
        try:
            async with asyncio.timeout(_DONE_WITHIN_S):
                again = await self._look(step)
        except Exception as error:  # noqa: BLE001 -- one step that fails keeps no other from its turn.
            reason = error.reason if isinstance(error, Refusal) else type(error).__name__
            known = isinstance(error, Refusal | ProviderError | TimeoutError)
            _log.warning(
                "step not done", kind=step.kind, key=step.key, reason=reason, exc_info=None if known else error
            )
            delay_s = min(_RETRY_FIRST_S * 2 ** min(step.attempt_count, _DOUBLINGS_MAX), _RETRY_MAX_S)
            failure = storable(f"{reason}: {error}", _FAILURE_CHARS_MAX)
            async with database.raw_transaction() as connection:
                await next_steps.failed(connection, step, failure, self._clock.now() + timedelta(seconds=delay_s))
            return
        async with database.raw_transaction() as connection:
            if again is not None:
                await next_steps.later(connection, step, again)
            elif step.kind is StepKind.PAYMENT:
                await self._purchases.finish(connection, step)
            else:
                await next_steps.done(connection, step)

    async def _look(self, step: NextStep) -> datetime | None:
        """Do a step; return when it is to be done again."""
        match step.kind:
            case StepKind.PAYMENT:
                return await self._payment(step)
            case StepKind.EXTERNAL_SUBSCRIPTION:
                provider, _, external_id = step.key.partition("/")
                return await self._following.look(step.organization_id, provider, external_id)
            case StepKind.SUBSCRIPTION:
                return await self._following.look_at_all(step.organization_id, step.key)

    async def _payment(self, step: NextStep) -> datetime | None:
        payment = await self._find(step.organization_id, step.key)
        if payment is None:
            return None
        subscription_id = payment.subscription_id
        if payment.first_payment_id is None and payment.plan_id is not None:
            subscription_id = await self._purchases.subscribe(payment, step)
            if subscription_id is not None:
                await self._following.settle(step.organization_id, subscription_id)
            # Whoever asks whether this step is to be done asks for the subscription. Later payments have their own.
            return None
        if subscription_id is None and payment.first_payment_id is not None:
            first = await self._find(step.organization_id, payment.first_payment_id)
            async with self._shards.of(step.organization_id).raw_transaction() as connection:
                if first is None or first.subscription_id is None:
                    waits = await next_steps.waits(
                        connection, step.organization_id, StepKind.PAYMENT, payment.first_payment_id
                    )
                    return self._clock.now() + SOON if waits else None
                subscription_id = first.subscription_id
                await store.set_subscription(connection, step.organization_id, payment.payment_id, subscription_id)
        if subscription_id is None:
            return None
        return await self._following.settle(step.organization_id, subscription_id)

    async def _find(self, organization_id: str, payment_id: str) -> Payment | None:
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await payment_store.find(connection, organization_id, payment_id)
