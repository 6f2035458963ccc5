"""What is announced of a payment: that it was completed, failed, was refunded or is disputed."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, TypeAlias

from libs.common.amount import format_amount
from libs.common.events.outbox import NewEvent
from services.billing.payment.domain import ZERO, Payment, PaymentStatus

What: TypeAlias = Literal["completed", "failed", "refunded", "disputed"]
_NOT_PAID = (None, PaymentStatus.PENDING, PaymentStatus.FAILED)


def events_of(payment: Payment) -> list[NewEvent]:
    """Return what happened to a payment since it was stored last."""
    before, now = payment.stored_status, payment.status
    names: list[What] = []
    if now is PaymentStatus.FAILED and before is not now:
        names.append("failed")
    if now not in _NOT_PAID:
        refunded_before = ZERO if before in _NOT_PAID else payment.stored_refunded
        if before in _NOT_PAID:
            names.append("completed")
        if payment.refunded_amount > refunded_before:
            names.append("refunded")
        if now is PaymentStatus.DISPUTED and before is not now:
            names.append("disputed")
    subject = f"payment/{payment.payment_id}"
    data = _data(payment) if names else {}
    return [NewEvent(payment.organization_id, f"tollhouse.payment.{name}", subject, data) for name in names]


def _data(payment: Payment) -> Mapping[str, object]:
    credits_ = payment.credits
    return {
        "payment_id": payment.payment_id,
        "type": payment.type.value,
        "status": payment.status.value,
        "amount": _amount(payment.currency_code, payment.amount),
        "refunded_amount": _amount(payment.currency_code, payment.refunded_amount),
        "awarded_credits": None if credits_ is None else _amount(credits_.currency_code, credits_.amount),
        "provider": payment.provider,
        "user_id": payment.user_id,
        "product_code": payment.product_code,
        "plan_code": payment.plan_code,
        "subscription_id": payment.subscription_id,
        "failure": payment.failure,
        "test": payment.is_test,
    }


def _amount(currency_code: str, value: Decimal) -> Mapping[str, str]:
    return {"currency_code": currency_code, "value": format_amount(value)}
