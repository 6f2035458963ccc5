"""Products that are sold, payments, what they moved, and subscriptions that providers renew."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.repeats.tables import declare_requests_table
from services.billing.tables.columns import AMOUNT, CODE, ID, TIME, metadata, shard_metadata

# Products belong to the platform, so they are in billing's own schema.

products: Final = Table(
    "products",
    metadata,
    Column("product_id", ID, nullable=False),
    Column("product_code", CODE, nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("price_currency_code", Text, nullable=False),
    Column("price_amount", AMOUNT, nullable=False),
    Column("credits_currency_code", Text, nullable=False),
    Column("credits_amount", AMOUNT, nullable=False),
    # 0 for credits that do not expire.
    Column("expire_after_days", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("sort_order", Integer, nullable=False),
    # Every change of the product adds one.
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    Column("archive_time", TIME),
    PrimaryKeyConstraint("product_id", name="products_pkey"),
    UniqueConstraint("product_code", name="products_code_once"),
    CheckConstraint("price_amount > 0 AND credits_amount > 0", name="products_amounts_positive"),
    Index("products_in_order", "sort_order", "product_code"),
)

# What payment providers call the price or the variant of a product.
product_references: Final = Table(
    "product_references",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("kind", CODE, nullable=False),
    Column("external_id", CODE, nullable=False),
    Column("product_id", ID, nullable=False),
    PrimaryKeyConstraint("provider", "kind", "external_id", name="product_references_pkey"),
    ForeignKeyConstraint(["product_id"], [products.c.product_id], name="product_references_product_known"),
    Index("product_references_of_product", "product_id"),
)

product_requests: Final = declare_requests_table(metadata, "product_requests")

# Which organization and payment an object of a provider belongs to, over the installation. A row is written before its
# payment, so that there may be one whose payment is not there yet.
payment_references: Final = Table(
    "payment_references",
    metadata,
    Column("provider", CODE, nullable=False),
    Column("kind", CODE, nullable=False),
    Column("external_id", CODE, nullable=False),
    Column("organization_id", ID, nullable=False),
    # For a subscription its first payment.
    Column("payment_id", ID, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("provider", "kind", "external_id", name="payment_references_pkey"),
    Index("payment_references_of_payment", "organization_id", "payment_id"),
)

payments: Final = Table(
    "payments",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("payment_id", ID, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("provider", CODE, nullable=False),
    Column("user_id", ID),
    Column("amount", AMOUNT, nullable=False),
    Column("currency_code", Text, nullable=False),
    # What it brings to the account once it is completed.
    Column("brings", Text, nullable=False),
    Column("credits_amount", AMOUNT),
    Column("credits_currency_code", Text),
    Column("credits_priority", Integer, nullable=False),
    # Counted from the moment at which they are awarded; 0 for never.
    Column("credits_expire_days", Integer, nullable=False),
    Column("credits_expire_time", TIME),
    Column("awarded", Boolean, nullable=False),
    # The grant that was awarded; null for money.
    Column("grant_id", ID),
    # By field, by dispute and by refund that failed what counts of what the provider said of it, with its version.
    Column("said", JSONB, nullable=False),
    Column("refunded_amount", AMOUNT, nullable=False),
    # What was taken back of it and not given back since, in the unit of the credits: out of its grants, and as money.
    Column("taken_credits", AMOUNT, nullable=False),
    Column("taken_money", AMOUNT, nullable=False),
    Column("written_off", AMOUNT, nullable=False),
    # How many commands of the ledger it has caused, which are named by their numbers.
    Column("steps", Integer, nullable=False),
    # Whether all that follows from what was said is done.
    Column("settled", Boolean, nullable=False),
    Column("product_code", CODE),
    Column("plan_code", CODE),
    Column("subscription_id", ID),
    # For a renewal: the first payment of the provider's subscription.
    Column("first_payment_id", ID),
    # The version of the plan whose price a checkout showed.
    Column("plan_id", ID),
    Column("plan_version", Integer),
    # For whom a plan is bought; null for the organization.
    Column("subscriber_user_id", ID),
    # The provider, a slash and its id.
    Column("external_subscription_id", CODE),
    Column("external_customer_id", CODE),
    # What the provider calls what is sold.
    Column("external_product_id", CODE),
    # The caller's name for it; null for payments that only a provider told of.
    Column("operation_id", CODE),
    Column("request", JSONB),
    Column("checkout_url", Text),
    Column("checkout_expire_time", TIME),
    Column("description", Text, nullable=False),
    Column("metadata", JSONB),
    Column("is_test", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    # Every change adds one, so that a writer can tell whether it has changed since it was read.
    Column("revision", BigInteger, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "payment_id", name="payments_pkey"),
    UniqueConstraint("organization_id", "operation_id", name="payments_operation_once"),
    CheckConstraint("type IN ('SUBSCRIPTION', 'CREDIT_PACK', 'TOP_UP', 'ADJUSTMENT')", name="payments_type_known"),
    CheckConstraint(
        "status IN ('PENDING', 'COMPLETED', 'FAILED', 'PARTIALLY_REFUNDED', 'REFUNDED', 'DISPUTED')",
        name="payments_status_known",
    ),
    CheckConstraint("brings IN ('MONEY', 'CREDITS', 'NOTHING')", name="payments_brings_known"),
    CheckConstraint(
        "num_nulls(credits_amount, credits_currency_code) = CASE brings WHEN 'NOTHING' THEN 2 ELSE 0 END",
        name="payments_brings_whole",
    ),
    CheckConstraint(
        "amount > 0 AND refunded_amount >= 0 AND refunded_amount <= amount AND taken_credits >= 0 AND taken_money >= 0"
        " AND written_off >= 0 AND taken_credits + taken_money + written_off <= coalesce(credits_amount, 0)",
        name="payments_amounts_fit",
    ),
    Index("payments_unsettled", "organization_id", "payment_id", postgresql_where=text("NOT settled")),
    Index("payments_by_user", "organization_id", "user_id", "payment_id"),
    Index("payments_by_status", "organization_id", "status", "payment_id"),
    Index(
        "payments_by_subscription",
        "organization_id",
        "subscription_id",
        "payment_id",
        postgresql_where=text("subscription_id IS NOT NULL"),
    ),
    Index(
        "payments_by_external_subscription",
        "organization_id",
        "external_subscription_id",
        "payment_id",
        postgresql_where=text("external_subscription_id IS NOT NULL"),
    ),
    Index(
        "payments_by_external_customer",
        "organization_id",
        "external_customer_id",
        "payment_id",
        postgresql_where=text("external_customer_id IS NOT NULL"),
    ),
)

# What a payment has moved, in the order of its steps. The service has no right to change or delete a row.
payment_movements: Final = Table(
    "payment_movements",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("payment_id", ID, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    # Of the ledger's movement; null for what moved nothing.
    Column("operation_id", CODE),
    # Of the grant that began.
    Column("grant_operation_id", CODE),
    Column("grant_id", ID),
    Column("amount", AMOUNT, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "payment_id", "sequence", name="payment_movements_pkey"),
    CheckConstraint(
        "kind IN ('AWARDED_MONEY', 'AWARDED_CREDITS', 'TAKEN_MONEY', 'TAKEN_CREDITS', 'WRITTEN_OFF', 'GIVEN_MONEY',"
        " 'GIVEN_CREDITS', 'REINSTATED')",
        name="payment_movements_kind_known",
    ),
    CheckConstraint("amount > 0", name="payment_movements_amount_positive"),
    CheckConstraint("(operation_id IS NULL) = (kind IN ('WRITTEN_OFF', 'REINSTATED'))", name="payment_movements_moved"),
    Index(
        "payment_movements_operation_once",
        "organization_id",
        "operation_id",
        unique=True,
        postgresql_where=text("operation_id IS NOT NULL"),
    ),
)

# The refunds that were asked for here.
payment_refunds: Final = Table(
    "payment_refunds",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("payment_id", ID, nullable=False),
    Column("refund_id", ID, nullable=False),
    Column("request_id", CODE, nullable=False),
    # Null where all that was left was asked for.
    Column("requested_amount", AMOUNT),
    Column("amount", AMOUNT, nullable=False),
    # What of the payment was refunded when this was asked for.
    Column("refunded_before", AMOUNT, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("failure", Text, nullable=False),
    Column("create_time", TIME, nullable=False),
    Column("complete_time", TIME),
    # How often the provider was asked.
    Column("attempt_count", Integer, nullable=False),
    # Until then nobody else asks the provider; null while nobody does.
    Column("attempt_until", TIME),
    PrimaryKeyConstraint("organization_id", "payment_id", "refund_id", name="payment_refunds_pkey"),
    UniqueConstraint("organization_id", "request_id", name="payment_refunds_request_once"),
    CheckConstraint("state IN ('REQUESTED', 'COMPLETED', 'FAILED')", name="payment_refunds_state_known"),
    CheckConstraint("amount > 0", name="payment_refunds_amount_positive"),
    CheckConstraint("(state = 'REQUESTED') = (complete_time IS NULL)", name="payment_refunds_end_whole"),
)

# What providers said last of subscriptions that they renew.
external_subscriptions: Final = Table(
    "external_subscriptions",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("provider", CODE, nullable=False),
    Column("external_id", CODE, nullable=False),
    # The first payment.
    Column("payment_id", ID, nullable=False),
    Column("status", Text, nullable=False),
    Column("external_customer_id", CODE),
    Column("external_plan_id", CODE),
    Column("renews_time", TIME),
    Column("ends_time", TIME),
    Column("version_time", TIME, nullable=False),
    Column("version_number", BigInteger, nullable=False),
    Column("update_time", TIME, nullable=False),
    # Our subscription that is paid by it; null until it is made, and where none was.
    Column("subscription_id", ID),
    PrimaryKeyConstraint("organization_id", "provider", "external_id", name="external_subscriptions_pkey"),
    CheckConstraint(
        "status IN ('ACTIVE', 'PAST_DUE', 'PAUSED', 'CANCELLED', 'EXPIRED')", name="external_subscriptions_status_known"
    ),
)

# When an organization's account is topped up by itself.
top_up_policies: Final = Table(
    "top_up_policies",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("currency_code", Text, nullable=False),
    Column("threshold", AMOUNT, nullable=False),
    Column("top_up_amount", AMOUNT),
    Column("target_balance", AMOUNT),
    Column("provider", CODE, nullable=False),
    # Who is charged: the provider's own id.
    Column("external_customer_id", CODE, nullable=False),
    Column("max_per_day", Integer, nullable=False),
    Column("max_per_month", Integer, nullable=False),
    # The payment for which the provider has been asked, or is about to be; null while none is pending.
    Column("pending_payment_id", ID),
    Column("paused_reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("update_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", name="top_up_policies_pkey"),
    CheckConstraint("num_nulls(top_up_amount, target_balance) = 1", name="top_up_policies_one_amount"),
)

# Which payment has paid which charge of a subscription. Where the charge was given up, the payment pays another one.
period_payments: Final = Table(
    "period_payments",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("payment_id", ID, nullable=False),
    Column("subscription_id", ID, nullable=False),
    # The ledger's operation id of the charge.
    Column("operation_id", CODE, nullable=False),
    Column("create_time", TIME, nullable=False),
    PrimaryKeyConstraint("organization_id", "payment_id", name="period_payments_pkey"),
    UniqueConstraint("organization_id", "operation_id", name="period_payments_operation_once"),
)

# What is to be done after a change was committed; a row goes when it is done. `number` grows when it is to be done
# again, so that whoever was at it before does not take that for done.
next_steps: Final = Table(
    "next_steps",
    shard_metadata,
    Column("organization_id", ID, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", CODE, nullable=False),
    Column("number", BigInteger, nullable=False),
    # Since when it could be done.
    Column("since_time", TIME, nullable=False),
    Column("due_time", TIME, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("failure", Text, nullable=False),
    PrimaryKeyConstraint("organization_id", "kind", "key", name="next_steps_pkey"),
    CheckConstraint("kind IN ('PAYMENT', 'EXTERNAL_SUBSCRIPTION', 'SUBSCRIPTION')", name="next_steps_kind_known"),
    Index("next_steps_due", "due_time", "organization_id", "kind", "key"),
)
