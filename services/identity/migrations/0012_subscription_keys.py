"""The subscription that metered calls with a key fall under.

The version before this one binds no key, and answers verifications without it.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE identity.api_keys ADD COLUMN IF NOT EXISTS subscription_id uuid")
