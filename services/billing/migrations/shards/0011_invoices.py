"""Invoices and credit notes, and to whom they go."""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE invoices (
    organization_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    kind text NOT NULL,
    state text NOT NULL,
    number text COLLATE "C" NOT NULL,
    account_id uuid NOT NULL,
    project_id uuid,
    currency_code text NOT NULL,
    position bigint,
    after_sequence bigint,
    from_time timestamptz,
    to_sequence bigint,
    to_time timestamptz,
    first_sequence bigint,
    rest_from bigint,
    step_amount numeric(28, 9),
    rest_amount numeric(28, 9),
    subtotal numeric(28, 9) NOT NULL,
    tax numeric(28, 9) NOT NULL,
    credits_applied numeric(28, 9) NOT NULL,
    credited numeric(28, 9) NOT NULL,
    credited_tax numeric(28, 9) NOT NULL,
    grants_used jsonb,
    replaces uuid[] NOT NULL,
    replaced_by uuid,
    corrects_invoice_id uuid,
    payment_id uuid,
    operation_id text COLLATE "C",
    reason text NOT NULL,
    document jsonb NOT NULL,
    issue_time timestamptz NOT NULL,
    due_time timestamptz,
    state_time timestamptz NOT NULL,
    actor text NOT NULL,
    CONSTRAINT invoices_pkey PRIMARY KEY (organization_id, invoice_id),
    CONSTRAINT invoices_number_once UNIQUE (organization_id, number),
    CONSTRAINT invoices_position_once UNIQUE (organization_id, account_id, position),
    CONSTRAINT invoices_kind_known CHECK (kind IN ('INVOICE', 'CREDIT_NOTE')),
    CONSTRAINT invoices_state_known CHECK (state IN ('ISSUED', 'PAID', 'VOID', 'UNCOLLECTIBLE')),
    CONSTRAINT invoices_step_whole CHECK (
        num_nulls(position, after_sequence, to_sequence, to_time, first_sequence, step_amount, rest_amount)
            = CASE kind WHEN 'INVOICE' THEN 0 ELSE 7 END),
    CONSTRAINT invoices_notes_correct CHECK ((kind = 'CREDIT_NOTE') = (corrects_invoice_id IS NOT NULL)),
    CONSTRAINT invoices_paid_by_one CHECK (
        (state = 'PAID') = (num_nonnulls(payment_id, operation_id) = 1)
            AND num_nonnulls(payment_id, operation_id) < 2),
    CONSTRAINT invoices_replaced_when_void CHECK (replaced_by IS NULL OR state = 'VOID'),
    CONSTRAINT invoices_credited_fits CHECK (
        abs(credited) <= abs(subtotal) AND abs(credited_tax) <= abs(tax))
);
CREATE INDEX invoices_corrects ON invoices (organization_id, corrects_invoice_id, invoice_id)
    WHERE corrects_invoice_id IS NOT NULL;
CREATE INDEX invoices_to_be_replaced ON invoices (organization_id, account_id, invoice_id)
    WHERE state = 'VOID' AND replaced_by IS NULL;
CREATE INDEX invoices_unpaid ON invoices (organization_id, account_id, invoice_id)
    WHERE kind = 'INVOICE' AND state IN ('ISSUED', 'UNCOLLECTIBLE');
CREATE TABLE invoice_requests (
    organization_id uuid NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT invoice_requests_pkey PRIMARY KEY (organization_id, request_id)
);
CREATE TABLE invoice_recipients (
    organization_id uuid NOT NULL,
    recipient jsonb NOT NULL,
    revision bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT invoice_recipients_pkey PRIMARY KEY (organization_id)
);
REVOKE DELETE, TRUNCATE ON invoices, invoice_recipients FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON invoice_requests FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
