"""Work of a hold that is charged in parts, and holds that are enlarged.

No row is written: two columns are nullable, and the third has a constant default. The version before does not know of
parts: it must have ended before anybody captures one or enlarges a hold.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute('ALTER TABLE transactions ADD COLUMN hold_operation_id TEXT COLLATE "C"')
    op.execute(
        """
        ALTER TABLE holds
            ADD COLUMN captured_amount NUMERIC(28, 9) NOT NULL DEFAULT 0,
            ADD COLUMN requested_amount NUMERIC(28, 9)
        """
    )
