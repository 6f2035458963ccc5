"""How much a job does at a time beside usage that is recorded: pure rules, which the worker tells what it sees.

Who records waits for what a part of a job does at the same time: for its work in this process and in billing's ledger,
and for processors. So a part is small, and a pause follows that is some times as long as it. How small and how long
follows from what recording takes: calls that began while a part was at work are compared with calls that began in a
pause, which whatever else the machine does slows down alike. When a call begins does not depend on how long it takes;
whether a part was at work at any time during it does, since long calls meet a part more often.
"""

import math
from collections import deque
from typing import Final

PART_LEAST: Final = 20
PART_MOST: Final = 100
_PART_FIRST: Final = 25
_PAUSE_LEAST: Final = 1.0
_PAUSE_MOST: Final = 6.0
_PAUSE_FIRST: Final = 3.0
"""How many times as long as its part a pause is."""
PAUSE_MAX_S: Final = 0.25
"""How long a pause is at most, so that a job comes to its end on the slowest machine, too."""
BESIDE_S: Final = 1.0
"""For how long usage counts as recorded beside."""
_SLOWER: Final = 1.33
"""A job gives way where calls take so many times as long beside a part as in the pauses, on average."""
_QUICK: Final = 1.15
"""It does more where they take less than that."""
_STEP: Final = 1.5
_CALLS: Final = 32
"""How many calls of each kind are compared."""
_PARTS: Final = 16
"""How many parts are remembered. A call that began before them is not compared."""
_CALLS_WITHOUT_PAUSE: Final = 8 * _CALLS
"""After so many calls beside parts, without enough others to compare them with, a job gives way, too."""


class _Calls:
    """Calls of one kind since they were last compared."""

    __slots__ = ("count", "total_s")

    def __init__(self) -> None:
        self.count, self.total_s = 0, 0.0

    def add(self, duration_s: float) -> None:
        self.count += 1
        self.total_s += duration_s

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count


class Pace:
    """Gives way to usage that is recorded. Times are of one clock that never goes back."""

    def __init__(self) -> None:
        self._part: float = _PART_FIRST
        self._pause = _PAUSE_FIRST
        self._parts: deque[tuple[float, float]] = deque(maxlen=_PARTS)
        """When the last parts began and ended; the end is infinite while a part is at work."""
        self._recorded_s = -math.inf
        self._beside, self._between = _Calls(), _Calls()

    def is_beside(self, now_s: float) -> bool:
        """Tell whether usage is recorded."""
        return now_s - self._recorded_s < BESIDE_S

    @property
    def part(self) -> int:
        """How many usages a part has beside usage that is recorded."""
        return int(self._part)

    def pause_s(self, duration_s: float) -> float:
        """Return how long to pause after a part that took so long."""
        return min(self._pause * duration_s, PAUSE_MAX_S)

    def begin(self, now_s: float) -> None:
        """Note that a part begins. Parts beside usage that is recorded come one after another."""
        self._parts.append((now_s, math.inf))

    def end(self, now_s: float) -> None:
        """Note that the part has ended."""
        self._parts[-1] = self._parts[-1][0], now_s

    def note(self, began_s: float, now_s: float) -> None:
        """Note that a call which records usage has ended."""
        self._recorded_s = now_s
        if not self._parts or not self._parts[0][0] <= began_s < self._parts[-1][1] + BESIDE_S:
            return  # No job is at work beside it.
        is_beside_part = any(start_s <= began_s < end_s for start_s, end_s in self._parts)
        (self._beside if is_beside_part else self._between).add(now_s - began_s)
        self._compare()

    def _compare(self) -> None:
        beside, between = self._beside, self._between
        if beside.count < _CALLS:
            return
        if between.count >= _CALLS:
            ratio = beside.mean_s / between.mean_s
        elif beside.count >= _CALLS_WITHOUT_PAUSE:
            ratio = math.inf
        else:
            return
        if ratio > _SLOWER:
            self._change(1 / _STEP)
        elif ratio < _QUICK:
            self._change(_STEP)
        self._beside, self._between = _Calls(), _Calls()

    def _change(self, factor: float) -> None:
        self._part = min(max(self._part * factor, PART_LEAST), PART_MOST)
        self._pause = min(max(self._pause / factor, _PAUSE_LEAST), _PAUSE_MOST)
