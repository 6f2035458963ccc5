"""What a payment has moved, and what it is then."""

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from services.billing.payment.domain import ZERO, Payment


class MovementKind(StrEnum):
    """What a payment has moved, or could not move."""

    AWARDED_MONEY = "AWARDED_MONEY"
    AWARDED_CREDITS = "AWARDED_CREDITS"
    TAKEN_MONEY = "TAKEN_MONEY"
    TAKEN_CREDITS = "TAKEN_CREDITS"
    WRITTEN_OFF = "WRITTEN_OFF"
    GIVEN_MONEY = "GIVEN_MONEY"
    GIVEN_CREDITS = "GIVEN_CREDITS"
    REINSTATED = "REINSTATED"


@dataclass(frozen=True, slots=True)
class Moved:
    """One thing that a payment has moved."""

    kind: MovementKind
    amount: Decimal
    operation_id: str | None = None
    """Of the ledger's movement."""
    grant_operation_id: str | None = None
    grant_id: str | None = None


def after(payment: Payment, moved: tuple[Moved, ...], grant_id: str | None) -> Payment:
    """Return a payment after a step moved this."""
    sums = dict.fromkeys(MovementKind, ZERO)
    for one in moved:
        sums[one.kind] += one.amount
    awarded = sums[MovementKind.AWARDED_MONEY] + sums[MovementKind.AWARDED_CREDITS] > ZERO
    return replace(
        payment,
        awarded=payment.awarded or awarded,
        grant_id=payment.grant_id or (grant_id if awarded else None),
        taken_credits=payment.taken_credits + sums[MovementKind.TAKEN_CREDITS] - sums[MovementKind.GIVEN_CREDITS],
        taken_money=payment.taken_money + sums[MovementKind.TAKEN_MONEY] - sums[MovementKind.GIVEN_MONEY],
        written_off=payment.written_off + sums[MovementKind.WRITTEN_OFF] - sums[MovementKind.REINSTATED],
        steps=payment.steps + 1,
    )
