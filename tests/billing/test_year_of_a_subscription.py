"""A year of one subscription, driven by the clock, and its statement line by line."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime

import pytest

from services.billing.ledger.domain import SettleGrants
from services.billing.plan.domain import Interval, IntervalUnit
from services.billing.subscription.states import State
from tests.billing.period_house import DAY, House, open_house, pending, terms, utc
from tests.support.clock import FixedClock

pytestmark = pytest.mark.shards

PRO = terms(30, included=300, trial=Interval(IntervalUnit.DAY, 14), retries=(1 * DAY, 3 * DAY))
TEAM = terms(60, included=600, retries=(1 * DAY, 3 * DAY))


MONEY = [
    # The trial costs nothing.
    ("2026-01-15", "3", "-30", "315"),
    ("2026-02-15", "4", "-30", "285"),
    ("2026-03-15", "5", "-30", "255"),
    ("2026-04-15", "6", "-30", "225"),
    # 15 of 30 days are given back at 30.00 and taken at 60.00.
    ("2026-04-30", "7", "-15", "210"),
    ("2026-05-15", "8", "-60", "150"),
    # Paused in May, and resumed when 15 of the 30 days from June 15 on are left.
    ("2026-06-30", "10", "-30", "120"),
    ("2026-07-15", "11", "-60", "60"),
    ("2026-08-15", "12", "-60", "0"),
    # September 15 cannot be paid, nor a day later; the money comes in on the 17th.
    ("2026-09-17", "top-up", "200", "200"),
    ("2026-09-18", "15", "-60", "140"),
    ("2026-10-15", "16", "-60", "80"),
]
CREDITS = [
    ("2026-01-01", "GRANT", "300", "300"),
    ("2026-01-15", "EXPIRY", "-300", "0"),
    ("2026-01-15", "GRANT", "300", "300"),
    ("2026-02-15", "EXPIRY", "-300", "0"),
    ("2026-02-15", "GRANT", "300", "300"),
    ("2026-02-20", "DEBIT", "-120", "180"),
    ("2026-03-15", "EXPIRY", "-180", "0"),
    ("2026-03-15", "GRANT", "300", "300"),
    ("2026-04-15", "EXPIRY", "-300", "0"),
    ("2026-04-15", "GRANT", "300", "300"),
    ("2026-04-30", "VOID", "-300", "0"),
    ("2026-04-30", "GRANT", "300", "300"),
    ("2026-05-15", "EXPIRY", "-300", "0"),
    ("2026-05-15", "GRANT", "600", "600"),
    ("2026-06-15", "EXPIRY", "-600", "0"),
    ("2026-06-30", "GRANT", "300", "300"),
    ("2026-07-15", "EXPIRY", "-300", "0"),
    ("2026-07-15", "GRANT", "600", "600"),
    ("2026-08-15", "EXPIRY", "-600", "0"),
    ("2026-08-15", "GRANT", "600", "600"),
    ("2026-09-15", "EXPIRY", "-600", "0"),
    ("2026-09-18", "GRANT", "600", "600"),
    ("2026-10-15", "EXPIRY", "-600", "0"),
    ("2026-10-15", "GRANT", "600", "600"),
    ("2026-11-15", "EXPIRY", "-600", "0"),
]
EVENTS = [
    ("01-01", "CREATED", "PENDING"),
    ("01-01", "TRIAL_STARTED", "TRIALING"),
    ("01-15", "PERIOD_STARTED", "ACTIVE"),
    ("02-15", "PERIOD_STARTED", "ACTIVE"),
    ("03-15", "PERIOD_STARTED", "ACTIVE"),
    ("04-15", "PERIOD_STARTED", "ACTIVE"),
    ("04-30", "PLAN_CHANGED", "ACTIVE"),
    ("05-15", "PERIOD_STARTED", "ACTIVE"),
    ("06-15", "PERIOD_PASSED", "PAUSED"),
    ("06-30", "RESUMED", "ACTIVE"),
    ("07-15", "PERIOD_STARTED", "ACTIVE"),
    ("08-15", "PERIOD_STARTED", "ACTIVE"),
    ("09-15", "PERIOD_STARTED", "PAST_DUE"),
    ("09-16", "PAYMENT_REFUSED", "PAST_DUE"),
    ("09-18", "PAYMENT_MADE", "ACTIVE"),
    ("10-15", "PERIOD_STARTED", "ACTIVE"),
    ("11-15", "CANCELLED", "CANCELLED"),
]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(utc("2026-01-01"))


@pytest.fixture
async def house(database_urls: dict[str, str], clock: FixedClock) -> AsyncIterator[House]:
    async with open_house(database_urls["billing"], clock) as house:
        yield house
        assert await house.findings() == []


async def test_a_year_comes_out_as_the_table_says(house: House, clock: FixedClock) -> None:
    pro, team = await house.plan("pro-30", PRO), await house.plan("team-60", TEAM)
    subscription = await house.add(pending(pro, clock.now(), trial_end=utc("2026-01-15")))
    org, key = subscription.organization_id, (subscription.organization_id, subscription.subscription_id)

    async def use() -> None:
        await house.use(org, "120")

    async def upgrade() -> None:
        changed = await house.progress.change_plan_now(*key, plan=team, actor="operator:test")
        assert changed.event is not None
        assert [line.amount.value for line in changed.event.lines] == [-15, 30]

    async def pause() -> None:
        now = await house.find(subscription)
        await house.put(now.with_state(State.PAUSED, "on holiday", clock.now()))

    async def resume() -> None:
        await house.progress.resume(*key, actor="operator:test")

    async def top_up() -> None:
        await house.pay_in(org, "200", operation_id="top-up")

    async def cancel() -> None:
        await house.put(replace(await house.find(subscription), cancel_at_period_end=True))

    await house.pay_in(org, "345", operation_id="opening")
    acts: dict[datetime, Callable[[], Awaitable[None]]] = {
        utc("2026-02-20"): use,
        utc("2026-04-30"): upgrade,
        utc("2026-05-20"): pause,
        utc("2026-06-30"): resume,
        utc("2026-09-17"): top_up,
        utc("2026-10-20"): cancel,
    }
    while clock.now() < utc("2027-01-01"):
        await house.work_off()
        due = (await house.find(subscription)).due_time
        clock.set(min(moment for moment in (*acts, due, utc("2027-01-01")) if moment is not None))
        if clock.now() in acts:
            await acts.pop(clock.now())()
    await house.engine.settle_grants([SettleGrants(org, "", None, "CREDIT")])

    source = f"subscription/{subscription.subscription_id}/"
    money = [line for line in await house.statement(org) if line[2] != "opening"]
    assert [(day, name.removeprefix(source), amount, balance) for day, _, name, amount, balance in money] == MONEY
    credits_ = await house.statement(org, "CREDIT")
    assert [(day, kind, amount, balance) for day, kind, _, amount, balance in credits_] == CREDITS
    events = await house.events(subscription)
    told = [(event.effective_time.strftime("%m-%d"), event.kind.value, event.to_state.value) for event in events]
    assert told == EVENTS
