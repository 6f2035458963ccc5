"""Leases: allocations that only reserve, and that settlements replace by what was used.

A lease is a row of `quota_allocations`, whose `reserved` falls with each settlement. The version before this one treats
it as an allocation with concurrent calls: when it ends the lease, it gives back what is still reserved, which is right.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_CHANGES = """
ALTER TABLE quota_allocations ADD COLUMN spent numeric(28, 9)[], ADD COLUMN declined boolean NOT NULL DEFAULT false;
GRANT UPDATE (released, lapsed, reserved, spent, declined) ON quota_allocations TO tollhouse_metering;
ALTER TABLE usage_records ADD COLUMN lease_id text COLLATE "C"
"""


def upgrade() -> None:
    for statement in _CHANGES.strip().split(";\n"):
        op.execute(statement)
