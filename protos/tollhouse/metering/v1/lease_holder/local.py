"""A lease in the memory of its holder.

It gives out no more than the lease has, and nothing after its end. It is for one thread, such as that of an event loop.
"""

import time
from collections.abc import Callable, Mapping
from decimal import Decimal

Value = int | Decimal


class LocalLease:
    """What is left of a lease, and until when.

    Amounts are whole numbers or decimals by metric; `spend` is in the lease's currency.
    """

    __slots__ = ("_clock", "_out", "_rest", "amounts", "end_s", "lease_id")

    def __init__(
        self, lease_id: str, amounts: Mapping[str, Value], end_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`end_s` is on the monotonic clock: when the lease was asked for, plus its ttl."""
        self.lease_id = lease_id
        self.amounts = dict(amounts)
        self.end_s = end_s
        self._rest = dict(amounts)
        self._out: dict[str, Value] = dict.fromkeys(amounts, 0)
        self._clock = clock

    @property
    def is_over(self) -> bool:
        """Whether its time is over: nothing is given out any more."""
        return self._clock() >= self.end_s

    @property
    def rest(self) -> Mapping[str, Value]:
        """What can still be taken of each metric."""
        return self._rest

    def take(self, amounts: Mapping[str, Value]) -> bool:
        """Take amounts, all or none; tell whether they were there. A metric that the lease does not have is not.

        Raises:
            ValueError: an amount is below zero.
        """
        if self._clock() >= self.end_s:
            return False
        rest = self._rest
        for metric, value in amounts.items():
            left = rest.get(metric)
            if left is None or value > left:
                return False
            if value < 0:
                raise ValueError(f"{metric} is below zero: {value}")
        for metric, value in amounts.items():
            rest[metric] -= value
            self._out[metric] += value
        return True

    def give_back(self, amounts: Mapping[str, Value]) -> None:
        """Give back what was taken and not used.

        Raises:
            ValueError: more is given back than is taken, or less than nothing. Nothing is given back then.
        """
        for metric, value in amounts.items():
            if not 0 <= value <= self._out.get(metric, 0):
                raise ValueError(f"{value} of {metric} cannot be given back: {self._out.get(metric, 0)} is taken")
        for metric, value in amounts.items():
            self._rest[metric] += value
            self._out[metric] -= value
