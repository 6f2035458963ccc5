"""Facts of payments: what is wrong with one, by itself and beside its payment; and that of a refused charge."""

import re
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from services.billing.payment.domain import URL_MAX, ZERO, Payment
from services.billing.payment.provider import (
    Applied,
    Fact,
    FactStatus,
    Occasion,
    PaymentFact,
    Reference,
    ReferenceKind,
    RefusedFor,
    Result,
    Version,
)
from services.billing.payment.said import merge, told_by

REFERENCES_MAX: Final = 16
_AMOUNT_MAX: Final = Decimal(10) ** 12
_EXTERNAL_ID: Final = re.compile(r"[!-~]{1,255}")
_CURRENCY_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,11}")
_FRACTION_DIGITS_MAX: Final = 9
_REFUND: Final = ReferenceKind.REFUND


def refused(reason: RefusedFor, detail: str, payment: Payment | None = None) -> Applied:
    """Return the answer to a fact that is refused."""
    if payment is None:
        return Applied(Result.REFUSED, reason, detail=detail)
    return Applied(Result.REFUSED, reason, payment.organization_id, payment.payment_id, detail)


def declined(payment: Payment, failure: str, now: datetime) -> PaymentFact:
    """Return what is said of a payment whose provider refuses to charge a saved method."""
    return PaymentFact(
        provider=payment.provider,
        references=(),
        version=Version(now),
        occasion=Occasion.ONE_OFF,
        is_test=payment.is_test,
        store="",
        checkout_id=payment.payment_id,
        status=FactStatus.FAILED,
        failure=failure,
    )


def flaw(fact: Fact) -> str:
    """Return what cannot be in a fact; empty if all can."""
    if not isinstance(fact, PaymentFact):
        ids = [fact.external_id, *filter(None, (fact.customer, fact.plan_external_id))]
        return "" if all(map(_EXTERNAL_ID.fullmatch, ids)) else "an id is not 1 to 255 visible ASCII characters"
    if len(fact.references) > REFERENCES_MAX:
        return f"it has more than {REFERENCES_MAX} references"
    if not fact.references and fact.checkout_id is None:
        return "it has no reference"
    if not all(_EXTERNAL_ID.fullmatch(one.external_id) for one in fact.references):
        return "an id is not 1 to 255 visible ASCII characters"
    if fact.amount is not None and (not _is_amount(fact.amount) or not fact.amount):
        return "its amount is not a positive amount"
    if fact.refunded_amount is not None and not _is_amount(fact.refunded_amount):
        return "its refunded amount is not an amount"
    if fact.failed_refund is not None and (not _is_amount(fact.failed_refund.amount) or not named(fact, _REFUND)):
        return "its failed refund has no id, or no amount"
    if fact.disputed_amount is not None and not _is_amount(fact.disputed_amount):
        return "its disputed amount is not an amount"
    if not all(map(_CURRENCY_CODE.fullmatch, _currency_codes(fact))):
        return "its currency is not a code"
    if fact.receipt_url and (len(fact.receipt_url) > URL_MAX or not fact.receipt_url.startswith("https://")):
        return "its receipt is not an address"
    return ""


def _currency_codes(fact: PaymentFact) -> list[str]:
    disputed = [] if fact.disputed_amount is None else [fact.disputed_currency_code or ""]
    return disputed if fact.currency_code is None else [fact.currency_code, *disputed]


def _is_amount(amount: Decimal) -> bool:
    if not amount.is_finite() or not 0 <= amount <= _AMOUNT_MAX:
        return False
    exponent = amount.normalize().as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= _FRACTION_DIGITS_MAX


def mismatch(payment: Payment, fact: PaymentFact) -> Applied | None:
    """Return why a fact is not about what the payment is; None if it is."""
    if fact.provider != payment.provider:
        return refused(RefusedFor.WRONG_PROVIDER, "the payment is another provider's", payment)
    if fact.is_test != payment.is_test:
        return refused(RefusedFor.WRONG_MODE, "test mode and live mode do not go together", payment)
    if fact.currency_code is not None and fact.currency_code != payment.currency_code:
        return refused(RefusedFor.WRONG_CURRENCY, "the checkout is in another currency", payment)
    taxes = ZERO if fact.amount is None else fact.amount - payment.amount
    if taxes < ZERO or (taxes and fact.gross_unit is None):
        return refused(RefusedFor.WRONG_AMOUNT, "the checkout is of another amount", payment)
    sold = payment.external_product_id
    if sold is not None and fact.product_external_id is not None and fact.product_external_id != sold:
        return refused(RefusedFor.WRONG_PRODUCT, "the checkout is for something else", payment)
    if fact.refunded_amount is not None and fact.refunded_amount > payment.amount + taxes:
        return refused(RefusedFor.INVALID, "the refunds exceed the payment", payment)
    if fact.status is FactStatus.COMPLETED and fact.amount is None and not payment.said:
        return refused(RefusedFor.INVALID, "it says that it is paid, and not how much", payment)
    if taxes and fact.status is FactStatus.COMPLETED and not payment.is_paid:
        # Whether the price was paid is said by the object that tells the taxes apart.
        return Applied(Result.PARKED, detail="it is not known yet whether it exceeds the price by taxes")
    return None


def with_taxes_told(payment: Payment, fact: PaymentFact) -> PaymentFact:
    """Return a fact that says nothing of taxes where its provider added none."""
    return replace(fact, gross_unit=None) if fact.amount == payment.amount else fact


def unchanged(payment: Payment, fact: PaymentFact) -> Applied:
    """Return the answer to a fact that changes nothing: it is late where something newer was said."""
    told = told_by(fact)
    late = any(payment.said[field].version > saying.version for field, saying in told.items())
    assert merge(payment.said, told) == payment.said
    result = Result.LATE if late else Result.REPEATED
    return Applied(result, None, payment.organization_id, payment.payment_id)


def named(fact: PaymentFact, kind: ReferenceKind) -> str | None:
    """Return the id of the object of a kind that a fact names; the first in byte order where it names several."""
    return min((one.external_id for one in fact.references if one.kind is kind), default=None)


def identifying(fact: PaymentFact) -> list[Reference]:
    """Return the references of a fact that name one payment."""
    return sorted(one for one in fact.references if one.kind.names_one_payment)
