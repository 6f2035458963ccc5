"""Webhooks that providers of payments sent, in billing's own schema: whose they are is known when they are applied."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from services.billing.tables.columns import CODE, ID, TIME, metadata

# The inbox. A row stays for ever, so that a webhook that comes again years later is known; its body goes when it was
# applied, since it names the payer.
webhooks: Final = Table(
    "webhooks",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("event_id", CODE, nullable=False),
    # Ours, by which operators name it; its order is that of receipt.
    Column("webhook_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    # The SHA-256 of the raw bytes, and of what they say: providers send an event again with other bytes, too.
    Column("body_sha256", LargeBinary, nullable=False),
    Column("facts_sha256", LargeBinary, nullable=False),
    # Null once it was applied.
    Column("body", LargeBinary),
    # Why it waits, was refused or set aside; empty otherwise.
    Column("reason", Text, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("receive_time", TIME, nullable=False),
    # Since when it waits: since it came, or since an operator let it be tried again.
    Column("wait_since_time", TIME, nullable=False),
    # Null where nothing is to be done any more.
    Column("next_attempt_time", TIME),
    Column("finish_time", TIME),
    # Null until it is known.
    Column("organization_id", ID),
    PrimaryKeyConstraint("provider", "event_id", name="webhooks_pkey"),
    UniqueConstraint("webhook_id", name="webhooks_id_once"),
    CheckConstraint(
        "(state IN ('WAITING', 'PARKED')) = (next_attempt_time IS NOT NULL)", name="webhooks_waiting_have_a_time"
    ),
    CheckConstraint("(state = 'APPLIED') = (body IS NULL)", name="webhooks_body_until_applied"),
    Index("webhooks_due", "next_attempt_time", postgresql_where=text("next_attempt_time IS NOT NULL")),
    Index("webhooks_by_state", "state", "webhook_id"),
    Index("webhooks_by_age", "finish_time", postgresql_where=text("finish_time IS NOT NULL")),
)

# How many webhooks came to what, by day in UTC. Of those that are refused at once, nothing else is kept.
webhook_counts: Final = Table(
    "webhook_counts",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("count_date", Date, nullable=False),
    Column("outcome", Text, nullable=False),
    # The provider's word for what happened; empty where the signature was not good.
    Column("kind", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("provider", "count_date", "outcome", "kind", name="webhook_counts_pkey"),
    CheckConstraint("count >= 1", name="webhook_counts_count"),
    Index("webhook_counts_by_day", "count_date"),
)

# When each provider is asked next for what changed: once often for the last days, once a day for the last weeks.
payment_reconciliations: Final = Table(
    "payment_reconciliations",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("span", Text, nullable=False),
    Column("next_time", TIME, nullable=False),
    # Until when the process that asks now has the turn; another one may take it then.
    Column("turn_end_time", TIME, nullable=False),
    # When it last came to an end; null before the first time.
    Column("last_end_time", TIME),
    # Why the last one failed; empty where it did not.
    Column("failure", Text, nullable=False),
    PrimaryKeyConstraint("provider", "span", name="payment_reconciliations_pkey"),
)
