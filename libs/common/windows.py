"""Dividing a span, such as one of time, into windows of about as many rows as one statement should read."""

from typing import Final, NamedTuple

_SHRINK: Final = 16
_GROW_MAX: Final = 4


class Span(NamedTuple):
    """From `start` until before `end`: whole numbers, such as microseconds."""

    start: int
    end: int


class Windows:
    """The windows of a span, one after the other. How many rows a window has is learned from those before it."""

    def __init__(self, whole: Span, *, rows_wanted: int, rows_max: int, shortest: int = 1, unit: int = 1) -> None:
        """Divide a span into windows of about `rows_wanted` and at most `rows_max` rows.

        No window is shorter than `shortest`, whatever it holds. The span begins at a multiple of `unit`; so does every
        window.
        """
        self._end = whole.end
        self._start = whole.start
        self._length = whole.end - whole.start
        self._rows_wanted = rows_wanted
        self._rows_max = rows_max
        self._shortest = shortest
        self._unit = unit

    @property
    def done(self) -> bool:
        return self._start >= self._end

    @property
    def next(self) -> Span:
        """The window to look at next."""
        reached = (self._start + self._length) // self._unit * self._unit
        return Span(self._start, min(max(reached, self._start + self._unit), self._end))

    def take(self, rows: int) -> bool:
        """Take the number of rows in the next window; return whether it is to be read now, or is too large.

        The shortest window is read whatever it holds.
        """
        if rows > self._rows_max and self.next.end - self._start > max(self._shortest, self._unit):
            self._length = max(self._length // _SHRINK, self._shortest)
            return False
        self._start = self.next.end
        self._length = max(int(self._length * min(_GROW_MAX, self._rows_wanted / max(rows, 1))), 1)
        return True
