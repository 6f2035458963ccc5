"""Creates the tables of events in a migration. Services do not import it, nor the migration tool."""

from alembic import op
from sqlalchemy import MetaData
from sqlalchemy.schema import CreateIndex, CreateTable, DropIndex

from libs.common.events.tables import DELETED_ENDPOINTS, declare_event_tables


def create_event_tables(schema: str | None = None) -> None:
    """Create the tables in a schema, or in the one the migration runs in.

    A later change of the tables is a migration of its own; this one must then be left with the columns it has now.
    """
    for table in declare_event_tables(MetaData(schema=schema)):
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name != DELETED_ENDPOINTS:
                op.execute(CreateIndex(index))


def index_deleted_endpoints(schema: str | None = None) -> None:
    """Create the index of deleted endpoints without blocking anybody; what an interrupted attempt left goes first."""
    endpoints = declare_event_tables(MetaData(schema=schema))[2]
    index = next(one for one in endpoints.indexes if one.name == DELETED_ENDPOINTS)
    index.dialect_options["postgresql"]["concurrently"] = True
    with op.get_context().autocommit_block():
        op.execute(DropIndex(index, if_exists=True))
        op.execute(CreateIndex(index))
