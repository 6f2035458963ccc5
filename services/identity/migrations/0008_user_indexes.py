"""Users are found by their last sign-in and their own organization, and what 0003 left unvalidated is validated."""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Outside of a transaction, so that nobody waits while an index is built; what an interrupted attempt left behind
    # goes first.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.users_by_last_sign_in")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_by_last_sign_in ON identity.users (last_sign_in_time)"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.users_personal_organization_once")
        op.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS users_personal_organization_once"
            " ON identity.users (personal_organization_id)"
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.users_inactive")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_inactive ON identity.users (user_id)"
            " WHERE deactivate_time IS NOT NULL AND delete_time IS NULL"
        )
    op.execute("ALTER TABLE identity.users VALIDATE CONSTRAINT users_platform_role_known")
    op.execute("ALTER TABLE identity.users VALIDATE CONSTRAINT users_have_an_organization")
    op.execute("ALTER TABLE identity.users VALIDATE CONSTRAINT users_personal_organization")
    op.execute("ALTER TABLE identity.users VALIDATE CONSTRAINT users_last_selected_organization")
    op.execute("ALTER TABLE identity.users VALIDATE CONSTRAINT users_last_selected_project")
    # What 0003 gave to users who were there before knows of its nature only since 0005.
    op.execute(
        """
        UPDATE identity.organizations o SET personal = true
        FROM identity.users u WHERE u.personal_organization_id = o.organization_id AND NOT o.personal
        """
    )
