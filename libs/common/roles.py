"""The roles and rights in Postgres, as SQL.

Each context logs in as a role of its own, `tollhouse_<context>`. The schema and all in it belong to the role that
migrates; the context's role may read and write rows there, and nothing else anywhere. A migration that wants less (an
append-only table) revokes it; the grants come as default privileges before the migrations, so nothing given back later.
"""

import re

_PLAIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,50}")


def role_of(context: str) -> str:
    """The login role of a context."""
    if not _PLAIN_NAME.fullmatch(context):
        raise ValueError(f"{context!r} is no name of a context")
    return f"tollhouse_{context}"


def quoted(text: str) -> str:
    """Return text as a quoted SQL literal."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def create_role(context: str, password: str | None = None) -> list[str]:
    """Makes the role where it is missing. Roles belong to the whole cluster, so two databases may try at once."""
    role = role_of(context)
    statements = [
        f"""DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
        CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$"""
    ]
    if password is not None:
        statements.append(f"ALTER ROLE {role} PASSWORD {quoted(password)}")
    return statements


def create_schema(context: str, schema: str) -> list[str]:
    """Makes a schema of the context and the rights on it; done again, it changes nothing."""
    role = role_of(context)
    if not _PLAIN_NAME.fullmatch(schema):
        raise ValueError(f"{schema!r} is no name of a schema")
    default = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT"
    return [
        f"CREATE SCHEMA IF NOT EXISTS {schema}",
        f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC",
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"{default} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}",
        f"{default} USAGE, SELECT ON SEQUENCES TO {role}",
        f"{default} EXECUTE ON FUNCTIONS TO {role}",
        _close_to_everyone(role),
    ]


def protect_version_table(context: str, schema: str) -> list[str]:
    """The service may read which migration the schema is at, and not change it."""
    return [f"REVOKE INSERT, UPDATE, DELETE ON {schema}.alembic_version FROM {role_of(context)}"]


def _close_to_everyone(role: str) -> str:
    """Takes from everyone what Postgres gives by default; only the database's owner can."""
    return f"""DO $$
DECLARE owns boolean;
BEGIN
    SELECT pg_has_role(current_user, datdba, 'USAGE') INTO owns FROM pg_database WHERE datname = current_database();
    IF owns THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO {role}', current_database());
        EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
        IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public') THEN
            REVOKE ALL ON SCHEMA public FROM PUBLIC;
        END IF;
    END IF;
END $$"""  # noqa: S608  # role_of lets plain names through only
