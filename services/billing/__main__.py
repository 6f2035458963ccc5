"""Billing as a process: settings, objects, server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import grpc

from libs.common.audit.servicer import AuditServicer
from libs.common.audit.trail import Trail
from libs.common.authentication import SigningKey, TokenSource
from libs.common.callers import RemoteDirectory
from libs.common.channel import ClientTls, open_channel
from libs.common.clock import Clock, SystemClock
from libs.common.events.homes import sharded_homes
from libs.common.events.house import build_events
from libs.common.integrity.servicer import IntegrityServicer
from libs.common.integrity.verification import Part, Verification
from libs.common.process import run_service
from libs.common.server import Service
from libs.common.shards import ShardedDatabases, Shards, open_databases, open_shards
from libs.common.telemetry import start_process_telemetry
from services.billing.account.accounts import Accounts
from services.billing.account.servicer import AccountServicer
from services.billing.charge.charges import Charges
from services.billing.charge.servicer import ChargeServicer
from services.billing.clients.members import Members
from services.billing.clients.models import Models
from services.billing.clients.organizations import OrganizationWatch
from services.billing.clients.subjects import Subjects
from services.billing.clients.usages import Usages
from services.billing.credit.credits import Credits
from services.billing.credit.servicer import CreditServicer
from services.billing.credit.worker import GrantWorker
from services.billing.invariants import CHECKS, PLATFORM_CHECKS
from services.billing.invoice.automatic import AutomaticInvoices
from services.billing.invoice.collection import Collection
from services.billing.invoice.corrections import Corrections
from services.billing.invoice.domain import recipients_tax
from services.billing.invoice.invoices import Invoices
from services.billing.invoice.links import Links
from services.billing.invoice.parties import Parties
from services.billing.invoice.printing.printer import Printer
from services.billing.invoice.servicer import InvoiceServicer
from services.billing.ledger.engine import Engine
from services.billing.ledger.history import History
from services.billing.ledger.servicer import LedgerServicer
from services.billing.ledger.sweeper import Sweeper
from services.billing.notice.worker import NoticeWorker
from services.billing.payment.checkouts import Checkouts
from services.billing.payment.listings import Listings as PaymentListings
from services.billing.payment.payments import Payments
from services.billing.payment.portals import Portals
from services.billing.payment.products import Products
from services.billing.payment.provider import FactApplier, Provider
from services.billing.payment.providers.registry import Providers, configured
from services.billing.payment.records import Records
from services.billing.payment.references import References
from services.billing.payment.refunds import Refunds
from services.billing.payment.servicer import PaymentServicer
from services.billing.payment.settling import Settling
from services.billing.payment.steps import Steps
from services.billing.payment.top_ups import TopUps
from services.billing.payment.webhook.counts import Counts
from services.billing.payment.webhook.domain import World
from services.billing.payment.webhook.inbox import Inbox
from services.billing.payment.webhook.reconciliation import Reconciliation
from services.billing.payment.webhook.retention import Retention
from services.billing.payment.webhook.servicer import WebhookServicer
from services.billing.payment.webhook.webhooks import Webhooks
from services.billing.payment.webhook.worker import WebhookWorker
from services.billing.plan.experiments import Experiments
from services.billing.plan.plans import Plans
from services.billing.plan.servicer import PlanServicer
from services.billing.recurring.charger import CollectingCharger
from services.billing.recurring.following import Following
from services.billing.recurring.purchases import Purchases
from services.billing.recurring.sales import Sales
from services.billing.recurring.saved_methods import SavedMethods
from services.billing.recurring.worker import RecurringWorker
from services.billing.settings import BillingSettings
from services.billing.subscription.creation import Creation
from services.billing.subscription.entitlement_feed import EntitlementFeed
from services.billing.subscription.entitlement_servicer import EntitlementServicer
from services.billing.subscription.entitlements import Entitlements
from services.billing.subscription.listings import Listings
from services.billing.subscription.offers import Offers
from services.billing.subscription.organizations import OrganizationSubscriptions
from services.billing.subscription.plan_changes import PlanChanges
from services.billing.subscription.progress import LOCKS_POOL_SIZE, Progress
from services.billing.subscription.self_service import SelfService
from services.billing.subscription.servicer import SubscriptionServicer
from services.billing.subscription.subscriptions import Subscriptions
from services.billing.subscription.worker import PeriodRun
from services.billing.tables import SCHEMA
from services.billing.usage_charge.forecasts import Forecasts
from services.billing.usage_charge.worker import UsageCharges
from tollhouse.billing.v1 import (
    account_pb2_grpc,
    charge_pb2_grpc,
    credit_pb2_grpc,
    invoice_pb2_grpc,
    ledger_pb2_grpc,
    payment_pb2_grpc,
    plan_pb2_grpc,
    subscription_pb2_grpc,
)
from tollhouse.common.v1 import audit_pb2_grpc, event_pb2_grpc, integrity_pb2_grpc

_CHECK_TIMEOUT_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class _Paying:
    """What payments are made of, for the service of payments and for subscriptions that are paid by them."""

    configured: Providers
    providers: Mapping[str, Provider]
    """Those that can be asked."""
    references: References
    steps: Steps
    payments: Payments
    saved_methods: SavedMethods
    top_ups: TopUps


async def build(settings: BillingSettings, clock: Clock | None = None) -> Service:
    """Build billing's server and everything it uses; nothing runs yet."""
    clock = clock or SystemClock()
    databases = open_databases(
        settings.database_url.get_secret_value(),
        schema=SCHEMA,
        count=settings.shards,
        pool_size=settings.pool_size,
        report_timeout_ms=_CHECK_TIMEOUT_MS,
        statement_cache_size=settings.statement_cache_size,
    )
    platform, shards, reports = databases.platform, databases.shards, databases.reports
    telemetry = start_process_telemetry("tollhouse-billing", settings.otlp_endpoint)
    to_identity = _channel_to(settings.identity_target, "identity.tollhouse", settings, clock)
    to_metering = _channel_to(settings.metering_target, "metering.tollhouse", settings, clock)
    directory = RemoteDirectory(to_identity) if to_identity else None
    service = Service("billing", settings, platform, clock, telemetry, directory, shards)

    engine = Engine(shards, clock, batch_max=settings.batch_max, queue_max=settings.queue_max, lanes=settings.lanes)
    accounts = Accounts(shards, clock, engine)
    members = Members(to_identity) if to_identity else None
    subjects = Subjects(members, Models(to_metering) if to_metering else None)
    service.add(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer(engine, History(shards, clock)))
    service.add(account_pb2_grpc.add_AccountServiceServicer_to_server, AccountServicer(accounts))
    service.add(
        credit_pb2_grpc.add_CreditServiceServicer_to_server,
        CreditServicer(Credits(shards, engine, subjects, clock), clock),
    )
    service.add(charge_pb2_grpc.add_ChargeServiceServicer_to_server, ChargeServicer(Charges(reports, clock)))
    experiments = Experiments(platform, shards, reports, clock, members=members)
    service.add(plan_pb2_grpc.add_PlanServiceServicer_to_server, PlanServicer(Plans(platform, clock), experiments))
    trail = Trail(databases.home_of, databases.report_home_of)
    verification = Verification(reports, clock, CHECKS, Part(platform, PLATFORM_CHECKS))
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, IntegrityServicer(verification))
    service.add(
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditServicer(trail),
    )
    service.background(Sweeper(shards, clock, settings.sweep_every_s).run, "expired holds")
    service.background(GrantWorker(shards, engine, clock, settings.sweep_every_s).run, "credit grants")
    service.on_drain(engine.drain)
    paying = _build_paying(settings, databases, engine, clock)
    _add_subscriptions(service, settings, databases, engine, clock, experiments, subjects, to_identity, paying)
    _serve_events(service, settings, databases, clock)
    _add_payments(service, settings, databases, clock, subjects, paying)
    _add_invoices(service, settings, databases, engine, clock, to_metering)
    service.on_drain(databases.close)
    for channel in (to_identity, to_metering):
        if channel:
            service.on_drain(channel.close)
    return service


