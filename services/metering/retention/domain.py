"""Months of usage, their numbers, and when they may be dropped. Pure rules."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from services.metering.usage.domain import LATE_MAX, month_of

SEALED: Final = "SEALED"
DROPPING: Final = "DROPPING"
DROPPED: Final = "DROPPED"
REFUSED: Final = "REFUSED"
COUNTED: Final = "COUNTED"
COPYING: Final = "COPYING"
MOVING: Final = "MOVING"

CLOSED_AFTER: Final = LATE_MAX + timedelta(days=1)
"""How long after its end usage of a month may still come in, with a day for clocks that differ."""


class Retention(NamedTuple):
    """For how many whole months usage is kept besides the present one; 0 for ever."""

    months: int
    inherited: bool
    update_time: datetime | None


NONE: Final = Retention(0, inherited=False, update_time=None)


@dataclass(slots=True)
class Numbers:
    """What is compared of a month: how many usages, what they cost by currency, and the digest of them."""

    usage_count: int = 0
    totals: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    digest: int = 0

    def add(self, usage_count: int, totals: Mapping[str, Decimal], digest: int) -> None:
        self.usage_count += usage_count
        for currency_code, total in totals.items():
            self.totals[currency_code] = self.totals.get(currency_code, Decimal(0)) + total
        self.digest ^= digest

    @property
    def costs(self) -> dict[str, Decimal]:
        """The totals that are not zero."""
        return {currency_code: total for currency_code, total in sorted(self.totals.items()) if total}


class Drop(NamedTuple):
    """The drop of a month, as it was asked for and as it is now."""

    organization_id: str
    """The nil id for all whose retention was over."""
    month: datetime
    state: str
    numbers: Numbers
    refusal_reason: str | None
    refusal_message: str | None
    actor: str
    create_time: datetime
    update_time: datetime


class Month(NamedTuple):
    """What is left of a month."""

    month: datetime
    usages: int
    """How many are there."""
    dropped: int
    """How many were dropped."""
    is_dropping: bool
    was_dropped: bool
    """Whether a drop has ended, also one that found nothing to drop."""
    size_bytes: int = 0


def parse_month(text: str) -> datetime:
    """Return the beginning of a month such as `2026-01`."""
    year, month = text.split("-")
    return datetime(int(year), int(month), 1, tzinfo=UTC)


def end_of(month: datetime) -> datetime:
    return month_of(month + timedelta(days=32))


def is_over(retention: Retention, month: datetime, now: datetime) -> bool:
    """Tell whether the retention of a month is over."""
    if not retention.months:
        return False
    present = month_of(now)
    return (present.year - month.year) * 12 + present.month - month.month > retention.months


def is_closed(month: datetime, now: datetime) -> bool:
    """Tell whether no usage of a month is taken any more."""
    return now >= end_of(month) + CLOSED_AFTER


def difference(exported: Numbers, found: Numbers) -> str | None:
    """Return how what is recorded differs from its export, in words; None if it does not."""
    if exported.usage_count != found.usage_count:
        return f"the export has {exported.usage_count} usages, and {found.usage_count} are recorded"
    if exported.costs != found.costs:
        return f"the export costs {_text(exported)}, and what is recorded {_text(found)}"
    if exported.digest != found.digest:
        return f"the digest of the export is {exported.digest}, that of what is recorded {found.digest}"
    return None


def _text(numbers: Numbers) -> str:
    return ", ".join(f"{format_amount(total)} {code}" for code, total in numbers.costs.items()) or "nothing"
