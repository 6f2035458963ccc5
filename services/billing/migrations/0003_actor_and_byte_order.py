"""Who moved money, on every row of the ledger; and operation ids in byte order.

Adding a nullable column without a default changes no row. Changing the collation of `operation_id` writes no row
either, but builds the primary key of each table again, under a lock that stops all reads and writes of that table: a
few seconds per million rows. Nothing has been released, so no busy table has this many.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = ("transactions", "holds", "declines")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE billing.{table} ADD COLUMN actor TEXT")
        op.execute(f"""
-- squawk-ignore changing-column-type
ALTER TABLE billing.{table} ALTER COLUMN operation_id TYPE TEXT COLLATE "C"
""")
