"""Settlement in parts: what is captured of a call before its usage is recorded.

The dedupe row of a call that is settled in parts has an empty fingerprint until its usage is recorded, so the service
may change these columns of it.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_PARTS = """
CREATE TABLE settlement_parts (
    organization_id uuid NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    part integer NOT NULL,
    fingerprint bytea NOT NULL,
    part_id text COLLATE "C",
    model text NOT NULL,
    service_tier text NOT NULL,
    quantities jsonb NOT NULL,
    stated_amount numeric(28, 9),
    price_version_id uuid,
    amount numeric(28, 9) NOT NULL,
    captured_amount numeric(28, 9) NOT NULL,
    currency_code text,
    occur_time timestamptz NOT NULL,
    request bytea NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT settlement_parts_pkey PRIMARY KEY (organization_id, operation_id, part),
    CONSTRAINT settlement_parts_fingerprint_once UNIQUE (organization_id, operation_id, fingerprint),
    CONSTRAINT settlement_parts_part_id_once UNIQUE (organization_id, part_id),
    CONSTRAINT settlement_parts_charged CHECK ((part_id IS NOT NULL) = (amount > 0) AND amount >= 0),
    CONSTRAINT settlement_parts_currency CHECK (currency_code IS NOT NULL OR captured_amount = 0)
);
REVOKE UPDATE, DELETE ON settlement_parts FROM tollhouse_metering;
GRANT UPDATE (fingerprint, usage_id, occur_time) ON usage_operations TO tollhouse_metering;
ALTER TABLE outbox ADD COLUMN hold_operation_id text COLLATE "C";
ALTER TABLE usage_records ADD COLUMN captured_before numeric(28, 9)
"""


def upgrade() -> None:
    for statement in _PARTS.strip().split(";\n"):
        op.execute(statement)
