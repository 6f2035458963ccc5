"""Lemon Squeezy's webhooks (docs.lemonsqueezy.com/help/webhooks/webhook-requests) as what payments are told.

A webhook has no id of its own: `meta.webhook_id` is not documented. What is sent again after a failure is the same
body. So the digest of the body names it.
"""

import hashlib
from typing import Final

from services.billing.payment.provider import Event, Fact, Ignored, Parsed, Unreadable
from services.billing.payment.providers.lemon_squeezy import objects
from services.billing.payment.providers.reading import Json, child, optional_child, read_document, text

_ORDERS: Final = frozenset({"order_created", "order_refunded"})
_SUBSCRIPTIONS: Final = frozenset(
    f"subscription_{what}" for what in ("created", "updated", "cancelled", "resumed", "expired", "paused", "unpaused")
)
_INVOICES: Final = frozenset(f"subscription_payment_{what}" for what in ("success", "failed", "recovered", "refunded"))
_TYPES: Final = {"orders": _ORDERS, "subscriptions": _SUBSCRIPTIONS, "subscription-invoices": _INVOICES}


def parse(body: bytes) -> Parsed:
    """Read a webhook.

    Raises:
        Unreadable: it is not what Lemon Squeezy documents.
    """
    document = read_document(body)
    meta, event_id = child(document, "meta"), hashlib.sha256(body).hexdigest()
    kind = text(meta, "event_name")
    if not any(kind in kinds for kinds in _TYPES.values()):
        return Ignored(event_id, kind, "not an event that says anything of payments here")
    data, custom = child(document, "data"), optional_child(meta, "custom_data")
    if kind not in _TYPES.get(text(data, "type"), ()):
        raise Unreadable("data is of another type than the event.")
    try:
        fact = _fact(kind, data, custom)
    except objects.NothingPaid:
        return Ignored(event_id, kind, "nothing was to be paid")
    return Event(event_id, kind, (fact,), fact.version.time)


def _fact(kind: str, data: Json, custom: Json) -> Fact:
    if kind in _ORDERS:
        return objects.order(data, custom)
    if kind in _SUBSCRIPTIONS:
        return objects.subscription(data, custom)
    return objects.invoice(data, custom, failed=kind == "subscription_payment_failed")
