"""The tables of organizations move into the first shard. No row is copied.

Services of the version before do not find them afterwards: they are stopped first.
"""

from collections.abc import Sequence

from libs.common.shard_migration import move_to_first_shard

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    move_to_first_shard("billing", ("accounts", "transactions", "holds", "declines"))
