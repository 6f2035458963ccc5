"""What 0013 left unvalidated is validated."""

from collections.abc import Sequence

from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE identity.api_keys VALIDATE CONSTRAINT api_keys_reach_is_one")
