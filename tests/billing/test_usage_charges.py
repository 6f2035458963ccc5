"""What a plan charges for the usage of a period: once when it is over, exactly, and kept right whatever comes late."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.billing.plan.usage_charge_domain import UsageMode
from services.billing.subscription.domain import Subscription
from services.billing.subscription.states import EventKind, State
from tests.billing.period_house import DAY, House, open_house, pending, utc
from tests.billing.usage_charge_house import Metered, charging, pages
from tests.support.clock import FixedClock

STEPS = (("100", "3"), ("", "1"))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(utc("2026-09-01"))


@pytest.fixture
async def metered(database_urls: dict[str, str], clock: FixedClock) -> AsyncIterator[Metered]:
    async with open_house(database_urls["billing"], clock) as house:
        yield Metered(house, clock)
        assert await house.findings() == []


async def begun(metered: Metered, *args: object, code: str = "metered", **kwargs: object) -> Subscription:
    """Return a subscription to a plan of these terms that begins now."""
    plan = await metered.house.plan(code, charging(*args, **kwargs))  # type: ignore[arg-type]
    s = await metered.house.add(pending(plan, metered.clock.now()))
    await metered.house.work_off()
    return s


async def movements(house: House, s: Subscription) -> list[tuple[str, str]]:
    """The day and the amount of each movement for usage."""
    found = await house.statement(s.organization_id)
    return [(line[0][5:], line[3]) for line in found if line[2].startswith("usage-")]


async def test_a_period_is_charged_once_when_it_is_over_and_late_usage_as_the_difference(metered: Metered) -> None:
    s = await begun(metered, 0, pages(*STEPS))
    metered.meter.use(s.subscription_id, utc("2026-09-30T23:59:59.999999"), "100")
    metered.meter.use(s.subscription_id, utc("2026-10-01"), "7")
    await metered.work_off(utc("2026-10-01"))
    await metered.work_off(utc("2026-10-01T00:30"))
    metered.meter.use(s.subscription_id, utc("2026-09-02"), "1")
    await metered.work_off(utc("2026-10-01T02:00"))
    # A correction takes most of it back again.
    metered.meter.use(s.subscription_id, utc("2026-09-30"), "-51")
    await metered.work_off(utc("2026-10-20"))
    assert await movements(metered.house, s) == [("10-01", "-300"), ("10-01", "-1"), ("10-20", "151")]
    assert await metered.periods(s.subscription_id) == [("09-01", "10-01", "pages", "50", "150")]
    await metered.work_off(utc("2026-11-01"))
    assert (await movements(metered.house, s))[3:] == [("11-01", "-21")]


async def test_usage_that_is_dropped_later_is_not_given_back(metered: Metered) -> None:
    s = await begun(metered, 0, pages(*STEPS))
    metered.meter.use(s.subscription_id, utc("2026-09-01"), "5")
    metered.meter.use(s.subscription_id, utc("2026-09-20"), "7")
    await metered.work_off(utc("2026-10-01"))
    metered.meter.dropped_until = utc("2026-09-02")
    for day in ("2026-11-20", "2027-03-01"):
        await metered.work_off(utc(day))
    assert (await movements(metered.house, s))[0] == ("10-01", "-36")
    assert (await metered.periods(s.subscription_id))[0] == ("09-01", "10-01", "pages", "12", "36")
    assert [line for line in await movements(metered.house, s) if not line[1].startswith("-")] == []


async def test_period_whose_usage_was_dropped_in_part_is_charged_for_the_rest(metered: Metered) -> None:
    s = await begun(metered, 0, pages(*STEPS))
    metered.meter.use(s.subscription_id, utc("2026-09-01"), "5")
    metered.meter.use(s.subscription_id, utc("2026-09-20"), "7")
    metered.meter.dropped_until = utc("2026-09-02")
    await metered.work_off(utc("2026-10-01"))
    await metered.work_off(utc("2026-10-02"))
    assert await movements(metered.house, s) == [("10-01", "-21")]


async def test_nothing_is_charged_for_no_usage_but_a_flat_fee_where_the_plan_says_so(metered: Metered) -> None:
    plans = {"no": pages(*STEPS), "with": pages(*STEPS, fee="5"), "always": pages(*STEPS, fee="5", always=True)}
    found = {code: await begun(metered, 0, one, code=code) for code, one in plans.items()}
    await metered.work_off(utc("2026-10-01"))
    charged = {code: await movements(metered.house, s) for code, s in found.items()}
    assert charged == {"no": [], "with": [], "always": [("10-01", "-5")]}


async def test_while_metering_is_away_the_charge_waits_and_the_next_period_begins(metered: Metered) -> None:
    s = await begun(metered, 0)
    metered.meter.use(s.subscription_id, utc("2026-09-05"), "4")
    metered.meter.is_away = True
    await metered.work_off(utc("2026-10-01"))
    found = await metered.house.find(s)
    assert (found.period_start_time, found.usage_since) == (utc("2026-10-01"), utc("2026-10-01"))
    assert await movements(metered.house, s) == []
    metered.meter.is_away = False
    await metered.work_off(utc("2026-10-01T00:01"))
    assert await movements(metered.house, s) == [("10-01", "-4")]


@pytest.mark.shards
async def test_a_change_of_plan_ends_the_old_plans_usage_and_begins_the_new_ones(metered: Metered) -> None:
    s = await begun(metered, 0, pages(*STEPS, fee="30", always=True))
    other = await metered.house.plan("other", charging(0, pages(("", "2"), code="sheets")))
    none = await metered.house.plan("none", charging())
    for day in ("2026-09-15T23:59", "2026-09-16", "2026-09-20"):
        metered.meter.use(s.subscription_id, utc(day), "10")
    for moment, plan in (("2026-09-16", other), ("2026-09-20", none)):
        metered.clock.set(utc(moment))
        await metered.house.progress.change_plan_now(
            s.organization_id, s.subscription_id, plan=plan, actor="operator:x"
        )
    await metered.work_off(utc("2026-10-01"))
    # The old plan had 15 of 30 days, and so half of its fee.
    assert await metered.periods(s.subscription_id) == [
        ("09-01", "09-16", "pages", "10", "45"),
        ("09-16", "09-20", "sheets", "10", "20"),
        ("09-20", "10-01", "pages", "10", "10"),
    ]


async def test_a_period_that_was_rested_through_has_no_flat_fee_and_loses_no_usage(metered: Metered) -> None:
    s = await begun(metered, 0, pages(fee="30", always=True))
    metered.clock.set(utc("2026-09-10"))
    found = await metered.house.find(s)
    await metered.house.put(found.with_state(State.PAUSED, "", metered.clock.now()))
    for day in ("2026-09-12", "2026-10-05"):
        metered.meter.use(s.subscription_id, utc(day), "1")
    await metered.work_off(utc("2026-11-01"))
    amounts = [line[4] for line in await metered.periods(s.subscription_id)]
    # The first period was paid before the pause.
    assert amounts == ["31", "1"]


async def test_the_days_of_a_trial_have_no_usage_charge(metered: Metered) -> None:
    plan = await metered.house.plan("metered", charging())
    s = await metered.house.add(pending(plan, metered.clock.now(), trial_end=utc("2026-09-08")))
    await metered.house.work_off()
    metered.meter.use(s.subscription_id, utc("2026-09-02"), "5")
    metered.meter.use(s.subscription_id, utc("2026-09-08"), "1")
    await metered.work_off(utc("2026-10-08"))
    assert await metered.periods(s.subscription_id) == [("09-08", "10-08", "pages", "1", "1")]


async def test_usage_of_a_period_that_was_never_paid_is_a_debt(metered: Metered) -> None:
    s = await begun(metered, 0, code="one")
    priced = await metered.house.plan("two", charging(20, pages(), retries=(DAY,)))
    metered.clock.set(utc("2026-09-11"))
    await metered.house.pay_in(s.organization_id, "20")
    await metered.house.progress.change_plan_now(s.organization_id, s.subscription_id, plan=priced, actor="operator:x")
    metered.meter.use(s.subscription_id, utc("2026-10-01T12:00"), "50")
    for day in ("2026-10-01", "2026-10-02", "2026-10-03"):
        await metered.work_off(utc(day))
    assert (await metered.house.events(s))[-1].kind is EventKind.CANCELLED
    assert await movements(metered.house, s) == [("10-02", "-50")]


async def test_what_is_short_of_a_minimum_follows_the_usage_charges_of_its_period(metered: Metered) -> None:
    """Usage charges count for the period of the usage, so that late usage takes the place of the minimum."""
    s = await begun(metered, 0, minimum="31")
    metered.meter.use(s.subscription_id, utc("2026-09-05"), "2")
    await metered.work_off(utc("2026-10-01"))
    assert await movements(metered.house, s) == [("10-01", "-2"), ("10-01", "-29")]
    metered.meter.use(s.subscription_id, utc("2026-09-06"), "4")
    await metered.work_off(utc("2026-10-02"))
    assert (await movements(metered.house, s))[2:] == [("10-02", "-4"), ("10-02", "4")]
    metered.meter.use(s.subscription_id, utc("2026-09-07"), "44")
    await metered.work_off(utc("2026-10-03"))
    assert (await movements(metered.house, s))[4:] == [("10-03", "-44"), ("10-03", "25")]
    # What was charged for September in October is none of October's spending.
    await metered.work_off(utc("2026-11-01"))
    assert (await movements(metered.house, s))[6:] == [("11-01", "-31")]


async def test_a_minimum_waits_while_metering_is_away(metered: Metered) -> None:
    s = await begun(metered, 0, minimum="31")
    metered.meter.use(s.subscription_id, utc("2026-09-05"), "40")
    metered.meter.is_away = True
    await metered.work_off(utc("2026-10-01"))
    assert await movements(metered.house, s) == []
    metered.meter.is_away = False
    await metered.work_off(utc("2026-10-01T01:00"))
    assert await movements(metered.house, s) == [("10-01", "-40")]


async def test_two_processes_at_once_charge_once(metered: Metered) -> None:
    found = [await begun(metered, 0, pages(*STEPS)) for _ in range(6)]
    for s in found:
        metered.meter.use(s.subscription_id, utc("2026-09-05"), "101")
    metered.clock.set(utc("2026-10-01"))
    await metered.house.work_off()
    databases = list(metered.house.shards)
    await asyncio.gather(*(metered.worker().sweep(database) for database in databases for _ in range(3)))
    for s in found:
        assert await movements(metered.house, s) == [("10-01", "-301")]


async def test_a_time_is_looked_at_for_four_hundred_days_and_more_and_more_rarely(metered: Metered) -> None:
    s = await begun(metered, 0)
    await metered.work_off(utc("2026-10-01"))
    for day, is_seen in (("2026-11-09", True), ("2027-10-20", True), ("2028-03-01", False)):
        metered.meter.use(s.subscription_id, utc("2026-09-05"), "1")
        before = len(await movements(metered.house, s))
        await metered.work_off(utc(day))
        assert (len(await movements(metered.house, s)) > before) == is_seen, day


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(0, 89), st.integers(-3, 60), st.integers(0, 89)).filter(lambda one: one[0] <= one[2]),
        max_size=12,
    ),
    st.sampled_from(UsageMode),
    st.sampled_from(["", "100"]),
)
async def test_whatever_comes_in_whatever_order_all_movements_are_what_all_usage_costs(
    metered: Metered, told: list[tuple[int, int, int]], mode: UsageMode, minimum: str
) -> None:
    """Three months in which usage is told days after it happened, against the price of each month's sum."""
    start = utc("2026-09-01")
    metered.clock.set(start)
    one = pages(("50", "3"), ("", "1"), mode=mode)
    s = await begun(metered, 0, one, minimum=minimum)
    net: dict[int, int] = {}
    for day in range(0, 92, 3):
        for occurred, quantity, known in told:
            month = (start + timedelta(days=occurred)).month
            if day - 3 < known <= day and net.get(month, 0) + quantity >= 0:
                net[month] = net.get(month, 0) + quantity
                metered.meter.use(s.subscription_id, start + timedelta(days=occurred), str(quantity))
        await metered.work_off(start + timedelta(days=day))
    await metered.work_off(utc("2026-12-31"))
    costs = [one.amount(Decimal(net.get(month, 0))) for month in (9, 10, 11)]
    due = sum((max(cost, Decimal(minimum or 0)) for cost in costs), Decimal(0))
    assert -sum((Decimal(amount) for _, amount in await movements(metered.house, s)), Decimal(0)) == due
