"""Stripe's objects of payments as facts: checkout sessions, payment intents, charges, disputes and invoices.

The fields are those of docs.stripe.com/api in version 2024-06-20, which our requests name. Where later versions moved a
field, the later place is read, too, since the version of a webhook is that of its endpoint.

Sessions and invoices say what was paid without the taxes that Stripe added; payment intents and charges do not.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from libs.common.text import storable
from services.billing.payment.provider import (
    FactStatus,
    FailedRefund,
    Method,
    Occasion,
    PaymentFact,
    ReferenceKind,
    Unreadable,
    Version,
)
from services.billing.payment.providers.reading import (
    Json,
    child,
    currency,
    external_id,
    items,
    optional_child,
    optional_id,
    optional_seconds,
    optional_text,
    optional_whole,
    our_id,
    references,
    seconds,
    text,
    whole,
)
from services.billing.payment.providers.stripe.money import read_amount, smallest

NAME: Final = "stripe"
OUR_FIELD: Final = "checkout_id"
"""Where our checkout's id is in Stripe's `metadata`."""
OUR_REFUND: Final = "refund_id"
"""Where our refund's id is in that of a refund."""
_FAILURE_CHARS_MAX: Final = 500
_METHODS: Final[Mapping[str, Method]] = {
    "card": Method.CARD,
    "card_present": Method.CARD,
    "paypal": Method.PAYPAL,
    "link": Method.WALLET,
    "cashapp": Method.WALLET,
    "alipay": Method.WALLET,
    "wechat_pay": Method.WALLET,
    "us_bank_account": Method.BANK_TRANSFER,
    "sepa_debit": Method.BANK_TRANSFER,
    "bacs_debit": Method.BANK_TRANSFER,
    "customer_balance": Method.BANK_TRANSFER,
}


class NotOurs(Exception):
    """The object says nothing of payments for us; the text says why."""


def checkout_session(document: Json, told: datetime, store: str) -> PaymentFact:
    """Read a Checkout Session (docs.stripe.com/api/checkout/sessions/object)."""
    paid = text(document, "payment_status")
    if paid == "no_payment_required":
        raise NotOurs("nothing was to be paid")
    code = currency(document)
    discount = optional_whole(optional_child(document, "total_details"), "amount_discount") or 0
    subtotal = whole(document, "amount_subtotal")
    if discount > subtotal:
        raise Unreadable("amount_discount is more than amount_subtotal.")
    completed = paid == "paid"
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.CHECKOUT: external_id(document, "id"),
                ReferenceKind.PAYMENT: optional_id(document, "payment_intent"),
                ReferenceKind.INVOICE: optional_id(document, "invoice"),
                ReferenceKind.SUBSCRIPTION: optional_id(document, "subscription"),
                ReferenceKind.CUSTOMER: optional_id(document, "customer"),
            }
        ),
        version=Version(told),
        occasion=Occasion.FIRST if text(document, "mode") == "subscription" else Occasion.ONE_OFF,
        is_test=_is_test(document),
        store=store,
        checkout_id=our_id(document, "client_reference_id") or _ours(document),
        status=FactStatus.COMPLETED if completed else FactStatus.PENDING,
        # The subtotal is before taxes where Stripe adds them.
        amount=read_amount(subtotal - discount, code),
        currency_code=code,
        processed_time=told if completed else None,
    )


def payment_intent(document: Json, told: datetime, store: str) -> PaymentFact:
    """Read a PaymentIntent (docs.stripe.com/api/payment_intents/object)."""
    ours, invoice = _ours(document), optional_id(document, "invoice")
    if ours is None and invoice is None:
        raise NotOurs("the payment intent is not of a checkout or invoice of ours")
    code, state = currency(document), text(document, "status")
    failed = optional_child(document, "last_payment_error")
    status = FactStatus.COMPLETED if state == "succeeded" else FactStatus.FAILED if failed else FactStatus.PENDING
    charge = optional_child(document, "latest_charge") if isinstance(document.get("latest_charge"), dict) else {}
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.PAYMENT: external_id(document, "id"),
                ReferenceKind.CHARGE: optional_id(document, "latest_charge"),
                ReferenceKind.INVOICE: invoice,
                ReferenceKind.CUSTOMER: optional_id(document, "customer"),
            }
        ),
        version=Version(told),
        occasion=Occasion.RENEWAL if invoice else Occasion.ONE_OFF,
        is_test=_is_test(document),
        store=store,
        checkout_id=ours,
        status=status,
        amount=read_amount(whole(document, "amount"), code),
        gross_unit=smallest(code),
        currency_code=code,
        method=_method(document, charge),
        receipt_url=optional_text(charge, "receipt_url"),
        processed_time=None if status is FactStatus.PENDING else told,
        failure=_failure(failed) if status is FactStatus.FAILED else None,
    )


