"""The schema, and columns that many of its tables share."""

from typing import Final

from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, MetaData, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

from libs.common.audit.tables import declare_audit_tables
from libs.common.events.tables import declare_event_tables

SCHEMA: Final = "identity"
ROLE_IS_KNOWN: Final = "role IN ('owner', 'admin', 'member', 'billing', 'viewer')"

metadata: Final = MetaData(schema=SCHEMA)
declare_audit_tables(metadata)
declare_event_tables(metadata)


def id_column(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Uuid(as_uuid=False), nullable=nullable)


def time_column(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def attribute_columns() -> tuple[Column[object], Column[str]]:
    """The platform's own data about a resource: metadata, and its external id, which is empty when there is none."""
    return (
        Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
        Column("external_id", Text, nullable=False, server_default=text("''")),
    )


HAS_EXTERNAL_ID: Final = text("external_id <> '' AND delete_time IS NULL")
"""The condition of the unique indexes on external ids: a deleted resource frees its own."""


def version_column() -> Column[int]:
    """The number of changes of a row, which callers see as the etag."""
    return Column("version", BigInteger, nullable=False, server_default=text("1"))


def tenant_key(name: str, table: str, *columns: str) -> ForeignKeyConstraint:
    """A foreign key to an organization or to one of its projects."""
    keys = ("organization_id", "project_id")[: len(columns)]
    return ForeignKeyConstraint(columns, [f"{SCHEMA}.{table}.{key}" for key in keys], name=name)
