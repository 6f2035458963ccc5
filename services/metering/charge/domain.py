"""The charges that metering asks for, and in which portions usage is read."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

ROWS_MAX: Final = 120_000
"""At most about how many rows one statement for digests reads."""
ROWS_WANTED: Final = 80_000
MICROSECOND: Final = timedelta(microseconds=1)
SHORTEST: Final = timedelta(milliseconds=1)
"""Shorter windows are not tried: then the organizations are read one by one."""
_SHRINK: Final = 16
_GROW_MAX: Final = 4


class Charge(NamedTuple):
    """One charge metering has asked for; its state is SETTLED once billing has confirmed it."""

    organization_id: str
    operation_id: str
    amount: Decimal
    currency_code: str
    state: str
    occur_time: datetime


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


class Windows:
    """Divides the time of organizations into windows of about as many rows as one statement should read.

    How many rows a window has is learned from the windows before it.
    """

    def __init__(self, whole: Window) -> None:
        self._whole = whole
        self._start = whole.start
        self._length = whole.end - whole.start

    @property
    def done(self) -> bool:
        return self._start >= self._whole.end

    @property
    def next(self) -> Window:
        """The window to look at next."""
        return self._whole._replace(start=self._start, end=min(self._start + self._length, self._whole.end))

    def take(self, rows: int) -> bool:
        """Take the number of rows in the next window; return whether it is to be read now, or is too large.

        The shortest window is read whatever it holds.
        """
        if rows > ROWS_MAX and self._length > SHORTEST:
            self._length = max(self._length / _SHRINK, SHORTEST)
            return False
        self._start = self.next.end
        self._length = max(self._length * min(_GROW_MAX, ROWS_WANTED / max(rows, 1)), MICROSECOND)
        return True
