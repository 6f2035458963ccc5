"""The events that tell other systems what happened to subscriptions, written where it is."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.events.outbox import NewEvent, announce
from libs.common.timestamps import rfc3339
from services.billing.plan.domain import PastDue
from services.billing.subscription.domain import Event, Subscription, last_attempt
from services.billing.subscription.states import EventKind

NAMES: Final[Mapping[EventKind, str]] = {
    EventKind.PERIOD_STARTED: "renewed",
    EventKind.PLAN_CHANGED: "changed",
    EventKind.PAYMENT_REFUSED: "past_due",
    EventKind.PAYMENT_MADE: "paid",
}
"""What types of events are called that are not called like what happened."""


def type_of(kind: EventKind) -> str:
    """Return the type of the event that something happened to a subscription."""
    return f"tollhouse.subscription.{NAMES.get(kind, kind.value.lower())}"


async def announce_all(
    connection: RawConnection, happened: Iterable[tuple[Event, Subscription]], now: datetime
) -> None:
    """Announce what happened to subscriptions, each with what it is afterwards; their rows are locked."""
    events = [_event(event, after) for event, after in happened]
    if events:
        await announce(connection, sorted(events, key=lambda one: (one.organization_id, one.subject)), now)


async def announce_failures(
    connection: RawConnection, refused: Iterable[tuple[Event, Subscription, PastDue]], now: datetime
) -> None:
    """Announce attempts to pay that were refused, each with the plan's schedule of further ones; see announce_all.

    A provider's payment that is awaited again is no attempt.
    """
    events = [_failure(*one) for one in refused if one[1].owed is not None and one[1].payment_attempts]
    if events:
        await announce(connection, sorted(events, key=lambda one: (one.organization_id, one.subject)), now)


def _failure(event: Event, after: Subscription, schedule: PastDue) -> NewEvent:
    waits, owed = schedule.retry_after_s, after.owed
    assert owed is not None
    is_last = after.payment_attempts > len(waits)
    following = after.next_payment_time or after.state_time
    data = {
        "subscription_id": after.subscription_id,
        "user_id": after.user_id,
        "state": after.state.value,
        "plan_code": None if after.plan is None else after.plan.plan_code,
        "owed": {"currency_code": owed.currency_code, "value": format_amount(owed.value)},
        "reason": event.reason,
        "collection_provider": after.collection_provider,
        "attempt": after.payment_attempts,
        "attempts_max": len(waits) + 1,
        "next_attempt_time": None if is_last else _time(after.next_payment_time),
        "end": schedule.end.value,
        "end_time": _time(last_attempt(after.state_time, waits, after.payment_attempts, following)),
    }
    subject = f"subscription/{after.subscription_id}"
    return NewEvent(after.organization_id, "tollhouse.subscription.payment_failed", subject, data)


def _event(event: Event, after: Subscription) -> NewEvent:
    plan, charge = event.plan or after.plan, event.charge
    data = {
        "subscription_id": event.subscription_id,
        "user_id": after.user_id,
        "model": after.model,
        "from_state": None if event.from_state is None else event.from_state.value,
        "state": event.to_state.value,
        "reason": event.reason,
        "plan_code": None if plan is None else plan.plan_code,
        "plan_version": None if plan is None else plan.version,
        "period_start_time": _time(event.period_start_time),
        "period_end_time": _time(event.period_end_time),
        "charge": None
        if charge is None
        else {"currency_code": charge.currency_code, "value": format_amount(charge.value)},
        "cancel_at_period_end": after.cancel_at_period_end,
        "effective_time": _time(event.effective_time),
    }
    return NewEvent(event.organization_id, type_of(event.kind), f"subscription/{event.subscription_id}", data)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
