"""Payments with the ledger, without a server: for tests of facts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from libs.common.clock import Clock, SystemClock
from libs.common.database import Database, open_database
from libs.common.ids import new_id
from libs.common.integrity.domain import Finding
from libs.common.integrity.verification import Part, Verification
from libs.common.shards import Shards, open_shards
from services.billing.invariants import CHECKS, PLATFORM_CHECKS
from services.billing.ledger import store as ledger_store
from services.billing.ledger.domain import Credit, Debit, Mode, SystemAccount
from services.billing.ledger.engine import Engine
from services.billing.payment import store
from services.billing.payment.domain import Brings, Credits, Payment, PaymentType
from services.billing.payment.payments import Payments
from services.billing.payment.products import Products
from services.billing.payment.provider import (
    FactStatus,
    Occasion,
    PaymentFact,
    Provider,
    Reference,
    ReferenceKind,
    Version,
)
from services.billing.payment.records import Records
from services.billing.payment.references import Claim, References, of_checkout
from services.billing.payment.refunds import Refunds
from services.billing.payment.settling import Settling
from services.billing.payment.steps import Steps
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of
from tests.support.sharded import SHARDS

START = datetime(2026, 9, 1, tzinfo=UTC)


def at(minutes: int) -> Version:
    """Return the version of an object as it was so many minutes after the beginning."""
    return Version(START + timedelta(minutes=minutes))


def fact(checkout: Payment | None, minutes: int, **fields: object) -> PaymentFact:
    """Return what an order says of the payment of a checkout, if nothing else is given: nothing."""
    known: dict[str, object] = {
        "provider": "acme",
        "references": (),
        "version": at(minutes),
        "occasion": Occasion.ONE_OFF,
        "is_test": False,
        "store": "",
        "checkout_id": None if checkout is None else checkout.payment_id,
    }
    return PaymentFact(**known | fields)  # type: ignore[arg-type]


def paid(checkout: Payment, minutes: int = 1, **fields: object) -> PaymentFact:
    """Return what says that a checkout is paid."""
    known: dict[str, object] = {
        "status": FactStatus.COMPLETED,
        "amount": checkout.amount,
        "currency_code": checkout.currency_code,
    }
    return fact(checkout, minutes, **known | fields)


def reference(kind: str, external_id: str) -> Reference:
    return Reference(ReferenceKind(kind), external_id)


@dataclass
class PaymentHouse:
    """What payments are made of."""

    platform: Database
    shards: Shards
    engine: Engine
    references: References
    steps: Steps
    payments: Payments
    records: Records
    refunds: Refunds
    clock: Clock
    providers: dict[str, Provider] = field(default_factory=dict)

    async def checkout(self, organization_id: str | None = None, **fields: object) -> Payment:
        """Return a checkout of a pack of 10 credits for 10 USD, if nothing else is given."""
        claim = Claim(organization_id or new_id(), new_id())
        now = self.clock.now()
        await self.references.claim([of_checkout(claim.payment_id)], claim, now)
        known: dict[str, object] = {
            "type": PaymentType.CREDIT_PACK,
            "provider": "acme",
            "amount": Decimal(10),
            "currency_code": "USD",
            "brings": Brings.CREDITS,
            "credits": Credits("CREDIT", Decimal(10)),
            "is_test": False,
            "actor": "operator:test",
            "create_time": now,
            "update_time": now,
            "said": {},
        }
        payment = Payment(claim.organization_id, claim.payment_id, **known | fields)  # type: ignore[arg-type]
        return await self.steps.store(payment)

    async def find(self, payment: Payment) -> Payment:
        async with self.shards.of(payment.organization_id).raw_connection() as connection:
            found = await store.find(connection, payment.organization_id, payment.payment_id)
        assert found is not None
        return found

    async def posted(self, organization_id: str) -> dict[str, Decimal]:
        """Return what an organization's own accounts hold, by currency."""
        async with self.shards.of(organization_id).raw_connection() as connection:
            owned = await ledger_store.find_owned(connection, organization_id, organization_id)
        return {account.currency_code: account.posted for account in owned}

    async def spend(self, organization_id: str, amount: str, currency_code: str = "CREDIT") -> None:
        (answer,) = await self.engine.submit(
            [Debit(organization_id, new_id(), None, currency_code, Decimal(amount), Mode.MUST_POST, "", None, "test")]
        )
        assert not isinstance(answer, Exception), answer

    async def earn(self, organization_id: str, amount: str, currency_code: str = "CREDIT") -> None:
        source = SystemAccount.ADJUSTMENTS
        (answer,) = await self.engine.submit(
            [Credit(organization_id, new_id(), None, currency_code, Decimal(amount), source, "", None, "test")]
        )
        assert not isinstance(answer, Exception), answer

    async def close_account(self, organization_id: str, currency_code: str) -> None:
        """Close an account that is empty, as CloseAccount does."""
        async with self.shards.of(organization_id).raw_connection() as connection:
            owned = await ledger_store.find_owned(connection, organization_id, organization_id)
            (account,) = [one for one in owned if one.currency_code == currency_code]
            assert not account.posted
            await connection.execute(
                "UPDATE accounts SET state = 'CLOSED' WHERE organization_id = $1::uuid AND account_id = $2::uuid",
                organization_id,
                account.account_id,
            )

    async def open_account(self, organization_id: str) -> None:
        """Open closed accounts again, as OpenAccount does."""
        async with self.shards.of(organization_id).raw_connection() as connection:
            await connection.execute(
                "UPDATE accounts SET state = 'OPEN' WHERE organization_id = $1::uuid", organization_id
            )

    async def settle(self) -> None:
        """Settle what has not changed for a minute, as the worker does."""
        later = FixedClock(self.clock.now() + timedelta(minutes=2))
        for database in self.shards:
            await Settling(self.shards, self.payments, later).sweep(database)

    async def findings(self) -> list[Finding]:
        verification = Verification(self.shards, self.clock, CHECKS, Part(self.platform, PLATFORM_CHECKS))
        return await findings_of(verification)


@asynccontextmanager
async def open_payments(
    url: str, *, into_debt: bool = True, clock: Clock | None = None, providers: Mapping[str, Provider] | None = None
) -> AsyncIterator[PaymentHouse]:
    """Open payments on a database; what is left behind must be consistent."""
    clock = clock or SystemClock()
    platform = open_database(url, schema="billing")
    shards = open_shards(url, schema="billing", count=SHARDS, plan_by_key=True)
    engine = Engine(shards, clock)
    references, products = References(platform), Products(platform, clock)
    steps = Steps(shards, engine, clock, into_debt=into_debt)
    payments = Payments(shards, references, steps, clock)
    known = dict(providers or {})
    records = Records(shards, references, steps, products, clock)
    refunds = Refunds(shards, references, steps, payments, known, clock)
    yield PaymentHouse(platform, shards, engine, references, steps, payments, records, refunds, clock, known)
    await engine.drain()
    await shards.close()
    await platform.close()


def newer(one: PaymentFact, minutes: int, **fields: object) -> PaymentFact:
    """Return a fact as it is said later."""
    return replace(one, version=at(minutes), **fields)  # type: ignore[arg-type]