def _serve_events(service: Service, settings: BillingSettings, databases: ShardedDatabases, clock: Clock) -> None:
    """Add the service of events, and what delivers them."""
    events = build_events("billing", settings, sharded_homes(databases), clock)
    service.add(event_pb2_grpc.add_EventServiceServicer_to_server, events.servicer)
    service.background(events.deliverer.run, "events")
    service.background(NoticeWorker(databases.shards, clock, settings.sweep_every_s).run, "notices")


def _add_subscriptions(
    service: Service,
    settings: BillingSettings,
    databases: ShardedDatabases,
    engine: Engine,
    clock: Clock,
    experiments: Experiments,
    subjects: Subjects,
    to_identity: grpc.aio.Channel | None,
    paying: _Paying,
) -> None:
    """Add SubscriptionService, the run of periods, the feed of changed entitlements, and the watch of organizations."""
    platform, shards = databases.platform, databases.shards
    locks = _open_locks(settings, shards)
    offers, self_service = Offers(platform), _self_service(settings)
    progress = Progress(
        shards, locks, engine, clock, offers, CollectingCharger(shards, engine, paying.saved_methods, clock)
    )
    period_run = PeriodRun(locks, progress, clock, settings.period_run_every_s)
    creation = Creation(
        shards,
        offers,
        experiments,
        progress,
        clock,
        self_service=self_service,
        models_need_approval=settings.model_subscriptions_need_approval,
        subjects=subjects,
        saved_methods=paying.saved_methods,
    )
    subscriptions = Subscriptions(
        shards, offers, progress, clock, self_service=self_service, saved_methods=paying.saved_methods
    )
    following = Following(shards, paying.providers, subscriptions, progress, offers, clock)
    purchases = Purchases(shards, creation, progress, clock)
    plan_changes = PlanChanges(shards, offers, experiments, progress, subscriptions, clock, self_service=self_service)
    feed = EntitlementFeed(platform, shards, settings.watchers_max)
    entitlements = EntitlementServicer(Entitlements(shards, offers, subjects, clock), feed)
    service.add(
        subscription_pb2_grpc.add_SubscriptionServiceServicer_to_server,
        SubscriptionServicer(creation, subscriptions, plan_changes, Listings(shards, clock), entitlements, period_run),
    )
    service.background(feed.run, "changes of entitlements")
    service.before_drain(feed.close)
    if to_identity:
        handler = OrganizationSubscriptions(
            shards,
            creation,
            subscriptions,
            paying.top_ups.switch_off,
            free_plan_for_new_users=settings.free_plan_for_new_users,
        )
        watch = OrganizationWatch(to_identity, platform, clock, handler.handle)
        service.background(watch.run, "identity's organizations")
    service.background(period_run.run, "periods")
    service.background(RecurringWorker(shards, purchases, following, clock).run, "subscriptions at providers")
    service.on_drain(paying.saved_methods.drain)
    service.on_drain(locks.close)


