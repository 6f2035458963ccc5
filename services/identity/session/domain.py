"""Sessions, their limits, and the limits of sign-in attempts."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class SignInMethod(StrEnum):
    """How a session was opened."""

    PASSWORD = "password"  # noqa: S105 -- the name of a way to sign in.
    ID_TOKEN = "id_token"  # noqa: S105 -- as above.
    ACCESS_TOKEN = "access_token"  # noqa: S105 -- as above.


class EndReason(StrEnum):
    """Why a session ended early; changes of users end sessions for reasons of their own."""

    SIGNED_OUT = "signed_out"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 -- says what happened to a token.
    TOO_MANY_SESSIONS = "too_many_sessions"


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a user, from a sign-in until it ends."""

    session_id: str
    user_id: str
    method: SignInMethod
    provider: str
    peer_address: str
    user_agent: str
    create_time: datetime
    last_refresh_time: datetime
    expire_time: datetime

    def refreshed(self, now: datetime) -> "Session":
        return replace(self, last_refresh_time=now)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The longest life of a session, and how many a user may have at a time."""

    lifetime: timedelta
    per_user_max: int


@dataclass(frozen=True, slots=True)
class HeldUser:
    """An active user, locked until the transaction ends."""

    personal_organization_id: str
    email_folded: str
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class EmailOwner:
    """The user with an email, and whether a trusted provider has verified it."""

    user_id: str
    email_verified: bool


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token that was presented, with its session. The text of the token is not stored."""

    session: Session
    personal_organization_id: str
    is_live: bool
    """Whether the session has not ended, and its user is active."""
    successor_digest: bytes | None
    """The digest of the token that replaced it; None when it was not used yet."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The result of a sign-in or of a refresh: the session, and its newest refresh token."""

    session: Session
    refresh_token: str
    replayed: bool = False
    user_created: bool = False

    def __repr__(self) -> str:
        return f"Opened(session_id={self.session.session_id!r}, replayed={self.replayed})"


ATTEMPTS_WINDOW: Final = timedelta(minutes=1)
"""The window in which attempts are counted together. It begins with the first one."""


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The number of attempts allowed in one window."""

    per_account: int
    per_address: int


@dataclass(frozen=True, slots=True)
class Count:
    """The number of attempts since a window began."""

    attempts: int
    window_time: datetime


@dataclass(frozen=True, slots=True)
class Attempts:
    """The counts of an address and of an account, each in its own window."""

    by_address: Count
    on_account: Count


def time_to_wait(attempts: Attempts, limits: AttemptLimits, now: datetime) -> timedelta | None:
    """Return how long the next attempt must wait, or None when this one is within the limits."""
    waits = (
        wait_of(attempts.by_address, limits.per_address, now),
        wait_of(attempts.on_account, limits.per_account, now),
    )
    return max((wait for wait in waits if wait is not None), default=None)


def wait_of(counted: Count, limit: int, now: datetime) -> timedelta | None:
    """Return how long until the window of a count above its limit is over; None for a count within it."""
    if counted.attempts <= limit:
        return None
    # Clocks of processes may differ; the wait is always positive and never longer than a window.
    return min(max(counted.window_time + ATTEMPTS_WINDOW - now, timedelta(milliseconds=1)), ATTEMPTS_WINDOW)
