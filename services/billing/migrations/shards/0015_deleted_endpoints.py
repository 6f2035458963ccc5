"""Endpoints of events that were deleted long ago are found, to be forgotten."""

from collections.abc import Sequence

from libs.common.events.migration import index_deleted_endpoints

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    index_deleted_endpoints()
