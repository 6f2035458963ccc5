"""Invoices and credit notes, to whom they go, and their numbers."""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.billing.tables.columns import AMOUNT, CODE, ID, TIME, metadata, shard_metadata

# The invoices of an account are numbered by `position`, from 1 on, and each begins where the one before ends: see
# services/billing/invoice/domain.py:Step. A credit note has none of these. `document` has what never changes.
invoices: Final = Table(
    "invoices",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("invoice_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", CODE, nullable=False),
    Column("account_id", ID, nullable=False),
    Column("project_id", ID),
    Column("currency_code", Text, nullable=False),
    Column("position", BigInteger),
    Column("after_sequence", BigInteger),
    Column("from_time", TIME),
    Column("to_sequence", BigInteger),
    Column("to_time", TIME),
    # No movement that it adds to what was covered is before the first, and none that it leaves to later ones before the
    # second; the second is null where it leaves none.
    Column("first_sequence", BigInteger),
    Column("rest_from", BigInteger),
    # What it adds to what was covered; and what of the movements up to its last one belongs to a later time.
    Column("step_amount", AMOUNT),
    Column("rest_amount", AMOUNT),
    # Those of a credit note are what is credited.
    Column("subtotal", AMOUNT, nullable=False),
    Column("tax", AMOUNT, nullable=False),
    Column("credits_applied", AMOUNT, nullable=False),
    # What credit notes have credited: before tax, and the tax.
    Column("credited", AMOUNT, nullable=False),
    Column("credited_tax", AMOUNT, nullable=False),
    # Of the account's grants since it was opened, as decimals by kind.
    Column("grants_used", JSONB),
    Column("replaces", ARRAY(ID), nullable=False),
    # The invoice that covers the movements of a voided one again.
    Column("replaced_by", ID),
    Column("corrects_invoice_id", ID),
    Column("payment_id", ID),
    Column("operation_id", CODE),
    Column("reason", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("issue_time", TIME, nullable=False),
    Column("due_time", TIME),
    Column("state_time", TIME, nullable=False),
    Column("actor", Text, nullable=False),
    # Whether it was told that the due time has passed.
    Column("overdue_told", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("organization_id", "invoice_id", name="invoices_pkey"),
    UniqueConstraint("organization_id", "number", name="invoices_number_once"),
    UniqueConstraint("organization_id", "account_id", "position", name="invoices_position_once"),
    CheckConstraint("kind IN ('INVOICE', 'CREDIT_NOTE')", name="invoices_kind_known"),
    CheckConstraint("state IN ('ISSUED', 'PAID', 'VOID', 'UNCOLLECTIBLE')", name="invoices_state_known"),
    CheckConstraint(
        "num_nulls(position, after_sequence, to_sequence, to_time, first_sequence, step_amount, rest_amount)"
        " = CASE kind WHEN 'INVOICE' THEN 0 ELSE 7 END",
        name="invoices_step_whole",
    ),
    CheckConstraint("(kind = 'CREDIT_NOTE') = (corrects_invoice_id IS NOT NULL)", name="invoices_notes_correct"),
    CheckConstraint(
        "(state = 'PAID') = (num_nonnulls(payment_id, operation_id) = 1)"
        " AND num_nonnulls(payment_id, operation_id) < 2",
        name="invoices_paid_by_one",
    ),
    CheckConstraint("replaced_by IS NULL OR state = 'VOID'", name="invoices_replaced_when_void"),
    CheckConstraint("abs(credited) <= abs(subtotal) AND abs(credited_tax) <= abs(tax)", name="invoices_credited_fits"),
    Index(
        "invoices_corrects",
        "organization_id",
        "corrects_invoice_id",
        "invoice_id",
        postgresql_where=text("corrects_invoice_id IS NOT NULL"),
    ),
    Index(
        "invoices_to_be_replaced",
        "organization_id",
        "account_id",
        "invoice_id",
        postgresql_where=text("state = 'VOID' AND replaced_by IS NULL"),
    ),
    Index(
        "invoices_overdue",
        "due_time",
        "organization_id",
        "invoice_id",
        postgresql_where=text("kind = 'INVOICE' AND state = 'ISSUED' AND NOT overdue_told"),
    ),
)

# For which month the accounts of the shard are looked at, and how far, so that their invoices are issued by themselves.
invoice_schedules: Final = Table(
    "invoice_schedules",
    shard_metadata,
    Column("end_time", TIME, nullable=False),
    Column("after_organization_id", ID, nullable=False),
    Column("after_account_id", ID, nullable=False),
    Column("complete", Boolean, nullable=False),
    PrimaryKeyConstraint("end_time", name="invoice_schedules_pkey"),
)

# Invoices that are to be issued by themselves. While one is issued, its due_time is when others may take it.
invoice_dues: Final = Table(
    "invoice_dues",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("account_id", ID, nullable=False),
    Column("end_time", TIME, nullable=False),
    Column("due_time", TIME, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Why the last attempt failed; empty where it did not.
    Column("error", Text, nullable=False),
    PrimaryKeyConstraint("organization_id", "account_id", "end_time", name="invoice_dues_pkey"),
    Index("invoice_dues_due", "due_time", "organization_id", "account_id", "end_time"),
)

invoice_requests: Final = Table(
    "invoice_requests",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("request_id", CODE, nullable=False),
    Column("rpc", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "request_id", name="invoice_requests_pkey"),
)

invoice_recipients: Final = Table(
    "invoice_recipients",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("recipient", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="invoice_recipients_pkey"),
)

invoice_issuers: Final = Table(
    "invoice_issuers",
    metadata,
    Column("singleton", Boolean, nullable=False, server_default=text("true")),
    Column("issuer", JSONB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("singleton", name="invoice_issuers_pkey"),
    CheckConstraint("singleton", name="invoice_issuers_one_row"),
)

# Taking the next number locks the row until the document is stored or given up, so that there is no gap.
invoice_counters: Final = Table(
    "invoice_counters",
    metadata,
    Column("prefix", CODE, nullable=False),
    Column("last_count", BigInteger, nullable=False),
    PrimaryKeyConstraint("prefix", name="invoice_counters_pkey"),
    CheckConstraint("last_count >= 0", name="invoice_counters_not_negative"),
)

invoice_numbers: Final = Table(
    "invoice_numbers",
    metadata,
    Column("number", CODE, nullable=False),
    Column("prefix", CODE, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("organization_id", ID, nullable=False),
    Column("invoice_id", ID, nullable=False),
    PrimaryKeyConstraint("number", name="invoice_numbers_pkey"),
    UniqueConstraint("prefix", "count", name="invoice_numbers_count_once"),
    UniqueConstraint("organization_id", "invoice_id", name="invoice_numbers_document_once"),
)
