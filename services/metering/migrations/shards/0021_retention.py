"""What is kept of dropped usage, and the functions that drop usage and empty the texts of a user.

The service's own role may neither change nor delete usage. The functions do it with the rights of the schema's owner,
and only as far as the rows of `dropped_usage_months` allow.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE dropped_usage_months (
    organization_id uuid NOT NULL,
    month timestamptz NOT NULL,
    state text NOT NULL,
    usage_count bigint NOT NULL,
    totals jsonb NOT NULL,
    digest bigint NOT NULL,
    kept_digest bigint NOT NULL,
    sum_count bigint NOT NULL,
    sum_digest bigint NOT NULL,
    create_time timestamptz NOT NULL,
    drop_time timestamptz,
    CONSTRAINT dropped_usage_months_pkey PRIMARY KEY (organization_id, month),
    CONSTRAINT dropped_usage_months_state CHECK (state IN ('COUNTED', 'COPYING', 'MOVING', 'DROPPED'))
);
CREATE TABLE dropped_usages (
    organization_id uuid NOT NULL,
    occur_time timestamptz NOT NULL,
    usage_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    model text NOT NULL,
    cost numeric(28, 9),
    currency_code text,
    charge_kind text,
    captured_before numeric(28, 9),
    create_time timestamptz NOT NULL,
    CONSTRAINT dropped_usages_pkey PRIMARY KEY (organization_id, occur_time, usage_id)
);
CREATE TABLE usage_links (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    corrects_operation_id text COLLATE "C" NOT NULL,
    CONSTRAINT usage_links_pkey PRIMARY KEY (organization_id, operation_id)
);
REVOKE INSERT, UPDATE, DELETE ON dropped_usages FROM tollhouse_metering;
REVOKE UPDATE, DELETE ON usage_links FROM tollhouse_metering
"""

# Keeps what is needed of the next usages of an organization's month, and deletes them where the month is MOVING. One
# statement does both, so each usage is in one of the tables, whenever a process dies. While the month is COPYING, what
# is kept already is a prefix in the order of the key, so the greatest key says where to go on.
_MOVE = """
CREATE FUNCTION keep_dropped_usage(organization uuid, beginning timestamptz, rows_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    ending timestamptz := beginning + interval '1 month';
    moves boolean;
    after_time timestamptz := '-infinity';
    after_id uuid := '00000000-0000-0000-0000-000000000000';
    moved bigint;
BEGIN
    SELECT state = 'MOVING' INTO moves FROM dropped_usage_months
    WHERE organization_id = organization AND month = beginning AND state IN ('MOVING', 'COPYING') FOR SHARE;
    IF moves IS NULL THEN
        RETURN 0;
    END IF;
    IF NOT moves THEN
        SELECT occur_time, usage_id INTO after_time, after_id FROM dropped_usages
        WHERE organization_id = organization AND occur_time >= beginning AND occur_time < ending
        ORDER BY occur_time DESC, usage_id DESC LIMIT 1;
        after_time := coalesce(after_time, '-infinity');
        after_id := coalesce(after_id, '00000000-0000-0000-0000-000000000000');
    END IF;
    WITH batch AS MATERIALIZED (
        SELECT * FROM usage_records
        WHERE organization_id = organization AND occur_time >= beginning AND occur_time < ending
            AND (occur_time, usage_id) > (after_time, after_id)
        ORDER BY occur_time, usage_id LIMIT rows_max
    ), kept AS (
        INSERT INTO dropped_usages (organization_id, occur_time, usage_id, operation_id, model, cost, currency_code,
            charge_kind, captured_before, create_time)
        SELECT r.organization_id, r.occur_time, r.usage_id, r.operation_id, r.model, coalesce(r.cost, p.cost),
            coalesce(r.currency_code, p.currency_code), coalesce(r.charge_kind, p.charge_kind), r.captured_before,
            greatest(r.create_time, p.create_time)
        FROM batch AS r LEFT JOIN usage_pricings AS p
            ON p.organization_id = ANY (ARRAY[r.organization_id]) AND p.usage_id = r.usage_id AND r.cost IS NULL
        ON CONFLICT DO NOTHING
    ), gone AS (
        DELETE FROM usage_records AS u USING batch AS r
        WHERE moves AND u.organization_id = organization AND u.occur_time >= beginning AND u.occur_time < ending
            AND u.organization_id = r.organization_id AND u.occur_time = r.occur_time AND u.usage_id = r.usage_id
    )
    SELECT count(*) INTO moved FROM batch;
    RETURN moved;
END $$
"""

