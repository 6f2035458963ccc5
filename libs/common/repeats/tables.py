"""The table in which a service keeps requests with their responses."""

from typing import TypeAlias

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text

RequestsTable: TypeAlias = Table
"""What a use case passes on, under a name that is independent of the driver."""


def declare_requests_table(metadata: MetaData, name: str) -> RequestsTable:
    """Declare a table of requests. Its rows are never changed."""
    return Table(
        name,
        metadata,
        Column("request_id", Text(collation="C"), nullable=False),
        Column("rpc", Text, nullable=False),
        Column("request", LargeBinary, nullable=False),
        Column("response", LargeBinary, nullable=False),
        Column("create_time", DateTime(timezone=True), nullable=False),
        PrimaryKeyConstraint("request_id", name=f"{name}_pkey"),
    )
