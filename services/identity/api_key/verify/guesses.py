"""Limits how many unknown secrets are looked up for one address, which slows guessing down and spares the database.

A secret that no key has costs a read, and random ones are never in the cache. An address that keeps presenting them is
refused for a while with TooManyUnknownKeys. It does not get NOT_FOUND, because somebody else behind the same address
may have a valid key. Cached keys go on working.
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
    """A leaky bucket for each address that presented unknown secrets; the least recently used is dropped first."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._spent_until_s: OrderedDict[str, float] = OrderedDict()

    def check(self, client_address: str) -> None:
        """Check the limit before a database read; calls without an address are not limited.

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

    def left(self, client_address: str) -> int:
        """Return for how many more unknown secrets `check` would pass now, one after another; 0 where it refuses."""
        spent_until_s = self._spent_until_s.get(site_of(client_address))
        if spent_until_s is None:
            return GUESSES_A_MINUTE
        spent_s = max(spent_until_s - self._monotonic_s(), 0.0)
        return max(math.floor(GUESSES_A_MINUTE - spent_s / _REFILL_S), 0)

    def note(self, client_address: str) -> None:
        """Count an unknown secret. Concurrent lookups all count, up to twice the limit."""
        site = site_of(client_address)
        if not site:
            return
        now_s = self._monotonic_s()
        spent_until_s = max(self._spent_until_s.get(site, now_s), now_s) + _REFILL_S
        self._spent_until_s[site] = min(spent_until_s, now_s + 2 * GUESSES_A_MINUTE * _REFILL_S)
        self._spent_until_s.move_to_end(site)
        if len(self._spent_until_s) > _SITES_MAX:
            self._spent_until_s.popitem(last=False)
