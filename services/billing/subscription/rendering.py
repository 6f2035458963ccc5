"""Subscriptions and what happened to them as messages."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from libs.common.amount import render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.billing.plan.rendering import render_entitlement, render_money, render_reference
from services.billing.subscription.domain import Event, Line, Subscription, Way
from services.billing.subscription.plan_changes import ChangedPlan
from services.billing.subscription.states import EventKind, State
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

_STATES: Final = {state: pb.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{state}") for state in State}
_KINDS: Final = {kind: pb.SubscriptionEventKind.Value(f"SUBSCRIPTION_EVENT_KIND_{kind}") for kind in EventKind}


def render_subscription(s: Subscription) -> pb.Subscription:
    return pb.Subscription(
        subscription_id=s.subscription_id,
        organization_id=s.organization_id,
        user_id=s.user_id or "",
        model=s.model or "",
        plan_code="" if s.plan is None else s.plan.plan_code,
        plan_version=0 if s.plan is None else s.plan.version,
        state=_STATES[s.state],
        state_reason=s.state_reason,
        state_time=render_time(s.state_time),
        start_time=render_time(s.start_time),
        trial_end_time=render_optional_time(s.trial_end_time),
        expire_time=render_optional_time(s.expire_time),
        anchor_time=render_optional_time(s.anchor_time),
        time_zone=s.time_zone,
        period_start_time=render_optional_time(s.period_start_time),
        period_end_time=render_optional_time(s.period_end_time),
        cancel_at_period_end=s.cancel_at_period_end,
        next_plan_code="" if s.next_plan is None else s.next_plan.plan_code,
        next_plan_version=0 if s.next_plan is None else s.next_plan.version,
        next_payment_time=render_optional_time(s.next_payment_time),
        minimum_amount=None if s.minimum is None else render_money(s.minimum.amount),
        owed_amount=None if s.owed is None else render_money(s.owed),
        set_aside_reason=s.set_aside_reason,
        customer_reference=s.customer_reference,
        references=map(render_reference, s.references),
        metadata=s.metadata,
        limits=map(render_entitlement, s.limits or ()),
        actor=s.actor,
        create_time=render_time(s.create_time),
        update_time=render_time(s.update_time),
        etag=s.etag,
        collection_provider=s.collection_provider or "",
        renewed_by_provider=s.collection is Way.PROVIDER,
    )


def render_event(event: Event) -> pb.SubscriptionEvent:
    return pb.SubscriptionEvent(
        sequence=event.sequence,
        kind=_KINDS[event.kind],
        from_state=pb.SUBSCRIPTION_STATE_UNSPECIFIED if event.from_state is None else _STATES[event.from_state],
        to_state=_STATES[event.to_state],
        reason=event.reason,
        actor=event.actor,
        effective_time=render_time(event.effective_time),
        create_time=render_time(event.create_time),
        plan_code="" if event.plan is None else event.plan.plan_code,
        plan_version=0 if event.plan is None else event.plan.version,
        period_start_time=render_optional_time(event.period_start_time),
        period_end_time=render_optional_time(event.period_end_time),
        lines=map(_line, event.lines),
        charge_operation_id=event.charge_operation_id or "",
        grant_operation_ids=[refill.operation_id for refill in event.refills],
    )


def render_plan_change(changed: ChangedPlan) -> pb.ChangePlanResponse:
    return pb.ChangePlanResponse(
        subscription=render_subscription(changed.subscription),
        replayed=changed.replayed,
        lines=map(_line, changed.lines),
        net_amount=_net(changed.lines),
        effective_time=render_optional_time(changed.effective_time),
    )


def _line(line: Line) -> pb.SubscriptionLine:
    return pb.SubscriptionLine(
        plan_code=line.plan.plan_code,
        plan_version=line.plan.version,
        start_time=render_time(line.start_time),
        end_time=render_time(line.end_time),
        days=line.days,
        period_days=line.period_days,
        amount=render_money(line.amount),
    )


def _net(lines: Sequence[Line]) -> Amount | None:
    """Return the sum of lines, which are all in one unit; None where there are none."""
    if not lines:
        return None
    return render_amount(lines[0].amount.currency_code, sum((one.amount.value for one in lines), start=Decimal(0)))
