"""The outbox of events, the endpoints that are sent them, and what became of each delivery."""

from collections.abc import Sequence

from libs.common.events.migration import create_event_tables

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    create_event_tables()
