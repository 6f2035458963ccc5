"""The keys of service accounts are found by their account, and what 0005 and 0006 left unvalidated is validated."""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Outside of a transaction, so that nobody waits while the index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_by_service_account")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS api_keys_by_service_account"
            " ON identity.api_keys (organization_id, service_account_id, api_key_id)"
            " WHERE service_account_id IS NOT NULL"
        )
    op.execute("ALTER TABLE identity.api_keys VALIDATE CONSTRAINT api_keys_service_account")
    op.execute("ALTER TABLE identity.api_keys VALIDATE CONSTRAINT api_keys_hint_is_short")
    op.execute("ALTER TABLE identity.organizations VALIDATE CONSTRAINT organizations_lifetime_is_positive")
