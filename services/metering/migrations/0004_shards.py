"""The tables of organizations move into the first shard. No row is copied.

Services of the version before do not find them afterwards: they are stopped first.
"""

from collections.abc import Sequence

from alembic import op

from libs.common.shard_migration import move_to_first_shard

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = (
    *("usage_operations", "usage_records", "usage_hours", "outbox", "unpriced_usages", "usage_pricings"),
    "authorizations",
)
_MOVE_PARTITIONS = """
DO $$
DECLARE partition regclass;
BEGIN
    FOR partition IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'metering_00.usage_records'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET SCHEMA metering_00', partition);
    END LOOP;
END $$
"""


def upgrade() -> None:
    # The shards have a function of their own for this, made by a migration of theirs.
    op.execute("""
-- squawk-ignore ban-drop-function
DROP FUNCTION metering.ensure_usage_month(timestamptz)
""")
    move_to_first_shard("metering", _TABLES)
    op.execute(_MOVE_PARTITIONS)
