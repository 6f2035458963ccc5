"""A shard of billing: accounts, transactions, holds and declines of its organizations, and their audit trail.

Names have no schema here: the migration runs in each shard's schema in turn.
"""

from collections.abc import Sequence

from alembic import op

from libs.common.audit.migration import create_audit_tables

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATEMENTS = (
    """
    CREATE TABLE accounts (
        organization_id UUID NOT NULL,
        account_id UUID NOT NULL,
        owner_id UUID NOT NULL,
        currency_code TEXT NOT NULL,
        posted NUMERIC(28, 9) NOT NULL,
        held NUMERIC(28, 9) NOT NULL,
        sequence BIGINT NOT NULL,
        overdraft_limit NUMERIC(28, 9) NOT NULL,
        state TEXT NOT NULL,
        hold_expiry_from TIMESTAMP WITH TIME ZONE,
        last_movement_time TIMESTAMP WITH TIME ZONE,
        version BIGINT NOT NULL,
        revision BIGINT NOT NULL,
        request_id TEXT,
        request JSONB,
        metadata JSONB,
        create_time TIMESTAMP WITH TIME ZONE NOT NULL,
        update_time TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT accounts_pkey PRIMARY KEY (organization_id, account_id),
        CONSTRAINT accounts_owner_currency_once UNIQUE (organization_id, owner_id, currency_code),
        CONSTRAINT accounts_held_not_negative CHECK (held >= 0),
        CONSTRAINT accounts_overdraft_limit_not_negative CHECK (overdraft_limit >= 0),
        CONSTRAINT accounts_state_known CHECK (state IN ('OPEN', 'CLOSED'))
    )
    WITH (fillfactor = 60)
    """,
    """
    CREATE UNIQUE INDEX accounts_request_once
    ON accounts (organization_id, request_id)
    WHERE request_id IS NOT NULL
    """,
    """
    CREATE TABLE transactions (
        organization_id UUID NOT NULL,
        operation_id TEXT COLLATE "C" NOT NULL,
        transaction_id UUID NOT NULL,
        kind TEXT NOT NULL,
        project_id UUID,
        account_id UUID NOT NULL,
        sequence BIGINT NOT NULL,
        direction TEXT NOT NULL,
        currency_code TEXT NOT NULL,
        amount NUMERIC(28, 9) NOT NULL,
        balance_after NUMERIC(28, 9) NOT NULL,
        requested_amount NUMERIC(28, 9),
        mode TEXT,
        overdrawn BOOLEAN NOT NULL,
        system_account TEXT,
        counter_account_id UUID,
        counter_project_id UUID,
        counter_sequence BIGINT,
        counter_balance_after NUMERIC(28, 9),
        reverses_transaction_id UUID,
        held_amount NUMERIC(28, 9),
        description TEXT,
        metadata JSONB,
        create_time TIMESTAMP WITH TIME ZONE NOT NULL,
        actor TEXT,
        CONSTRAINT transactions_operation_once PRIMARY KEY (organization_id, operation_id),
        CONSTRAINT transactions_transaction_once UNIQUE (organization_id, transaction_id),
        CONSTRAINT transactions_sequence_once UNIQUE (organization_id, account_id, sequence),
        CONSTRAINT transactions_amount_not_negative CHECK (amount >= 0),
        CONSTRAINT transactions_direction_known CHECK (direction IN ('DEBIT', 'CREDIT')),
        CONSTRAINT transactions_kind_known CHECK (kind IN ('DEBIT', 'CREDIT', 'TRANSFER', 'CAPTURE', 'REVERSAL')),
        CONSTRAINT transactions_one_other_side CHECK ((system_account IS NULL) = (counter_account_id IS NOT NULL))
    )
    """,
    """
    CREATE UNIQUE INDEX transactions_counter_sequence_once
    ON transactions (organization_id, counter_account_id, counter_sequence)
    WHERE counter_account_id IS NOT NULL
    """,
    """
    CREATE INDEX transactions_reverses
    ON transactions (organization_id, reverses_transaction_id)
    WHERE reverses_transaction_id IS NOT NULL
    """,
    """
    CREATE TABLE holds (
        organization_id UUID NOT NULL,
        operation_id TEXT COLLATE "C" NOT NULL,
        hold_id UUID NOT NULL,
        project_id UUID,
        account_id UUID NOT NULL,
        currency_code TEXT NOT NULL,
        amount NUMERIC(28, 9) NOT NULL,
        ttl_ms BIGINT NOT NULL,
        state TEXT NOT NULL,
        description TEXT,
        metadata JSONB,
        create_time TIMESTAMP WITH TIME ZONE NOT NULL,
        expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
        end_time TIMESTAMP WITH TIME ZONE,
        actor TEXT,
        CONSTRAINT holds_operation_once PRIMARY KEY (organization_id, operation_id),
        CONSTRAINT holds_amount_positive CHECK (amount > 0),
        CONSTRAINT holds_state_known CHECK (state IN ('OPEN', 'CAPTURED', 'RELEASED', 'EXPIRED')),
        CONSTRAINT holds_end_once CHECK ((state = 'OPEN') = (end_time IS NULL))
    )
    """,
    """
    CREATE INDEX holds_open
    ON holds (organization_id, account_id, expire_time)
    WHERE state = 'OPEN'
    """,
    """
    CREATE TABLE declines (
        organization_id UUID NOT NULL,
        operation_id TEXT COLLATE "C" NOT NULL,
        slot TEXT NOT NULL,
        reason TEXT NOT NULL,
        request JSONB NOT NULL,
        facts JSONB NOT NULL,
        create_time TIMESTAMP WITH TIME ZONE NOT NULL,
        actor TEXT,
        CONSTRAINT declines_operation_once PRIMARY KEY (organization_id, operation_id, slot),
        CONSTRAINT declines_slot_known CHECK (slot IN ('MOVEMENT', 'HOLD'))
    )
    """,
    # Transactions and declines are never changed, and no row is ever deleted.
    "REVOKE UPDATE, DELETE, TRUNCATE ON transactions, declines FROM tollhouse_billing",
    "REVOKE DELETE, TRUNCATE ON accounts, holds FROM tollhouse_billing",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    create_audit_tables("billing")
