"""Grants for certain users or models, what charges use of them, and what holds reserve of them.

No row is written: an account is entered grant by grant from its first scoped grant on. The version before this one does
not enter uses: what it charges meanwhile is taken from what no grant covers.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE grant_uses (
            organization_id uuid NOT NULL,
            grant_id uuid NOT NULL,
            account_id uuid NOT NULL,
            sequence bigint NOT NULL,
            place integer NOT NULL,
            amount numeric(28, 9) NOT NULL,
            used numeric(28, 9) NOT NULL,
            rest numeric(28, 9) NOT NULL,
            user_id uuid,
            model text,
            CONSTRAINT grant_uses_pkey PRIMARY KEY (organization_id, grant_id, sequence),
            CONSTRAINT grant_uses_of_movement UNIQUE (organization_id, account_id, sequence, place)
        )
        """
    )
    op.execute("REVOKE UPDATE, DELETE ON grant_uses FROM tollhouse_billing")
    op.execute("ALTER TABLE accounts ADD COLUMN itemized_from bigint")
    op.execute("ALTER TABLE holds ADD COLUMN user_id uuid, ADD COLUMN model text, ADD COLUMN reserves jsonb")
    op.execute(
        """
        ALTER TABLE credit_grants
            ADD COLUMN user_id uuid, ADD COLUMN model text, ADD COLUMN rollover_max numeric(28, 9)
        """
    )
