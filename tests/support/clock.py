"""Clocks that a test moves."""

from datetime import UTC, datetime, timedelta

DEFAULT_NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


class ShiftedClock:
    """The machine's clock, which a test moves forward: for servers whose clients need the time to pass."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, by: timedelta) -> None:
        self._ahead += by


class FixedClock:
    """A clock for tests about time: only the test sets it."""

    def __init__(self, now: datetime = DEFAULT_NOW) -> None:
        if now.tzinfo is None:
            raise ValueError("A time without a zone is no time.")
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        """Moves the clock forward, or back where `by` is negative, like a system clock that is corrected."""
        self._now += by

    def set(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError("A time without a zone is no time.")
        self._now = now
