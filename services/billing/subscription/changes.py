"""What people do to a subscription that moves no money: pure functions from the subscription to the change.

Each returns None where the subscription is as it should be already, and raises a refusal where its state does not allow
the change. The table of transitions says which states do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from libs.common.audit.chain import Changed, differences
from libs.common.text import storable
from services.billing import errors
from services.billing.plan.domain import Interval
from services.billing.subscription.domain import (
    AgreedPlan,
    Event,
    Subject,
    Subscription,
    Updates,
    WaitsFor,
    Way,
    trial_end_of,
)
from services.billing.subscription.states import EventKind, State, may_happen, may_lead_to
from services.billing.subscription.steps import ended, written

_REFERENCES_CHARS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """A subscription after a change, and the event that records it."""

    after: Subscription
    event: Event


@dataclass(frozen=True, slots=True)
class Intent:
    """Who wants a change, why, and when."""

    actor: str
    reason: str
    now: datetime
    request_id: str | None = None


Decision = Callable[[Subscription, Intent], Change | None]


def approve(before: Subscription, intent: Intent, trial: Interval | None) -> Change:
    """Let a subscription begin that waits for approval: now, or at its start if that is to come."""
    _require_waiting(before)
    start_time = max(before.start_time, intent.now)
    trial_end_time = trial_end_of(start_time, trial, before.time_zone) if before.trial_end_time else None
    after = replace(before, waits_for=WaitsFor.START, start_time=start_time, trial_end_time=trial_end_time)
    return _change(before, after, EventKind.APPROVED, intent)


def reject(before: Subscription, intent: Intent) -> Change:
    """End a subscription that waits for approval."""
    _require_waiting(before)
    return _change(before, _ended(before, intent), EventKind.REJECTED, intent)


def pause(before: Subscription, intent: Intent) -> Change | None:
    """Let a subscription rest; the period goes on."""
    if before.state is State.PAUSED:
        return None
    _require(before, EventKind.PAUSED, "paused")
    return _change(before, before.with_state(State.PAUSED, intent.reason, intent.now), EventKind.PAUSED, intent)


def suspend(before: Subscription, intent: Intent) -> Change | None:
    """Stop a subscription; what it owes stays owed, and is not tried again by itself."""
    if before.state is State.SUSPENDED:
        return None
    if before.state is State.PENDING:
        raise errors.SubscriptionState(state=before.state.value, change="suspended before it has begun")
    _require(before, EventKind.SUSPENDED, "suspended")
    suspended = replace(before.with_state(State.SUSPENDED, intent.reason, intent.now), next_payment_time=None)
    return _change(before, suspended, EventKind.SUSPENDED, intent)


def cancel_now(before: Subscription, intent: Intent) -> Change | None:
    """End a subscription at once."""
    if before.state is State.CANCELLED:
        return None
    _require(before, EventKind.CANCELLED, "cancelled")
    return _change(before, _ended(before, intent), EventKind.CANCELLED, intent)


def cancel_at_period_end(before: Subscription, intent: Intent) -> Change | None:
    """End a subscription when the period under way does."""
    if before.state is State.CANCELLED or before.cancel_at_period_end:
        return None
    _require(before, EventKind.CANCELLATION_SCHEDULED, "cancelled at the end of a period")
    after = replace(before, cancel_at_period_end=True)
    return _change(before, after, EventKind.CANCELLATION_SCHEDULED, intent, with_period=True)


def withdraw_cancellation(before: Subscription, intent: Intent) -> Change | None:
    """Take a cancellation back that waits for the end of the period."""
    require_live(before)
    if not before.cancel_at_period_end:
        return None
    after = replace(before, cancel_at_period_end=False)
    return _change(before, after, EventKind.CANCELLATION_WITHDRAWN, intent)


def schedule_plan(before: Subscription, intent: Intent, new_plan: AgreedPlan) -> Change | None:
    """Change the plan when the period under way ends. A change to the plan that it has takes a waiting one back."""
    if before.next_plan == new_plan:
        return None
    require_plan_change(before, EventKind.PLAN_CHANGE_SCHEDULED, new_plan)
    if before.plan == new_plan:
        return withdraw_plan_change(before, intent)
    after = replace(before, next_plan=new_plan)
    return _change(before, after, EventKind.PLAN_CHANGE_SCHEDULED, intent, with_period=True)


def withdraw_plan_change(before: Subscription, intent: Intent) -> Change | None:
    """Take a change of plan back that waits for the end of the period."""
    require_live(before)
    if before.next_plan is None:
        return None
    return _change(before, replace(before, next_plan=None), EventKind.PLAN_CHANGE_WITHDRAWN, intent)


def require_plan_change(before: Subscription, kind: EventKind, new_plan: AgreedPlan) -> None:
    """Raise a refusal unless the plan may be changed to the new one."""
    _require(before, kind, "changed to another plan")
    if before.plan is None:
        raise errors.SubscriptionWithoutPlan
    if before.plan == new_plan and before.next_plan is None:
        raise errors.SamePlan(plan_code=new_plan.plan_code, version=new_plan.version)


def expire(before: Subscription, intent: Intent) -> Change | None:
    """End a subscription that has expired at the provider that renewed it."""
    if before.state.is_final:
        return None
    ends = replace(before, set_aside_time=None, set_aside_reason="")
    return _change(before, ended(ends, State.EXPIRED, intent.reason, intent.now), EventKind.EXPIRED, intent)


def collect_by(before: Subscription, intent: Intent, provider: str) -> Change | None:
    """Have a subscription paid by what a provider takes by itself."""
    if before.state.is_final or before.collection is Way.PROVIDER:
        return None
    after = replace(before, collection=Way.PROVIDER, collection_provider=provider)
    return _change(before, after, EventKind.UPDATED, intent)


def update(before: Subscription, intent: Intent, updates: Updates) -> Change | None:
    """Change fields of a subscription. One that was set aside is not any more."""
    after = updates.applied_to(before)
    if after.collection is not before.collection and before.collection is Way.PROVIDER:
        raise errors.RenewedByProvider(provider=before.collection_provider, change="paid in another way")
    if after.expire_time != before.expire_time:
        require_live(before)
    if after == before and before.set_aside_time is None:
        return None
    after = replace(after, set_aside_time=None, set_aside_reason="")
    return _change(before, after, EventKind.UPDATED, intent)


def audit_changes(before: Subscription | None, after: Subscription) -> tuple[Changed, ...]:
    """Return the changed fields, for the audit trail. Of the platform's labels it is only told that they changed."""
    changes = differences({} if before is None else _fields(before), _fields(after))
    metadata = {} if before is None else before.metadata
    return (*changes, *([Changed("metadata")] if metadata != after.metadata else []))