def charge(document: Json, told: datetime, store: str) -> PaymentFact:
    """Read a Charge (docs.stripe.com/api/charges/object); `amount_refunded` is the sum of all its refunds."""
    code = currency(document)
    succeeded = text(document, "status") == "succeeded"
    invoice = optional_id(document, "invoice")
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.CHARGE: external_id(document, "id"),
                ReferenceKind.PAYMENT: optional_id(document, "payment_intent"),
                ReferenceKind.INVOICE: invoice,
                ReferenceKind.CUSTOMER: optional_id(document, "customer"),
            }
        ),
        version=Version(told),
        occasion=Occasion.RENEWAL if invoice else Occasion.ONE_OFF,
        is_test=_is_test(document),
        store=store,
        # Stripe copies the metadata of a payment intent to its charge.
        checkout_id=_ours(document),
        status=FactStatus.COMPLETED if succeeded else None,
        amount=read_amount(whole(document, "amount"), code),
        gross_unit=smallest(code),
        currency_code=code,
        refunded_amount=read_amount(whole(document, "amount_refunded"), code),
        method=_method({}, document),
        receipt_url=optional_text(document, "receipt_url"),
    )


def dispute(document: Json, told: datetime, store: str) -> PaymentFact:
    """Read a Dispute (docs.stripe.com/api/disputes/object).

    One whose status begins with `warning_` is an inquiry: no money has been taken back. One that was prevented from
    becoming a dispute has taken it back where its balance transactions say so. `amount` is what is disputed.
    """
    state = text(document, "status")
    if state.startswith("warning_"):
        raise NotOurs("an inquiry takes no money back")
    code = currency(document)
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.DISPUTE: external_id(document, "id"),
                ReferenceKind.CHARGE: optional_id(document, "charge"),
                ReferenceKind.PAYMENT: optional_id(document, "payment_intent"),
            }
        ),
        version=Version(told),
        occasion=Occasion.ONE_OFF,
        is_test=_is_test(document),
        store=store,
        disputed=_has_withdrawn(document) if state == "prevented" else state != "won",
        disputed_amount=read_amount(whole(document, "amount"), code),
        disputed_currency_code=code,
    )


def refund(document: Json, told: datetime, store: str) -> PaymentFact:
    """Read a Refund (docs.stripe.com/api/refunds/object). One that failed is no part of the charge's sum any more."""
    if text(document, "status") not in ("failed", "canceled"):
        raise NotOurs("the refund has not failed")
    code = currency(document)
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.REFUND: external_id(document, "id"),
                ReferenceKind.CHARGE: optional_id(document, "charge"),
                ReferenceKind.PAYMENT: optional_id(document, "payment_intent"),
            }
        ),
        version=Version(told),
        occasion=Occasion.ONE_OFF,
        is_test=_is_test(document),
        store=store,
        currency_code=code,
        failed_refund=FailedRefund(
            read_amount(whole(document, "amount"), code),
            seconds(document, "created"),
            our_id(optional_child(document, "metadata"), OUR_REFUND),
        ),
    )


