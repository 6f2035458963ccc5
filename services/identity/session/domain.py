"""What a session is, and how long and how many there may be."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class SignInMethod(StrEnum):
    """How somebody signed in."""

    PASSWORD = "password"  # noqa: S105 -- the name of a way to sign in.
    ID_TOKEN = "id_token"  # noqa: S105 -- as above.
    ACCESS_TOKEN = "access_token"  # noqa: S105 -- as above.


class EndReason(StrEnum):
    """Why a session ended before its time; changes of users end sessions for reasons of their own."""

    SIGNED_OUT = "signed_out"
    REFRESH_TOKEN_REUSED = "refresh_token_reused"  # noqa: S105 -- says what happened to a token.
    TOO_MANY_SESSIONS = "too_many_sessions"


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in, for as long as it lasts."""

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
    """How long sessions last, and how many a user may have at a time."""

    lifetime: timedelta
    per_user_max: int


@dataclass(frozen=True, slots=True)
class HeldUser:
    """An active user, as they stay until the transaction ends."""

    personal_organization_id: str
    email_folded: str
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class EmailOwner:
    """The user with an email, and whether a provider that is trusted with it vouched for it."""

    user_id: str
    email_verified: bool


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What is known of a refresh token that somebody presents, and of its session. Its text is known to nobody."""

    session: Session
    personal_organization_id: str
    is_live: bool
    """Whether the session goes on, and its user may."""
    successor_digest: bytes | None
    """The digest of the token it was exchanged for; None while it was not."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The outcome of a sign-in or of an exchange: a session, and its newest refresh token."""

    session: Session
    refresh_token: str
    replayed: bool = False
    user_created: bool = False

    def __repr__(self) -> str:
        return f"Opened(session_id={self.session.session_id!r}, replayed={self.replayed})"


ATTEMPTS_WINDOW: Final = timedelta(minutes=1)
"""The span in which attempts to sign in are counted together. It begins with the first of them."""


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """How many attempts to sign in are taken up in one window."""

    per_account: int
    per_address: int


@dataclass(frozen=True, slots=True)
class Count:
    """How often something was tried since its window began."""

    attempts: int
    window_time: datetime


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often an address was used in its window, and an account tried in its own."""

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
    """Return how long until the window of a count beyond its limit is over; None for one within it."""
    if counted.attempts <= limit:
        return None
    # Clocks of several processes may differ, and nobody waits for longer than a window, nor for no time at all.
    return min(max(counted.window_time + ATTEMPTS_WINDOW - now, timedelta(milliseconds=1)), ATTEMPTS_WINDOW)
