"""What is due for a subscription, one step after another. Pure: nothing here reads or writes.

A step is an event together with the subscription after it. Where it costs something the event is planned first, and
`refused` says what happens instead if the account does not have the price. A step follows from the subscription, its
terms and the moment alone, so whoever finds a planned event finds the same step again (`changes.step_of`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.time_zones import zone_named
from services.billing.plan.domain import Money, PastDueEnd, Terms
from services.billing.subscription.costs import Part, line, part_from, refills, span
from services.billing.subscription.domain import (
    Agreement,
    Event,
    Line,
    Minimum,
    Refill,
    Subscription,
    WaitsFor,
    Way,
    attempt_after,
    due_time_of,
)
from services.billing.subscription.minimums import minimum_of, short_of, together, used_minimum
from services.billing.subscription.periods import boundary
from services.billing.subscription.states import EventKind, State

_ZERO: Final = Decimal(0)
_RESTING: Final = (State.PAUSED, State.SUSPENDED)
_LATE: Final = timedelta(hours=1)
_AWAITED_AGAIN_FOR: Final = timedelta(days=1)
"""How long a provider's payment is awaited again where nothing was worked off while it was awaited. By then the
provider was asked for what changed."""
NO_MONEY: Final = "the account did not have the price"
NOT_PAID: Final = "it was not paid"


@dataclass(frozen=True, slots=True)
class Cause:
    """Who makes something happen, why, and when it is recorded."""

    now: datetime
    reason: str = ""
    actor: str = "system"
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """An event, and the subscription after it."""

    event: Event
    after: Subscription
    minimum_left: Minimum | None = None
    """What is short of a minimum before the usage charges of its time count, which are known only later."""


def next_step(agreement: Agreement, until: datetime, now: datetime, *, awaits: bool = True) -> Step | None:
    """Return the first thing that is due by `until`; None where nothing is, or where the subscription was set aside.

    Without `awaits` the end of a period does not wait for the payment of a provider. Raises OutsideCalendar where the
    period would end after year 9999.
    """
    s = agreement.subscription
    due = due_time_of(s, awaits=awaits)
    if due is None or due > until or s.set_aside_time is not None:
        return None
    cause = Cause(now)
    if s.minimum is not None and s.period_paid:
        return charge_minimum(agreement, due, cause)
    if s.expire_time is not None and s.expire_time <= due:
        return end(s, EventKind.EXPIRED, due, replace(cause, reason="its expire_time has come"))
    if due == s.awaited_until and s.period_end_time is not None:
        # The next period begins where this one ended, however long its payment was awaited.
        due = s.period_end_time
    if s.waits_for is WaitsFor.START:
        return _start(agreement, due, cause)
    if s.cancel_at_period_end and s.period_end_time == due:
        return end(s, EventKind.CANCELLED, due, replace(cause, reason="cancelled at the period's end"))
    if s.waits_for is WaitsFor.PAYMENT or s.state is State.PAST_DUE:
        return _end_of_retries(agreement, due, cause) if is_given_up(agreement) else pay(agreement, due, cause)
    if s.next_plan is not None:
        return _change_at_end(agreement, due, cause)
    if s.state in _RESTING:
        return _pass(agreement, due, replace(cause, reason="a period passed"))
    why = "the trial ended" if s.state is State.TRIALING else "renewed"
    return begin_period(agreement, due, replace(cause, reason=why), EventKind.PERIOD_STARTED)


def is_given_up(agreement: Agreement) -> bool:
    """Return whether the last attempt to pay that the terms allow was refused."""
    return agreement.subscription.payment_attempts > len(agreement.terms.past_due.retry_after_s)


def refused(agreement: Agreement, step: Step, now: datetime, why: str = NO_MONEY) -> Step:
    """Return what happens instead of a step whose price could not be taken by now."""
    before, event, after = agreement.subscription, step.event, step.after
    if event.kind is EventKind.PLAN_CHANGED:
        return instead(before, event, EventKind.PAYMENT_REFUSED, before, why, now)
    if event.kind is EventKind.PAYMENT_MADE:
        tried = _after_attempt(agreement, event.effective_time, now)
        return instead(before, event, EventKind.PAYMENT_REFUSED, tried, why, now)
    owing = replace(
        after,
        state=State.PENDING if before.state is State.PENDING else State.PAST_DUE,
        waits_for=WaitsFor.PAYMENT if before.state is State.PENDING else None,
        state_reason=why,
        state_time=event.effective_time,
        period_paid=False,
        owed=event.charge,
        payment_attempts=1,
        minimum=None,
    )
    if before.awaited_until is not None and now > before.awaited_until + _LATE:
        # Nobody has listened to the provider, so that its silence is no attempt yet.
        owing = replace(owing, payment_attempts=0, next_payment_time=now + _AWAITED_AGAIN_FOR)
    else:
        owing = replace(owing, next_payment_time=_next_attempt(owing, agreement.terms, now))
    kind = EventKind.PAYMENT_REFUSED if before.state is State.PENDING else event.kind
    return instead(before, event, kind, owing, why, now)


def instead(
    before: Subscription, event: Event, kind: EventKind, after: Subscription, reason: str, now: datetime
) -> Step:
    """Return the step that comes in the place of one that was planned, and moves nothing."""
    told = replace(
        event,
        kind=kind,
        planned=False,
        to_state=after.state,
        reason=reason,
        charge_operation_id=None,
        charge=None,
        refills=(),
        voided_grant_operation_ids=(),
        plan=after.plan,
        period_start_time=after.period_start_time,
        period_end_time=after.period_end_time,
    )
    return Step(told, written(before, after, now))


def begin_period(
    agreement: Agreement,
    moment: datetime,
    cause: Cause,
    kind: EventKind,
    *,
    anchor: datetime | None = None,
    given_back: Sequence[Line] = (),
    voided: Sequence[str] = (),
    carried: Minimum | None = None,
) -> Step:
    """Return the step into the period that holds a moment: what it has from then on is charged, and brings credits.

    `given_back` is what is returned of the period before it, and `carried` is that one's minimum.
    """
    s, terms = agreement.subscription, agreement.terms
    anchor = anchor or s.anchor_time or moment
    part = part_from(anchor, terms, s.time_zone, moment, 0 if s.period_number is None else s.period_number + 1)
    after = replace(in_period(settled(in_state(s, State.ACTIVE, cause.reason, moment)), part), anchor_time=anchor)
    after = replace(
        after, minimum=together(carried, minimum_of(terms, part)), usage_since=usage_from(terms, part.start)
    )
    lines = (*given_back, *line(s.plan, part, terms.price.currency_code, part.price(terms)))
    credits_ = refills(terms, operation_id(s), part, moment)
    return step(s, after, kind, cause, moment, lines, credits_, voided)


def pay(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return the step that pays what is owed. It brings the credits of the period that are left."""
    s, terms = agreement.subscription, agreement.terms
    assert s.owed is not None
    assert s.anchor_time is not None
    # A subscription is past due, or waits for its first payment, since the moment from which it owes. One that was
    # suspended over it is paid for what is left.
    since = moment if s.state is State.SUSPENDED else s.state_time
    part = part_from(s.anchor_time, terms, s.time_zone, since)
    after = replace(settled(in_state(s, State.ACTIVE, "paid", moment)), period_paid=True)
    after = replace(after, minimum=minimum_of(terms, part))
    lines = line(s.plan, part, s.owed.currency_code, s.owed.value)
    credits_ = refills(terms, operation_id(s), part, max(since, moment))
    cause = replace(cause, reason=cause.reason or "what was owed is paid")
    return step(s, after, EventKind.PAYMENT_MADE, cause, moment, lines, credits_)


