"""Charges that billing refuses are called REFUSED, and the relay tries them again.

The constraint also takes DEAD, which processes of the version before still write while they are replaced; the relay
turns such rows into REFUSED ones. The constraint is validated outside of the transaction, so that nobody waits.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("""
ALTER TABLE metering.outbox ADD CONSTRAINT outbox_state_known CHECK (state IN ('PENDING', 'REFUSED', 'DEAD')) NOT VALID
""")
    op.execute("""
-- squawk-ignore ban-drop-constraint
ALTER TABLE metering.outbox DROP CONSTRAINT outbox_state
""")
    op.execute("UPDATE metering.outbox SET state = 'REFUSED' WHERE state = 'DEAD'")
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE metering.outbox VALIDATE CONSTRAINT outbox_state_known")
