"""Metering as a process: settings, objects, server."""

from datetime import timedelta
from functools import partial

import grpc
from envoy.service.auth.v3 import external_auth_pb2_grpc
from envoy.service.ratelimit.v3 import rls_pb2_grpc

from libs.common.audit.invariants import AUDIT_CHECKS
from libs.common.audit.servicer import AuditServicer
from libs.common.audit.trail import Trail
from libs.common.authentication import SigningKey, TokenSource
from libs.common.callers import RemoteDirectory
from libs.common.channel import ClientTls, open_channel
from libs.common.clock import Clock, SystemClock
from libs.common.database import Database
from libs.common.events.homes import sharded_homes
from libs.common.events.house import build_events
from libs.common.events.invariants import EVENT_CHECKS
from libs.common.integrity.servicer import IntegrityServicer
from libs.common.integrity.verification import Part, Verification
from libs.common.process import run_service
from libs.common.sealing import SealingKeys
from libs.common.server import Service
from libs.common.shards import ShardedDatabases, Shards, open_databases
from libs.common.telemetry import start_process_telemetry
from services.metering.admission.admission import Admission
from services.metering.admission.authorizations import Authorizations
from services.metering.admission.callers import Callers
from services.metering.admission.lapses import Lapses
from services.metering.admission.parsing import read_kept
from services.metering.admission.parts import Parts
from services.metering.admission.policies import Policies
from services.metering.admission.servicer import AdmissionServicer
from services.metering.charge.charges import Charges
from services.metering.charge.quantities import Quantities
from services.metering.charge.servicer import ChargeServicer
from services.metering.clients.balances import Balances
from services.metering.clients.billing import BillingClient
from services.metering.clients.entitlements import EntitlementsClient
from services.metering.clients.identity import IdentityClient
from services.metering.clients.organizations import Organizations
from services.metering.clients.subjects import Subjects
from services.metering.clients.subscriptions import SubscriptionsClient
from services.metering.conversation.contents import Contents
from services.metering.conversation.conversations import Conversations
from services.metering.conversation.erasure import forget_user_after
from services.metering.conversation.messages import Messages
from services.metering.conversation.policies import Policies as ConversationPolicies
from services.metering.conversation.retention import Retention
from services.metering.conversation.servicer import ConversationServicer
from services.metering.conversation.statistics import Statistics
from services.metering.external_auth.checks import Checks
from services.metering.external_auth.configuration import read_external_auth
from services.metering.external_auth.servicer import ExternalAuthServicer
from services.metering.ingest.mappings import EventMappings
from services.metering.ingest.servicer import IngestServicer
from services.metering.invariants import CHECKS
from services.metering.lease.leases import Leases
from services.metering.lease.servicer import LeaseServicer
from services.metering.lease.settlements import Settlements
from services.metering.model.catalogue import Catalogue
from services.metering.model.models import Models
from services.metering.model.price_import import PriceImport
from services.metering.model.servicer import ModelServicer
from services.metering.quota.alert_events import AlertEvents
from services.metering.quota.alerts import Alerts
from services.metering.quota.allocations import Allocations
from services.metering.quota.book import LimitBook
from services.metering.quota.calls import CallLimits
from services.metering.quota.counters import Counters
from services.metering.quota.limit_usage import LimitUsage
from services.metering.quota.limits import Limits
from services.metering.quota.servicer import QuotaServicer
from services.metering.quota.subscription_usage import SubscriptionUsage
from services.metering.rate_limit.descriptors import read_descriptors
from services.metering.rate_limit.hits import Hits
from services.metering.rate_limit.rate_limits import RateLimits
from services.metering.rate_limit.servicer import RateLimitServicer
from services.metering.retention.drops import Drops
from services.metering.retention.forgetting import Forgetting
from services.metering.retention.policies import Policies as RetentionPolicies
from services.metering.retention.servicer import RetentionServicer
from services.metering.settings import MeteringSettings
from services.metering.tables import SCHEMA
from services.metering.unit.servicer import UnitServicer
from services.metering.unit.units import CatalogueUnits
from services.metering.usage.announcements import UsageEvents
from services.metering.usage.charging import Charging
from services.metering.usage.correction.corrections import Corrections
from services.metering.usage.correction.pending_prices import PendingPrices
from services.metering.usage.counting import Counting
from services.metering.usage.engine import UsageEngine
from services.metering.usage.export.exports import Exports
from services.metering.usage.months import Months
from services.metering.usage.named_subscriptions import NamedSubscriptions
from services.metering.usage.pricing import LatePricing
from services.metering.usage.relay import Relay
from services.metering.usage.rerate.jobs import RerateJobs
from services.metering.usage.rerate.previews import Previews
from services.metering.usage.rerate.rerating import Rerating
from services.metering.usage.rerate.worker import RerateWorker
from services.metering.usage.servicer import UsageServicer
from services.metering.usage.streaming.watch import UsageWatch
from services.metering.usage.usages import Usages
from tollhouse.common.v1 import audit_pb2_grpc, event_pb2_grpc, integrity_pb2_grpc
from tollhouse.metering.v1 import (
    admission_pb2_grpc,
    charge_pb2_grpc,
    conversation_pb2_grpc,
    ingest_pb2_grpc,
    lease_pb2_grpc,
    model_pb2_grpc,
    quota_pb2_grpc,
    retention_pb2_grpc,
    unit_pb2_grpc,
    usage_pb2_grpc,
)

