"""Conversations, their messages, the counts of them by user and month, and what organizations keep of them."""

from collections.abc import Sequence

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TABLES = """
CREATE TABLE conversations (
    organization_id uuid NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    project_id uuid,
    user_id uuid,
    title text NOT NULL,
    title_folded text NOT NULL,
    title_state text NOT NULL,
    model text NOT NULL,
    archived boolean NOT NULL,
    message_count bigint NOT NULL,
    costs jsonb NOT NULL,
    fingerprint bytea NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    delete_time timestamptz,
    contents_due boolean NOT NULL DEFAULT false,
    CONSTRAINT conversations_pkey PRIMARY KEY (organization_id, conversation_id),
    CONSTRAINT conversations_title_state CHECK (
        title_state IN ('KEPT', 'NONE', 'NOT_KEPT', 'EXPIRED', 'DELETED')
    ),
    CONSTRAINT conversations_title_kept CHECK ((title_state = 'KEPT') = (title <> '')),
    CONSTRAINT conversations_deleted CHECK (delete_time IS NULL OR title = ''),
    CONSTRAINT conversations_message_count CHECK (message_count >= 0)
) WITH (fillfactor = 70);
CREATE INDEX conversations_by_time ON conversations (organization_id, create_time, conversation_id);
CREATE INDEX conversations_of_user ON conversations (organization_id, user_id, create_time, conversation_id);
CREATE INDEX conversations_of_project ON conversations (organization_id, project_id, create_time, conversation_id);
CREATE INDEX conversations_titled ON conversations (organization_id, update_time) WHERE title <> '';
CREATE INDEX conversations_due ON conversations (organization_id, conversation_id) WHERE contents_due;
CREATE TABLE conversation_messages (
    organization_id uuid NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    role text NOT NULL,
    fingerprint bytea NOT NULL,
    content bytea,
    key_version integer,
    content_state text NOT NULL,
    model text NOT NULL,
    create_time timestamptz NOT NULL,
    usage_id uuid,
    quantities jsonb,
    cost numeric(28, 9),
    currency_code text,
    CONSTRAINT conversation_messages_pkey PRIMARY KEY (organization_id, conversation_id, position),
    CONSTRAINT conversation_messages_operation_once UNIQUE (organization_id, operation_id),
    CONSTRAINT conversation_messages_role CHECK (role IN ('USER', 'ASSISTANT', 'SYSTEM', 'TOOL')),
    CONSTRAINT conversation_messages_content_state CHECK (
        content_state IN ('KEPT', 'NONE', 'NOT_KEPT', 'EXPIRED', 'DELETED')
    ),
    CONSTRAINT conversation_messages_content_kept CHECK (
        (content_state = 'KEPT') = (content IS NOT NULL) AND (key_version IS NULL OR content IS NOT NULL)
    ),
    CONSTRAINT conversation_messages_position CHECK (position > 0),
    CONSTRAINT conversation_messages_usage_whole CHECK (
        (usage_id IS NULL) = (quantities IS NULL) AND num_nulls(cost, currency_code) IN (0, 2)
        AND (usage_id IS NOT NULL OR cost IS NULL)
    )
);
CREATE INDEX conversation_messages_kept ON conversation_messages (organization_id, conversation_id, position)
    WHERE content IS NOT NULL;
CREATE INDEX conversation_messages_kept_by_time ON conversation_messages (organization_id, create_time)
    WHERE content IS NOT NULL;
CREATE TABLE conversation_months (
    organization_id uuid NOT NULL,
    user_id uuid NOT NULL,
    month timestamptz NOT NULL,
    messages bigint NOT NULL,
    user_messages bigint NOT NULL,
    assistant_messages bigint NOT NULL,
    CONSTRAINT conversation_months_pkey PRIMARY KEY (organization_id, user_id, month)
) WITH (fillfactor = 70);
CREATE TABLE conversation_policies (
    organization_id uuid NOT NULL,
    keep_content boolean NOT NULL,
    retention_days integer NOT NULL,
    revision bigint NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT conversation_policies_pkey PRIMARY KEY (organization_id),
    CONSTRAINT conversation_policies_retention_days CHECK (retention_days BETWEEN 0 AND 3650)
);
REVOKE DELETE ON conversations, conversation_messages, conversation_months, conversation_policies
    FROM tollhouse_metering;
REVOKE UPDATE ON conversation_messages FROM tollhouse_metering;
GRANT UPDATE (content, key_version, content_state) ON conversation_messages TO tollhouse_metering
"""


def upgrade() -> None:
    for statement in _TABLES.strip().split(";\n"):
        op.execute(statement)
