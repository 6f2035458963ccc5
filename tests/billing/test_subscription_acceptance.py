"""The acceptance cases on subscriptions through the RPCs: periods, local dates, and what changes of plan cost."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp

from tests.billing.subscription_calls import PERIOD_END, Subscriptions, add_plan
from tests.billing.support import Ledger, balance_of, organization
from tests.billing.test_run_periods import run
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import subscription_pb2 as pb

NEW_YORK, BERLIN = ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(moment: Timestamp, zone: ZoneInfo) -> str:
    return moment.ToDatetime(UTC).astimezone(zone).strftime("%m-%d")


async def charged(subscriptions: Subscriptions, s: pb.Subscription) -> list[pb.SubscriptionLine]:
    return [line for event in await subscriptions.events(s) for line in event.lines]


def amounts(lines: list[pb.SubscriptionLine]) -> list[Decimal]:
    return [Decimal(line.amount.value) for line in lines]


async def test_anchor_on_the_31st(timed: Ledger, clock: FixedClock) -> None:
    clock.set(utc("2026-01-31"))
    subscriptions = Subscriptions(timed)
    made = await subscriptions.create(organization(), "free")
    clock.set(utc("2027-01-30"))
    await run(timed)
    periods = [event for event in await subscriptions.events(made) if event.HasField("period_start_time")]
    ends = [day(event.period_end_time, ZoneInfo("UTC")) for event in periods]
    first = ["02-28", "03-31", "04-30", "05-31", "06-30", "07-31"]
    assert ends == [*first, "08-31", "09-30", "10-31", "11-30", "12-31", "01-31"]


async def test_local_dates_and_a_new_price_at_the_end_of_a_period(timed: Ledger, clock: FixedClock) -> None:
    clock.set(utc("2023-03-01T03:47:56"))
    await add_plan(timed, "ten", "10")
    await add_plan(timed, "twenty", "20")
    subscriptions, org = Subscriptions(timed), organization()
    await timed.credit(org, "top-up", "100")
    made = await subscriptions.create(org, "ten", time_zone="America/New_York")
    clock.set(utc("2023-05-15"))
    await subscriptions.change(made, "twenty", PERIOD_END)
    clock.set(utc("2023-06-01"))
    await run(timed)
    await subscriptions.cancel(made, PERIOD_END)
    clock.set(utc("2023-08-01"))
    await run(timed)
    lines = await charged(subscriptions, made)
    dates = [(day(line.start_time, NEW_YORK), day(line.end_time, NEW_YORK)) for line in lines]
    assert dates == [("02-28", "03-28"), ("03-28", "04-28"), ("04-28", "05-28"), ("05-28", "06-28")]
    assert amounts(lines) == [10, 10, 10, 20]
    assert (await balance_of(timed, org)).posted.value == "50"


async def test_the_day_of_an_upgrade_and_of_a_downgrade_is_charged_once(timed: Ledger, clock: FixedClock) -> None:
    clock.set(utc("2026-09-01"))
    await add_plan(timed, "a", "30")
    await add_plan(timed, "b", "60")
    subscriptions = Subscriptions(timed)
    for first, second, expected, net in (("a", "b", [-15, 30], 15), ("b", "a", [-30, 15], -15)):
        clock.set(utc("2026-09-01"))
        org = organization()
        await timed.credit(org, "top-up", "100")
        made = await subscriptions.create(org, first)
        clock.set(utc("2026-09-16T09:30"))
        changed = await subscriptions.change(made, second)
        assert amounts(list(changed.lines)) == expected
        assert Decimal(changed.net_amount.value) == net
        assert [line.days for line in changed.lines] == [15, 15]
        assert Decimal((await balance_of(timed, org)).posted.value) == 100 - (30 if first == "a" else 60) - net


async def test_three_plans_on_one_day_sent_twice(timed: Ledger, clock: FixedClock) -> None:
    clock.set(utc("2026-09-01T08:00"))
    await add_plan(timed, "three", "3")
    await add_plan(timed, "nine", "9")
    subscriptions, org = Subscriptions(timed), organization()
    await timed.credit(org, "top-up", "100")
    made = await subscriptions.create(org, "free", request_id="r-0")
    for _ in range(2):
        made = await subscriptions.create(org, "free", request_id="r-0")
        await subscriptions.change(made, "three", request_id="r-1")
        await subscriptions.change(made, "nine", request_id="r-2")
    lines = await charged(subscriptions, made)
    assert amounts(lines) == [3, -3, 9]
    assert all(line.days > 0 and line.start_time.seconds < line.end_time.seconds for line in lines)
    assert (await balance_of(timed, org, currency_code="USD")).posted.value == "91"


async def test_days_of_25_and_23_hours(timed: Ledger, clock: FixedClock) -> None:
    await add_plan(timed, "month", "31")
    subscriptions = Subscriptions(timed)
    for start, anchor, expected in (
        (datetime(2026, 10, 25, tzinfo=BERLIN), datetime(2026, 10, 1, tzinfo=BERLIN), "7"),
        (datetime(2026, 3, 29, tzinfo=BERLIN), datetime(2026, 3, 1, tzinfo=BERLIN), "3"),
    ):
        clock.set(start.astimezone(UTC))
        org = organization()
        await timed.credit(org, "top-up", "100")
        made = await subscriptions.create(org, "month", time_zone="Europe/Berlin", anchor_time=anchor)
        (line,) = await charged(subscriptions, made)
        assert (line.amount.value, line.days, line.period_days) == (expected, int(expected), 31)
