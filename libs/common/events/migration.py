"""Creates the tables of events in a migration. Services do not import it, nor the migration tool."""

from alembic import op
from sqlalchemy import MetaData
from sqlalchemy.schema import CreateIndex, CreateTable

from libs.common.events.tables import declare_event_tables


def create_event_tables(schema: str | None = None) -> None:
    """Create the tables in a schema, or in the one the migration runs in.

    A later change of the tables is a migration of its own; this one must then be left with the columns it has now.
    """
    for table in declare_event_tables(MetaData(schema=schema)):
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            op.execute(CreateIndex(index))
