"""What the ledger's records are told apart by; see `domain`."""

from enum import StrEnum


class Kind(StrEnum):
    """What moves money."""

    DEBIT = "DEBIT"
    CREDIT = "CREDIT"
    TRANSFER = "TRANSFER"
    CAPTURE = "CAPTURE"
    REVERSAL = "REVERSAL"
    GRANT = "GRANT"
    EXPIRY = "EXPIRY"
    VOID = "VOID"


class Direction(StrEnum):
    """Whether the account gives or receives."""

    DEBIT = "DEBIT"
    CREDIT = "CREDIT"

    @property
    def opposite(self) -> "Direction":
        return Direction.CREDIT if self is Direction.DEBIT else Direction.DEBIT


class Mode(StrEnum):
    """What a debit does when less than its amount is available."""

    GUARDED = "GUARDED"
    MUST_POST = "MUST_POST"
    BEST_EFFORT = "BEST_EFFORT"


class SystemAccount(StrEnum):
    """The other side of a movement with only one customer account."""

    REVENUE = "REVENUE"
    PAYMENTS = "PAYMENTS"
    GRANTS = "GRANTS"
    EXPIRED = "EXPIRED"
    ADJUSTMENTS = "ADJUSTMENTS"


class HoldState(StrEnum):
    """Where a hold is in its life."""

    OPEN = "OPEN"
    CAPTURED = "CAPTURED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class Slot(StrEnum):
    """What of an operation was declined: the hold before the work, or the movement."""

    MOVEMENT = "MOVEMENT"
    HOLD = "HOLD"
