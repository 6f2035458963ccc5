"""Billing as a process: settings, objects, server."""

from typing import Final

import grpc

from libs.common.audit.servicer import AuditServicer
from libs.common.audit.trail import Trail
from libs.common.authentication import SigningKey, TokenSource
from libs.common.callers import RemoteDirectory
from libs.common.channel import ClientTls, open_channel
from libs.common.clock import Clock, SystemClock
from libs.common.integrity.servicer import IntegrityServicer
from libs.common.integrity.verification import Part, Verification
from libs.common.process import run_service
from libs.common.server import Service
from libs.common.shards import open_databases
from libs.common.telemetry import start_process_telemetry
from services.billing.account.accounts import Accounts
from services.billing.account.servicer import AccountServicer
from services.billing.charge.charges import Charges
from services.billing.charge.servicer import ChargeServicer
from services.billing.credit.credits import Credits
from services.billing.credit.servicer import CreditServicer
from services.billing.credit.worker import GrantWorker
from services.billing.invariants import CHECKS, PLATFORM_CHECKS
from services.billing.ledger.engine import Engine
from services.billing.ledger.history import History
from services.billing.ledger.servicer import LedgerServicer
from services.billing.ledger.sweeper import Sweeper
from services.billing.plan.plans import Plans
from services.billing.plan.servicer import PlanServicer
from services.billing.settings import BillingSettings
from services.billing.subscription.entitlement_feed import EntitlementFeed
from services.billing.subscription.entitlement_servicer import EntitlementServicer
from services.billing.subscription.entitlements import Entitlements
from services.billing.subscription.offers import Offers
from services.billing.tables import SCHEMA
from tollhouse.billing.v1 import (
    account_pb2_grpc,
    charge_pb2_grpc,
    credit_pb2_grpc,
    ledger_pb2_grpc,
    plan_pb2_grpc,
    subscription_pb2_grpc,
)
from tollhouse.common.v1 import audit_pb2_grpc, integrity_pb2_grpc

_CHECK_TIMEOUT_MS: Final = 30_000


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
    to_identity = _channel_to_identity(settings, clock)
    directory = RemoteDirectory(to_identity) if to_identity else None
    service = Service("billing", settings, platform, clock, telemetry, directory, shards)

    engine = Engine(shards, clock, batch_max=settings.batch_max, queue_max=settings.queue_max, lanes=settings.lanes)
    accounts = Accounts(shards, clock, engine)
    service.add(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer(engine, History(shards, clock)))
    service.add(account_pb2_grpc.add_AccountServiceServicer_to_server, AccountServicer(accounts))
    service.add(
        credit_pb2_grpc.add_CreditServiceServicer_to_server, CreditServicer(Credits(shards, engine, clock), clock)
    )
    service.add(charge_pb2_grpc.add_ChargeServiceServicer_to_server, ChargeServicer(Charges(reports, clock)))
    service.add(plan_pb2_grpc.add_PlanServiceServicer_to_server, PlanServicer(Plans(platform, clock)))
    feed = EntitlementFeed(platform, shards, settings.watchers_max)
    entitlements = Entitlements(shards, Offers(platform), clock)
    service.add(
        subscription_pb2_grpc.add_SubscriptionServiceServicer_to_server,
        EntitlementServicer(entitlements, feed),  # type: ignore[abstract]  # the other RPCs come with SubscriptionServicer.
    )
    trail = Trail(databases.home_of, databases.report_home_of)
    verification = Verification(reports, clock, CHECKS, Part(platform, PLATFORM_CHECKS))
    service.add(integrity_pb2_grpc.add_IntegrityServiceServicer_to_server, IntegrityServicer(verification))
    service.add(
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
        AuditServicer(trail),
    )
    service.background(Sweeper(shards, clock, settings.sweep_every_s).run, "expired holds")
    service.background(GrantWorker(shards, engine, clock, settings.sweep_every_s).run, "credit grants")
    service.background(feed.run, "changes of entitlements")
    service.before_drain(feed.close)
    service.on_drain(engine.drain)
    service.on_drain(databases.close)
    if to_identity:
        service.on_drain(to_identity.close)
    return service


def _channel_to_identity(settings: BillingSettings, clock: Clock) -> grpc.aio.Channel | None:
    if not settings.identity_target or not settings.signing_key_file:
        return None
    tokens = TokenSource(SigningKey.read(settings.signing_key_file), clock)
    tls = ClientTls(*settings.tls) if settings.tls else None
    return open_channel(settings.identity_target, caller=tokens, audience="identity.tollhouse", tls=tls)


def main() -> None:
    """Run billing from the environment's settings."""
    run_service("billing", BillingSettings, build)


if __name__ == "__main__":
    main()
