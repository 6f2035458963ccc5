"""Lemon Squeezy's objects as facts: orders, subscriptions and subscription invoices.

The fields are those of docs.lemonsqueezy.com/api. All amounts are "in cents", whatever the currency is, and include
taxes. `updated_at` says how new an object is.

Our checkout's id is in the `custom_data` of webhooks (docs.lemonsqueezy.com/help/checkout/passing-custom-data). The API
does not return that data with an order or a subscription, so the name under which we sell ends with the id, too, in
square brackets: `product_options.name` of the checkout becomes the name of the product that was sold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeVar

from services.billing.payment.provider import (
    ExternalSubscriptionStatus,
    FactStatus,
    Method,
    Occasion,
    PaymentFact,
    ReferenceKind,
    SubscriptionFact,
    Unreadable,
    Version,
)
from services.billing.payment.providers.money import from_minor, net_of
from services.billing.payment.providers.reading import (
    Json,
    currency,
    external_id,
    flag,
    moment,
    optional_child,
    optional_id,
    optional_moment,
    optional_text,
    optional_whole,
    our_id,
    references,
    text,
    whole,
)

NAME: Final = "lemon_squeezy"
OUR_FIELD: Final = "checkout_id"
"""Where our checkout's id is in the custom data."""
DECIMALS: Final = 2
_MARKED: Final = re.compile(r"\[([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\]$")
_NAME_CHARS_MAX: Final = 2_048
_ORDERS: Final[Mapping[str, FactStatus]] = {
    "pending": FactStatus.PENDING,
    "failed": FactStatus.FAILED,
    "paid": FactStatus.COMPLETED,
    "refunded": FactStatus.COMPLETED,
    "partial_refund": FactStatus.COMPLETED,
    "fraudulent": FactStatus.COMPLETED,
}
_INVOICES: Final[Mapping[str, FactStatus]] = {
    "pending": FactStatus.PENDING,
    "void": FactStatus.FAILED,
    "paid": FactStatus.COMPLETED,
    "refunded": FactStatus.COMPLETED,
    "partial_refund": FactStatus.COMPLETED,
}
_SUBSCRIPTIONS: Final[Mapping[str, ExternalSubscriptionStatus]] = {
    "on_trial": ExternalSubscriptionStatus.ACTIVE,
    "active": ExternalSubscriptionStatus.ACTIVE,
    "paused": ExternalSubscriptionStatus.PAUSED,
    "past_due": ExternalSubscriptionStatus.PAST_DUE,
    "unpaid": ExternalSubscriptionStatus.PAST_DUE,
    "cancelled": ExternalSubscriptionStatus.CANCELLED,
    "expired": ExternalSubscriptionStatus.EXPIRED,
}


class NothingPaid(Exception):
    """The object is of no payment: nothing was to be paid."""


def marked_name(name: str, checkout_id: str) -> str:
    """Return the name under which something is sold, with our checkout's id at its end."""
    return f"{name} [{checkout_id}]"


def order(data: Json, custom: Json) -> PaymentFact:
    """Read an order (docs.lemonsqueezy.com/api/orders/the-order-object).

    Raises:
        NothingPaid: it was free.
    """
    attributes = optional_child(data, "attributes")
    item = optional_child(attributes, "first_order_item")
    said, paid = text(attributes, "status"), _paid(attributes)
    status = _known(_ORDERS, said)
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.ORDER: external_id(data, "id"),
                ReferenceKind.CUSTOMER: optional_id(attributes, "customer_id"),
            }
        ),
        version=Version(moment(attributes, "updated_at")),
        occasion=Occasion.ONE_OFF,
        is_test=_is_test(attributes),
        store=external_id(attributes, "store_id"),
        checkout_id=_ours(custom, item),
        status=status,
        amount=paid.amount,
        currency_code=paid.currency_code,
        refunded_amount=paid.refunded,
        # Its newest status counts: an order that was taken for fraud, and is paid or refunded, is disputed no more.
        disputed=said == "fraudulent" if status is FactStatus.COMPLETED else None,
        receipt_url=optional_text(optional_child(attributes, "urls"), "receipt"),
        processed_time=None if status is FactStatus.PENDING else moment(attributes, "created_at"),
        product_external_id=optional_id(item, "variant_id"),
        failure="The order failed." if status is FactStatus.FAILED else None,
    )


