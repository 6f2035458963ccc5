"""Credit grants, what was left of them at each event, and when the next of an account begins or expires.

No row is written. Transactions have new kinds: the rows that exist keep the rule, so they are not read for it.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE credit_grants (
            organization_id uuid NOT NULL,
            grant_id uuid NOT NULL,
            account_id uuid NOT NULL,
            project_id uuid,
            operation_id text COLLATE "C" NOT NULL,
            currency_code text NOT NULL,
            kind text NOT NULL,
            priority integer NOT NULL,
            amount numeric(28, 9) NOT NULL,
            effective_time timestamptz NOT NULL,
            at_once boolean NOT NULL,
            expire_time timestamptz,
            state text NOT NULL,
            rest numeric(28, 9) NOT NULL,
            expired numeric(28, 9) NOT NULL,
            source_reference text NOT NULL,
            description text NOT NULL,
            metadata jsonb,
            create_time timestamptz NOT NULL,
            actor text NOT NULL,
            void_time timestamptz,
            void_reason text,
            void_actor text,
            CONSTRAINT credit_grants_pkey PRIMARY KEY (organization_id, grant_id),
            CONSTRAINT credit_grants_operation_once UNIQUE (organization_id, operation_id),
            CONSTRAINT credit_grants_kind_known CHECK (kind IN ('PROMOTIONAL', 'INCLUDED', 'PURCHASED')),
            CONSTRAINT credit_grants_state_known CHECK (state IN ('SCHEDULED', 'ACTIVE', 'ENDED')),
            CONSTRAINT credit_grants_amounts_fit CHECK (
                amount > 0 AND rest >= 0 AND expired >= 0 AND rest + expired <= amount
            ),
            CONSTRAINT credit_grants_end_after_beginning CHECK (expire_time > effective_time),
            CONSTRAINT credit_grants_void_whole CHECK (num_nulls(void_time, void_reason, void_actor) IN (0, 3))
        )
        """
    )
    op.execute("CREATE INDEX credit_grants_open ON credit_grants (organization_id, account_id) WHERE state <> 'ENDED'")
    op.execute("CREATE INDEX credit_grants_by_account ON credit_grants (organization_id, account_id)")
    op.execute(
        """
        CREATE TABLE grant_standings (
            organization_id uuid NOT NULL,
            account_id uuid NOT NULL,
            sequence bigint NOT NULL,
            funded numeric(28, 9) NOT NULL,
            used numeric(28, 9) NOT NULL,
            used_beside numeric(28, 9) NOT NULL,
            rests jsonb NOT NULL,
            CONSTRAINT grant_standings_pkey PRIMARY KEY (organization_id, account_id, sequence)
        )
        """
    )
    op.execute("REVOKE DELETE ON credit_grants FROM tollhouse_billing")
    op.execute("REVOKE UPDATE, DELETE ON grant_standings FROM tollhouse_billing")
    op.execute("ALTER TABLE accounts ADD COLUMN grant_due_from timestamptz")
    op.execute(
        """
        -- squawk-ignore ban-drop-constraint
        ALTER TABLE transactions DROP CONSTRAINT transactions_kind_known
        """
    )
    op.execute(
        """
        ALTER TABLE transactions ADD CONSTRAINT transactions_kind_known CHECK (kind IN (
            'DEBIT', 'CREDIT', 'TRANSFER', 'CAPTURE', 'REVERSAL', 'GRANT', 'EXPIRY', 'VOID')) NOT VALID
        """
    )
