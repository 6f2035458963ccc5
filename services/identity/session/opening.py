"""Opens a session, the last step of every way to sign in."""

from collections.abc import Sequence
from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.call import current_call
from libs.common.database import Transaction
from libs.common.ids import new_id
from services.identity.session import store
from services.identity.session.domain import Opened, Session, SessionLimits, SignInMethod
from services.identity.session.refresh_token import FORM
from services.identity.token_form import digest
from services.identity.user.domain import subject_of


class SessionOpening:
    """Opens sessions, within limits."""

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits

    async def open(
        self,
        tx: Transaction,
        *,
        user_id: str,
        personal_organization_id: str,
        method: SignInMethod,
        provider: str,
        now: datetime,
        user_changes: Sequence[Sequence[Changed]] = (),
    ) -> Opened:
        """Open a session of a locked user; the oldest session ends when there would be too many.

        The audit events come last, also those of the sign-in's changes of the user: other transactions lock a session
        before the audit trail, and the same order here avoids deadlocks.
        """
        call = current_call()
        session = Session(
            session_id=new_id(),
            user_id=user_id,
            method=method,
            provider=provider,
            peer_address=call.peer_address if call else "",
            user_agent=call.user_agent if call else "",
            create_time=now,
            last_refresh_time=now,
            expire_time=now + self._limits.lifetime,
        )
        token = FORM.new()
        await store.insert_session(tx, session)
        await store.insert_refresh_token(tx, session, digest(token), now)
        await store.end_oldest_sessions(tx, user_id, now, kept=self._limits.per_user_max)
        changed = [Changed("method", after=method.value)]
        if provider:
            changed.append(Changed("provider", after=provider))
        events = [*(("user", user_id, changes) for changes in user_changes), ("session", session.session_id, changed)]
        for resource_type, resource_id, changes in events:
            await record_event(
                tx,
                now=now,
                organization_id=personal_organization_id,
                resource_type=resource_type,
                resource_id=resource_id,
                changed=changes,
                actor=subject_of(user_id),
            )
        return Opened(session, token)
