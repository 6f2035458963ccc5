"""The table that records the number of shards.

It stands apart from `libs.common.sharding`, which every command imports and which needs no SQLAlchemy.
"""

from sqlalchemy import Boolean, CheckConstraint, Column, Integer, MetaData, PrimaryKeyConstraint, Table, text

from libs.common.sharding import SHARDS_MAX


def declare_sharding_table(metadata: MetaData) -> Table:
    """Add the table that records the number of shards to a service's own schema."""
    return Table(
        "sharding",
        metadata,
        Column("singleton", Boolean, nullable=False, server_default=text("true")),
        Column("shard_count", Integer, nullable=False),
        PrimaryKeyConstraint("singleton", name="sharding_pkey"),
        CheckConstraint("singleton", name="sharding_one_row"),
        CheckConstraint(f"shard_count BETWEEN 1 AND {SHARDS_MAX}", name="sharding_shard_count"),
    )
