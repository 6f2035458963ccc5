"""Subscriptions with the ledger and a clock that the test moves, without a server: for tests of periods."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal

from libs.common.clock import Clock
from libs.common.database import Database, open_database
from libs.common.ids import new_id
from libs.common.integrity.domain import Finding
from libs.common.integrity.verification import Part, Verification
from libs.common.shards import Shards, open_shards
from services.billing.invariants import CHECKS, PLATFORM_CHECKS
from services.billing.ledger.domain import Credit, Debit, GrantCredits, Mode, SystemAccount
from services.billing.ledger.engine import Engine
from services.billing.ledger.grants import GrantKind
from services.billing.plan import store as plan_store
from services.billing.plan.domain import (
    IncludedCredits,
    Interval,
    IntervalUnit,
    Money,
    PastDue,
    PastDueEnd,
    Plan,
    ProviderReference,
    Rollover,
    Terms,
    Version,
    VersionState,
)
from services.billing.subscription import event_store, store
from services.billing.subscription.charger import Charged, Charger, Demand, charged, movement
from services.billing.subscription.domain import AgreedPlan, Event, Subject, Subscription, WaitsFor, due_time_of
from services.billing.subscription.offers import LIMITS_OF_MODELS, Offers
from services.billing.subscription.progress import LOCKS_POOL_SIZE, Progress
from services.billing.subscription.states import State
from services.billing.subscription.worker import PeriodRun
from tests.billing.subscriptions import first_event, subscription
from tests.support.sharded import SHARDS

MONTH = Interval(IntervalUnit.MONTH)
DAY = 86_400


def utc(text: str) -> datetime:
    """Return a moment such as `2026-09-16` or `2026-09-16T10:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def terms(
    price: str | int = 0,
    *,
    currency: str = "USD",
    interval: Interval = MONTH,
    included: str | int = 0,
    rollover: Rollover = Rollover.NONE,
    rollover_max: int | None = None,
    trial: Interval | None = None,
    retries: Sequence[int] = (),
    end: PastDueEnd = PastDueEnd.CANCEL,
    fallback: str = "",
    minimum: str = "",
) -> Terms:
    kept = None if rollover_max is None else Money("CREDIT", Decimal(rollover_max))
    return Terms(
        price=Money(currency, Decimal(price)),
        billing_interval=interval,
        credits=(IncludedCredits(Money("CREDIT", Decimal(included)), rollover, kept, 10),) if Decimal(included) else (),
        trial=trial,
        entitlements=(),
        past_due=PastDue(tuple(retries), end, fallback),
        metadata={},
        minimum=Money(currency, Decimal(minimum)) if minimum else None,
    )


def pending(
    plan: AgreedPlan | None,
    start: datetime,
    *,
    organization_id: str | None = None,
    subject: Subject = Subject.ORGANIZATION,
    zone: str = "UTC",
    anchor: datetime | None = None,
    trial_end: datetime | None = None,
    expire: datetime | None = None,
) -> Subscription:
    """Return a subscription that was just made and waits for its start."""
    made = replace(
        subscription(
            subject,
            organization_id=organization_id or new_id(),
            user_id=new_id(),
            plan=plan,
            state=State.PENDING,
            waits_for=WaitsFor.START,
            start_time=start,
            trial_end_time=trial_end,
            expire_time=expire,
        ),
        plan=plan,
        limits=LIMITS_OF_MODELS if plan is None else None,
        anchor_time=anchor,
        time_zone=zone,
        period_paid=False,
        state_time=start,
        create_time=start,
        update_time=start,
    )
    return replace(made, due_time=due_time_of(made))


class LedgerCharger:
    """Takes everything from the balance, so that a test needs no payment providers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def charge(self, demands: Sequence[Demand]) -> Sequence[Charged]:
        return list(map(charged, await self._engine.submit([movement(one.event) for one in demands])))


@dataclass(slots=True)
class House:
    """Billing's subscriptions on a database."""

    shards: Shards
    locks: Shards
    reports: Shards
    platform: Database
    clock: Clock
    charger: Charger | None = None
    engine: Engine = field(init=False)
    offers: Offers = field(init=False)
    progress: Progress = field(init=False)
    run: PeriodRun = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.shards, self.clock)
        self.offers = Offers(self.platform)
        charger = self.charger or LedgerCharger(self.engine)
        self.progress = Progress(self.shards, self.locks, self.engine, self.clock, self.offers, charger)
        self.run = PeriodRun(self.locks, self.progress, self.clock, every_s=3600)

    async def plan(self, code: str, terms: Terms, references: tuple[ProviderReference, ...] = ()) -> AgreedPlan:
        """Publish a plan, or its next version."""
        now = self.clock.now()
        async with self.platform.transaction() as connection:
            known = await plan_store.find_plan(connection, plan_code=code)
            number = 1 if known is None or known.published is None else known.published.version + 1
            draft = Version(number, VersionState.DRAFT, terms, now)
            plan = known or Plan(new_id(), code, code, "", True, 1, references, None, draft, 1, now, now)
            if known is None:
                await plan_store.add_plan(connection, plan)
                await plan_store.replace_references(connection, plan)
            await plan_store.put_draft(connection, plan.plan_id, draft)
            await plan_store.publish(connection, plan.plan_id, replace(draft, publish_time=now), now)
        return AgreedPlan(plan.plan_id, code, number)

    async def seeded(self, code: str) -> AgreedPlan:
        """Return one of the plans that come with Tollhouse."""
        return (await self.offers.published(code)).plan

    async def add(self, subscription: Subscription) -> Subscription:
        """Store a subscription that waits for its start."""
        async with self.shards.of(subscription.organization_id).raw_transaction() as connection:
            await store.insert(connection, subscription)
            await event_store.add(connection, first_event(subscription))
        return subscription

    async def put(self, subscription: Subscription) -> Subscription:
        """Change a subscription as its events without money do."""
        before = await self.find(subscription)
        after = replace(subscription, due_time=due_time_of(subscription), revision=before.revision + 1)
        async with self.shards.of(subscription.organization_id).raw_transaction() as connection:
            await store.update(connection, before, after)
        return after

    async def find(self, subscription: Subscription) -> Subscription:
        async with self.shards.of(subscription.organization_id).raw_connection() as connection:
            found = await store.find(connection, subscription.organization_id, subscription.subscription_id)
        assert found is not None
        return found

    async def events(self, subscription: Subscription) -> list[Event]:
        async with self.shards.of(subscription.organization_id).raw_connection() as connection:
            return await event_store.events_after(
                connection, subscription.organization_id, subscription.subscription_id, 0, 10_000
            )

    async def pay_in(self, organization_id: str, value: str, currency: str = "USD", *, operation_id: str = "") -> None:
        """Add money to an organization's account."""
        name = operation_id or new_id()
        credit = Credit(
            organization_id, name, None, currency, Decimal(value), SystemAccount.PAYMENTS, "", None, "operator:test"
        )
        await self.submit(credit)

    async def promote(self, organization_id: str, value: str) -> None:
        """Grant credits beside those of the plan."""
        grant = GrantCredits(
            organization_id, new_id(), None, "CREDIT", Decimal(value), GrantKind.PROMOTIONAL, 100, None, None,
            "", "", None, "operator:test",
        )  # fmt: skip
        await self.submit(grant)

    async def use(self, organization_id: str, value: str) -> None:
        """Use credits of an organization."""
        await self.submit(
            Debit(organization_id, new_id(), None, "CREDIT", Decimal(value), Mode.GUARDED, "", None, "service:metering")
        )

    async def submit(self, command: object) -> object:
        (answer,) = await self.engine.submit([command])  # type: ignore[list-item]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def work_off(self) -> int:
        """Run once what is due on every shard; return how many steps were made."""
        return sum([counts.done async for counts in self.run.run_until(self.clock.now())])

    async def statement(self, organization_id: str, currency: str = "USD") -> list[tuple[str, str, str, str, str]]:
        """Return an organization's movements: day, kind, operation, signed amount and balance."""
        async with self.shards.of(organization_id).raw_connection() as connection:
            rows = await connection.fetch(
                "SELECT create_time, kind, operation_id, direction, amount, balance_after FROM transactions"
                " WHERE organization_id = $1::uuid AND currency_code = $2 ORDER BY sequence",
                organization_id,
                currency,
            )
        return [
            (
                row[0].strftime("%Y-%m-%d"),
                row[1],
                row[2],
                format((row[4] if row[3] == "CREDIT" else -row[4]).normalize(), "f"),
                format(row[5].normalize(), "f"),
            )
            for row in rows
        ]

    async def findings(self) -> list[str]:
        """Return what the invariants find."""
        verification = Verification(self.reports, self.clock, CHECKS, Part(self.platform, PLATFORM_CHECKS))
        return [
            f"{one.invariant}: {one.resource}: {one.detail}"
            async for one in verification.verify()
            if isinstance(one, Finding)
        ]


@asynccontextmanager
async def open_house(url: str, clock: Clock, charger: Charger | None = None) -> AsyncIterator[House]:
    shards = open_shards(url, schema="billing", count=SHARDS, plan_by_key=True)
    locks = open_shards(url, schema="billing", count=SHARDS, pool_size=LOCKS_POOL_SIZE)
    reports = open_shards(url, schema="billing", count=SHARDS, pool_size=4, statement_timeout_ms=30_000)
    platform = open_database(url, schema="billing")
    house = House(shards, locks, reports, platform, clock, charger)
    try:
        yield house
    finally:
        await house.engine.drain()
        for closing in (locks, reports, shards, platform):
            await closing.close()
