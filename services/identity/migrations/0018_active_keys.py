"""Keys are found by their subscription, and those that are neither revoked nor disabled."""

from collections.abc import Sequence

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_by_subscription")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY api_keys_by_subscription
            ON identity.api_keys (organization_id, subscription_id, api_key_id) WHERE subscription_id IS NOT NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_active")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY api_keys_active ON identity.api_keys (organization_id, api_key_id)
            WHERE revoke_time IS NULL AND disable_time IS NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_active_of_user")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY api_keys_active_of_user
            ON identity.api_keys (organization_id, user_id, api_key_id)
            WHERE revoke_time IS NULL AND disable_time IS NULL
            """
        )
