"""Creates the audit tables in a migration. Services do not import it, nor the migration tool."""

from alembic import op
from sqlalchemy import MetaData
from sqlalchemy.schema import CreateIndex, CreateTable

from libs.common.audit.tables import declare_audit_tables
from libs.common.roles import role_of


def create_audit_tables(context: str) -> None:
    """Create both tables. The service's role may add events, and neither change nor delete them.

    A later change of them is a migration of its own; this one must then be left with the columns it has now.
    """
    events, heads = declare_audit_tables(MetaData(schema=context))
    for table in (events, heads):
        op.execute(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            op.execute(CreateIndex(index))
    op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {context}.audit_events FROM {role_of(context)}")
    op.execute(f"REVOKE DELETE, TRUNCATE ON {context}.audit_heads FROM {role_of(context)}")
