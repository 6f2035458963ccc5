"""Subscriptions, and what is recorded of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from libs.common.time_zones import zone_named
from services.billing.plan.domain import Entitlement, Interval, Money, ProviderReference, Terms
from services.billing.subscription.periods import boundary
from services.billing.subscription.states import EventKind, State


class Subject(StrEnum):
    """What a subscription is for."""

    ORGANIZATION = "ORGANIZATION"
    USER = "USER"
    MODEL = "MODEL"


class Way(StrEnum):
    """From where the price of a subscription is taken."""

    BALANCE = "BALANCE"
    """The organization's account, as far as there is enough in it."""
    SAVED_METHOD = "SAVED_METHOD"
    """A saved method of payment, which we have the provider charge."""
    PROVIDER = "PROVIDER"
    """What the provider takes by itself, since it renews the subscription, too."""


PAYMENT_AWAITED_FOR: Final = timedelta(hours=48)
"""How long after the end of a period the payment is awaited of a provider that renews the subscription."""


class WaitsFor(StrEnum):
    """What a pending subscription waits for."""

    APPROVAL = "APPROVAL"
    START = "START"
    PAYMENT = "PAYMENT"


@dataclass(frozen=True, slots=True)
class AgreedPlan:
    """A version of a plan."""

    plan_id: str
    plan_code: str
    version: int


@dataclass(frozen=True, slots=True)
class Minimum:
    """What the usage since a moment comes to at least when the period under way has ended."""

    amount: Money
    since: datetime


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as it is stored."""

    organization_id: str
    subscription_id: str
    subject: Subject
    user_id: str | None
    model: str | None
    plan: AgreedPlan | None
    limits: tuple[Entitlement, ...] | None
    """What a model without a plan may be used for; None with a plan."""
    state: State
    state_reason: str
    state_time: datetime
    waits_for: WaitsFor | None
    start_time: datetime
    trial_end_time: datetime | None
    expire_time: datetime | None
    anchor_time: datetime | None
    time_zone: str
    period_number: int | None
    period_start_time: datetime | None
    period_end_time: datetime | None
    period_paid: bool
    """Whether the period under way was paid, or costs nothing."""
    cancel_at_period_end: bool
    next_plan: AgreedPlan | None
    payment_attempts: int
    """How many attempts to pay what is owed were refused."""
    next_payment_time: datetime | None
    owed: Money | None
    due_time: datetime | None
    """When the next thing falls due; None where nothing will, until somebody changes the subscription."""
    set_aside_time: datetime | None
    set_aside_reason: str
    last_sequence: int
    """The sequence of its last event."""
    customer_reference: str
    metadata: Mapping[str, str]
    actor: str
    revision: int
    create_time: datetime
    update_time: datetime
    references: tuple[ProviderReference, ...] = ()
    """Sorted."""
    minimum: Minimum | None = None
    """That of the period under way, once the period is paid; None where it has none."""
    usage_since: datetime | None = None
    """Since when usage counts that is charged by the plan's usage charges when the period ends; None without any."""
    collection: Way = Way.BALANCE
    collection_provider: str | None = None
    """Who is charged of it; None for the balance."""

    @property
    def awaited_until(self) -> datetime | None:
        """Until when the payment of the next period is awaited; None where the period's end does not wait for one.

        The minimum of the period that ends is charged first, at its end.
        """
        is_awaited = self.collection is Way.PROVIDER and self.state in (State.TRIALING, State.ACTIVE)
        if not is_awaited or self.period_end_time is None or self.cancel_at_period_end or self.minimum is not None:
            return None
        return self.period_end_time + PAYMENT_AWAITED_FOR

    @property
    def etag(self) -> str:
        return str(self.revision)

    @property
    def is_live(self) -> bool:
        return not self.state.is_final

    def not_before(self, now: datetime) -> datetime:
        """Return when a change of it happens: now, and not before its last change.

        That may have been made by another process, whose clock is ahead. A change before the period under way begins
        would make periods overlap.
        """
        return max(now, self.update_time)

    def with_state(self, state: State, reason: str, moment: datetime) -> "Subscription":
        """Return the subscription in another state since a moment."""
        return replace(self, state=state, state_reason=reason, state_time=moment, waits_for=None)


