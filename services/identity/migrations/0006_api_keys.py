"""Rotation, address lists, changes and imports of API keys."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SCHEMA = "identity"
_HINT_IS_SHORT = (
    "CASE WHEN imported_prefix IS NULL THEN char_length(secret_prefix) = 12 AND char_length(secret_suffix) = 4"
    " ELSE char_length(secret_prefix) <= 12 AND char_length(secret_suffix) <= 4 END"
)
# An interrupted attempt leaves an index that is of no use, so whatever has its name goes first.
_INDEXES = """
DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_by_environment;
CREATE INDEX CONCURRENTLY IF NOT EXISTS api_keys_by_environment
    ON identity.api_keys (organization_id, environment, api_key_id);
DROP INDEX CONCURRENTLY IF EXISTS identity.api_keys_by_external_id;
CREATE INDEX CONCURRENTLY IF NOT EXISTS api_keys_by_external_id
    ON identity.api_keys (organization_id, external_id, api_key_id) WHERE external_id <> ''
"""
# What still writes by the old rule, which is the stricter one, keeps to the new one too: nothing assumed it is lost.
_FORGET_OLD_RULE = """
-- squawk-ignore ban-drop-constraint
ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_hint_is_short
"""


def upgrade() -> None:
    # Before all else, because an index built without stopping anybody cannot be part of a transaction.
    with op.get_context().autocommit_block():
        for statement in _INDEXES.split(";"):
            op.execute(statement)
    for column in (
        sa.Column("allowed_addresses", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'")),
        sa.Column("rotated_from_api_key_id", sa.Uuid(as_uuid=False)),
        sa.Column("rotated_to_api_key_id", sa.Uuid(as_uuid=False)),
        sa.Column("imported_prefix", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("1")),
    ):
        op.add_column("api_keys", column, schema=_SCHEMA)
    # Secrets of other systems have other lengths. Every row is as the old rule wanted it, and so as the new one does.
    op.execute(_FORGET_OLD_RULE)
    op.create_check_constraint(
        "api_keys_hint_is_short", "api_keys", _HINT_IS_SHORT, schema=_SCHEMA, postgresql_not_valid=True
    )
    op.create_table(
        "imported_prefixes",
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("create_time", TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("prefix", name="imported_prefixes_pkey"),
        schema=_SCHEMA,
    )
