"""The indexes by which grants are found that are due, and by which an account's funding is added up."""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE transactions VALIDATE CONSTRAINT transactions_kind_known")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS accounts_grants_due")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY accounts_grants_due
            ON accounts (organization_id, account_id, grant_due_from)
            WHERE grant_due_from IS NOT NULL
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS transactions_funding")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY transactions_funding
            ON transactions (organization_id, account_id, sequence)
            WHERE system_account IS DISTINCT FROM 'REVENUE'
            """
        )
