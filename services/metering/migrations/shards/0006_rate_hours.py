"""The hours of the rate card that usage was priced in.

Usage of the version before has none. It is priced by the rates for all day, which are all that version knows of a card.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE usage_records ADD COLUMN rate_hours text")
    op.execute("ALTER TABLE usage_pricings ADD COLUMN rate_hours text")
