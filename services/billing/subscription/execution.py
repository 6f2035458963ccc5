"""Carries out steps of subscriptions: plans them, lets the ledger move what they move, and completes them.

The rows of the subscriptions are locked meanwhile, on a connection that is called `held`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Refusal
from libs.common.text import storable
from services.billing import errors, payment_errors
from services.billing.ledger.domain import GrantCredits, VoidGrant
from services.billing.ledger.engine import Engine
from services.billing.subscription import event_store, run_store, usage_period_store
from services.billing.subscription.announcements import announce_all, announce_failures
from services.billing.subscription.charger import REFUSED, Charger, Demand, is_passing, refills_of
from services.billing.subscription.collection import reason_of_refusal, tell_providers
from services.billing.subscription.domain import Agreement, Event
from services.billing.subscription.entitlement_store import touch_entitlements
from services.billing.subscription.run_store import Key
from services.billing.subscription.states import EventKind
from services.billing.subscription.steps import Step, instead, refused
from services.billing.subscription.usage_periods import ended_with

_log = structlog.get_logger("subscriptions")

STEPS_METRIC: Final = "tollhouse.subscription_steps"
SET_ASIDE_METRIC: Final = "tollhouse.subscriptions_set_aside"
_REASON_CHARS_MAX: Final = 256
_ASKED_AGAIN_AFTER: Final = timedelta(seconds=30)
"""After which time a provider is asked again what became of a charge. Others have their turn meanwhile."""
_meter = metrics.get_meter("tollhouse")
_steps = _meter.create_counter(STEPS_METRIC, description="Things that happened to subscriptions when they were due.")
_set_aside = _meter.create_counter(SET_ASIDE_METRIC, description="Subscriptions left to an operator.")


@dataclass(frozen=True, slots=True)
class Counts:
    """What came of subscriptions for which something was due."""

    done: int = 0
    """Steps that were made."""
    set_aside: int = 0
    left: int = 0
    """Those to come back to, because something that they need could not be reached."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.done + other.done, self.set_aside + other.set_aside, self.left + other.left)


@dataclass(slots=True)
class Work:
    """A step on its way."""

    agreement: Agreement
    step: Step
    was_planned: bool
    """Whether an earlier process has planned it."""
    refusal: Refusal | None = None
    """Why its price could not be taken."""
    failure: Exception | None = None
    """Why it could not be done."""
    has_moved: bool = False
    """Whether a part of its movements is made, though not all."""
    is_audited: bool = False
    """Whether somebody makes it by a call. What falls due is told by its event alone."""

    @property
    def key(self) -> Key:
        return self.step.event.organization_id, self.step.event.subscription_id


