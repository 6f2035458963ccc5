"""Signing in and up with an ID token or an access token of an identity provider."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from libs.common.audit.recording import Changed
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.ids import new_id
from services.identity.email_address import folded_email
from services.identity.errors import (
    IdentityAlreadyLinked,
    InvalidAccessToken,
    InvalidIdToken,
    SignInRefused,
    SignUpRefused,
    TooManyAttempts,
    TooManyIdentities,
    UserAlreadyExists,
)
from services.identity.oidc import IdTokens, VerifiedIdentity
from services.identity.openshift import OpenShiftUsers
from services.identity.session import store
from services.identity.session.attempts import WrongTokens
from services.identity.session.domain import Opened, SignInMethod
from services.identity.session.opening import SessionOpening
from services.identity.session.outcomes import REFUSED, SIGNED_IN, TOO_MANY_ATTEMPTS, count_refusal, count_sign_in
from services.identity.user.credential_store import find_user_of_identity, insert_identity, note_sign_in
from services.identity.user.domain import IDENTITIES_MAX, LinkedIdentity, NewUser
from services.identity.user.store import insert_user


class ProviderRules(Protocol):
    """The settings of a provider that decide who may sign up and who is linked."""

    @property
    def sign_up(self) -> bool: ...

    @property
    def link_verified_email(self) -> bool: ...


class ProviderSignIn:
    """Signs in people whom a provider has identified."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        id_tokens: IdTokens,
        openshift_users: OpenShiftUsers,
        opening: SessionOpening,
        wrong_tokens: WrongTokens,
    ) -> None:
        self._database = database
        self._clock = clock
        self._id_tokens = id_tokens
        self._openshift_users = openshift_users
        self._opening = opening
        self._wrong_tokens = wrong_tokens

    async def by_id_token(self, id_token: str, nonce: str) -> Opened:
        """Open a session of the user whose identity an ID token proves; the identity may become a new user.

        Raises:
            InvalidIdToken: the token is not to be believed.
            SignInRefused: the user is deactivated.
            SignUpRefused: nobody knows them, and they cannot become a user this way.
            UserAlreadyExists: they would become a user, but another one has their email.
            Unavailable: the provider's keys cannot be had now.
            TooManyAttempts: too many tokens from the address were wrong.
        """
        identity = await self._verified(id_token, nonce)
        return await self._let_in_counted(identity, self._id_tokens.issuer_of(identity.provider), SignInMethod.ID_TOKEN)

    async def by_access_token(self, provider: str, access_token: str) -> Opened:
        """Open a session of the user whose OpenShift access token it is; the person may become a new user.

        Raises:
            ProviderNotConfigured: no such cluster is configured.
            InvalidAccessToken: the cluster does not accept the token, or it is not a person's.
            SignInRefused: the user is deactivated.
            SignUpRefused: nobody knows them, and they cannot become a user this way.
            UserAlreadyExists: they would become a user, but another one has their email or username.
            Overloaded: too many tokens wait for the cluster.
            Unavailable: the cluster cannot be asked now.
        """
        cluster = self._openshift_users.cluster_of(provider)
        try:
            identity = await self._openshift_users.identify(provider, access_token)
        except InvalidAccessToken as refusal:
            count_refusal(SignInMethod.ACCESS_TOKEN, refusal.reason, provider)
            raise
        return await self._let_in_counted(identity, cluster, SignInMethod.ACCESS_TOKEN)

    async def _let_in_counted(self, identity: VerifiedIdentity, rules: ProviderRules, method: SignInMethod) -> Opened:
        try:
            opened = await self._let_in_retried(identity, rules, method)
        except (SignInRefused, SignUpRefused, TooManyIdentities, UserAlreadyExists) as refusal:
            count_refusal(method, refusal.reason, identity.provider)
            raise
        count_sign_in(method, SIGNED_IN, identity.provider)
        return opened

    async def _verified(self, id_token: str, nonce: str) -> VerifiedIdentity:
        try:
            await self._wrong_tokens.check()
            return await self._id_tokens.verify(id_token, nonce)
        except TooManyAttempts:
            count_sign_in(SignInMethod.ID_TOKEN, TOO_MANY_ATTEMPTS)
            raise
        except InvalidIdToken:  # Whoever checked it has logged why.
            count_sign_in(SignInMethod.ID_TOKEN, REFUSED)
            await self._wrong_tokens.note()
            raise

    async def _let_in_retried(self, identity: VerifiedIdentity, rules: ProviderRules, method: SignInMethod) -> Opened:
        try:
            return await self._let_in(identity, rules, method)
        except (IdentityAlreadyLinked, UserAlreadyExists):
            # A concurrent first sign-in of the same person has just created the user: try again, as that user.
            return await self._let_in(identity, rules, method)

    async def _let_in(self, identity: VerifiedIdentity, rules: ProviderRules, method: SignInMethod) -> Opened:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            linked = LinkedIdentity(identity.provider, identity.subject)
            known_id = await find_user_of_identity(tx, linked)
            found_id = known_id or await self._find_by_email(tx, identity, rules)
            user_id = found_id or await self._sign_up(tx, identity, rules, now)
            user_changes: list[Sequence[Changed]] = [()] if found_id is None else []
            if known_id is None:
                await insert_identity(tx, user_id, linked, now)
                user_changes.append([Changed("linked_identities", after=identity.provider)])
            held = await store.hold_active_user(tx, user_id)
            if held is None:
                raise SignInRefused
            vouched = _vouches(identity, rules) and held.email_folded == folded_email(identity.email)
            await note_sign_in(tx, user_id, now, email_verified=vouched)
            opened = await self._opening.open(
                tx,
                user_id=user_id,
                personal_organization_id=held.personal_organization_id,
                method=method,
                provider=identity.provider,
                now=now,
                user_changes=user_changes,
            )
        return Opened(opened.session, opened.refresh_token, user_created=found_id is None)

    async def _find_by_email(self, tx: Transaction, identity: VerifiedIdentity, rules: ProviderRules) -> str | None:
        """Return the user with the verified email whom the identity may be linked to; None when no user has the email.

        That an email is taken is revealed only to a person for whom a provider has verified it.
        """
        owner = await store.find_email_owner(tx, identity.email) if identity.email_verified else None
        if owner is None:
            return None
        # An unverified email may have been entered by somebody else, who waits for its owner to be linked.
        if not (_vouches(identity, rules) and owner.email_verified):
            if not rules.sign_up:
                raise _sign_up_refused()
            raise UserAlreadyExists(field="email")
        if await store.count_identities(tx, owner.user_id) >= IDENTITIES_MAX:
            raise TooManyIdentities(identities=IDENTITIES_MAX)
        return owner.user_id

    async def _sign_up(self, tx: Transaction, identity: VerifiedIdentity, rules: ProviderRules, now: datetime) -> str:
        if not rules.sign_up:
            raise _sign_up_refused()
        # A cluster verifies no emails; where it may sign people up, the settings say which email they get.
        if not (identity.email_verified or (identity.username and identity.email)):
            raise SignUpRefused(cause="the provider has not verified its email, or gives no name that can be one")
        user_id = new_id()
        new = NewUser(
            email=identity.email,
            username=identity.username,
            full_name=identity.full_name,
            picture_url=identity.picture_url,
        )
        await insert_user(tx, user_id, new, now, email_verified=_vouches(identity, rules))
        return user_id


def _vouches(identity: VerifiedIdentity, rules: ProviderRules) -> bool:
    """Return whether the email was verified by a provider that is trusted to link accounts by email."""
    return identity.email_verified and rules.link_verified_email


def _sign_up_refused() -> SignUpRefused:
    return SignUpRefused(cause="nobody becomes a user through this provider")
