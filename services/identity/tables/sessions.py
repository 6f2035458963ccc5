"""Sessions, their refresh tokens, and attempts to sign in."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from services.identity.tables.columns import id_column, metadata, time_column

sessions: Final = Table(
    "sessions",
    metadata,
    id_column("session_id"),
    id_column("user_id"),
    Column("method", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("peer_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    time_column("create_time"),
    time_column("last_refresh_time"),
    time_column("expire_time"),
    time_column("end_time", nullable=True),
    Column("end_reason", Text),
    PrimaryKeyConstraint("session_id", name="sessions_pkey"),
    ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="sessions_user"),
    CheckConstraint("method IN ('password', 'id_token', 'access_token')", name="sessions_method_known"),
    CheckConstraint("(end_time IS NULL) = (end_reason IS NULL)", name="sessions_end_has_a_reason"),
)
Index(
    "sessions_not_ended_by_user", sessions.c.user_id, sessions.c.session_id, postgresql_where=text("end_time IS NULL")
)
Index("sessions_ended_by_user", sessions.c.user_id, postgresql_where=text("end_time IS NOT NULL"))
Index("sessions_by_expire_time", sessions.c.expire_time)

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary, nullable=False),
    id_column("session_id"),
    time_column("create_time"),
    time_column("expire_time"),
    time_column("use_time", nullable=True),
    Column("successor_digest", LargeBinary),
    PrimaryKeyConstraint("digest", name="refresh_tokens_pkey"),
    ForeignKeyConstraint(["session_id"], ["identity.sessions.session_id"], name="refresh_tokens_session"),
    CheckConstraint("octet_length(digest) = 32", name="refresh_tokens_digest_only"),
    CheckConstraint("(use_time IS NULL) = (successor_digest IS NULL)", name="refresh_tokens_used_has_a_successor"),
)
Index("refresh_tokens_by_session", refresh_tokens.c.session_id)
Index("refresh_tokens_by_expire_time", refresh_tokens.c.expire_time)

sign_in_attempts: Final = Table(
    "sign_in_attempts",
    metadata,
    Column("key_digest", LargeBinary, nullable=False),
    time_column("window_time"),
    Column("attempts", Integer, nullable=False),
    PrimaryKeyConstraint("key_digest", name="sign_in_attempts_pkey"),
    CheckConstraint("octet_length(key_digest) = 32", name="sign_in_attempts_digest_only"),
)
"""The number of sign-in attempts of an account or an address since `window_time`."""

Index("sign_in_attempts_by_window", sign_in_attempts.c.window_time)
