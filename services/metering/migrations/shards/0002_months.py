"""The function that creates a month's partition of usage, and the partitions of the months around now."""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The service's own role may not create tables. This function creates a month's partition with the rights of the
# schema's owner. Rows of that month in the default partition are moved in the same transaction. Attaching takes a lock
# that does not block reads and writes of other months. Its search path is that of the migration: the shard's schema.
_MONTHS_FUNCTION = """
CREATE FUNCTION ensure_usage_month(moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := date_trunc('month', moment, 'UTC') + interval '1 month';
    partition text := 'usage_records_' || to_char(beginning, 'YYYY_MM');
BEGIN
    IF to_regclass(format('%I.%I', current_schema(), partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.ensure_usage_month', 0));
    -- Asked of the catalogue itself: the answer above may be remembered from before the lock was waited for.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING ALL)', partition);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %I FROM tollhouse_metering', partition);
    LOCK TABLE usage_records_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (DELETE FROM usage_records_default'
        ' WHERE occur_time >= $1 AND occur_time < $2 RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', partition) USING beginning, ending;
    EXECUTE format(
        'ALTER TABLE usage_records ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, beginning, ending);
    RETURN true;
END $$
"""
_MONTHS = """
REVOKE ALL ON FUNCTION ensure_usage_month(timestamptz) FROM PUBLIC;
SELECT ensure_usage_month(now() + months * interval '1 month') FROM generate_series(-2, 3) AS months;
"""


def upgrade() -> None:
    op.execute(_MONTHS_FUNCTION)
    for statement in _MONTHS.strip().removesuffix(";").split(";\n"):
        op.execute(statement)
