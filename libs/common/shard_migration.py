"""Moves a service's tables into its first shard, in a migration. Services do not import it, nor the migration tool."""

from collections.abc import Sequence
from typing import Final

from alembic import op

from libs.common.audit.migration import create_audit_tables
from libs.common.roles import role_of
from libs.common.sharding import PLATFORM

_SHARDING: Final = """
CREATE TABLE {context}.sharding (
    singleton BOOLEAN NOT NULL DEFAULT true,
    shard_count INTEGER NOT NULL,
    CONSTRAINT sharding_pkey PRIMARY KEY (singleton),
    CONSTRAINT sharding_one_row CHECK (singleton),
    CONSTRAINT sharding_shard_count CHECK (shard_count BETWEEN 1 AND 256)
)
"""
# As alembic creates it; the tables are as the shards' first migration makes them.
_VERSION: Final = """
CREATE TABLE {shard}.alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""


def move_to_first_shard(context: str, tables: Sequence[str]) -> None:
    """Move the tables of organizations, and their audit trail, into the first shard, without copying a row.

    The events that belong to no organization stay in the context's own schema. It also gets the table that records the
    number of shards.
    """
    shard, role = f"{context}_00", role_of(context)
    op.execute(_SHARDING.format(context=context))
    op.execute(f"REVOKE INSERT, UPDATE, DELETE ON {context}.sharding FROM {role}")
    for table in (*tables, "audit_events", "audit_heads"):
        # Services of the version before are stopped before this migration.
        op.execute(f"-- squawk-ignore ban-set-schema\nALTER TABLE {context}.{table} SET SCHEMA {shard}")
    op.execute(_VERSION.format(shard=shard))
    op.execute(f"INSERT INTO {shard}.alembic_version (version_num) VALUES ('0001')")  # noqa: S608 -- names of ours.
    create_audit_tables(context, schema=context)
    for table in ("audit_events", "audit_heads"):
        moved = f"DELETE FROM {shard}.{table} WHERE organization_id = '{PLATFORM}' RETURNING *"  # noqa: S608 -- ours.
        op.execute(f"WITH moved AS ({moved}) INSERT INTO {context}.{table} SELECT * FROM moved")  # noqa: S608 -- ours.
