"""Whether a payment still pays what a subscription costs. Pure rules."""

from decimal import Decimal

from services.billing.payment.domain import Payment, PaymentStatus


def why_returned(payment: Payment) -> str:
    """Return why a completed payment pays nothing any more; empty where it does."""
    match payment.status:
        case PaymentStatus.REFUNDED:
            return "the payment was refunded"
        case PaymentStatus.DISPUTED:
            return "the payment is disputed"
        case _:
            return ""


def why_too_little(payment: Payment, price: Decimal) -> str:
    """Return why what is left of a completed payment does not cover a price; empty where it does."""
    brought = Decimal(0) if payment.credits is None else payment.credits.amount
    return why_returned(payment) or ("" if brought - payment.returned >= price else "the payment was refunded in part")
