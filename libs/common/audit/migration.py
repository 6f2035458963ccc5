"""Creates the audit tables in a migration. Services do not import it, nor the migration tool."""

from alembic import op
from sqlalchemy import MetaData
from sqlalchemy.schema import CreateIndex, CreateTable

from libs.common.audit.tables import declare_audit_tables
from libs.common.roles import role_of


def create_audit_tables(context: str, schema: str | None = None) -> None:
    """Create both tables in a schema, or in the one the migration runs in.

    The role of the context's service may add events, and neither change nor delete them. A later change of the tables
    is a migration of its own; this one must then be left with the columns it has now.
    """
    events, heads = declare_audit_tables(MetaData(schema=schema))
    for table in (events, heads):
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            op.execute(CreateIndex(index))
    where = f"{schema}." if schema else ""
    op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {where}audit_events FROM {role_of(context)}")
    op.execute(f"REVOKE DELETE, TRUNCATE ON {where}audit_heads FROM {role_of(context)}")
