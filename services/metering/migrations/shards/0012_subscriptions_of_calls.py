"""The subscription that an authorized call falls under, which its settlement records.

What the version before this one authorizes falls under none.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE authorizations ADD COLUMN subscription_id uuid")
