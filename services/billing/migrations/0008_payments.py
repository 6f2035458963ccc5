"""Products that are sold, and which payment each object of a provider belongs to."""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE billing.products (
    product_id uuid NOT NULL,
    product_code text COLLATE "C" NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    price_currency_code text NOT NULL,
    price_amount numeric(28, 9) NOT NULL,
    credits_currency_code text NOT NULL,
    credits_amount numeric(28, 9) NOT NULL,
    expire_after_days integer NOT NULL,
    priority integer NOT NULL,
    active boolean NOT NULL,
    sort_order integer NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    archive_time timestamptz,
    CONSTRAINT products_pkey PRIMARY KEY (product_id),
    CONSTRAINT products_code_once UNIQUE (product_code),
    CONSTRAINT products_amounts_positive CHECK (price_amount > 0 AND credits_amount > 0)
);
CREATE INDEX products_in_order ON billing.products (sort_order, product_code);
CREATE TABLE billing.product_references (
    provider text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    product_id uuid NOT NULL,
    CONSTRAINT product_references_pkey PRIMARY KEY (provider, kind, external_id),
    CONSTRAINT product_references_product_known FOREIGN KEY (product_id) REFERENCES billing.products (product_id)
);
CREATE INDEX product_references_of_product ON billing.product_references (product_id);
CREATE TABLE billing.product_requests (
    request_id text COLLATE "C" NOT NULL,
    rpc text NOT NULL,
    request bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT product_requests_pkey PRIMARY KEY (request_id)
);
CREATE TABLE billing.payment_references (
    provider text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    organization_id uuid NOT NULL,
    payment_id uuid NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT payment_references_pkey PRIMARY KEY (provider, kind, external_id)
);
CREATE INDEX payment_references_of_payment ON billing.payment_references (organization_id, payment_id);
REVOKE DELETE, TRUNCATE ON billing.products FROM tollhouse_billing;
REVOKE UPDATE, TRUNCATE ON billing.product_references FROM tollhouse_billing;
REVOKE UPDATE, DELETE, TRUNCATE ON billing.product_requests FROM tollhouse_billing;
REVOKE UPDATE, TRUNCATE ON billing.payment_references FROM tollhouse_billing
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
