"""Builds what serves payments, and adds it to billing's server."""

from collections.abc import Mapping
from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.server import Service
from libs.common.shards import ShardedDatabases
from services.billing.ledger.engine import Engine
from services.billing.payment.checkouts import Checkouts
from services.billing.payment.listings import Listings
from services.billing.payment.payments import Payments
from services.billing.payment.products import Products
from services.billing.payment.provider import Provider
from services.billing.payment.records import Records
from services.billing.payment.references import References
from services.billing.payment.servicer import PaymentServicer
from services.billing.payment.steps import Steps
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
    providers: Mapping[str, Provider] | None = None,
) -> PaymentCore:
    """Add PaymentService. `providers` are those that are set up, by their names; `manual` is always there."""
    platform, shards = databases.platform, databases.shards
    known = providers or {}
    references, products = References(platform), Products(platform, clock)
    steps = Steps(shards, engine, clock, into_debt=settings.refunds_into_debt)
    payments = Payments(shards, references, steps, clock)
    records = Records(shards, references, steps, payments, products, known, clock)
    checkouts = Checkouts(
        shards, platform, references, steps, products, known, clock, is_test=settings.payments_test_mode
    )
    service.add(
        payment_pb2_grpc.add_PaymentServiceServicer_to_server,
        PaymentServicer(products, records, checkouts, Listings(shards, references), clock),
    )
    return PaymentCore(payments, references)
