"""What is left of a plan's credits when the next period begins: nothing, all of it, or up to a limit."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing.ledger.engine import Engine
from services.billing.ledger.refills import Rollover, refill
from tests.billing.support import BillingServer, Ledger, balance_of, organization, usd
from tests.billing.test_credits import DAY, at, rests, statement
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import ledger_pb2 as pb

MONTH = 30 * DAY
ANNA = new_id()


@pytest.fixture
async def engine(billing_shards: Shards, clock: FixedClock) -> Engine:
    """The engine of another process on the same database, as the period run has one."""
    return Engine(billing_shards, clock)


class Refiller:
    """Refills one organization's credits month by month."""

    def __init__(self, engine: Engine, org: str, rollover: Rollover, limit: int | None = None, **scope: str) -> None:
        self._engine, self._org, self._rollover, self._scope = engine, org, rollover, scope
        self._limit = None if limit is None else Decimal(limit)

    async def month(self, number: int, start: datetime, *, plan: str = "subscription/1") -> bool:
        """Grant the 100 of a month; tell whether it was granted before."""
        granted = await self._engine.grant(
            refill(
                organization_id=self._org,
                operation_id=f"{plan}/{number}",
                currency_code="USD",
                amount=Decimal(100),
                priority=5,
                period_start=start,
                period_end=start + MONTH,
                rollover=self._rollover,
                rollover_max=self._limit,
                source_reference=plan,
                actor="service:billing",
                user_id=self._scope.get("user_id"),
            )
        )
        return granted.replayed


async def available(ledger: Ledger, org: str) -> str:
    return (await balance_of(ledger, org)).available.value


@pytest.mark.parametrize(
    ("rollover", "limit", "left"),
    [(Rollover.NONE, None, "100"), (Rollover.ALL, None, "170"), (Rollover.UP_TO, 120, "120")],
)
@pytest.mark.parametrize("ahead", [False, True])
async def test_of_100_a_month_with_30_used_the_next_month_has_100_or_170_or_120(
    timed: Ledger, clock: FixedClock, engine: Engine, rollover: Rollover, limit: int | None, left: str, ahead: bool
) -> None:
    """Acceptance case 11: at the very boundary, and once, whether the run is ahead or in time; other credits stay."""
    org, first = organization(), clock.now()
    second = first + MONTH
    plan = Refiller(engine, org, rollover, limit)
    await timed.grant(org, "promotion", "200", priority=9)
    await plan.month(1, first)
    assert await available(timed, org) == "300"
    await timed.debit(org, "use", "30")
    if ahead:
        await plan.month(2, second)
    clock.advance(MONTH - timedelta(microseconds=1))
    assert await available(timed, org) == "270"
    clock.advance(timedelta(microseconds=1))
    assert await plan.month(2, second) == ahead
    assert await available(timed, org) == str(200 + int(left))
    assert await plan.month(2, second)
    assert await available(timed, org) == str(200 + int(left))
    assert (await rests(timed, org))["promotion"] == "200"
    moved = [entry for entry in await statement(timed, org) if entry[0] == "EXPIRY"]
    assert [amount for _, amount, _ in moved] == {"100": ["-70"], "170": [], "120": ["-50"]}[left]
    summary = await timed.credit_summary(org)
    assert (summary.last_refill_time, summary.used_since_refill_amount) == (at(second), usd("0"))


@pytest.mark.shards
@pytest.mark.parametrize(
    ("rollover", "limit", "left", "lost"), [(Rollover.NONE, None, "100", "100"), (Rollover.UP_TO, 120, "120", "80")]
)
async def test_a_run_that_is_late_catches_up_in_order_and_dates_its_movements_back(
    timed: Ledger, clock: FixedClock, engine: Engine, rollover: Rollover, limit: int | None, left: str, lost: str
) -> None:
    org, first = organization(), clock.now()
    plan = Refiller(engine, org, rollover, limit)
    clock.advance(2 * MONTH + DAY)
    for number in range(3):
        await plan.month(number, first + number * MONTH)
    assert await available(timed, org) == left
    page = await timed.ledger.ListTransactions(pb.ListTransactionsRequest(organization_id=org), metadata=timed.metadata)
    in_order = sorted(page.transactions, key=lambda one: one.sequence)
    moved = [(one.amount.value, one.create_time) for one in in_order]
    # With the limit the second month takes 80 of the first, and the third what is left of it and 80 of the second.
    third = (
        [(lost, at(first + 2 * MONTH))]
        if limit is None
        else [("20", at(first + 2 * MONTH)), (lost, at(first + 2 * MONTH))]
    )
    assert moved == [
        ("100", at(first)),
        (lost, at(first + MONTH)),
        ("100", at(first + MONTH)),
        *third,
        ("100", at(first + 2 * MONTH)),
    ]