def _add_invoices(
    service: Service,
    settings: BillingSettings,
    databases: ShardedDatabases,
    engine: Engine,
    clock: Clock,
    to_metering: grpc.aio.Channel | None,
) -> None:
    """Add InvoiceService, and what charges the usage of periods."""
    shards, printer = databases.shards, Printer()
    usages = Usages(to_metering) if to_metering else None
    charges = UsageCharges(shards, engine, usages, clock, settings.period_run_every_s)
    service.background(charges.run, "usage charges")
    collection = Collection(shards, engine, usages, clock)
    links = None
    if settings.invoice_link_secret_file is not None:
        links = Links.read(
            settings.invoice_link_secret_file,
            base_url=settings.invoice_link_base_url,
            lifetime_s=settings.invoice_link_lifetime_s,
        )
    invoices = Invoices(shards, collection, recipients_tax, clock)
    service.background(AutomaticInvoices(shards, invoices, clock, settings.invoices_every_s).run, "invoices")
    service.add(
        invoice_pb2_grpc.add_InvoiceServiceServicer_to_server,
        InvoiceServicer(
            invoices,
            Corrections(shards, clock),
            Parties(databases.platform, shards, clock),
            printer,
            links,
            clock,
            Forecasts(shards, Offers(databases.platform), usages, clock),
        ),
    )
    service.on_drain(printer.close)


