"""What `libs.common.citus` uses of Citus, made of plain SQL: the same names and columns, and each call is written down.

The nodes are rows; nothing is moved. So it shows which calls are made and when, and not that Citus carries them out.
"""

from libs.common.databases import execute

_EXTENSION = """
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (919191, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2-1')
"""
_CATALOGUE = """
CREATE TYPE noderole AS ENUM ('primary', 'secondary', 'unavailable');
CREATE TABLE pg_dist_node (
    nodeid int PRIMARY KEY, groupid int NOT NULL, nodename text NOT NULL, nodeport int NOT NULL, isactive bool NOT NULL,
    noderole noderole NOT NULL, shouldhaveshards bool NOT NULL
);
INSERT INTO pg_dist_node VALUES
    (1, 0, 'coordinator', 5432, true, 'primary', false),
    (2, 1, 'first', 5432, true, 'primary', true),
    (3, 1, 'standby', 5432, true, 'secondary', true),
    (4, 2, 'second', 6432, true, 'primary', true);
CREATE TABLE pg_dist_schema (schemaid oid PRIMARY KEY, colocationid int NOT NULL UNIQUE);
CREATE TABLE pg_dist_partition (
    logicalrelid regclass PRIMARY KEY, partmethod "char" NOT NULL, partkey text, colocationid int NOT NULL,
    repmodel "char" NOT NULL
);
CREATE TABLE pg_dist_shard (shardid bigint PRIMARY KEY, logicalrelid regclass NOT NULL);
CREATE TABLE pg_dist_placement (shardid bigint NOT NULL, groupid int NOT NULL);
CREATE TABLE broken (name text PRIMARY KEY);
CREATE TABLE calls (number serial PRIMARY KEY, call text NOT NULL);
CREATE SEQUENCE numbers START 102008;
"""

_FUNCTIONS = (
    """
    CREATE FUNCTION place(relation regclass, colocation int, method "char", model "char", VARIADIC groups int[])
    RETURNS void LANGUAGE sql AS $$
        INSERT INTO pg_dist_partition VALUES (relation, method, NULL, colocation, model);
        INSERT INTO pg_dist_shard VALUES (nextval('numbers'), relation);
        INSERT INTO pg_dist_placement SELECT currval('numbers'), unnest(groups);
    $$
    """,
    """
    CREATE FUNCTION citus_schema_distribute(schemaname regnamespace) RETURNS void LANGUAGE plpgsql STRICT AS $$
    DECLARE
        colocation int := nextval('numbers');
        place_on int := 1 + (SELECT count(*) FROM pg_dist_schema) % 2;
    BEGIN
        INSERT INTO calls (call) VALUES ('citus_schema_distribute ' || schemaname::text);
        PERFORM place(oid, colocation, 'n', 's', place_on)
        FROM pg_class WHERE relnamespace = schemaname AND relkind IN ('r', 'p');
        IF EXISTS (SELECT FROM broken WHERE name = schemaname::text) THEN
            RAISE EXCEPTION 'failure on connection marked as essential: second:6432' USING ERRCODE = 'XX000';
        END IF;
        INSERT INTO pg_dist_schema VALUES (schemaname, colocation);
    END $$
    """,
    """
    CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO calls (call) VALUES ('create_reference_table ' || table_name::text);
        PERFORM place(table_name, 1, 'n', 't', 0, 1, 2);
    END $$
    """,
    """
    CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
    BEGIN
        INSERT INTO calls (call) VALUES (current_query());
    END $$
    """,
    "CREATE EVENT TRIGGER revoked ON ddl_command_end WHEN TAG IN ('REVOKE') EXECUTE FUNCTION note()",
)


async def install(admin_url: str, version: str = "13.2-1") -> None:
    """Install it in a database, as a superuser."""
    of_version = f"UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'citus'"  # noqa: S608 -- ours.
    await execute(admin_url, [_EXTENSION, of_version, _CATALOGUE, *_FUNCTIONS])
