"""How much a job does at a time beside usage that is recorded: pure rules, which the worker tells what it sees.

Who records waits for what a part of a job does at the same time: for its work in this process and in billing's ledger,
and for processors. So a part is small, and a pause follows that is some times as long as it. How small and how long
follows from what recording takes: calls during which a part was at work are compared with calls in the pauses, which
whatever else the machine does slows down alike.
"""

import math
from typing import Final

PART_LEAST: Final = 10
PART_MOST: Final = 100
_PART_FIRST: Final = 25
_PAUSE_LEAST: Final = 1.0
_PAUSE_MOST: Final = 16.0
_PAUSE_FIRST: Final = 3.0
"""How many times as long as its part a pause is."""
PAUSE_MAX_S: Final = 0.5
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
        self._running = 0
        self._ended_s = -math.inf
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

    def begin(self) -> None:
        """Note that a part begins."""
        self._running += 1

    def end(self, now_s: float) -> None:
        """Note that a part has ended."""
        self._running -= 1
        self._ended_s = now_s

    def note(self, began_s: float, now_s: float) -> None:
        """Note that a call which records usage has ended."""
        was_beside = self.is_beside(now_s)
        self._recorded_s = now_s
        if not was_beside:
            return  # The job did not know of it, and worked as if alone.
        is_beside_part = self._running > 0 or self._ended_s >= began_s
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
