"""Applies kept webhooks, whatever their order; several processes share the work.

A process claims webhooks by moving their next attempt on by a minute, applies their facts, and stores what became of
each. Killed before the claim commits, nothing happened. Killed after it, or between the facts and storing the result,
another process claims them again after that minute, and the facts that were applied change nothing the second time.
No lock is held meanwhile, and one webhook that cannot be applied holds up no other.
"""

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NoReturn, TypeAlias

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Kind, Refusal
from services.billing.payment.provider import Event, Fact, FactApplier, Unreadable
from services.billing.payment.providers.registry import Providers
from services.billing.payment.webhook import store
from services.billing.payment.webhook.counts import Counts
from services.billing.payment.webhook.domain import (
    Decision,
    Outcome,
    State,
    Worlds,
    after_applied,
    after_failure,
    subject_of,
)
from services.billing.payment.webhook.store import Due

_log = structlog.get_logger("webhooks")

CLAIMED_FOR: Final = timedelta(seconds=60)
_BATCH_MAX: Final = 200
_APPLIED_AT_ONCE: Final = 64
_APPLY_WITHIN_S: Final = 20.0
_LOOK_EVERY_S: Final = 1.0
_SLOW_AFTER_S: Final = 1.0
_SLOW_MAX: Final = 200
"""How many webhooks may take long before no more are taken."""
_PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.ABORTED, Kind.DEADLINE_EXCEEDED, Kind.RESOURCE_EXHAUSTED})
_COUNTED: Final = {
    State.APPLIED: Outcome.APPLIED,
    State.REFUSED: Outcome.REFUSED,
    State.SET_ASIDE: Outcome.SET_ASIDE,
}
_Decided: TypeAlias = tuple[Due, Decision]
"""A webhook, and what becomes of it."""


class WebhookWorker:
    """Applies what is in the inbox as long as the process runs."""

    def __init__(
        self,
        providers: Providers,
        worlds: Worlds,
        payments: FactApplier,
        platform: Database,
        clock: Clock,
        counts: Counts,
    ) -> None:
        self._providers = providers
        self._worlds = worlds
        self._payments = payments
        self._platform = platform
        self._clock = clock
        self._counts = counts
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(_APPLIED_AT_ONCE)
        self._slow: set[asyncio.Task[_Decided]] = set()
        self._late: list[_Decided] = []
        """What came of webhooks that took long, until it is stored."""
        self._settling: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Say that there is something to apply now."""
        self._wake.set()

    async def run(self) -> NoReturn:
        """Apply what is due, until cancelled."""
        while True:
            self._wake.clear()
            try:
                while await self.apply_due():
                    pass
            except Refusal as refusal:
                _log.warning("webhooks not applied", reason=refusal.reason)
                await asyncio.sleep(_LOOK_EVERY_S)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def apply_due(self) -> int:
        """Apply webhooks that are due, a bounded number; return how many were tried.

        Those that take long are left to themselves, and others are applied meanwhile.
        """
        while len(self._slow) >= _SLOW_MAX:
            await asyncio.wait(self._slow, return_when=asyncio.FIRST_COMPLETED)
        now = self._clock.now()
        async with self._platform.raw_connection() as connection:
            due = await store.claim(connection, now, now + CLAIMED_FOR, _BATCH_MAX)
        if not due:
            return 0
        done, slow = await asyncio.wait(self._start(due), timeout=_SLOW_AFTER_S)
        for task in slow:
            self._slow.add(task)
            task.add_done_callback(self._settle_later)
        await self._settle([task.result() for task in done])
        return len(due)

    async def close(self) -> None:
        """Wait for what takes long; what is not stored then is done again by the next process."""
        if self._slow:
            await asyncio.wait(self._slow)
        while self._settling is not None:
            await asyncio.wait([self._settling])

    def _settle_later(self, task: asyncio.Task[_Decided]) -> None:
        """Note what came of a webhook that took long; those that end while others are stored are stored together."""
        self._slow.discard(task)
        if not task.cancelled():
            self._late.append(task.result())
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_late())

    async def _settle_late(self) -> None:
        try:
            while self._late:
                taken, self._late = self._late, []
                await self._settle(taken)
        except Refusal as refusal:
            # They are claimed again, and what was applied changes nothing.
            _log.warning("what became of webhooks was not stored", reason=refusal.reason)
        finally:
            self._settling = None

    async def _settle(self, decided: Sequence[_Decided]) -> None:
        if not decided:
            return
        async with self._platform.raw_connection() as connection:
            await store.settle(connection, decided, self._clock.now())
        for one, decision in decided:
            if decision.state in _COUNTED:
                self._counts.add(one.provider, _COUNTED[decision.state], one.kind)

    def _start(self, due: Sequence[Due]) -> list[asyncio.Task[_Decided]]:
        """Begin to apply webhooks: side by side, but those of one subject one after another, as they came."""
        tasks: list[asyncio.Task[_Decided]] = []
        last: dict[tuple[str, str], asyncio.Task[_Decided]] = {}
        for one in due:
            read = self._read(one)
            subject = ("", one.webhook_id) if isinstance(read, Decision) or not read else subject_of(read[0])
            last[subject] = asyncio.create_task(self._decide(one, read, last.get(subject)))
            tasks.append(last[subject])
        return tasks

    def _read(self, due: Due) -> Sequence[Fact] | Decision:
        """Return the facts of a webhook, or what becomes of one that cannot be read any more, or is not for us."""
        configured = self._providers.get(due.provider)
        if configured is None:
            return Decision(State.SET_ASIDE, "The provider is not configured any more.")
        try:
            parsed = configured.provider.parse(due.body)
        except Unreadable as flaw:
            return Decision(State.SET_ASIDE, f"It cannot be read any more: {flaw}")
        if not isinstance(parsed, Event):
            return ()
        # One that was refused for it may be tried again, and what the installation takes may have changed.
        objection = self._worlds[due.provider].objection(parsed.facts)
        return parsed.facts if objection is None else Decision(State.REFUSED, objection.value)

    async def _decide(
        self, due: Due, read: Sequence[Fact] | Decision, before: asyncio.Task[_Decided] | None
    ) -> _Decided:
        """Apply a webhook after the one before of the same subject, which may not take long."""
        if isinstance(read, Decision):
            return due, read
        if before is not None:
            await asyncio.wait([before], timeout=_SLOW_AFTER_S)
        async with self._turns:
            return due, await self._apply(due, read)

    async def _apply(self, due: Due, facts: Sequence[Fact]) -> Decision:
        chance = random.random()
        try:
            async with asyncio.timeout(_APPLY_WITHIN_S):
                applied = [await self._payments.apply(fact) for fact in facts]
        except Exception as error:  # noqa: BLE001 -- one webhook that fails holds up no other.
            passing = isinstance(error, TimeoutError) or (isinstance(error, Refusal) and error.kind in _PASSING)
            reason = error.reason if isinstance(error, Refusal) else type(error).__name__
            if not passing:
                _log.error("webhook failed", webhook_id=due.webhook_id, kind=due.kind, exc_info=error)
            return after_failure(
                reason, passing=passing, attempt_count=due.attempt_count, now=self._clock.now(), chance=chance
            )
        return after_applied(
            applied,
            attempt_count=due.attempt_count,
            wait_since_time=due.wait_since_time,
            now=self._clock.now(),
            chance=chance,
        )
