"""The webhooks that providers of payments sent, and when they are asked for what changed."""

from collections.abc import Sequence

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE billing.webhooks (
            provider text COLLATE "C" NOT NULL,
            event_id text COLLATE "C" NOT NULL,
            webhook_id uuid NOT NULL,
            kind text NOT NULL,
            state text NOT NULL,
            body_sha256 bytea NOT NULL,
            facts_sha256 bytea NOT NULL,
            body bytea,
            reason text NOT NULL,
            attempt_count integer NOT NULL,
            receive_time timestamptz NOT NULL,
            wait_since_time timestamptz NOT NULL,
            next_attempt_time timestamptz,
            finish_time timestamptz,
            organization_id uuid,
            CONSTRAINT webhooks_pkey PRIMARY KEY (provider, event_id),
            CONSTRAINT webhooks_id_once UNIQUE (webhook_id),
            CONSTRAINT webhooks_waiting_have_a_time CHECK (
                (state IN ('WAITING', 'PARKED')) = (next_attempt_time IS NOT NULL)
            ),
            CONSTRAINT webhooks_body_until_applied CHECK ((state = 'APPLIED') = (body IS NULL))
        )
        """
    )
    op.execute("CREATE INDEX webhooks_due ON billing.webhooks (next_attempt_time) WHERE next_attempt_time IS NOT NULL")
    op.execute("CREATE INDEX webhooks_by_state ON billing.webhooks (state, webhook_id)")
    op.execute("REVOKE DELETE, TRUNCATE ON billing.webhooks FROM tollhouse_billing")
    op.execute(
        """
        CREATE TABLE billing.webhook_counts (
            provider text COLLATE "C" NOT NULL,
            count_date date NOT NULL,
            outcome text NOT NULL,
            kind text NOT NULL,
            count bigint NOT NULL,
            CONSTRAINT webhook_counts_pkey PRIMARY KEY (provider, count_date, outcome, kind),
            CONSTRAINT webhook_counts_count CHECK (count >= 1)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE billing.payment_reconciliations (
            provider text COLLATE "C" NOT NULL,
            span text NOT NULL,
            next_time timestamptz NOT NULL,
            turn_end_time timestamptz NOT NULL,
            last_end_time timestamptz,
            failure text NOT NULL,
            CONSTRAINT payment_reconciliations_pkey PRIMARY KEY (provider, span)
        )
        """
    )