def invoice(data: Json, custom: Json, *, failed: bool) -> PaymentFact:
    """Read a subscription invoice (docs.lemonsqueezy.com/api/subscription-invoices/the-subscription-invoice-object).

    `failed` says that a payment of it has failed; the object itself only says that it is not paid yet.

    Raises:
        NothingPaid: it is of a free period.
    """
    attributes = optional_child(data, "attributes")
    status, paid = _known(_INVOICES, text(attributes, "status")), _paid(attributes)
    if failed and status is FactStatus.PENDING:
        status = FactStatus.FAILED
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.PAYMENT: external_id(data, "id"),
                ReferenceKind.SUBSCRIPTION: external_id(attributes, "subscription_id"),
                ReferenceKind.CUSTOMER: optional_id(attributes, "customer_id"),
            }
        ),
        version=Version(moment(attributes, "updated_at")),
        occasion=Occasion.FIRST if attributes.get("billing_reason") == "initial" else Occasion.RENEWAL,
        is_test=_is_test(attributes),
        store=external_id(attributes, "store_id"),
        checkout_id=_ours(custom, {}),
        status=status,
        amount=paid.amount,
        currency_code=paid.currency_code,
        refunded_amount=paid.refunded,
        # Empty where it was no card; nothing says what it was then.
        method=Method.CARD if optional_text(attributes, "card_brand") else None,
        receipt_url=optional_text(optional_child(attributes, "urls"), "invoice_url"),
        processed_time=None if status is FactStatus.PENDING else moment(attributes, "updated_at"),
        failure="The subscription's payment failed." if status is FactStatus.FAILED else None,
    )


def subscription(data: Json, custom: Json) -> SubscriptionFact:
    """Read a subscription (docs.lemonsqueezy.com/api/subscriptions/the-subscription-object)."""
    attributes = optional_child(data, "attributes")
    return SubscriptionFact(
        provider=NAME,
        external_id=external_id(data, "id"),
        version=Version(moment(attributes, "updated_at")),
        status=_known(_SUBSCRIPTIONS, text(attributes, "status")),
        is_test=_is_test(attributes),
        store=external_id(attributes, "store_id"),
        checkout_id=_ours(custom, attributes),
        customer=optional_id(attributes, "customer_id"),
        plan_external_id=optional_id(attributes, "variant_id"),
        renews_time=optional_moment(attributes, "renews_at"),
        ends_time=optional_moment(attributes, "ends_at"),
    )


@dataclass(frozen=True, slots=True)
class _Paid:
    """What was paid, without the taxes that were added."""

    amount: Decimal
    currency_code: str
    refunded: Decimal


def _paid(attributes: Json) -> _Paid:
    amount, total = units_of(attributes)
    if not amount:
        raise NothingPaid
    refunded = net_of(refunded_units(attributes, total), amount, total)
    return _Paid(from_minor(amount, DECIMALS), currency(attributes), from_minor(refunded, DECIMALS))


def units_of(attributes: Json) -> tuple[int, int]:
    """Return what was paid in cents, without and with the taxes that were added."""
    total, tax = whole(attributes, "total"), optional_whole(attributes, "tax") or 0
    added = 0 if attributes.get("tax_inclusive") is True else tax
    if added > total:
        raise Unreadable("tax is more than total.")
    return total - added, total


def refunded_units(attributes: Json, total: int) -> int:
    """Return what was refunded in cents, with taxes. Older objects say only whether all was."""
    refunded = optional_whole(attributes, "refunded_amount") or 0
    return total if attributes.get("refunded") is True else min(refunded, total)


def _is_test(attributes: Json) -> bool:
    return flag(attributes, "test_mode")


_Status = TypeVar("_Status")


def _known(statuses: Mapping[str, _Status], said: str) -> _Status:
    status = statuses.get(said)
    if status is None:
        raise Unreadable("status is none that is documented.")
    return status


def _ours(custom: Json, sold: Json) -> str | None:
    """Return our checkout's id, from the custom data, or else from the name of what was sold."""
    name = sold.get("product_name")
    found = _MARKED.search(name) if isinstance(name, str) and len(name) <= _NAME_CHARS_MAX else None
    return our_id(custom, OUR_FIELD) or (found[1] if found else None)
