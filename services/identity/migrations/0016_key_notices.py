"""Which keys are announced to expire soon, and the index of when they do.

Each statement does nothing if it was done by an attempt before.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            """
            CREATE TABLE IF NOT EXISTS identity.api_key_notices (
                organization_id uuid NOT NULL,
                api_key_id uuid NOT NULL,
                expire_time timestamptz NOT NULL,
                CONSTRAINT api_key_notices_pkey PRIMARY KEY (organization_id, api_key_id)
            )
            """
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_by_expiry")
        op.execute(
            """
            CREATE INDEX CONCURRENTLY api_keys_by_expiry ON identity.api_keys (expire_time)
            WHERE expire_time IS NOT NULL AND revoke_time IS NULL
            """
        )