def invoice(document: Json, told: datetime, store: str, *, failed: bool) -> PaymentFact:
    """Read an Invoice (docs.stripe.com/api/invoices/object) that was paid, or that a payment of has failed."""
    parent = optional_child(optional_child(document, "parent"), "subscription_details")
    subscription = optional_id(document, "subscription") or optional_id(parent, "subscription")
    if subscription is None:
        raise NotOurs("the invoice is of no subscription")
    code = currency(document)
    units = whole(document, "amount_due" if failed else "amount_paid") - _added_taxes(document)
    if units <= 0:
        raise NotOurs("nothing was to be paid")
    details = optional_child(document, "subscription_details") or parent
    paid_time = optional_seconds(optional_child(document, "status_transitions"), "paid_at")
    return PaymentFact(
        provider=NAME,
        references=references(
            {
                ReferenceKind.INVOICE: external_id(document, "id"),
                ReferenceKind.PAYMENT: optional_id(document, "payment_intent") or _payment_in(document),
                ReferenceKind.CHARGE: optional_id(document, "charge"),
                ReferenceKind.SUBSCRIPTION: subscription,
                ReferenceKind.CUSTOMER: optional_id(document, "customer"),
            }
        ),
        version=Version(told),
        occasion=Occasion.FIRST if document.get("billing_reason") == "subscription_create" else Occasion.RENEWAL,
        is_test=_is_test(document),
        store=store,
        checkout_id=_ours(details),
        status=FactStatus.FAILED if failed else FactStatus.COMPLETED,
        amount=read_amount(units, code),
        currency_code=code,
        receipt_url=optional_text(document, "hosted_invoice_url"),
        processed_time=told if failed else paid_time or told,
        product_external_id=_price_of(document),
        failure="The invoice could not be paid." if failed else None,
    )


KINDS: Final[Mapping[str, Callable[[Json, datetime, str], PaymentFact]]] = {
    "checkout.session.completed": checkout_session,
    "checkout.session.async_payment_succeeded": checkout_session,
    "payment_intent.succeeded": payment_intent,
    "payment_intent.payment_failed": payment_intent,
    "charge.refunded": charge,
    "refund.failed": refund,
    "refund.updated": refund,
    "charge.refund.updated": refund,
    "charge.dispute.created": dispute,
    # An inquiry that becomes a dispute is not created once more.
    "charge.dispute.updated": dispute,
    "charge.dispute.funds_withdrawn": dispute,
    "charge.dispute.funds_reinstated": dispute,
    "charge.dispute.closed": dispute,
    "invoice.paid": lambda document, told, store: invoice(document, told, store, failed=False),
    "invoice.payment_failed": lambda document, told, store: invoice(document, told, store, failed=True),
}
"""How the object of an event is read, by the event's type. Stripe lists the events of at most 20 types, with those of
subscriptions."""


def _is_test(document: Json) -> bool:
    value = document.get("livemode")
    if not isinstance(value, bool):
        raise Unreadable("livemode is neither true nor false.")
    return not value


def _ours(document: Json) -> str | None:
    return our_id(optional_child(document, "metadata"), OUR_FIELD)


def _added_taxes(document: Json) -> int:
    """Return the taxes that were added to the prices; `total_taxes` is the later place."""
    old = [whole(one, "amount") for one in items(document, "total_tax_amounts") if one.get("inclusive") is False]
    new = [whole(one, "amount") for one in items(document, "total_taxes") if one.get("tax_behavior") == "exclusive"]
    return sum(old or new)


def _has_withdrawn(document: Json) -> bool:
    amounts = [one.get("amount") for one in items(document, "balance_transactions")]
    return sum(one for one in amounts if isinstance(one, int)) < 0


def _payment_in(document: Json) -> str | None:
    """Return the payment intent where later versions have it: in the list of the invoice's payments."""
    for one in items(optional_child(document, "payments"), "data"):
        if found := optional_id(optional_child(one, "payment"), "payment_intent"):
            return found
    return None


def _price_of(document: Json) -> str | None:
    """Return the price that an invoice is for; None where it is for several, as after a change of the plan."""
    found = set()
    for line in items(child(document, "lines"), "data"):
        later = optional_child(optional_child(line, "pricing"), "price_details")
        found.add(optional_id(optional_child(line, "price"), "id") or optional_id(later, "price"))
    return found.pop() if len(found) == 1 else None


def _method(document: Json, charged: Json) -> Method | None:
    """Return how was paid: by what the charge says, else by the only way that the intent allows."""
    kind = optional_text(optional_child(charged, "payment_method_details"), "type")
    if kind is None:
        allowed = document.get("payment_method_types")
        kind = allowed[0] if isinstance(allowed, list) and len(allowed) == 1 and isinstance(allowed[0], str) else None
    return None if kind is None else _METHODS.get(kind, Method.OTHER)


def _failure(error: Json) -> str:
    value = error.get("message") or error.get("code") or "unknown"
    clean = value.encode("utf-8", "replace").decode() if isinstance(value, str) else "unknown"
    return storable(clean, _FAILURE_CHARS_MAX)
