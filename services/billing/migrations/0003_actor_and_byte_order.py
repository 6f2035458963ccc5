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

_STATEMENTS = (
    "ALTER TABLE billing.transactions ADD COLUMN actor TEXT",
    "ALTER TABLE billing.holds ADD COLUMN actor TEXT",
    "ALTER TABLE billing.declines ADD COLUMN actor TEXT",
    """
-- squawk-ignore changing-column-type
ALTER TABLE billing.transactions ALTER COLUMN operation_id TYPE TEXT COLLATE "C"
""",
    """
-- squawk-ignore changing-column-type
ALTER TABLE billing.holds ALTER COLUMN operation_id TYPE TEXT COLLATE "C"
""",
    """
-- squawk-ignore changing-column-type
ALTER TABLE billing.declines ALTER COLUMN operation_id TYPE TEXT COLLATE "C"
""",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
