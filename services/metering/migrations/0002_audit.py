"""The audit trail."""

from collections.abc import Sequence

from libs.common.audit.migration import create_audit_tables

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    create_audit_tables("metering", schema="metering")