# Detaches the partition of a month whose usage is dropped, and afterwards, in a call of its own, drops it.
#
# The lock of the first LOCK lets everybody read, and holds up nobody who records: all that usage is older than what is
# taken. What was counted then cannot change. Detaching needs a lock that nothing goes beside, so it waits for it for a
# twentieth of a second at most, twenty times. DETACH CONCURRENTLY is not possible beside a default partition. Returns
# BUSY where the lock was not to be had, and KEPT where the partition has usage that is not dropped: nothing was changed
# then. Returns DETACHED when the partition is to be dropped by the next call, and GONE when there is none.
_DETACH = """
CREATE FUNCTION drop_usage_month(moment timestamptz, now timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := beginning + interval '1 month';
    partition text := 'usage_records_' || to_char(beginning, 'YYYY_MM');
    detached text := 'detached_' || partition;
    there bigint;
    kept bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.ensure_usage_month', 0));
    IF EXISTS (SELECT FROM pg_class WHERE relname = detached AND relnamespace = current_schema()::regnamespace) THEN
        EXECUTE format('DROP TABLE %I', detached);
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace
    ) THEN
        RETURN 'GONE';
    END IF;
    EXECUTE format('LOCK TABLE %I IN SHARE MODE', partition);
    EXECUTE format('SELECT count(*) FROM %I', partition) INTO there;
    SELECT coalesce(sum((
        SELECT count(*) FROM dropped_usages AS u
        WHERE u.organization_id = m.organization_id AND u.occur_time >= beginning AND u.occur_time < ending
    )), 0) INTO kept FROM dropped_usage_months AS m WHERE m.month = beginning AND m.state = 'COPYING';
    IF there <> kept THEN
        RETURN 'KEPT';
    END IF;
    UPDATE dropped_usage_months SET state = 'DROPPED', drop_time = now WHERE month = beginning AND state = 'COPYING';
    FOR attempt IN 1..20 LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '50ms', true);
            EXECUTE format('ALTER TABLE usage_records DETACH PARTITION %I', partition);
            EXECUTE format('ALTER TABLE %I RENAME TO %I', partition, detached);
            RETURN 'DETACHED';
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.05 + random() * 0.1);
        END;
    END LOOP;
    RAISE lock_not_available USING MESSAGE = 'the partition of ' || partition || ' could not be detached';
END $$
"""

# Empties the texts of a user in the next rows, in the order of a key. An empty error message still says that the call
# failed. Returns how many rows were changed and the last key that was looked at; no key at the end.
_FORGET = """
CREATE FUNCTION forget_user_in_usage(forgotten uuid, after_organization uuid, after_time timestamptz, after_id uuid,
    rows_max integer, OUT emptied bigint, OUT last_organization uuid, OUT last_time timestamptz, OUT last_id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    SELECT organization_id, occur_time, usage_id INTO last_organization, last_time, last_id FROM usage_records
    WHERE (organization_id, occur_time, usage_id) > (after_organization, after_time, after_id)
    ORDER BY organization_id, occur_time, usage_id OFFSET rows_max - 1 LIMIT 1;
    WITH found AS MATERIALIZED (
        SELECT organization_id, occur_time, usage_id, operation_id, captured_before FROM usage_records
        WHERE (organization_id, occur_time, usage_id) > (after_organization, after_time, after_id)
            AND (last_id IS NULL OR (organization_id, occur_time, usage_id) <= (last_organization, last_time, last_id))
            AND user_id = forgotten
            AND (error_message <> '' OR labels IS NOT NULL OR conversation_id IS NOT NULL)
    ), parts AS (
        UPDATE settlement_parts AS s SET request = '' FROM found AS f
        WHERE f.captured_before IS NOT NULL AND s.organization_id = ANY (ARRAY[f.organization_id])
            AND s.operation_id = f.operation_id
    ), changed AS (
        UPDATE usage_records AS r SET labels = NULL, conversation_id = NULL,
            error_message = CASE WHEN r.error_message IS NOT NULL THEN '' END
        FROM found AS f
        WHERE r.organization_id = ANY (ARRAY[f.organization_id]) AND r.occur_time = f.occur_time
            AND r.usage_id = f.usage_id
        RETURNING 1
    )
    SELECT count(*) INTO emptied FROM changed;
END $$;
CREATE FUNCTION forget_user_in_lines(forgotten uuid, after_organization uuid, after_id uuid, after_number integer,
    after_added boolean, rows_max integer, OUT emptied bigint, OUT last_organization uuid, OUT last_id uuid,
    OUT last_number integer, OUT last_added boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    SELECT organization_id, usage_id, number, added INTO last_organization, last_id, last_number, last_added
    FROM usage_correction_lines
    WHERE (organization_id, usage_id, number, added) > (after_organization, after_id, after_number, after_added)
    ORDER BY organization_id, usage_id, number, added OFFSET rows_max - 1 LIMIT 1;
    WITH changed AS (
        UPDATE usage_correction_lines AS l SET labels = NULL, conversation_id = NULL,
            error_message = CASE WHEN l.error_message IS NOT NULL THEN '' END
        WHERE (organization_id, usage_id, number, added) > (after_organization, after_id, after_number, after_added)
            AND (last_id IS NULL
                OR (organization_id, usage_id, number, added) <= (last_organization, last_id, last_number, last_added))
            AND user_id = forgotten
            AND (error_message <> '' OR labels IS NOT NULL OR conversation_id IS NOT NULL)
        RETURNING 1
    )
    SELECT count(*) INTO emptied FROM changed;
END $$
"""

