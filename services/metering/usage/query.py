"""What is asked about the sums of usage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

RANGE_MAX: Final = timedelta(days=3660)
UNIT: Final = "unit_id"
"""The dimension of units: a query that groups by it sums quantities and nothing else."""
ORGANIZATION: Final = "organization_id"
"""The dimension of organizations, which comes before the windows in the order of rows."""


class Measure(StrEnum):
    """What groups can be compared by."""

    REQUESTS = "requests"
    ERRORS = "errors"
    TOTAL_TOKENS = "total_tokens"
    QUANTITY = "quantity"
    COST = "cost"
    PROVIDER_COST = "provider_cost"
    MARGIN = "margin"


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure, with the currency or the unit that it needs."""

    measure: Measure
    currency_code: str = ""
    unit_id: str = ""


@dataclass(frozen=True, slots=True)
class Top:
    """Of how many groups the sums are wanted, and by what the groups are compared."""

    count: int
    by: Measured


@dataclass(frozen=True, slots=True)
class Query:
    """Which usage to sum, and by which windows and dimensions."""

    organization_id: str
    """Empty where the usage of several organizations is summed."""
    organization_ids: tuple[str, ...]
    """Which those are, where they are not all."""
    start_time: datetime
    end_time: datetime
    window: str | None
    group_by: tuple[str, ...]
    filters: dict[str, Sequence[str]]
    zone: ZoneInfo
    include_test: bool = False
    top: Top | None = None
    ranked: tuple[tuple[str, ...], ...] | None = None
    """The groups of a top, the largest first, once they are known. All others are one row then."""

    @property
    def by_unit(self) -> bool:
        return UNIT in self.group_by

    @property
    def by_organization(self) -> bool:
        return ORGANIZATION in self.group_by

    @property
    def further_groups(self) -> tuple[str, ...]:
        """The dimensions of a row that come after its window."""
        return tuple(name for name in self.group_by if name != ORGANIZATION)

    @property
    def leaves_out_test(self) -> bool:
        return not (self.include_test or "environment" in self.group_by or self.filters.get("environment"))


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a query that one statement reads."""

    organization_ids: Sequence[str]
    start_time: datetime
    end_time: datetime

    @property
    def halves(self) -> "tuple[Part, Part] | None":
        """Two parts that make up this one; None for one hour of one organization."""
        if len(self.organization_ids) > 1:
            middle = len(self.organization_ids) // 2
            first, second = self.organization_ids[:middle], self.organization_ids[middle:]
            return replace(self, organization_ids=first), replace(self, organization_ids=second)
        hours = (self.end_time - self.start_time) // timedelta(hours=1)
        if hours < 2:
            return None
        between = self.start_time + timedelta(hours=hours // 2)
        return replace(self, end_time=between), replace(self, start_time=between)
