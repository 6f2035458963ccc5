"""For how long usage is kept, which months are dropped, and whose texts are emptied."""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE metering.usage_retention (
    organization_id uuid NOT NULL,
    months integer NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT usage_retention_pkey PRIMARY KEY (organization_id),
    CONSTRAINT usage_retention_months CHECK (months = 0 OR months BETWEEN 2 AND 1200)
);
CREATE TABLE metering.usage_drops (
    organization_id uuid NOT NULL,
    month timestamptz NOT NULL,
    state text NOT NULL,
    usage_count bigint NOT NULL,
    totals jsonb NOT NULL,
    digest bigint NOT NULL,
    refusal_reason text,
    refusal_message text,
    actor text NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    lease_time timestamptz NOT NULL,
    CONSTRAINT usage_drops_pkey PRIMARY KEY (organization_id, month),
    CONSTRAINT usage_drops_state CHECK (state IN ('SEALED', 'DROPPING', 'DROPPED', 'REFUSED'))
);
CREATE TABLE metering.forgotten_users (
    user_id uuid NOT NULL,
    emptied_count bigint NOT NULL,
    shard integer NOT NULL,
    step integer NOT NULL,
    after text[] NOT NULL,
    create_time timestamptz NOT NULL,
    done_time timestamptz,
    lease_time timestamptz NOT NULL,
    CONSTRAINT forgotten_users_pkey PRIMARY KEY (user_id)
);
REVOKE DELETE ON metering.usage_drops, metering.forgotten_users FROM tollhouse_metering
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