_CHECK_TIMEOUT_MS = 30_000


async def build(settings: MeteringSettings, clock: Clock | None = None) -> Service:
    """Build metering's server with all that stands behind it; nothing runs yet, and no peer is needed for it."""
    clock = clock or SystemClock()
    databases = _databases(settings)
    platform, shards = databases.platform, databases.shards
    telemetry = start_process_telemetry("tollhouse-metering", settings.otlp_endpoint)
    tokens = TokenSource(SigningKey.read(settings.signing_key_file), clock)
    tls = ClientTls(*settings.tls) if settings.tls else None
    to_billing = open_channel(settings.billing_target, caller=tokens, audience="billing.tollhouse", tls=tls)
    to_identity = open_channel(settings.identity_target, caller=tokens, audience="identity.tollhouse", tls=tls)
    service = Service("metering", settings, platform, clock, telemetry, RemoteDirectory(to_identity), shards)
    billing = BillingClient(to_billing)
    identity = _identity_client(to_identity, settings, clock)
    catalogue = Catalogue(platform)
    entitlements = EntitlementsClient(to_billing, clock)
    limit_book = LimitBook(shards)
    call_limits = CallLimits(limit_book, entitlements, entitlements_required=settings.entitlements_required)
    counters = Counters(shards, clock)
    alerts = Alerts(shards, clock)
    charging = Charging(shards, billing, clock)
    subscriptions = SubscriptionsClient(to_billing)
    named_subscriptions = NamedSubscriptions(subscriptions)
    relay_after = timedelta(seconds=settings.relay_after_s)
    counting = Counting(catalogue, limit_book, call_limits, counters, alerts, clock)
    events = UsageEvents(sharded_homes(databases))
    engine = UsageEngine(
        *(shards, catalogue, charging, counting, named_subscriptions, clock, events),
        queue_max=settings.queue_max,
        relay_after=relay_after,
    )
    months = Months(shards, clock)
    organizations = Organizations(to_identity)
    usages = Usages(shards, catalogue, engine, organizations, months, clock)
    relay = Relay(shards, billing, charging, clock, every_s=settings.relay_every_s)
    keep = partial(read_kept, usages=usages)
    lapses = Lapses(shards, catalogue, billing, engine, clock, keep, every_s=settings.lapses_every_s)
    authorizations = Authorizations(shards, catalogue, billing, clock)
    parts = Parts(shards, catalogue, charging, named_subscriptions, clock, relay_after=relay_after)
    callers = Callers(identity, organizations)
    policies = Policies(shards, organizations, clock)
    admission = Admission(
        *(shards, catalogue, callers, policies, billing, engine, call_limits, counters, clock),
        queue_max=settings.queue_max,
    )
    corrections = Corrections(shards, catalogue, counting, charging, clock, relay_after=relay_after)
    _serve_catalogue(service, platform, shards, catalogue, corrections, clock)
    _serve_usage(service, databases, catalogue, organizations, usages, engine, corrections, clock)
    _serve_conversations(service, settings, shards, usages, organizations, Subjects(to_identity, to_billing), clock)
    admissions = AdmissionServicer(admission, authorizations, parts, policies, usages)
    service.add(admission_pb2_grpc.add_AdmissionServiceServicer_to_server, admissions)
    allocations = _serve_limits(
        *(service, settings, shards, catalogue, organizations, Subjects(to_identity, to_billing), subscriptions),
        *(limit_book, call_limits, counters, alerts, clock),
    )
    settlements = Settlements(
        *(shards, catalogue, counting, charging, billing, named_subscriptions, clock, events), relay_after=relay_after
    )
    leases = LeaseServicer(Leases(allocations, billing, clock), allocations, settlements, usages)
    service.add(lease_pb2_grpc.add_LeaseServiceServicer_to_server, leases)
    _serve_proxies(
        *(service, settings, shards, catalogue, call_limits, counters, alerts, clock),
        *(organizations, callers, Balances(to_billing)),
    )
    _serve_checks(service, settings, databases, organizations, catalogue, clock, events)
    for run, about in ((relay.run, "relay"), (lapses.run, "lapses"), (Months(databases.reports, clock).run, "months")):
        service.background(run, about)
    service.background(identity.watch, "key changes")
    service.background(entitlements.watch, "entitlement changes")
    for close in (admission.close, engine.close, to_billing.close, to_identity.close, databases.close):
        service.on_drain(close)
    return service