# Usage in the default partition is first copied, in parts, into a table that nobody reads, while it stays where it is.
# What is copied is a prefix in the order of the key, so the greatest key says where to go on. ensure_usage_month takes
# that table as the partition.
_COPY = """
CREATE FUNCTION copy_stray_usage(moment timestamptz, rows_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := date_trunc('month', moment, 'UTC') + interval '1 month';
    healing text := 'healing_usage_records_' || to_char(beginning, 'YYYY_MM');
    last_organization uuid;
    last_time timestamptz;
    last_id uuid;
    copied bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.ensure_usage_month', 0));
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = healing AND relnamespace = current_schema()::regnamespace) THEN
        EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING ALL)', healing);
        EXECUTE format('REVOKE ALL ON %I FROM tollhouse_metering', healing);
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT of_month CHECK (occur_time >= %L AND occur_time < %L)',
            healing, beginning, ending);
    END IF;
    EXECUTE format('SELECT organization_id, occur_time, usage_id FROM %I ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1',
        healing) INTO last_organization, last_time, last_id;
    EXECUTE format('INSERT INTO %I SELECT * FROM usage_records_default'
        ' WHERE occur_time >= $1 AND occur_time < $2'
        ' AND ($3 IS NULL OR (organization_id, occur_time, usage_id) > ($3, $4, $5))'
        ' ORDER BY organization_id, occur_time, usage_id LIMIT $6', healing)
        USING beginning, ending, last_organization, last_time, last_id, rows_max;
    GET DIAGNOSTICS copied = ROW_COUNT;
    RETURN copied;
END $$
"""
# As before, but that it takes the table into which usage was copied. Rows that came later are copied now, and those
# that a ForgetUser has emptied meanwhile are copied again.
_MONTHS = """
CREATE OR REPLACE FUNCTION ensure_usage_month(moment timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    beginning timestamptz := date_trunc('month', moment, 'UTC');
    ending timestamptz := date_trunc('month', moment, 'UTC') + interval '1 month';
    partition text := 'usage_records_' || to_char(beginning, 'YYYY_MM');
    healing text := 'healing_usage_records_' || to_char(beginning, 'YYYY_MM');
BEGIN
    IF to_regclass(format('%I.%I', current_schema(), partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended(current_schema() || '.ensure_usage_month', 0));
    -- Asked of the catalogue itself: the answer above may be remembered from before the lock was waited for.
    IF EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = current_schema()::regnamespace) THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM pg_class WHERE relname = healing AND relnamespace = current_schema()::regnamespace) THEN
        EXECUTE format('ALTER TABLE %I RENAME TO %I', healing, partition);
        EXECUTE format('GRANT SELECT, INSERT ON %I TO tollhouse_metering', partition);
    ELSE
        EXECUTE format('CREATE TABLE %I (LIKE usage_records INCLUDING ALL)', partition);
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %I FROM tollhouse_metering', partition);
    END IF;
    LOCK TABLE usage_records_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'DELETE FROM %I AS p USING usage_records_default AS d'
        ' WHERE d.occur_time >= $1 AND d.occur_time < $2 AND p.organization_id = d.organization_id'
        ' AND p.occur_time = d.occur_time AND p.usage_id = d.usage_id'
        ' AND (p.labels, p.error_message, p.conversation_id)'
        ' IS DISTINCT FROM (d.labels, d.error_message, d.conversation_id)', partition) USING beginning, ending;
    EXECUTE format(
        'INSERT INTO %I SELECT * FROM usage_records_default WHERE occur_time >= $1 AND occur_time < $2'
        ' ON CONFLICT DO NOTHING', partition) USING beginning, ending;
    DELETE FROM usage_records_default WHERE occur_time >= beginning AND occur_time < ending;
    EXECUTE format(
        'ALTER TABLE usage_records ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, beginning, ending);
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS of_month', partition);
    RETURN true;
END $$
"""

_RIGHTS = """
REVOKE ALL ON FUNCTION keep_dropped_usage(uuid, timestamptz, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION copy_stray_usage(timestamptz, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION drop_usage_month(timestamptz, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION forget_user_in_usage(uuid, uuid, timestamptz, uuid, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION forget_user_in_lines(uuid, uuid, uuid, integer, boolean, integer) FROM PUBLIC
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
    op.execute(_MOVE)
    op.execute(_DETACH)
    op.execute(_COPY)
    op.execute(_MONTHS)
    for function in _FORGET.split("$$;\n"):
        op.execute(function if function.rstrip().endswith("$$") else f"{function}$$")
    for statement in _RIGHTS.strip().split(";\n"):
        op.execute(statement)
