"""Invitations are found by who made them, whom they are for and who accepted them, and ended sessions by their user."""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Outside of a transaction, so that nobody waits while an index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.invitations_open_by_inviter")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS invitations_open_by_inviter ON identity.invitations (inviter)"
            " WHERE accept_time IS NULL AND revoke_time IS NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.invitations_by_email")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS invitations_by_email ON identity.invitations (email_folded)"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.invitations_by_accepted_user")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS invitations_by_accepted_user"
            " ON identity.invitations (accepted_user_id) WHERE accepted_user_id IS NOT NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.sessions_ended_by_user")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_ended_by_user ON identity.sessions (user_id)"
            " WHERE end_time IS NOT NULL"
        )
