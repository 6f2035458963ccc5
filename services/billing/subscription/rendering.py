"""Subscriptions as messages."""

from typing import Final

from libs.common.amount import render_amount
from libs.common.timestamps import render_optional_time, render_time
from services.billing.plan.rendering import render_entitlement, render_reference
from services.billing.subscription.domain import Subscription
from services.billing.subscription.states import State
from tollhouse.billing.v1 import subscription_pb2 as pb

_STATES: Final = {state: pb.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{state}") for state in State}


def render_subscription(one: Subscription) -> pb.Subscription:
    return pb.Subscription(
        subscription_id=one.subscription_id,
        organization_id=one.organization_id,
        user_id=one.user_id or "",
        model=one.model or "",
        plan_code=one.plan.plan_code if one.plan else "",
        plan_version=one.plan.version if one.plan else 0,
        state=_STATES[one.state],
        state_reason=one.state_reason,
        state_time=render_time(one.state_time),
        start_time=render_time(one.start_time),
        trial_end_time=render_optional_time(one.trial_end_time),
        expire_time=render_optional_time(one.expire_time),
        anchor_time=render_optional_time(one.anchor_time),
        time_zone=one.time_zone,
        period_start_time=render_optional_time(one.period_start_time),
        period_end_time=render_optional_time(one.period_end_time),
        cancel_at_period_end=one.cancel_at_period_end,
        next_plan_code=one.next_plan.plan_code if one.next_plan else "",
        next_plan_version=one.next_plan.version if one.next_plan else 0,
        next_payment_time=render_optional_time(one.next_payment_time),
        owed_amount=render_amount(one.owed.currency_code, one.owed.value) if one.owed else None,
        set_aside_reason=one.set_aside_reason,
        customer_reference=one.customer_reference,
        references=map(render_reference, one.references),
        metadata=one.metadata,
        limits=map(render_entitlement, one.limits or ()),
        actor=one.actor,
        create_time=render_time(one.create_time),
        update_time=render_time(one.update_time),
        etag=one.etag,
    )
