"""What a later price adds to the counters of limits: the row of the usage itself never changes.

The version before this one adds nothing. It prices no usage that is counted in limits, since limits are set only when
all processes run this version.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("ALTER TABLE usage_pricings ADD COLUMN counters uuid[], ADD COLUMN counted numeric(28, 9)[]")
