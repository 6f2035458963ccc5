"""When a balance is low, and which crossings and which expiries of credits are announced.

Each statement does nothing if it was done by an attempt before.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            """
            ALTER TABLE accounts ADD COLUMN IF NOT EXISTS low_balance_threshold numeric(28, 9),
                ADD COLUMN IF NOT EXISTS low_balance_told boolean NOT NULL DEFAULT false
            """
        )
        op.execute("ALTER TABLE credit_grants ADD COLUMN IF NOT EXISTS expiry_told boolean NOT NULL DEFAULT false")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS accounts_low_balance")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY accounts_low_balance ON accounts (organization_id, account_id)
            WHERE low_balance_threshold IS NOT NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS credit_grants_expiring")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY credit_grants_expiring ON credit_grants (expire_time, organization_id, grant_id)
            WHERE state <> 'ENDED' AND NOT expiry_told
            """
        )