@dataclass(frozen=True, slots=True)
class Updates:
    """New values of fields of a subscription, by their names: those that UpdateSubscription takes."""

    values: Mapping[str, object]

    def applied_to(self, subscription: Subscription) -> Subscription:
        """Return the subscription with the new values."""
        return replace(subscription, **self.values)  # type: ignore[arg-type]  # parsing gives each its type.


def trial_end_of(start_time: datetime, trial: Interval | None, time_zone: str) -> datetime | None:
    """Return when a trial that begins at a time ends; None without one. Raises OutsideCalendar."""
    return None if trial is None else boundary(start_time, trial, zone_named(time_zone), 1)


def due_time_of(subscription: Subscription, *, awaits: bool = True) -> datetime | None:
    """Return when the next thing falls due: its start, a payment, the end of the period or trial, or its expiry.

    None where nothing will, until somebody changes the subscription. While a period is owed, the next one does not
    begin; a cancellation at its end counts all the same. With `awaits` the end of a period may wait for a provider's
    payment.
    """
    s = subscription
    if s.state.is_final:
        return None
    due = [s.expire_time]
    if s.waits_for is WaitsFor.START:
        due.append(s.start_time)
    elif s.waits_for is WaitsFor.PAYMENT or s.state is State.PAST_DUE:
        due += [s.next_payment_time, s.period_end_time if s.cancel_at_period_end else None]
    elif s.waits_for is None:
        due.append((s.awaited_until if awaits else None) or s.period_end_time)
    return min((moment for moment in due if moment is not None), default=None)


def attempt_after(since: datetime, waits: Sequence[int], attempts: int, moment: datetime) -> datetime:
    """Return when payment is tried again after so many attempts, of which the last one was made at a moment.

    `waits` are the seconds from the time since which it is owed. Where the next attempt's time has passed, since the
    last one came late, it waits as long as it should wait after that one: whoever owes has time to pay between two
    attempts, also where nothing was worked off for days.
    """
    due = since + timedelta(seconds=waits[attempts - 1])
    gap = waits[attempts - 1] - (waits[attempts - 2] if attempts > 1 else 0)
    return due if due > moment else moment + timedelta(seconds=gap)


def last_attempt(since: datetime, waits: Sequence[int], attempts: int, following: datetime) -> datetime:
    """Return when the last attempt is made, where the one that follows so many is made at a time, or was the last."""
    moment = following
    for made in range(attempts + 1, len(waits) + 1):
        moment = attempt_after(since, waits, made, moment)
    return moment


@dataclass(frozen=True, slots=True)
class Line:
    """A part of what a change or a period costs; negative for what is given back."""

    plan: AgreedPlan
    start_time: datetime
    end_time: datetime
    days: int
    period_days: int
    amount: Money


@dataclass(frozen=True, slots=True)
class Refill:
    """Included credits of one unit that an event brings."""

    operation_id: str
    amount: Money
    priority: int
    effective_time: datetime
    expire_time: datetime | None
    """None where they roll over."""
    kept_at_most: Decimal | None
    """What of the subscription's credits in this unit may be there after the refill; None for any amount."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a subscription."""

    organization_id: str
    subscription_id: str
    sequence: int
    kind: EventKind
    planned: bool
    """Whether its movements may not be made yet. Then it does not hold, and nobody is told of it."""
    from_state: State | None
    to_state: State
    reason: str
    actor: str
    effective_time: datetime
    create_time: datetime
    plan: AgreedPlan | None
    period_start_time: datetime | None = None
    period_end_time: datetime | None = None
    lines: Sequence[Line] = ()
    charge_operation_id: str | None = None
    charge: Money | None = None
    """The sum of the lines: taken where positive, given back where negative; never zero."""
    refills: Sequence[Refill] = ()
    voided_grant_operation_ids: Sequence[str] = ()
    """The grants of which the rest is taken back."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """A version of a plan with its terms."""

    plan: AgreedPlan
    terms: Terms


@dataclass(frozen=True, slots=True)
class Agreement:
    """A subscription with what its plans say."""

    subscription: Subscription
    terms: Terms
    next_terms: Terms | None = None
    """Those of the plan to which it changes at the end of the period."""
    fallback: PlanTerms | None = None
    """What it changes to where it is not paid; None where there is no plan that it can change to."""
    spent: Decimal | None = None
    """What counts towards the minimum, where the period with it ends now; without its own usage charges."""
    has_usage_charges: bool = False
    """Whether usage charges of the time of the minimum count towards it, too, which are known only later."""