def _fields(s: Subscription) -> dict[str, str | None]:
    return {
        "user_id": s.user_id,
        "model": s.model,
        "plan": _plan_text(s.plan),
        "next_plan": _plan_text(s.next_plan),
        "state": s.state.value,
        "waits_for": None if s.waits_for is None else s.waits_for.value,
        "start_time": s.start_time.isoformat(),
        "expire_time": None if s.expire_time is None else s.expire_time.isoformat(),
        "cancel_at_period_end": str(s.cancel_at_period_end).lower(),
        "customer_reference": s.customer_reference,
        "collection": s.collection.value.lower(),
        "collection_provider": s.collection_provider,
        "references": storable(", ".join(map(str, s.references)), _REFERENCES_CHARS_MAX, with_length=True),
        "set_aside": str(s.set_aside_time is not None).lower(),
    }


def _plan_text(plan: AgreedPlan | None) -> str | None:
    return None if plan is None else f"{plan.plan_code} version {plan.version}"


def _ended(before: Subscription, intent: Intent) -> Subscription:
    """Return the subscription, cancelled. A trial that has not begun was not used."""
    trial_end_time = None if before.state is State.PENDING else before.trial_end_time
    after = replace(before, trial_end_time=trial_end_time, set_aside_time=None, set_aside_reason="")
    return ended(after, State.CANCELLED, intent.reason, intent.now)


def _change(
    before: Subscription, after: Subscription, kind: EventKind, intent: Intent, *, with_period: bool = False
) -> Change:
    assert may_lead_to(kind, before.state, after.state), (kind, before.state, after.state)
    after = written(before, after, intent.now)
    event = Event(
        organization_id=before.organization_id,
        subscription_id=before.subscription_id,
        sequence=after.last_sequence,
        kind=kind,
        planned=False,
        from_state=before.state,
        to_state=after.state,
        reason=intent.reason,
        actor=intent.actor,
        effective_time=intent.now,
        create_time=intent.now,
        plan=after.next_plan if kind is EventKind.PLAN_CHANGE_SCHEDULED else after.plan,
        period_start_time=before.period_start_time if with_period else None,
        period_end_time=before.period_end_time if with_period else None,
        request_id=intent.request_id,
    )
    return Change(after, event)


def _require_waiting(before: Subscription) -> None:
    if before.subject is not Subject.MODEL or before.waits_for is not WaitsFor.APPROVAL:
        raise errors.SubscriptionNotPending(state=before.state.value)


def require_live(before: Subscription) -> None:
    """Raise a refusal if the subscription has ended."""
    if before.state.is_final:
        raise errors.SubscriptionEnded(state=before.state.value)


def _require(before: Subscription, kind: EventKind, change: str) -> None:
    require_live(before)
    if not may_happen(kind, before.state):
        raise errors.SubscriptionState(state=before.state.value, change=change)