def _databases(settings: MeteringSettings) -> ShardedDatabases:
    return open_databases(
        settings.database_url.get_secret_value(),
        schema=SCHEMA,
        count=settings.shards,
        pool_size=settings.pool_size,
        report_timeout_ms=_CHECK_TIMEOUT_MS,
        statement_cache_size=settings.statement_cache_size,
    )


def _identity_client(channel: grpc.aio.Channel, settings: MeteringSettings, clock: Clock) -> IdentityClient:
    return IdentityClient(
        channel,
        clock,
        ttl_s=settings.key_answer_ttl_s,
        answers_max=settings.key_answers_max,
        stale_max_s=settings.key_stale_max_s,
    )


def _serve_catalogue(
    service: Service,
    platform: Database,
    shards: Shards,
    catalogue: Catalogue,
    corrections: Corrections,
    clock: Clock,
) -> None:
    """Add the services of models, prices and units."""
    models = ModelServicer(Models(platform, shards, catalogue, clock), PriceImport(platform, catalogue, clock))
    service.add(model_pb2_grpc.add_ModelServiceServicer_to_server, models)
    units = UnitServicer(CatalogueUnits(platform, catalogue, clock))
    service.add(unit_pb2_grpc.add_UnitServiceServicer_to_server, units)
    service.background(LatePricing(shards, catalogue, corrections, clock).run, "late pricing")


def _serve_usage(
    service: Service,
    databases: ShardedDatabases,
    catalogue: Catalogue,
    organizations: Organizations,
    usages: Usages,
    engine: UsageEngine,
    corrections: Corrections,
    clock: Clock,
) -> None:
    """Add the services of usage, of what is called and of what comes as events; and what re-rates it."""
    platform, shards = databases.platform, databases.shards
    exports = Exports(databases.reports, catalogue, clock)
    watch = UsageWatch(shards, clock)
    service.before_drain(watch.close)
    previews = Previews(shards, catalogue, organizations)
    jobs = RerateJobs(platform, previews, clock, shard_count=len(shards))
    servicer = UsageServicer(usages, corrections, PendingPrices(shards, catalogue), previews, jobs, exports, watch)
    service.add(usage_pb2_grpc.add_UsageServiceServicer_to_server, servicer)
    mappings = EventMappings(platform, catalogue, clock)
    service.add(ingest_pb2_grpc.add_IngestServiceServicer_to_server, IngestServicer(mappings, usages))
    rerating = Rerating(shards, catalogue, corrections, clock)
    worker = RerateWorker(platform, shards, catalogue, rerating, previews, jobs, engine, clock)
    service.background(worker.run, "re-rates")


def _serve_conversations(
    service: Service,
    settings: MeteringSettings,
    shards: Shards,
    usages: Usages,
    organizations: Organizations,
    subjects: Subjects,
    clock: Clock,
) -> None:
    """Add the service of conversations, and what deletes old contents."""
    path, days = settings.conversation_keys_file, settings.conversation_retention_days
    contents = Contents(None if path is None else SealingKeys.read(path))
    conversations = Conversations(shards, organizations, subjects, clock)
    servicer = ConversationServicer(
        conversations,
        Messages(shards, conversations, contents, usages, clock),
        Statistics(shards, clock),
        ConversationPolicies(shards, organizations, clock, retention_days=days),
        usages,
    )
    service.add(conversation_pb2_grpc.add_ConversationServiceServicer_to_server, servicer)
    service.background(Retention(shards, clock, retention_days=days).run, "old contents")


