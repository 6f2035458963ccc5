"""What becomes of a subscription when somebody changes its plan now, resumes it, or pays: changes that may move money.

Pure, like `steps`. Those that move none are in `changes`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from libs.common.errors import Refusal
from services.billing import errors
from services.billing.plan.domain import Terms
from services.billing.subscription.costs import Part, line, part_from, refills, rest_of_period, rest_of_trial
from services.billing.subscription.domain import AgreedPlan, Agreement, Event, Line, Minimum, PlanTerms, WaitsFor, Way
from services.billing.subscription.minimums import minimum_of, together, used_minimum
from services.billing.subscription.states import EventKind, State
from services.billing.subscription.steps import (
    Cause,
    Step,
    begin_period,
    fall_back,
    in_state,
    is_given_up,
    next_step,
    operation_id,
    pay,
    settled,
    step,
    trial_end,
    usage_from,
    written,
)

_PROVIDER: Final = "provider:"
"""With what the name of a provider of payments begins where it acts."""
_CHANGEABLE = frozenset({State.PENDING, State.TRIALING, State.ACTIVE, State.PAST_DUE})


def change_problem(agreement: Agreement, new: PlanTerms) -> Refusal | None:
    """Return why the plan of a subscription cannot be changed to another one now; None if it can."""
    s = agreement.subscription
    if s.state not in _CHANGEABLE:
        return errors.SubscriptionState(state=s.state.value, change="changed to another plan")
    if new.plan == s.plan and s.next_plan is None:
        return errors.SamePlan(plan_code=new.plan.plan_code, version=new.plan.version)
    if agreement.terms.price.currency_code != new.terms.price.currency_code and (s.period_paid or s.owed):
        return errors.OtherCurrency(
            plan_currency_code=new.terms.price.currency_code, currency_code=agreement.terms.price.currency_code
        )
    return None


def change_plan(agreement: Agreement, new: PlanTerms, moment: datetime, cause: Cause, voided: Sequence[str]) -> Step:
    """Return the change of a subscription to another plan at a moment of the period under way.

    The day of the change belongs to the new plan. `voided` are the grants of credits that the old plan has brought.
    Where a provider makes it, the plan was bought there: a period begins, and the provider renews it from then on.
    `change_problem` must have found none.
    """
    s, kind = agreement.subscription, EventKind.PLAN_CHANGED
    cause = replace(cause, reason=cause.reason or "changed")
    after = replace(s, plan=new.plan, next_plan=None)
    seller = provider_of(cause.actor)
    if seller is not None:
        collected = {"collection": Way.PROVIDER, "collection_provider": seller}
        after = replace(after, **collected, cancel_at_period_end=False)  # type: ignore[arg-type]  # as they are.
    if new.plan == s.plan:
        return step(s, after, kind, cause, moment)
    changed = Agreement(after, new.terms)
    if s.waits_for in (WaitsFor.START, WaitsFor.APPROVAL):
        ends = None if s.trial_end_time is None else trial_end(s, new.terms)
        return step(s, replace(after, trial_end_time=ends), kind, cause, moment)
    if s.state is State.TRIALING:
        if new.terms.trial is None or seller is not None:
            ended_now = replace(after, trial_end_time=moment)
            return begin_period(
                replace(changed, subscription=ended_now), moment, cause, kind, anchor=moment, voided=voided
            )
        part = rest_of_trial(s, moment)
        return step(s, after, kind, cause, moment, (), refills(new.terms, operation_id(s), part, moment), voided)
    given_back, used = _given_back(agreement, moment), _used_minimum(agreement, moment)
    if seller is not None or new.terms.billing_interval != agreement.terms.billing_interval:
        # A period that is owed may have ended: no time is left out between it and the next.
        begins = moment if s.period_end_time is None else min(moment, s.period_end_time)
        return begin_period(
            changed, begins, cause, kind, anchor=begins, given_back=given_back, voided=voided, carried=used
        )
    part = rest_of_period(s, new.terms, moment)
    after = replace(settled(in_state(after, State.ACTIVE, cause.reason, moment)), period_paid=True)
    after = replace(
        after, minimum=together(used, minimum_of(new.terms, part)), usage_since=usage_from(new.terms, moment)
    )
    lines = (*given_back, *_line(new.plan, new.terms, part))
    return step(s, after, kind, cause, moment, lines, refills(new.terms, operation_id(s), part, moment), voided)


def provider_of(actor: str) -> str | None:
    """Return the provider that acts; None for anybody else."""
    return actor.removeprefix(_PROVIDER) if actor.startswith(_PROVIDER) else None


def actor_of(provider: str) -> str:
    """Return how a provider of payments is called where it acts."""
    return f"{_PROVIDER}{provider}"


def resume(agreement: Agreement, moment: datetime, cause: Cause) -> Step:
    """Return what becomes of a subscription that rests when it is resumed.

    Within the period that was paid nothing is due. Otherwise what is left of the period under way is charged, and
    brings its credits. What was owed before is dropped.
    """
    s, terms, kind = agreement.subscription, agreement.terms, EventKind.RESUMED
    cause = replace(cause, reason=cause.reason or "resumed")
    in_trial = s.trial_end_time is not None and s.period_end_time == s.trial_end_time
    if s.period_paid:
        return step(
            s, in_state(s, State.TRIALING if in_trial else State.ACTIVE, cause.reason, moment), kind, cause, moment
        )
    if s.period_start_time is None:
        return begin_period(agreement, moment, cause, kind)
    part = rest_of_period(s, terms, moment)
    after = replace(settled(in_state(s, State.ACTIVE, cause.reason, moment)), period_paid=True)
    after = replace(after, minimum=minimum_of(terms, part))
    return step(
        s, after, kind, cause, moment, _line(s.plan, terms, part), refills(terms, operation_id(s), part, moment)
    )


def step_of(agreement: Agreement, event: Event, new: PlanTerms | None) -> Step:
    """Return the step of an event that was planned; `new` is the plan that the event names.

    Raises ValueError for an event that does not follow from the subscription.
    """
    moment = event.effective_time
    cause = Cause(event.create_time, event.reason, event.actor, event.request_id)
    if event.kind is EventKind.RESUMED:
        return resume(agreement, moment, cause)
    if event.kind is EventKind.PAYMENT_MADE:
        return pay(agreement, moment, cause)
    if event.kind is EventKind.MINIMUM_CHARGED:
        # What was spent is not asked again: the event has what it is short of.
        return Step(event, written(agreement.subscription, replace(agreement.subscription, minimum=None), cause.now))
    if event.kind is EventKind.PLAN_CHANGED and new is not None:
        if is_given_up(agreement):
            return fall_back(replace(agreement, fallback=new), moment, cause)
        return change_plan(agreement, new, moment, cause, event.voided_grant_operation_ids)
    found = next_step(agreement, moment, event.create_time, awaits=False)
    if found is None or found.event.kind is not event.kind:
        raise ValueError(f"event {event.sequence} of {event.subscription_id} does not follow from it")
    return found


def _given_back(agreement: Agreement, moment: datetime) -> tuple[Line, ...]:
    """Return what the days that are left of the period under way have cost, with a minus sign.

    A period that is owed is charged first, so that the days that were used are paid.
    """
    s, terms = agreement.subscription, agreement.terms
    if s.plan is None or terms.is_free:
        return ()
    part = rest_of_period(s, terms, moment)
    owed: tuple[Line, ...] = ()
    if s.owed is not None:
        assert s.anchor_time is not None
        owed = line(
            s.plan, part_from(s.anchor_time, terms, s.time_zone, s.state_time), s.owed.currency_code, s.owed.value
        )
    elif not s.period_paid:
        return ()
    return (*owed, *line(s.plan, part, terms.price.currency_code, -part.price(terms)))


def _used_minimum(agreement: Agreement, moment: datetime) -> Minimum | None:
    """Return the minimum of the days that were used until a change. A period that is owed is paid with the change."""
    s, terms = agreement.subscription, agreement.terms
    minimum = s.minimum
    if s.owed is not None and s.anchor_time is not None:
        minimum = minimum_of(terms, part_from(s.anchor_time, terms, s.time_zone, s.state_time))
    return used_minimum(agreement, minimum, moment)


def _line(plan: AgreedPlan | None, terms: Terms, part: Part) -> tuple[Line, ...]:
    return line(plan, part, terms.price.currency_code, part.price(terms))
