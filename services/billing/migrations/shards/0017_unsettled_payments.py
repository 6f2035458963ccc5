"""Payments that are not settled are found. An index of unpaid invoices, which nothing reads any more, is dropped.

The version before this one reads that index where the state of invoices is asked for; without it, it reads the
invoices of the organization.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS invoices_unpaid")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS payments_unsettled")
        op.execute(
            "CREATE INDEX CONCURRENTLY payments_unsettled ON payments (organization_id, payment_id) WHERE NOT settled"
        )
