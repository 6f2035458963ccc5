"""Limits how often passwords are tried for an account, and how many wrong tokens come from an address."""

from libs.common.addresses import site_of
from libs.common.call import current_call
from libs.common.clock import Clock
from libs.common.database import Database
from services.identity.api_key.secret import Peppers
from services.identity.errors import TooManyAttempts
from services.identity.session import attempt_store
from services.identity.session.domain import AttemptLimits, time_to_wait, wait_of


class ProofAttempts:
    """Counts how often signed-in users fail to prove their current password.

    These are counted separately from sign-ins of the same user: whoever stole a session can neither find the password
    with it nor keep the owner from signing in.
    """

    def __init__(self, database: Database, clock: Clock, peppers: Peppers, limits: AttemptLimits) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers
        self._limits = limits

    async def count(self, user_id: str) -> None:
        """Count an attempt before it is processed.

        Raises:
            TooManyAttempts: there were too many of the user or from the address.
        """
        now = self._clock.now()
        attempts = await attempt_store.count_attempt(
            self._database,
            address_digest=address_digest(self._peppers),
            account_digest=self._digest(user_id),
            address_max=self._limits.per_address,
            now=now,
        )
        wait = time_to_wait(attempts, self._limits, now)
        if wait is not None:
            raise TooManyAttempts(wait=wait)

    async def clear(self, user_id: str) -> None:
        """Reset the count of a user who gave the right password."""
        async with self._database.transaction() as tx:
            await attempt_store.clear_attempts(tx, self._digest(user_id))

    def _digest(self, user_id: str) -> bytes:
        return self._peppers.digest(f"proofs of the password of the user\n{user_id}")


class WrongTokens:
    """Counts the wrong tokens from an address: ID tokens, and refresh tokens that never existed.

    Tokens cannot be guessed; the limit makes wrong ones cheap, because only the count is read. Valid tokens are not
    counted, because many people may share one address.
    """

    def __init__(self, database: Database, clock: Clock, peppers: Peppers, *, per_address: int) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers
        self._per_address = per_address

    async def check(self) -> None:
        """Check the limit before a token is verified.

        Raises:
            TooManyAttempts: too many from the address were wrong.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            counted = await attempt_store.find_count(tx, self._digest(), now)
        wait = wait_of(counted, self._per_address - 1, now)
        if wait is not None:
            raise TooManyAttempts(wait=wait)

    async def note(self) -> None:
        """Count a wrong token."""
        await attempt_store.count_one(self._database, self._digest(), self._clock.now())

    def _digest(self) -> bytes:
        return self._peppers.digest(f"wrong tokens from the address\n{_site()}")


def address_digest(peppers: Peppers) -> bytes:
    """Return the digest of the current call's address; addresses themselves are not stored."""
    return peppers.digest(f"attempts from the address\n{_site()}")


def _site() -> str:
    call = current_call()
    return site_of(call.peer_address if call else "")
