"""Corrections that re-rate usage.

A process of the version before this one cannot show such a correction. So usage is re-rated only when all processes run
this version.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The same with one more kind.
_KINDS = """
-- squawk-ignore ban-drop-constraint
ALTER TABLE usage_corrections DROP CONSTRAINT usage_corrections_kind;
-- squawk-ignore constraint-missing-not-valid
ALTER TABLE usage_corrections ADD CONSTRAINT usage_corrections_kind
    CHECK (kind IN ('AMEND', 'VOID', 'RESTORE', 'PRICE', 'RERATE'))
"""


def upgrade() -> None:
    for statement in _KINDS.strip().split(";\n"):
        op.execute(statement)
