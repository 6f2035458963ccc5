"""Stripe's events (docs.stripe.com/api/events/object) as what payments and subscriptions are told.

Stripe promises no order (docs.stripe.com/webhooks#event-ordering), and its objects have no time of their last change.
So the time of the event says how new the object in it is.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from services.billing.payment.provider import (
    Event,
    ExternalSubscriptionStatus,
    Fact,
    Ignored,
    Parsed,
    SubscriptionFact,
    Unreadable,
    Version,
)
from services.billing.payment.providers.reading import (
    Json,
    child,
    external_id,
    flag,
    items,
    optional_child,
    optional_id,
    optional_seconds,
    our_id,
    read_document,
    seconds,
    text,
)
from services.billing.payment.providers.stripe import payments
from services.billing.payment.providers.stripe.payments import NAME, OUR_FIELD, NotOurs

_SUBSCRIPTIONS: Final[Mapping[str, int]] = {
    "customer.subscription.created": 0,
    "customer.subscription.updated": 1,
    "customer.subscription.deleted": 2,
}
"""The events of subscriptions, in the order in which those of one second happened: a subscription is created first,
and nothing happens to it after it was deleted."""
TYPES: Final = (*payments.KINDS, *_SUBSCRIPTIONS)
_STATUSES: Final[Mapping[str, ExternalSubscriptionStatus]] = {
    "trialing": ExternalSubscriptionStatus.ACTIVE,
    "active": ExternalSubscriptionStatus.ACTIVE,
    "past_due": ExternalSubscriptionStatus.PAST_DUE,
    "unpaid": ExternalSubscriptionStatus.PAST_DUE,
    "paused": ExternalSubscriptionStatus.PAUSED,
    "canceled": ExternalSubscriptionStatus.CANCELLED,
    "incomplete_expired": ExternalSubscriptionStatus.EXPIRED,
}
"""Of docs.stripe.com/billing/subscriptions/overview#subscription-statuses. `incomplete` is missing: the first payment
is not made yet, so there is nothing to hold."""


def parse(body: bytes) -> Parsed:
    """Read an event as it came.

    Raises:
        Unreadable: it is not what Stripe documents.
    """
    return read_event(read_document(body))


def read_event(document: Json) -> Parsed:
    """Read an event.

    Raises:
        Unreadable: it is not what Stripe documents.
    """
    if document.get("object") != "event":
        raise Unreadable("The body is no event.")
    event_id, kind, told = external_id(document, "id"), text(document, "type"), seconds(document, "created")
    if kind not in TYPES:
        return Ignored(event_id, kind, "not a type that says anything of payments here")
    # Set for an event of a connected account (docs.stripe.com/connect/webhooks).
    store = optional_id(document, "account") or ""
    inner = child(child(document, "data"), "object")
    if "livemode" not in inner:
        inner = {**inner, "livemode": flag(document, "livemode")}
    try:
        fact: Fact = (
            payments.KINDS[kind](inner, told, store) if kind in payments.KINDS else _read(kind, inner, told, store)
        )
    except NotOurs as reason:
        return Ignored(event_id, kind, str(reason))
    return Event(event_id, kind, (fact,), told)


def _read(kind: str, document: Json, told: datetime, store: str) -> SubscriptionFact:
    return subscription(document, Version(told, _SUBSCRIPTIONS[kind]), store)


def subscription(document: Json, version: Version, store: str) -> SubscriptionFact:
    """Read a Subscription (docs.stripe.com/api/subscriptions/object).

    Raises:
        NotOurs: it has not begun.
    """
    said = text(document, "status")
    if said == "incomplete":
        raise NotOurs("the subscription's first payment is not made")
    status = _STATUSES.get(said)
    if status is None:
        raise Unreadable("status is none that is documented.")
    ends = optional_seconds(document, "ended_at")
    if status is ExternalSubscriptionStatus.ACTIVE:
        if document.get("cancel_at_period_end") is True or document.get("cancel_at") is not None:
            status = ExternalSubscriptionStatus.CANCELLED
            ends = optional_seconds(document, "cancel_at") or _period_end(document)
        elif document.get("pause_collection") is not None:
            status = ExternalSubscriptionStatus.PAUSED
    prices = {optional_id(optional_child(one, "price"), "id") for one in _items(document)}
    return SubscriptionFact(
        provider=NAME,
        external_id=external_id(document, "id"),
        version=version,
        status=status,
        is_test=not flag(document, "livemode"),
        store=store,
        checkout_id=our_id(optional_child(document, "metadata"), OUR_FIELD),
        customer=optional_id(document, "customer"),
        plan_external_id=prices.pop() if len(prices) == 1 else None,
        renews_time=_period_end(document) if status is ExternalSubscriptionStatus.ACTIVE else None,
        ends_time=ends,
    )


def _items(document: Json) -> list[Json]:
    return list(items(optional_child(document, "items"), "data"))


def _period_end(document: Json) -> datetime | None:
    """Return when the period ends; later versions say it of each item."""
    ends = [optional_seconds(one, "current_period_end") for one in (document, *_items(document))]
    return max((one for one in ends if one is not None), default=None)
