"""Billing's tables, as its migrations make them.

`metadata` has those of billing's own schema, `shard_metadata` those that each shard has: they have no schema here,
since a shard's connection finds them on its search path.

The organization leads every key and every index of what belongs to one. Text columns that are an enumeration hold the
proto's value without its prefix. Nothing here is ever deleted, but for drafts of plans, what providers call plans and
products, references to payments that were not made, next steps that are done, and deletions of organizations that
identity has taken back by going to an earlier state.
"""

from services.billing.tables.columns import SCHEMA as SCHEMA
from services.billing.tables.columns import metadata as metadata
from services.billing.tables.columns import shard_metadata as shard_metadata
from services.billing.tables.credits import credit_grants as credit_grants
from services.billing.tables.credits import grant_standings as grant_standings
from services.billing.tables.credits import grant_uses as grant_uses
from services.billing.tables.invoices import invoice_counters as invoice_counters
from services.billing.tables.invoices import invoice_dues as invoice_dues
from services.billing.tables.invoices import invoice_issuers as invoice_issuers
from services.billing.tables.invoices import invoice_numbers as invoice_numbers
from services.billing.tables.invoices import invoice_recipients as invoice_recipients
from services.billing.tables.invoices import invoice_requests as invoice_requests
from services.billing.tables.invoices import invoice_schedules as invoice_schedules
from services.billing.tables.invoices import invoices as invoices
from services.billing.tables.ledger import accounts as accounts
from services.billing.tables.ledger import declines as declines
from services.billing.tables.ledger import holds as holds
from services.billing.tables.ledger import transactions as transactions
from services.billing.tables.organizations import deleted_organizations as deleted_organizations
from services.billing.tables.organizations import unhandled_organizations as unhandled_organizations
from services.billing.tables.organizations import watch_positions as watch_positions
from services.billing.tables.payments import external_subscriptions as external_subscriptions
from services.billing.tables.payments import next_steps as next_steps
from services.billing.tables.payments import payment_movements as payment_movements
from services.billing.tables.payments import payment_references as payment_references
from services.billing.tables.payments import payment_refunds as payment_refunds
from services.billing.tables.payments import payments as payments
from services.billing.tables.payments import period_payments as period_payments
from services.billing.tables.payments import product_references as product_references
from services.billing.tables.payments import product_requests as product_requests
from services.billing.tables.payments import products as products
from services.billing.tables.payments import top_up_policies as top_up_policies
from services.billing.tables.plans import plan_assignments as plan_assignments
from services.billing.tables.plans import plan_drafts as plan_drafts
from services.billing.tables.plans import plan_experiments as plan_experiments
from services.billing.tables.plans import plan_references as plan_references
from services.billing.tables.plans import plan_requests as plan_requests
from services.billing.tables.plans import plan_versions as plan_versions
from services.billing.tables.plans import plans as plans
from services.billing.tables.subscriptions import ENTITLEMENTS_CHANNEL as ENTITLEMENTS_CHANNEL
from services.billing.tables.subscriptions import entitlement_counter as entitlement_counter
from services.billing.tables.subscriptions import entitlement_overrides as entitlement_overrides
from services.billing.tables.subscriptions import entitlement_revisions as entitlement_revisions
from services.billing.tables.subscriptions import subscription_events as subscription_events
from services.billing.tables.subscriptions import subscription_references as subscription_references
from services.billing.tables.subscriptions import subscription_requests as subscription_requests
from services.billing.tables.subscriptions import subscriptions as subscriptions
from services.billing.tables.usage_periods import usage_period_movements as usage_period_movements
from services.billing.tables.usage_periods import usage_periods as usage_periods
from services.billing.tables.webhooks import payment_reconciliations as payment_reconciliations
from services.billing.tables.webhooks import webhook_counts as webhook_counts
from services.billing.tables.webhooks import webhooks as webhooks
