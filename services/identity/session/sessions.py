"""Exchanging refresh tokens, ending sessions and listing them."""

from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from services.identity.api_key.secret import Peppers
from services.identity.errors import InvalidRefreshToken
from services.identity.session import refresh_token, store
from services.identity.session.attempts import WrongTokens
from services.identity.session.domain import EndReason, Opened, RefreshToken, Session
from services.identity.session.outcomes import log_reuse
from services.identity.token_form import digest


class Sessions:
    """Manages the sessions of users."""

    def __init__(self, database: Database, clock: Clock, peppers: Peppers, wrong_tokens: WrongTokens) -> None:
        self._database = database
        self._clock = clock
        self._peppers = peppers
        self._wrong_tokens = wrong_tokens

    async def refresh(self, token: str, *, request_id: str) -> Opened:
        """Exchange a refresh token for its successor; a repeat with the same request id gets the same one.

        Raises:
            InvalidRefreshToken: it is none, was exchanged before, or its session is over.
            TooManyAttempts: too many tokens from the address were wrong.
        """
        if not refresh_token.FORM.is_well_formed(token):
            raise InvalidRefreshToken
        await self._wrong_tokens.check()
        try:
            return await self._refresh(token, request_id)
        except InvalidRefreshToken:
            await self._wrong_tokens.note()
            raise

    async def _refresh(self, token: str, request_id: str) -> Opened:
        """Exchange a token. One that was used before ends its session; that is committed before the call is refused."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            known = await store.lock_refresh_token(tx, digest(token), now)
            if known is None or not known.is_live:
                raise InvalidRefreshToken
            if known.successor_digest is None:
                return await self._exchange(tx, known.session, token, request_id, now)
            successor = await self._repeated(tx, token, request_id, known.successor_digest)
            if successor is not None:
                return Opened(known.session, successor, replayed=True)
            await self._end_family(tx, known, now)
        log_reuse(known.session.session_id)
        raise InvalidRefreshToken

    async def sign_out(self, user_id: str, *, session_id: str) -> int:
        """End one session of a user, or all when none is named; return how many."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            # Lock order: the user, then their sessions, then the audit trail.
            organization_id = await store.hold_user(tx, user_id)
            if organization_id is None:
                return 0
            ended = await store.end_sessions(tx, user_id, now, EndReason.SIGNED_OUT, session_id=session_id)
            if ended:
                await record_event(
                    tx,
                    now=now,
                    organization_id=organization_id,
                    resource_type="session" if session_id else "user",
                    resource_id=session_id or user_id,
                    changed=(Changed("end_reason", after=EndReason.SIGNED_OUT.value),),
                )
        return ended

    async def page(self, user_id: str, *, before: str | None, size: int) -> tuple[list[Session], bool]:
        """Return a page of the sessions that have not ended, and whether more follow."""
        async with self._database.transaction() as tx:
            found = await store.list_sessions(tx, user_id, now=self._clock.now(), before=before, limit=size + 1)
        return found[:size], len(found) > size

    async def _exchange(self, tx: Transaction, session: Session, token: str, request_id: str, now: datetime) -> Opened:
        derived = bool(request_id)
        successor = (
            refresh_token.derived_token(self._peppers, token, request_id) if derived else refresh_token.FORM.new()
        )
        await store.exchange_refresh_token(tx, session, digest(token), digest(successor), now)
        return Opened(session.refreshed(now), successor)

    async def _repeated(self, tx: Transaction, token: str, request_id: str, successor_digest: bytes) -> str | None:
        """Return the successor if this call is a repeat of the one that got it and it has not been used since; else
        None."""
        if not request_id or not await store.is_unused(tx, successor_digest):
            return None
        return refresh_token.find_derived_token(self._peppers, token, request_id, successor_digest)

    async def _end_family(self, tx: Transaction, known: RefreshToken, now: datetime) -> None:
        session = known.session
        reason = EndReason.REFRESH_TOKEN_REUSED
        await store.end_sessions(tx, session.user_id, now, reason, session_id=session.session_id)
        await record_event(
            tx,
            now=now,
            organization_id=known.personal_organization_id,
            resource_type="session",
            resource_id=session.session_id,
            changed=(Changed("end_reason", after=reason.value),),
        )
