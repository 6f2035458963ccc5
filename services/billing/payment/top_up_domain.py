"""When and by how much an account is topped up. Pure rules."""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal

from services.billing.payment.domain import ZERO


@dataclass(frozen=True, slots=True)
class TopUpPolicy:
    """When an organization's account is topped up by itself."""

    organization_id: str
    enabled: bool
    currency_code: str
    threshold: Decimal
    top_up_amount: Decimal | None
    target_balance: Decimal | None
    """One of the two is None."""
    provider: str
    external_customer_id: str
    max_per_day: int
    max_per_month: int
    actor: str
    update_time: datetime
    pending_payment_id: str | None = None
    paused_reason: str = ""

    def missing(self, available: Decimal, smallest: Decimal) -> Decimal:
        """Return by how much the account is to be topped up; zero where it has enough.

        What is missing up to a target is rounded up to `smallest`, which the provider can charge, such as a cent.
        """
        if not self.enabled or available >= self.threshold:
            return ZERO
        if self.top_up_amount is not None:
            return self.top_up_amount
        assert self.target_balance is not None
        return (self.target_balance - available).quantize(smallest, rounding=ROUND_CEILING)

    def allows(self, today: int, this_month: int) -> bool:
        """Return whether there may be another top-up after so many, other than failed ones."""
        return today < self.max_per_day and this_month < self.max_per_month


def beginnings(now: datetime) -> tuple[datetime, datetime]:
    """Return when the day and the month of UTC began."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return day, day.replace(day=1)
