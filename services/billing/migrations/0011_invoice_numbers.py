"""Who issues invoices, and the numbers of documents, which are unique over the installation."""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE billing.invoice_issuers (
    singleton boolean NOT NULL DEFAULT true,
    issuer jsonb NOT NULL,
    revision bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT invoice_issuers_pkey PRIMARY KEY (singleton),
    CONSTRAINT invoice_issuers_one_row CHECK (singleton)
);
CREATE TABLE billing.invoice_counters (
    prefix text COLLATE "C" NOT NULL,
    last_count bigint NOT NULL,
    CONSTRAINT invoice_counters_pkey PRIMARY KEY (prefix),
    CONSTRAINT invoice_counters_not_negative CHECK (last_count >= 0)
);
CREATE TABLE billing.invoice_numbers (
    number text COLLATE "C" NOT NULL,
    prefix text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    organization_id uuid NOT NULL,
    invoice_id uuid NOT NULL,
    CONSTRAINT invoice_numbers_pkey PRIMARY KEY (number),
    CONSTRAINT invoice_numbers_count_once UNIQUE (prefix, count),
    CONSTRAINT invoice_numbers_document_once UNIQUE (organization_id, invoice_id)
);
REVOKE DELETE, TRUNCATE ON billing.invoice_issuers, billing.invoice_counters FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON billing.invoice_numbers FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
