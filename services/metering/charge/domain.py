"""The charges that metering asks for, and in which portions usage is read."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

ROWS_MAX: Final = 120_000
"""At most about how many rows one statement for digests reads."""
ROWS_WANTED: Final = 80_000
MICROSECOND: Final = timedelta(microseconds=1)
SHORTEST_US: Final = 1_000
"""Shorter windows are not tried: then the organizations are read one by one."""


class Charge(NamedTuple):
    """One charge metering has asked for; its state is SETTLED once billing has confirmed it."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str
    state: str
    occur_time: datetime


class ChargedUsage(NamedTuple):
    """The usage behind a charge, as far as an invoice tells it."""

    model: str
    service_tier: str
    price_version_id: str | None
    quantities: Mapping[str, str]
    """Plain decimals by unit, the token classes included."""


class PendingCharge(NamedTuple):
    """One charge billing has not confirmed."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str
    state: str
    attempt_count: int
    last_error_reason: str | None
    next_attempt_time: datetime
    create_time: datetime

    @property
    def key(self) -> tuple[datetime, str, str]:
        """By which the pending charges are sorted."""
        return self.create_time, self.organization_id, self.operation_id


class Window(NamedTuple):
    """The usage of some organizations from `start` until before `end`."""

    organization_ids: Sequence[str]
    start: datetime
    end: datetime
