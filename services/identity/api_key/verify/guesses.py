"""How many unknown secrets are looked up for one address: guessing is slowed down, and the database spared.

A secret that nobody has costs a read, and random ones are never remembered. So an address that keeps presenting them
is soon asked to wait. It is told so, rather than that its key is unknown: behind the same address may be somebody with
a good one, and keys that are remembered go on working.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from libs.common.addresses import site_of
from services.identity.errors import TooManyUnknownKeys

GUESSES_A_MINUTE: Final = 20
_REFILL_S: Final = 60 / GUESSES_A_MINUTE
_SITES_MAX: Final = 10_000


class Guesses:
    """One bucket for each address that has guessed lately; the longest quiet is forgotten first."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._spent_until_s: OrderedDict[str, float] = OrderedDict()

    def check(self, client_address: str) -> None:
        """Let a look at the database pass; without an address nobody is counted.

        Raises:
            TooManyUnknownKeys: the address has presented as many as it may.
        """
        if not client_address or not self._spent_until_s:
            return
        spent_until_s = self._spent_until_s.get(site_of(client_address))
        if spent_until_s is None:
            return
        wait_s = spent_until_s - self._monotonic_s() - (GUESSES_A_MINUTE - 1) * _REFILL_S
        if wait_s > 0:
            raise TooManyUnknownKeys(wait_ms=math.ceil(wait_s * 1000))

    def note(self, client_address: str) -> None:
        """Count a secret that nobody has. Those that were looked up together all count, up to twice the measure."""
        site = site_of(client_address)
        if not site:
            return
        now_s = self._monotonic_s()
        spent_until_s = max(self._spent_until_s.get(site, now_s), now_s) + _REFILL_S
        self._spent_until_s[site] = min(spent_until_s, now_s + 2 * GUESSES_A_MINUTE * _REFILL_S)
        self._spent_until_s.move_to_end(site)
        if len(self._spent_until_s) > _SITES_MAX:
            self._spent_until_s.popitem(last=False)
