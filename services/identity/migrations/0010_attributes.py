"""Metadata and external ids of organizations, users, projects and service accounts; sign-in by access token."""

from collections.abc import Sequence

from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEXED = {
    "organizations": "external_id",
    "users": "external_id",
    "projects": "organization_id, external_id",
    "service_accounts": "organization_id, external_id",
}
"""The columns in which the external ids of each table are unique."""


def upgrade() -> None:
    # A constant default rewrites no row. Columns that an interrupted attempt has added are kept.
    for table in _INDEXED:
        op.execute(
            f"ALTER TABLE identity.{table} ADD COLUMN IF NOT EXISTS metadata jsonb DEFAULT '{{}}' NOT NULL,"
            " ADD COLUMN IF NOT EXISTS external_id text DEFAULT '' NOT NULL"
        )
    op.execute(
        "ALTER TABLE identity.sessions DROP CONSTRAINT IF EXISTS sessions_method_known,"
        " ADD CONSTRAINT sessions_method_known CHECK (method IN ('password', 'id_token', 'access_token')) NOT VALID"
    )
    # Outside of a transaction, so that nobody waits while an index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        for table, columns in _INDEXED.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS identity.{table}_external_id_once")
            op.execute(
                f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {table}_external_id_once"
                f" ON identity.{table} ({columns})"
                " WHERE external_id <> '' AND delete_time IS NULL"
            )
    op.execute("ALTER TABLE identity.sessions VALIDATE CONSTRAINT sessions_method_known")