async def test_the_limit_is_of_one_subscription_and_one_user(timed: Ledger, clock: FixedClock, engine: Engine) -> None:
    org, first = organization(), clock.now()
    await Refiller(engine, org, Rollover.UP_TO, 120).month(1, first)
    await Refiller(engine, org, Rollover.UP_TO, 120).month(1, first, plan="subscription/2")
    await Refiller(engine, org, Rollover.UP_TO, 120, user_id=ANNA).month(1, first, plan="subscription/3")
    clock.advance(MONTH)
    await Refiller(engine, org, Rollover.UP_TO, 120, user_id=ANNA).month(2, first + MONTH, plan="subscription/3")
    await Refiller(engine, org, Rollover.UP_TO, 120).month(3, first + MONTH, plan="subscription/3")
    assert await rests(timed, org) == {
        "subscription/1/1": "100",
        "subscription/2/1": "100",
        "subscription/3/1": "20",
        "subscription/3/2": "100",
        "subscription/3/3": "100",
    }
    assert (await timed.credit_summary(org, user_id=ANNA)).balance.available == usd("420")


@pytest.mark.parametrize("scope", [{}, {"user_id": ANNA}], ids=["for all", "for a user"])
async def test_what_is_held_when_the_limit_cuts_stays_with_its_hold(
    timed: Ledger, clock: FixedClock, engine: Engine, scope: dict[str, str]
) -> None:
    org, first = organization(), clock.now()
    plan = Refiller(engine, org, Rollover.UP_TO, 120, **scope)
    await plan.month(1, first)
    clock.advance(MONTH - timedelta(hours=1))
    await timed.hold(org, "call", "90", ttl=Duration(seconds=86_400), **scope)
    clock.advance(timedelta(hours=1))
    await plan.month(2, first + MONTH)
    assert (await balance_of(timed, org)).posted == usd("190")
    await timed.capture(org, "call", "60")
    assert (await balance_of(timed, org)).posted == usd("130")
    await plan.month(3, first + 2 * MONTH)
    clock.advance(MONTH)
    assert (await balance_of(timed, org)).posted == usd("120")
    assert await rests(timed, org) == {"subscription/1/1": "0", "subscription/1/2": "20", "subscription/1/3": "100"}


@pytest.mark.shards
async def test_a_process_that_ends_after_the_refill_repeats_it_and_nothing_is_granted_twice(
    server: BillingServer, billing_shards: Shards, clock: FixedClock
) -> None:
    org, first = organization(), clock.now()
    async with server.start(clock, sweep_every_s=3600) as ledger:
        for _ in range(3):
            await Refiller(Engine(billing_shards, clock), org, Rollover.UP_TO, 120).month(1, first)
        clock.advance(MONTH)
        for _ in range(3):
            await Refiller(Engine(billing_shards, clock), org, Rollover.UP_TO, 120).month(2, first + MONTH)
        assert [kind for kind, _, _ in await statement(ledger, org)] == ["GRANT", "EXPIRY", "GRANT"]
        assert await ledger.findings() == []


def test_terms_of_a_refill_that_make_no_sense_are_refused(clock: FixedClock) -> None:
    for rollover, limit, length in (
        (Rollover.UP_TO, None, MONTH),
        (Rollover.ALL, Decimal(120), MONTH),
        (Rollover.UP_TO, Decimal(99), MONTH),
        (Rollover.NONE, None, timedelta()),
    ):
        with pytest.raises(ValueError, match=r"rollover_max|no length"):
            refill(
                organization_id=organization(),
                operation_id="x",
                currency_code="USD",
                amount=Decimal(100),
                priority=5,
                period_start=clock.now(),
                period_end=clock.now() + length,
                rollover=rollover,
                rollover_max=limit,
                source_reference="subscription/1",
                actor="service:billing",
            )
