"""How often a password may be tried, wherever it is asked for."""

from ipaddress import IPv6Address, ip_address
from typing import Final

from libs.common.call import current_call
from libs.common.clock import Clock
from libs.common.database import Database
from services.identity.api_key.secret import Peppers
from services.identity.errors import TooManyAttempts
from services.identity.session import attempt_store
from services.identity.session.model import AttemptLimits, time_to_wait

# An IPv6 customer has a network of this size to take addresses from.
_IPV6_BITS_KEPT: Final = 64


class ProofAttempts:
    """Counts how often signed-in users try to prove that they know their own password.

    They are counted apart from sign-ins of the same user: whoever got hold of a session must be able neither to find
    the password with it nor to keep its owner from signing in.
    """

    def __init__(self, database: Database, clock: Clock, peppers: Peppers, limits: AttemptLimits) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers
        self._limits = limits

    async def count(self, user_id: str) -> None:
        """Count an attempt before anything is done for it.

        Raises:
            TooManyAttempts: there were too many of the user or from the address.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            attempts = await attempt_store.count_attempt(
                tx,
                address_digest=address_digest(self._peppers),
                account_digest=self._digest(user_id),
                address_max=self._limits.per_address,
                now=now,
            )
        wait = time_to_wait(attempts, self._limits, now)
        if wait is not None:
            raise TooManyAttempts(retry_after_ms=round(wait.total_seconds() * 1000))

    async def clear(self, user_id: str) -> None:
        """Forget the attempts of a user who has just proved it."""
        async with self._database.transaction() as tx:
            await attempt_store.clear_attempts(tx, self._digest(user_id))

    def _digest(self, user_id: str) -> bytes:
        return self._peppers.digest(f"proofs of the password of the user\n{user_id}")


def address_digest(peppers: Peppers) -> bytes:
    """Return what stands for the address the call being handled came from; addresses themselves are not kept."""
    call = current_call()
    return peppers.digest(f"attempts from the address\n{_network(call.peer_address if call else '')}")


def _network(address: str) -> str:
    """Return what attempts from an address are counted under: it alone, or the network one IPv6 customer has."""
    if not address:
        return ""
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> (128 - _IPV6_BITS_KEPT):x}/{_IPV6_BITS_KEPT}"
