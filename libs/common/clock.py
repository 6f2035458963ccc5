"""Time as a dependency, so that tests can move it."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time by which decisions about money, expiry and windows are made."""

    def now(self) -> datetime:
        """Return the present as an aware datetime in UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)