def _serve_checks(
    service: Service,
    settings: MeteringSettings,
    databases: ShardedDatabases,
    organizations: Organizations,
    catalogue: Catalogue,
    clock: Clock,
    events: UsageEvents,
) -> None:
    """Add the services that look at everything: charges, invariants, audit trail and retention; and that of events."""
    quantities = Quantities(databases.reports, catalogue, clock)
    charges = ChargeServicer(Charges(databases.reports, clock), quantities)
    service.add(charge_pb2_grpc.add_ChargeServiceServicer_to_server, charges)
    verification = Verification(
        databases.reports, clock, CHECKS, Part(databases.platform, (*AUDIT_CHECKS, *EVENT_CHECKS))
    )
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, IntegrityServicer(verification))
    trail = Trail(databases.home_of, databases.report_home_of)
    service.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(trail))
    _serve_retention(service, settings, databases, organizations, clock)
    _serve_events(service, settings, databases, clock)
    service.background(events.run, "who wants events of usage")


def _serve_retention(
    service: Service,
    settings: MeteringSettings,
    databases: ShardedDatabases,
    organizations: Organizations,
    clock: Clock,
) -> None:
    """Add the service of retention, and what drops usage and forgets users."""
    platform, shards = databases.platform, databases.reports
    seal, every_s = timedelta(seconds=settings.drop_seal_s), settings.drops_every_s
    drops = Drops(platform, shards, organizations, clock, seal=seal, every_s=every_s)
    forgetting = Forgetting(platform, shards, forget_user_after, clock, every_s=every_s)
    policies = RetentionPolicies(platform, shards, organizations, clock)
    servicer = RetentionServicer(policies, drops, forgetting)
    service.add(retention_pb2_grpc.add_RetentionServiceServicer_to_server, servicer)
    service.background(drops.run, "drops of usage")
    service.background(forgetting.run, "forgetting users")


def _serve_events(service: Service, settings: MeteringSettings, databases: ShardedDatabases, clock: Clock) -> None:
    """Add the service of events, and what delivers them."""
    events = build_events("metering", settings, sharded_homes(databases), clock)
    service.add(event_pb2_grpc.add_EventServiceServicer_to_server, events.servicer)
    service.background(events.deliverer.run, "events")
    service.background(AlertEvents(databases.shards, clock).run, "alerts of limits")


def _serve_limits(
    service: Service,
    settings: MeteringSettings,
    shards: Shards,
    catalogue: Catalogue,
    organizations: Organizations,
    subjects: Subjects,
    subscriptions: SubscriptionsClient,
    book: LimitBook,
    call_limits: CallLimits,
    counters: Counters,
    alerts: Alerts,
    clock: Clock,
) -> Allocations:
    """Add the services of limits, and those that take from them without money; return what allocates."""
    queue_max = settings.queue_max
    allocations = Allocations(
        shards, catalogue, organizations, call_limits, subscriptions, counters, alerts, clock, queue_max=queue_max
    )
    limits = Limits(shards, book, organizations, subjects, clock)
    limit_usage = LimitUsage(shards, call_limits, clock)
    subscription_usage = SubscriptionUsage(shards, call_limits, subscriptions, clock)
    quotas = QuotaServicer(limits, limit_usage, subscription_usage, alerts, allocations, catalogue)
    service.add(quota_pb2_grpc.add_QuotaServiceServicer_to_server, quotas)
    service.background(book.watch, "limits")
    service.background(counters.run, "counters of limits")
    service.background(allocations.run, "leases of allocations")
    service.on_drain(allocations.close)
    return allocations


def _serve_proxies(
    service: Service,
    settings: MeteringSettings,
    shards: Shards,
    catalogue: Catalogue,
    call_limits: CallLimits,
    counters: Counters,
    alerts: Alerts,
    clock: Clock,
    organizations: Organizations,
    callers: Callers,
    balances: Balances,
) -> None:
    """Add the services that Envoy asks, as far as they are configured."""
    hits = Hits(shards, catalogue, call_limits, counters, alerts, clock, queue_max=settings.queue_max)
    if settings.rate_limit_descriptors_file is not None:
        descriptors = read_descriptors(settings.rate_limit_descriptors_file.read_text(encoding="utf-8"))
        rate_limits = RateLimitServicer(RateLimits(descriptors, organizations, hits))
        service.add(rls_pb2_grpc.add_RateLimitServiceServicer_to_server, rate_limits)
    if settings.external_auth_file is not None:
        configuration = read_external_auth(settings.external_auth_file.read_text(encoding="utf-8"))
        checks = Checks(configuration, callers, balances, hits)
        service.add(external_auth_pb2_grpc.add_AuthorizationServicer_to_server, ExternalAuthServicer(checks))
    service.on_drain(hits.close)


def main() -> None:
    """Run metering from the environment's settings."""
    run_service("metering", MeteringSettings, build)


if __name__ == "__main__":
    main()
