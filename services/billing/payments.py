"""Builds what serves payments, and adds it to billing's server."""

from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.server import Service
from libs.common.shards import ShardedDatabases
from services.billing.ledger.engine import Engine
from services.billing.payment.checkouts import Checkouts
from services.billing.payment.listings import Listings
from services.billing.payment.payments import Payments
from services.billing.payment.products import Products
from services.billing.payment.provider import FactApplier
from services.billing.payment.providers.registry import Providers, configured
from services.billing.payment.records import Records
from services.billing.payment.references import References
from services.billing.payment.servicer import PaymentServicer
from services.billing.payment.steps import Steps
from services.billing.payment.webhook.counts import Counts
from services.billing.payment.webhook.domain import World
from services.billing.payment.webhook.inbox import Inbox
from services.billing.payment.webhook.reconciliation import Reconciliation
from services.billing.payment.webhook.servicer import WebhookServicer
from services.billing.payment.webhook.webhooks import Webhooks
from services.billing.payment.webhook.worker import WebhookWorker
from services.billing.settings import BillingSettings
from tollhouse.billing.v1 import payment_pb2_grpc


@dataclass(frozen=True, slots=True)
class PaymentCore:
    """What payments are made of, for those who bring facts to them."""

    payments: Payments
    references: References


def add_payments(
    service: Service,
    settings: BillingSettings,
    databases: ShardedDatabases,
    engine: Engine,
    clock: Clock,
) -> PaymentCore:
    """Add PaymentService, with the providers that are set up; `manual` is always there."""
    platform, shards = databases.platform, databases.shards
    providers = configured(settings, clock)
    known = {name: one.provider for name, one in providers.items() if one.can_be_asked}
    references, products = References(platform), Products(platform, clock)
    steps = Steps(shards, engine, clock, into_debt=settings.refunds_into_debt)
    payments = Payments(shards, references, steps, clock)
    records = Records(shards, references, steps, payments, products, known, clock)
    checkouts = Checkouts(
        shards, platform, references, steps, products, known, clock, is_test=settings.payments_test_mode
    )
    webhooks = _add_webhooks(service, settings, platform, providers, payments, clock)
    service.add(
        payment_pb2_grpc.add_PaymentServiceServicer_to_server,
        PaymentServicer(products, records, checkouts, Listings(shards, references), webhooks, clock),
    )
    return PaymentCore(payments, references)


def _add_webhooks(
    service: Service,
    settings: BillingSettings,
    platform: Database,
    providers: Providers,
    payments: FactApplier,
    clock: Clock,
) -> WebhookServicer:
    """Add what takes webhooks in, applies them, and asks providers for those that were lost."""
    worlds = {name: World(one.store, is_test=settings.payments_test_mode) for name, one in providers.items()}
    counts = Counts(platform, clock)
    worker = WebhookWorker(providers, payments, platform, clock, counts)
    inbox = Inbox(providers, worlds, platform, clock, counts, worker.wake)
    reconciliation = Reconciliation(providers, worlds, payments, platform, clock)
    service.background(worker.run, "webhooks")
    service.background(counts.run, "counts of webhooks")
    service.background(reconciliation.run, "changes at providers")
    for drain in (inbox.drain, worker.close, counts.write, *(one.close for one in providers.values())):
        service.on_drain(drain)
    return WebhookServicer(inbox, Webhooks(platform, clock, worker.wake), reconciliation)