def _build_paying(settings: BillingSettings, databases: ShardedDatabases, engine: Engine, clock: Clock) -> _Paying:
    """Build payments, with the providers that are set up beside `manual`."""
    shards, found = databases.shards, configured(settings, clock)
    asked = {name: one.provider for name, one in found.items() if one.can_be_asked}
    references = References(databases.platform)
    steps = Steps(shards, engine, clock, into_debt=settings.refunds_into_debt)
    payments = Payments(shards, references, steps, clock)
    is_test = settings.payments_test_mode
    saved_methods = SavedMethods(shards, references, steps, payments, asked, clock, is_test=is_test)
    top_ups = TopUps(shards, references, payments, asked, clock, is_test=is_test)
    return _Paying(found, asked, references, steps, payments, saved_methods, top_ups)


def _add_payments(
    service: Service,
    settings: BillingSettings,
    databases: ShardedDatabases,
    clock: Clock,
    subjects: Subjects,
    paying: _Paying,
) -> None:
    """Add PaymentService."""
    platform, shards = databases.platform, databases.shards
    asked, references, steps, payments = paying.providers, paying.references, paying.steps, paying.payments
    products = Products(platform, clock)
    records = Records(shards, references, steps, products, clock)
    refunds = Refunds(shards, references, steps, payments, asked, clock)
    checkouts = Checkouts(
        *(shards, platform, references, steps, products, asked, clock, subjects),
        Sales(shards, Offers(platform), _self_service(settings)),
        is_test=settings.payments_test_mode,
    )
    top_ups = paying.top_ups
    service.background(partial(top_ups.run, settings.top_ups_every_s), "top-ups")
    service.background(Settling(shards, payments, clock).run, "payments that are not settled")
    webhooks = _add_webhooks(service, settings, databases, paying.configured, payments, clock)
    service.add(
        payment_pb2_grpc.add_PaymentServiceServicer_to_server,
        PaymentServicer(
            *(products, records, refunds, checkouts, Portals(shards, asked), top_ups),
            *(PaymentListings(shards, references), webhooks, clock),
        ),
    )


def _add_webhooks(
    service: Service,
    settings: BillingSettings,
    databases: ShardedDatabases,
    providers: Providers,
    payments: FactApplier,
    clock: Clock,
) -> WebhookServicer:
    """Add what takes webhooks in, applies them, and asks providers for those that were lost."""
    platform = databases.platform
    worlds = {name: World(one.store, is_test=settings.payments_test_mode) for name, one in providers.items()}
    counts = Counts(platform, clock)
    worker = WebhookWorker(providers, worlds, payments, platform, clock, counts)
    inbox = Inbox(providers, worlds, platform, clock, counts, worker.wake)
    reconciliation = Reconciliation(providers, worlds, payments, platform, clock)
    service.background(worker.run, "webhooks")
    service.background(counts.run, "counts of webhooks")
    service.background(reconciliation.run, "changes at providers")
    kept_for = timedelta(days=settings.webhook_retention_days)
    service.background(Retention(platform, clock, kept_for).run, "old webhooks")
    for drain in (inbox.drain, worker.close, counts.write, *(one.close for one in providers.values())):
        service.on_drain(drain)
    return WebhookServicer(inbox, Webhooks(platform, clock, worker.wake), reconciliation)


def _open_locks(settings: BillingSettings, shards: Shards) -> Shards:
    """Return the shards over a pool that holds locks of subscriptions alone."""
    return open_shards(
        settings.database_url.get_secret_value(),
        schema=SCHEMA,
        count=settings.shards,
        pool_size=LOCKS_POOL_SIZE,
        statement_cache_size=settings.statement_cache_size,
        check=shards.open,
    )


def _channel_to(target: str | None, audience: str, settings: BillingSettings, clock: Clock) -> grpc.aio.Channel | None:
    if not target or not settings.signing_key_file:
        return None
    tokens = TokenSource(SigningKey.read(settings.signing_key_file), clock)
    tls = ClientTls(*settings.tls) if settings.tls else None
    return open_channel(target, caller=tokens, audience=audience, tls=tls)


def _self_service(settings: BillingSettings) -> SelfService:
    codes = settings.self_service_plans
    return SelfService(
        plan_codes=None if codes is None else frozenset(codes),
        downgrade=settings.self_service_downgrade,
        cancel=settings.self_service_cancel,
    )


def main() -> None:
    """Run billing from the environment's settings."""
    run_service("billing", BillingSettings, build)


if __name__ == "__main__":
    main()
