"""The events that tell other systems what happened to subscriptions, written where it is."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.events.message import time_text
from libs.common.events.outbox import NewEvent, announce
from services.billing.subscription.domain import Event, Subscription
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
    return None if moment is None else time_text(moment)
