"""Where the scopes of gateways on a key hold: in its own organization, in another one, or in all.

The version before this one knows no scopes of gateways: it makes no such key, accepts none, and a key that it rotates
reaches its own organization alone.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_REACH_IS_ONE = """
ALTER TABLE identity.api_keys ADD CONSTRAINT api_keys_reach_is_one
    CHECK (NOT all_organizations OR (gateway_organization_id IS NULL AND service_account_id IS NOT NULL)) NOT VALID
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE identity.api_keys ADD COLUMN IF NOT EXISTS all_organizations boolean NOT NULL DEFAULT false"
    )
    op.execute("ALTER TABLE identity.api_keys ADD COLUMN IF NOT EXISTS gateway_organization_id uuid")
    op.execute(_REACH_IS_ONE)
