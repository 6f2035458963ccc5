"""How far billing has followed identity's organizations, and which of them were deleted."""

from typing import Final

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Integer, PrimaryKeyConstraint, Table, Text

from services.billing.tables.columns import ID, TIME, metadata, shard_metadata

# How far this service has followed what a peer streams, and which process follows now.
watch_positions: Final = Table(
    "watch_positions",
    metadata,
    Column("watch", Text(collation="C"), nullable=False),
    # Everything up to this revision was handled, or is among the unhandled ones.
    Column("revision", BigInteger, nullable=False),
    Column("holder", ID, nullable=False),
    Column("lease_expire_time", TIME, nullable=False),
    PrimaryKeyConstraint("watch", name="watch_positions_pkey"),
    CheckConstraint("revision >= 0", name="watch_positions_revision_counts"),
)

# The organizations that could not be handled yet, as identity told of them last; some ten thousand at most.
unhandled_organizations: Final = Table(
    "unhandled_organizations",
    metadata,
    Column("organization_id", ID, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("personal", Boolean, nullable=False),
    Column("owner_user_id", ID),
    # When the organization was created and deleted.
    Column("create_time", TIME, nullable=False),
    Column("delete_time", TIME),
    Column("reason", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("first_attempt_time", TIME, nullable=False),
    Column("next_attempt_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="unhandled_organizations_pkey"),
    CheckConstraint("attempt_count >= 1", name="unhandled_organizations_attempted"),
)

# The organizations of the shard that were deleted, so that nothing is begun for them any more.
deleted_organizations: Final = Table(
    "deleted_organizations",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("delete_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="deleted_organizations_pkey"),
)
