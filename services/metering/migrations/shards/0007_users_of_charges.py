"""Whose usage a charge is for, which billing needs to know which credits it may use.

Charges that the version before this one queues name no user: they use the credits that are for everybody.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD COLUMN user_id uuid")
