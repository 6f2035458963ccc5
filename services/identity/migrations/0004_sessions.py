"""Sessions, refresh tokens and attempts to sign in."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TIMESTAMP

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SCHEMA = "identity"


def _id(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Uuid(as_uuid=False), nullable=False)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def upgrade() -> None:
    _create_sessions()
    _create_refresh_tokens()
    _create_sign_in_attempts()


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        _id("session_id"),
        _id("user_id"),
        _text("method"),
        _text("provider"),
        _text("peer_address"),
        _text("user_agent"),
        _time("create_time"),
        _time("last_refresh_time"),
        _time("expire_time"),
        _time("end_time", nullable=True),
        _text("end_reason", nullable=True),
        sa.PrimaryKeyConstraint("session_id", name="sessions_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["identity.users.user_id"], name="sessions_user"),
        sa.CheckConstraint("method IN ('password', 'id_token')", name="sessions_method_known"),
        sa.CheckConstraint("(end_time IS NULL) = (end_reason IS NULL)", name="sessions_end_has_a_reason"),
        schema=_SCHEMA,
    )
    op.create_index(
        "sessions_not_ended_by_user",
        "sessions",
        ["user_id", "session_id"],
        schema=_SCHEMA,
        postgresql_where=sa.text("end_time IS NULL"),
    )
    op.create_index("sessions_by_expire_time", "sessions", ["expire_time"], schema=_SCHEMA)


def _create_refresh_tokens() -> None:
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _id("session_id"),
        _time("create_time"),
        _time("expire_time"),
        _time("use_time", nullable=True),
        sa.Column("successor_digest", sa.LargeBinary),
        sa.PrimaryKeyConstraint("digest", name="refresh_tokens_pkey"),
        sa.ForeignKeyConstraint(["session_id"], ["identity.sessions.session_id"], name="refresh_tokens_session"),
        sa.CheckConstraint("octet_length(digest) = 32", name="refresh_tokens_digest_only"),
        sa.CheckConstraint(
            "(use_time IS NULL) = (successor_digest IS NULL)", name="refresh_tokens_used_has_a_successor"
        ),
        schema=_SCHEMA,
    )
    op.create_index("refresh_tokens_by_session", "refresh_tokens", ["session_id"], schema=_SCHEMA)
    op.create_index("refresh_tokens_by_expire_time", "refresh_tokens", ["expire_time"], schema=_SCHEMA)


def _create_sign_in_attempts() -> None:
    op.create_table(
        "sign_in_attempts",
        sa.Column("key_digest", sa.LargeBinary, nullable=False),
        _time("window_time"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key_digest", name="sign_in_attempts_pkey"),
        sa.CheckConstraint("octet_length(key_digest) = 32", name="sign_in_attempts_digest_only"),
        schema=_SCHEMA,
    )
    op.create_index("sign_in_attempts_by_window", "sign_in_attempts", ["window_time"], schema=_SCHEMA)