class Execution:
    """Carries out steps."""

    def __init__(self, engine: Engine, clock: Clock, charger: Charger) -> None:
        self._engine = engine
        self._clock = clock
        self._charger = charger

    async def carry_out(self, database: Database, held: RawConnection, work: Sequence[Work]) -> Counts:
        """Plan steps, move what they move, and complete them."""
        new = [one.step.event for one in work if one.step.event.planned and not one.was_planned]
        if new:
            async with database.raw_transaction() as connection:
                await run_store.add_events(connection, new)
        await self._charge([one for one in work if one.step.event.charge is not None])
        await self._grant(database, [one for one in work if one.refusal is None and one.failure is None])
        return await self._complete(held, work)

    async def _charge(self, work: Sequence[Work]) -> None:
        if not work:
            return
        answers = await self._charger.charge([Demand(one.step.event, one.step.after) for one in work])
        for one, answer in zip(work, answers, strict=True):
            one.has_moved = answer is None
            if isinstance(answer, REFUSED):
                one.refusal = answer
            elif answer is not None:
                one.failure = answer

    async def _grant(self, database: Database, work: Sequence[Work]) -> None:
        """Take back the credits that end with a plan, and grant those that begin."""
        commands: list[GrantCredits | VoidGrant] = []
        owners: list[Work] = []
        for one in work:
            event = one.step.event
            if event.voided_grant_operation_ids:
                commands += (voids := await _voids_of(database, event))
                owners += [one] * len(voids)
            if event.refills:
                commands += (refills := refills_of(one.step.after, event))
                owners += [one] * len(refills)
        if not commands:
            return
        for one, answer in zip(owners, await self._engine.submit(commands), strict=True):
            if not isinstance(answer, Exception):
                one.has_moved = True
            elif not isinstance(answer, errors.GrantEnded):
                one.failure = one.failure or answer

    async def _complete(self, held: RawConnection, work: Sequence[Work]) -> Counts:
        """Write what came of steps."""
        left = 0
        done: list[Work] = []
        replaced: list[Work] = []
        for one in work:
            if one.failure is not None and is_passing(one.failure):
                left += 1
            elif one.failure is not None and one.has_moved:
                # A part of what it moves is moved: it stays planned, and goes on once an operator has looked at it.
                await run_store.set_aside(held, one.key, reason_of(one.failure), self._clock.now())
            elif one.failure is not None:
                one.step = _given_up(one, self._clock.now())
                replaced.append(one)
            elif one.refusal is not None:
                one.step = refused(one.agreement, one.step, self._clock.now(), reason_of_refusal(one.refusal))
                replaced.append(one)
            else:
                done.append(one)
        await run_store.add_events(held, [one.step.event for one in done if not one.step.event.planned])
        await run_store.make_done(held, [one.step.event for one in done if one.step.event.planned])
        await run_store.replace_events(held, [one.step.event for one in replaced])
        await run_store.update(held, [one.step.after for one in (*done, *replaced)])
        ended = [period for one in (*done, *replaced) for period in ended_with(one.agreement, one.step)]
        await usage_period_store.add(held, ended, self._clock.now())
        happened = [(one.step.event, one.step.after) for one in (*done, *replaced)]
        await announce_all(held, happened, self._clock.now())
        failed_attempts = [
            (one.step.event, one.step.after, one.agreement.terms.past_due)
            for one in replaced
            if one.refusal is not None and one.failure is None
        ]
        await announce_failures(held, failed_attempts, self._clock.now())
        await tell_providers(held, [(one.agreement.subscription, one.step.after) for one in (*done, *replaced)])
        waiting = [one.key for one in work if isinstance(one.failure, payment_errors.ChargeNotKnown)]
        await run_store.postpone(held, waiting, self._clock.now() + _ASKED_AGAIN_AFTER)
        for one in (*done, *replaced):
            if one.is_audited:
                await event_store.record_change(held, one.agreement.subscription, one.step.after)
        await touch_entitlements(held, {one.key[0] for one in (*done, *replaced)})
        failed = [one for one in work if one.failure is not None and not is_passing(one.failure)]
        for one in failed:
            assert one.failure is not None
            count_set_aside(one.key, one.failure)
        for one in done:
            one.step = Step(replace(one.step.event, planned=False), one.step.after)
        counts = Counts(len(work) - len(failed) - left, len(failed), left)
        _steps.add(counts.done)
        return counts


async def _voids_of(database: Database, event: Event) -> list[VoidGrant]:
    async with database.raw_connection() as connection:
        grants = await run_store.find_grants(connection, event.organization_id, list(event.voided_grant_operation_ids))
    return [
        VoidGrant(event.organization_id, grant_id, None, currency_code, "the plan changed", event.actor)
        for grant_id, currency_code in grants.values()
    ]


def _given_up(work: Work, now: datetime) -> Step:
    """Return what is written instead of a step of which nothing could be done."""
    before, reason = work.agreement.subscription, reason_of(work.failure or RuntimeError())
    event = replace(work.step.event, lines=())
    after = replace(before, set_aside_time=now, set_aside_reason=reason)
    told = storable(f"set aside: {reason}", _REASON_CHARS_MAX)
    return instead(before, event, EventKind.UPDATED, after, told, now)


def reason_of(error: Exception) -> str:
    """Return why something could not be done, as it is stored."""
    text = f"{error.reason}: {error.message}" if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
    return storable(text, _REASON_CHARS_MAX)


def count_set_aside(key: Key, error: Exception) -> None:
    """Count and log a subscription that is left to an operator."""
    _set_aside.add(1)
    known = isinstance(error, Refusal)
    _log.warning(
        "subscription set aside",
        organization_id=key[0],
        subscription_id=key[1],
        reason=reason_of(error),
        exc_info=None if known else error,
    )
