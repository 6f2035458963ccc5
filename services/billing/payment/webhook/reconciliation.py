"""Asks providers for what changed, since a webhook may be lost: Lemon Squeezy gives up after three tries in 155 s.

Each provider is asked for the last 72 hours every ten minutes, and for the last 35 days once a day, or since it was
asked last, where that is longer ago. What it says is
applied as webhooks are, so whatever is known already changes nothing. What is not known yet is not kept: it is asked
for again.

One process has the turn for a provider and a span at a time. Killed in the middle, the turn ends by itself after a
while, and the next one begins from the start.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NoReturn

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, Refusal
from services.billing.payment.provider import Changes, Fact, FactApplier, ProviderError, Result
from services.billing.payment.providers.registry import Providers
from services.billing.payment.webhook import reconciliation_store as store
from services.billing.payment.webhook.domain import Worlds

_log = structlog.get_logger("reconciliation")

SINCE_MAX: Final = timedelta(days=35)
SINCE_DEFAULT: Final = timedelta(hours=72)
_GAP_MAX: Final = timedelta(days=400)
"""How far back a provider is asked at most after it could not be asked for long."""
_TURN: Final = timedelta(minutes=30)
_AGAIN_AFTER_FAILURE: Final = timedelta(minutes=2)
_LOOK_EVERY_S: Final = 5.0
_APPLIED_AT_ONCE: Final = 20
_FAILURE_CHARS_MAX: Final = 500


class Span(StrEnum):
    """How far back a provider is asked by itself."""

    RECENT = "RECENT"
    LONG = "LONG"

    @property
    def length(self) -> timedelta:
        return SINCE_DEFAULT if self is Span.RECENT else SINCE_MAX

    @property
    def every(self) -> timedelta:
        return timedelta(minutes=10) if self is Span.RECENT else timedelta(days=1)

    def since(self, now: datetime, last_end_time: datetime | None) -> datetime:
        """Return from when on a provider is asked; the long span has no gap after the last time it was asked."""
        since = now - self.length
        if self is Span.RECENT or last_end_time is None:
            return since
        return max(min(since, last_end_time - SINCE_DEFAULT), now - _GAP_MAX)


@dataclass(slots=True)
class Found:
    """What asking a provider has brought so far."""

    provider: str
    counts: Counter[Result] = field(default_factory=Counter)
    out_of_place: int = 0
    """Facts of another store or mode."""
    failed: int = 0
    """Facts that could not be applied by an error of ours; they are asked for again."""
    failure: str = ""
    """Why the provider could not be asked; empty where it could."""
    ended: bool = False


class Reconciliation:
    """Asks providers, and applies what they say."""

    def __init__(
        self, providers: Providers, worlds: Worlds, payments: FactApplier, platform: Database, clock: Clock
    ) -> None:
        self._providers = {name: one for name, one in providers.items() if one.can_be_asked}
        self._worlds = worlds
        self._payments = payments
        self._platform = platform
        self._clock = clock

    async def run(self) -> NoReturn:
        """Ask whenever it is time, until cancelled. A provider that hangs keeps no other from its turn."""
        await asyncio.gather(*(self._run(provider) for provider in self._providers))
        await asyncio.Event().wait()
        raise AssertionError("nobody can be asked, and nothing ends the wait")

    async def ask_due(self) -> int:
        """Ask each provider for each span whose time has come, unless another process does; return how many."""
        return sum([await self._ask_due(provider) for provider in self._providers])

    async def _run(self, provider: str) -> NoReturn:
        while True:
            try:
                await self._ask_due(provider)
            except Refusal as refusal:
                _log.warning("provider not asked", provider=provider, reason=refusal.reason)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _ask_due(self, provider: str) -> int:
        asked = 0
        for span in Span:
            now = self._clock.now()
            async with self._platform.raw_connection() as connection:
                turn = await store.take_turn(connection, provider, span, now, now + _TURN)
            if turn is not None:
                asked += 1
                await self._ask_in_turn(provider, span, span.since(now, turn.last_end_time))
        return asked

    def ask(self, provider: str, since: datetime | None) -> AsyncGenerator[Found, None]:
        """Ask a provider, or all for an empty name; yield what was found after each page, and at the end of each.

        Raises:
            NotFound: the provider is not configured, or without a key.
            InvalidArgument: the time is in the future, or more than 35 days ago.
        """
        now = self._clock.now()
        since = since or now - SINCE_DEFAULT
        if not now - SINCE_MAX - timedelta(minutes=1) <= since <= now:
            raise InvalidArgument([FieldViolation("since_time", "must be within the last 35 days")])
        if provider and provider not in self._providers:
            raise NotFound(resource_type="provider", resource_name=provider)
        return self._ask_each([provider] if provider else sorted(self._providers), since)

    async def _ask_each(self, names: Sequence[str], since: datetime) -> AsyncGenerator[Found, None]:
        for name in names:
            async for found in self._ask_one(name, since):
                yield found

    async def _ask_in_turn(self, provider: str, span: Span, since: datetime) -> None:
        pages = [found async for found in self._ask_one(provider, since)]
        # All of them are one object, which says what was found in the end.
        found = pages[-1]
        now = self._clock.now()
        failure = found.failure or (f"{found.failed} changes could not be applied." if found.failed else "")
        again = now + (min(_AGAIN_AFTER_FAILURE, span.every) if failure else span.every)
        async with self._platform.raw_connection() as connection:
            await store.end_turn(connection, provider, span, now, again, failure[:_FAILURE_CHARS_MAX])
        if found.counts[Result.APPLIED] or failure:
            _log.info(
                "provider asked",
                provider=provider,
                span=span.value,
                applied=found.counts[Result.APPLIED],
                failure=failure,
            )

    async def _ask_one(self, provider: str, since: datetime) -> AsyncGenerator[Found, None]:
        found = Found(provider)
        try:
            async for changes in self._providers[provider].provider.changed_since(since):
                await self._apply(changes, found)
                yield found
        except ProviderError as error:
            found.failure = f"{type(error).__name__}: {error}"
        found.ended = True
        yield found

    async def _apply(self, changes: Changes, found: Found) -> None:
        """Apply a page, some facts at a time, and note what became of each."""
        turns = asyncio.Semaphore(_APPLIED_AT_ONCE)
        world = self._worlds[found.provider]

        async def apply(fact: Fact) -> None:
            if world.objection([fact]) is not None:
                found.out_of_place += 1
                return
            try:
                async with turns:
                    applied = await self._payments.apply(fact)
            except Exception as error:  # noqa: BLE001 -- one change that fails holds up no other.
                found.failed += 1
                _log.warning("a change was not applied", provider=found.provider, exc_info=error)
            else:
                found.counts[applied.result] += 1

        async with asyncio.TaskGroup() as group:
            for fact in changes.facts:
                group.create_task(apply(fact))
