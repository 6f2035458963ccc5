"""Metadata and external ids of organizations, users, projects and service accounts; sign-in by access token."""

from collections.abc import Sequence

from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    _add_columns()
    # The new check admits all that the old one did, and is validated below without a lock that stops writers.
    op.execute(
        """
        -- squawk-ignore ban-drop-constraint
        ALTER TABLE identity.sessions DROP CONSTRAINT IF EXISTS sessions_method_known,
            ADD CONSTRAINT sessions_method_known CHECK (method IN ('password', 'id_token', 'access_token')) NOT VALID
        """
    )
    _create_indexes()
    op.execute("ALTER TABLE identity.sessions VALIDATE CONSTRAINT sessions_method_known")


def _add_columns() -> None:
    # A constant default rewrites no row. Columns that an interrupted attempt has added are kept.
    op.execute(
        "ALTER TABLE identity.organizations ADD COLUMN IF NOT EXISTS metadata jsonb DEFAULT '{}' NOT NULL,"
        " ADD COLUMN IF NOT EXISTS external_id text DEFAULT '' NOT NULL"
    )
    op.execute(
        "ALTER TABLE identity.users ADD COLUMN IF NOT EXISTS metadata jsonb DEFAULT '{}' NOT NULL,"
        " ADD COLUMN IF NOT EXISTS external_id text DEFAULT '' NOT NULL"
    )
    op.execute(
        "ALTER TABLE identity.projects ADD COLUMN IF NOT EXISTS metadata jsonb DEFAULT '{}' NOT NULL,"
        " ADD COLUMN IF NOT EXISTS external_id text DEFAULT '' NOT NULL"
    )
    op.execute(
        "ALTER TABLE identity.service_accounts ADD COLUMN IF NOT EXISTS metadata jsonb DEFAULT '{}' NOT NULL,"
        " ADD COLUMN IF NOT EXISTS external_id text DEFAULT '' NOT NULL"
    )


def _create_indexes() -> None:
    # Outside of a transaction, so that nobody waits while an index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.organizations_external_id_once")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS organizations_external_id_once"
            " ON identity.organizations (external_id) WHERE external_id <> '' AND delete_time IS NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.users_external_id_once")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS users_external_id_once"
            " ON identity.users (external_id) WHERE external_id <> '' AND delete_time IS NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.projects_external_id_once")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS projects_external_id_once"
            " ON identity.projects (organization_id, external_id) WHERE external_id <> '' AND delete_time IS NULL"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.service_accounts_external_id_once")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS service_accounts_external_id_once"
            " ON identity.service_accounts (organization_id, external_id)"
            " WHERE external_id <> '' AND delete_time IS NULL"
        )
