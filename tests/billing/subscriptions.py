"""Subscriptions as they are stored, for tests of what follows from them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing.plan.domain import Entitlement
from services.billing.subscription import event_store, store
from services.billing.subscription.domain import (
    AgreedPlan,
    Agreement,
    Event,
    Subject,
    Subscription,
    WaitsFor,
    due_time_of,
)
from services.billing.subscription.entitlement_store import touch_entitlements
from services.billing.subscription.offers import terms_without_plan
from services.billing.subscription.states import EventKind, State

ORGANIZATION: Final = "0197c5a8-0000-7000-8000-0000000000aa"
USER: Final = "0197c5a8-0000-7000-8000-0000000000bb"
MODEL: Final = "gpt-4o"
_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)


def subscription(
    subject: Subject,
    *,
    organization_id: str = ORGANIZATION,
    user_id: str = USER,
    plan: AgreedPlan | None = None,
    state: State = State.ACTIVE,
    waits_for: WaitsFor | None = None,
    start_time: datetime = _BEGIN,
    period: tuple[datetime, datetime] | None = None,
    trial_end_time: datetime | None = None,
    expire_time: datetime | None = None,
    next_payment_time: datetime | None = None,
    cancel_at_period_end: bool = False,
) -> Subscription:
    """A subscription to version 1 of the plan `pro`, unless another is given."""
    start, end = period or (None, None)
    return Subscription(
        organization_id=organization_id,
        subscription_id=new_id(),
        subject=subject,
        user_id=None if subject is Subject.ORGANIZATION else user_id,
        model=MODEL if subject is Subject.MODEL else None,
        plan=plan or AgreedPlan(new_id(), "pro", 1),
        limits=None,
        state=state,
        state_reason="",
        state_time=_BEGIN,
        waits_for=waits_for,
        start_time=start_time,
        trial_end_time=trial_end_time,
        expire_time=expire_time,
        anchor_time=start,
        time_zone="UTC",
        period_number=None if period is None else 0,
        period_start_time=start,
        period_end_time=end,
        period_paid=True,
        cancel_at_period_end=cancel_at_period_end,
        next_plan=None,
        payment_attempts=0,
        next_payment_time=next_payment_time,
        owed=None,
        due_time=None,
        set_aside_time=None,
        set_aside_reason="",
        last_sequence=1,
        customer_reference="",
        metadata={},
        actor="operator:ada",
        revision=1,
        create_time=_BEGIN,
        update_time=_BEGIN,
    )


def agreement(of: Subscription, entitlements: Sequence[Entitlement]) -> Agreement:
    """A subscription whose plan has these entitlements."""
    return Agreement(of, replace(terms_without_plan(()), entitlements=tuple(entitlements)))


async def put(shards: Shards, *added: Subscription) -> None:
    """Store subscriptions as billing does, and say that their organizations' entitlements changed."""
    for one in added:
        stored = replace(one, due_time=due_time_of(one))
        async with shards.of(one.organization_id).raw_transaction() as connection:
            await store.insert(connection, stored)
            await event_store.add(connection, first_event(stored))
            await touch_entitlements(connection, [one.organization_id])


def first_event(one: Subscription) -> Event:
    """The only event of a subscription that is stored as it is."""
    return Event(
        organization_id=one.organization_id,
        subscription_id=one.subscription_id,
        sequence=one.last_sequence,
        kind=EventKind.CREATED,
        planned=False,
        from_state=None,
        to_state=one.state,
        reason="",
        actor=one.actor,
        effective_time=one.state_time,
        create_time=one.create_time,
        plan=one.plan,
    )
