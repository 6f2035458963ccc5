"""Linked identities and passwords: what a user signs in with."""

from typing import Protocol

from libs.common.access import CallerKind
from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_caller, is_operator
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, PermissionDenied
from services.identity.errors import LastWayToSignIn, TooManyIdentities, WrongPassword
from services.identity.oidc import IdTokens
from services.identity.passwords import Passwords, password_problem
from services.identity.user import credential_store, store
from services.identity.user.domain import (
    IDENTITIES_MAX,
    IdTokenClaim,
    LinkedIdentity,
    PasswordChange,
    User,
    existing,
    is_last_way_in,
)


class ProofAttempts(Protocol):
    """Counts how often users try to prove their current password."""

    async def count(self, user_id: str) -> None:
        """Count one attempt; raise TooManyAttempts beyond the limit."""

    async def clear(self, user_id: str) -> None:
        """Reset the count of a user who gave the right password."""


class SignInMethods:
    """Adds and removes ways to sign in; the last one cannot be removed."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        passwords: Passwords,
        id_tokens: IdTokens,
        attempts: ProofAttempts,
        *,
        length_min: int,
    ) -> None:
        self._database = database
        self._clock = clock
        self._passwords = passwords
        self._id_tokens = id_tokens
        self._attempts = attempts
        self._length_min = length_min

    async def link(self, user_id: str, claim: LinkedIdentity | IdTokenClaim) -> User:
        """Link an identity to a user. Operators may name it; users prove it with an ID token.

        Raises:
            NotFound: there is no such user.
            PermissionDenied: a user names an identity without proof.
            InvalidIdToken: the token proves nothing.
            IdentityAlreadyLinked: another user signs in with it.
            TooManyIdentities: the user has as many as anybody may.
        """
        if isinstance(claim, IdTokenClaim):
            proven = await self._id_tokens.verify(claim.id_token, claim.nonce)
            identity = LinkedIdentity(proven.provider, proven.subject)
        elif is_operator():
            identity = claim
        else:
            raise PermissionDenied
        async with self._database.transaction() as tx:
            user = existing(await store.hold_user(tx, user_id), user_id)
            if identity in user.identities:
                return user
            if len(user.identities) >= IDENTITIES_MAX:
                raise TooManyIdentities(identities=len(user.identities))
            await credential_store.insert_identity(tx, user_id, identity, self._clock.now())
            return await self._note(tx, user, Changed("linked_identities", after=identity.provider))

    async def unlink(self, user_id: str, identity: LinkedIdentity) -> User:
        """Unlink an identity from a user; unlinking one they do not have changes nothing.

        Raises:
            NotFound: there is no such user.
            LastWayToSignIn: they sign in with nothing else.
        """
        async with self._database.transaction() as tx:
            user = existing(await store.hold_user(tx, user_id), user_id)
            if identity not in user.identities:
                return user
            if is_last_way_in(user, without=identity):
                raise LastWayToSignIn
            await credential_store.delete_identity(tx, user_id, identity)
            return await self._note(tx, user, Changed("linked_identities", before=identity.provider))

    async def set_password(self, user_id: str, change: PasswordChange) -> tuple[User, int]:
        """Set or remove a user's password, and end their other sessions; return the user, and how many sessions ended.

        Raises:
            NotFound: there is no such user.
            InvalidArgument: the new password is too short, too long, or easily guessed.
            WrongPassword: it is the caller's own, and they did not give the current one.
            TooManyAttempts: the current one was wrong too often.
            LastWayToSignIn: it is to be removed, and they sign in with nothing else.
            Overloaded: as many passwords are being hashed as may.
            Conflict: it was changed at the same time.
        """
        is_own = current_caller().kind is CallerKind.USER and current_caller().name == user_id
        async with self._database.transaction() as tx:
            user = existing(await store.find_user(tx, user_id), user_id)
            stored = await credential_store.find_password_hash(tx, user_id)
        if change.new_password is not None:
            problem = password_problem(change.new_password, user_words=user.known_words, length_min=self._length_min)
            if problem:
                raise InvalidArgument([FieldViolation("new_password", problem)])
        # No connection is held while hashing. Operators need no current password, except for their own account.
        if stored is not None and (is_own or not is_operator()):
            await self._attempts.count(user_id)
            verification = await self._passwords.verify(stored, change.current_password)
            if not verification.right:
                raise WrongPassword
            await self._attempts.clear(user_id)
        hashed = None if change.new_password is None else await self._passwords.hash(change.new_password)
        return await self._store_hash(user_id, stored, hashed, kept=current_caller().session_id if is_own else "")

    async def _store_hash(self, user_id: str, stored: str | None, hashed: str | None, *, kept: str) -> tuple[User, int]:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            user = existing(await store.hold_user(tx, user_id), user_id)
            if await credential_store.find_password_hash(tx, user_id) != stored:
                raise Conflict
            if hashed is None and stored is None:
                return user, 0
            if hashed is None and is_last_way_in(user, without=None):
                raise LastWayToSignIn
            await credential_store.set_password_hash(tx, user_id, hashed, now)
            ended = await credential_store.end_sessions(tx, user_id, now, "password_changed", kept_session_id=kept)
            return await self._note(tx, user, Changed("password")), ended

    async def _note(self, tx: Transaction, user: User, change: Changed) -> User:
        """Increment the user's version and record the change in the audit trail; return the user."""
        now = self._clock.now()
        await store.touch_user(tx, user.user_id, now)
        changed = existing(await store.find_user(tx, user.user_id), user.user_id)
        await record_event(
            tx,
            now=now,
            organization_id=user.personal_organization_id,
            resource_type="user",
            resource_id=user.user_id,
            changed=(change,),
        )
        return changed
