"""Signing in with a password."""

from libs.common.clock import Clock
from libs.common.database import Database
from services.identity.api_key.secret import Peppers
from services.identity.email_address import folded_login
from services.identity.errors import SignInRefused, TooManyAttempts
from services.identity.passwords import Passwords
from services.identity.session import attempt_store, store
from services.identity.session.attempts import address_digest
from services.identity.session.domain import AttemptLimits, Opened, SignInMethod, time_to_wait
from services.identity.session.opening import SessionOpening
from services.identity.session.outcomes import SIGNED_IN, TOO_MANY_ATTEMPTS, count_refusal, count_sign_in
from services.identity.user.credential_store import note_sign_in, replace_outdated_hash


class PasswordSignIn:
    """Signs users in with their passwords; every failure gets the same answer."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        passwords: Passwords,
        peppers: Peppers,
        opening: SessionOpening,
        limits: AttemptLimits,
    ) -> None:
        self._database = database
        self._clock = clock
        self._passwords = passwords
        self._peppers = peppers
        self._opening = opening
        self._limits = limits

    async def sign_in(self, login: str, password: str) -> Opened:
        """Open a session of the user with this email or username.

        Raises:
            SignInRefused: there is no such active user, they have no password, or another one.
            TooManyAttempts: there were too many for the login or from the address.
            Overloaded: as many passwords wait to be hashed as may.
        """
        account = self._peppers.digest(f"attempts on the account\n{folded_login(login)}")
        found = await self._find(login, account)
        user_id, stored = found or ("", None)
        # No connection is held while hashing. An unknown user takes as long as a known one.
        verification = await self._passwords.verify(stored, password)
        if stored is None or not verification.right:
            raise _refused()
        renewed = await self._passwords.hash(password) if verification.outdated else None
        opened = await self._open(user_id, stored, renewed, account)
        count_sign_in(SignInMethod.PASSWORD, SIGNED_IN)
        return opened

    async def _find(self, login: str, account: bytes) -> tuple[str, str | None] | None:
        """Count the attempt first, then read the password's hash."""
        now = self._clock.now()
        attempts = await attempt_store.count_attempt(
            self._database,
            address_digest=address_digest(self._peppers),
            account_digest=account,
            address_max=self._limits.per_address,
            now=now,
        )
        wait = time_to_wait(attempts, self._limits, now)
        if wait is not None:
            count_sign_in(SignInMethod.PASSWORD, TOO_MANY_ATTEMPTS)
            raise TooManyAttempts(wait=wait)
        async with self._database.transaction() as tx:
            return await store.find_password(tx, login)

    async def _open(self, user_id: str, stored: str, renewed: str | None, account: bytes) -> Opened:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            held = await store.hold_active_user(tx, user_id)
            # While the password was hashed, the user may have been deactivated or have changed it.
            if held is None or held.password_hash != stored:
                raise _refused()
            if renewed is not None:
                await replace_outdated_hash(tx, user_id, outdated=stored, renewed=renewed)
            await note_sign_in(tx, user_id, now)
            await attempt_store.clear_attempts(tx, account)
            return await self._opening.open(
                tx,
                user_id=user_id,
                personal_organization_id=held.personal_organization_id,
                method=SignInMethod.PASSWORD,
                provider="",
                now=now,
            )


def _refused() -> SignInRefused:
    count_refusal(SignInMethod.PASSWORD, SignInRefused.reason)
    return SignInRefused()