def charge_minimum(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return the step that charges what is short of the minimum when the period, or the subscription, ends.

    Nothing may be short. The minimum has its say once: the subscription has none after it. Where usage charges count
    towards it, it is settled after them, and the time of theirs ends with it.
    """
    s, spent = agreement.subscription, agreement.spent
    assert spent is not None
    minimum = used_minimum(agreement, s.minimum, moment)
    after = replace(s, minimum=None, usage_since=None if s.usage_since is None else max(moment, s.usage_since))
    if minimum is None:
        cause = replace(cause, reason="no day of the minimum was used")
        return step(s, after, EventKind.MINIMUM_CHARGED, cause, moment)
    asked, value = minimum.amount, short_of(minimum.amount.value, spent)
    told = f"minimum spend of {format_amount(asked.value)} {asked.currency_code}, {format_amount(spent)} was spent"
    if agreement.has_usage_charges:
        told = f"{told}; usage charges of the time count as well"
        left = Minimum(Money(asked.currency_code, value), minimum.since) if value else None
        found = step(s, after, EventKind.MINIMUM_CHARGED, replace(cause, reason=told), moment)
        return replace(found, minimum_left=left)
    part = span(agreement, minimum.since, moment)
    lines = line(s.plan, part, asked.currency_code, value)
    return step(s, after, EventKind.MINIMUM_CHARGED, replace(cause, reason=told), moment, lines)


def end(s: Subscription, kind: EventKind, moment: datetime, cause: Cause) -> Step:
    """Return the last step of a subscription: nothing is due any more, and nothing owed."""
    state = State.EXPIRED if kind is EventKind.EXPIRED else State.CANCELLED
    return step(s, ended(s, state, cause.reason, moment), kind, cause, moment)


def ended(s: Subscription, state: State, reason: str, moment: datetime) -> Subscription:
    """Return the subscription in a final state: without a period, and owing nothing."""
    return replace(
        settled(s.with_state(state, reason, moment)),
        period_number=None,
        period_start_time=None,
        period_end_time=None,
        period_paid=False,
        cancel_at_period_end=False,
        next_plan=None,
        minimum=None,
        usage_since=None,
    )


def usage_from(terms: Terms, moment: datetime) -> datetime | None:
    """Return since when usage counts for usage charges, from a moment on; None where the terms have none."""
    return moment if terms.usage_charges else None


def settled(s: Subscription) -> Subscription:
    """Return the subscription, owing nothing."""
    return s if s.owed is None else replace(s, owed=None, payment_attempts=0, next_payment_time=None)


def step(
    before: Subscription,
    after: Subscription,
    kind: EventKind,
    cause: Cause,
    moment: datetime,
    lines: Sequence[Line] = (),
    credits_: Sequence[Refill] = (),
    voided: Sequence[str] = (),
) -> Step:
    """Return the step from one subscription to another; it is planned first where it moves anything."""
    charge = _sum_of(lines)
    shown = before if after.state.is_final else after
    event = Event(
        organization_id=before.organization_id,
        subscription_id=before.subscription_id,
        sequence=before.last_sequence + 1,
        kind=kind,
        planned=charge is not None or bool(credits_) or bool(voided),
        from_state=before.state,
        to_state=after.state,
        reason=cause.reason,
        actor=cause.actor,
        effective_time=moment,
        create_time=cause.now,
        plan=after.plan,
        period_start_time=shown.period_start_time,
        period_end_time=shown.period_end_time,
        lines=lines,
        charge_operation_id=None if charge is None else operation_id(before),
        charge=charge,
        refills=credits_,
        voided_grant_operation_ids=voided,
        request_id=cause.request_id,
    )
    return Step(event, written(before, after, cause.now))


def written(before: Subscription, after: Subscription, now: datetime) -> Subscription:
    """Return a changed subscription as it is written with its event."""
    return replace(
        after,
        last_sequence=before.last_sequence + 1,
        revision=before.revision + 1,
        update_time=now,
        due_time=due_time_of(after),
    )


def source_reference(subscription: Subscription) -> str:
    """Return what the grants of a subscription name as their source."""
    return f"subscription/{subscription.subscription_id}"


def operation_id(before: Subscription) -> str:
    """Return the operation id of the charge of a subscription's next event; those of its refills begin with it."""
    return f"{source_reference(before)}/{before.last_sequence + 1}"


def in_state(s: Subscription, state: State, reason: str, moment: datetime) -> Subscription:
    """Return the subscription in a state: since the moment, unless it was in it before."""
    return s if s.state is state else s.with_state(state, reason, moment)


def in_period(s: Subscription, part: Part) -> Subscription:
    """Return the subscription in a period that is paid."""
    return replace(
        s, period_number=part.number, period_start_time=part.start, period_end_time=part.end, period_paid=True
    )


def _start(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    s, terms = agreement.subscription, agreement.terms
    if s.trial_end_time is None or s.trial_end_time <= moment:
        return begin_period(agreement, moment, replace(cause, reason="it began"), EventKind.PERIOD_STARTED)
    trial = Part(-1, moment, s.trial_end_time, 1, 1)
    cause = replace(cause, reason="its trial began")
    after = replace(
        in_period(in_state(s, State.TRIALING, cause.reason, moment), trial), anchor_time=s.anchor_time or trial.end
    )
    credits_ = refills(terms, operation_id(s), trial, moment)
    return step(s, after, EventKind.TRIAL_STARTED, cause, moment, (), credits_)


def _change_at_end(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return the change of plan at a boundary; the period that begins there is the next step."""
    s, terms, later = agreement.subscription, agreement.terms, agreement.next_terms
    assert later is not None
    anchor = s.anchor_time if later.billing_interval == terms.billing_interval else moment
    after = replace(s, plan=s.next_plan, next_plan=None, anchor_time=anchor, usage_since=None)
    return step(s, after, EventKind.PLAN_CHANGED, replace(cause, reason="changed at the period's end"), moment)


def _pass(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return the step of a subscription that rests into a period that costs nothing and brings nothing."""
    s = agreement.subscription
    assert s.anchor_time is not None
    number = 0 if s.period_number is None else s.period_number + 1
    part = part_from(s.anchor_time, agreement.terms, s.time_zone, moment, number)
    after = replace(in_period(s, part), period_paid=False, usage_since=usage_from(agreement.terms, part.start))
    return step(s, after, EventKind.PERIOD_PASSED, cause, moment)


def _end_of_retries(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return what the terms want where the last attempt to pay was refused."""
    s, past_due = agreement.subscription, agreement.terms.past_due
    cause = replace(cause, reason=NOT_PAID)
    if past_due.end is PastDueEnd.SUSPEND:
        after = replace(s.with_state(State.SUSPENDED, cause.reason, moment), next_payment_time=None)
        return step(s, after, EventKind.SUSPENDED, cause, moment)
    if past_due.end is PastDueEnd.CHANGE_PLAN:
        if agreement.fallback is not None:
            return fall_back(agreement, moment, cause)
        cause = replace(cause, reason=f"{NOT_PAID}, and the plan {past_due.fallback_plan_code} cannot replace it")
    return end(s, EventKind.CANCELLED, moment, cause)


def fall_back(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return the change of an unpaid subscription to the plan that costs nothing; what it owes is dropped."""
    s, fallback = agreement.subscription, agreement.fallback
    assert fallback is not None
    assert s.anchor_time is not None
    # Where the period has ended meanwhile, what follows it begins where it ended.
    ends = moment if s.period_end_time is None else min(moment, s.period_end_time)
    is_same = fallback.terms.billing_interval == agreement.terms.billing_interval
    anchor = s.anchor_time if is_same else ends
    part = part_from(anchor, fallback.terms, s.time_zone, ends)
    after = replace(
        settled(in_state(s, State.ACTIVE, cause.reason, moment)),
        plan=fallback.plan,
        next_plan=None,
        period_paid=True,
        anchor_time=anchor,
        usage_since=None,
    )
    if s.collection is Way.PROVIDER:
        # What the provider renews is the plan that was not paid.
        after = replace(after, collection=Way.BALANCE, collection_provider=None)
    if not is_same:
        after = in_period(after, part)
    is_over = is_same and ends < moment
    credits_ = [] if is_over else refills(fallback.terms, operation_id(s), part, moment)
    return step(s, after, EventKind.PLAN_CHANGED, cause, moment, (), credits_)


def _after_attempt(agreement: Agreement, moment: datetime, now: datetime) -> Subscription:
    """Return the subscription after a refused attempt. Only those on its schedule count."""
    s = agreement.subscription
    if s.next_payment_time != moment:
        return s
    tried = replace(s, payment_attempts=s.payment_attempts + 1)
    return replace(tried, next_payment_time=_next_attempt(tried, agreement.terms, now))


def _next_attempt(s: Subscription, terms: Terms, now: datetime) -> datetime:
    """Return when payment is tried again, or, after the last attempt, when the last one was."""
    waits = terms.past_due.retry_after_s
    if s.payment_attempts > len(waits):
        return s.next_payment_time or s.state_time
    return attempt_after(s.state_time, waits, s.payment_attempts, now)


def _sum_of(lines: Sequence[Line]) -> Money | None:
    """Return the sum of lines in one currency; None where it is nothing."""
    total = sum((one.amount.value for one in lines), start=_ZERO)
    return Money(lines[0].amount.currency_code, total) if total else None


def trial_end(s: Subscription, terms: Terms) -> datetime | None:
    """Return when a trial of these terms ends that begins with the subscription; None where they have none."""
    return None if terms.trial is None else boundary(s.start_time, terms.trial, zone_named(s.time_zone), 1)
