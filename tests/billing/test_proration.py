"""What parts of a period cost: known values, and that parts add up to the whole."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.common.amount import AMOUNT_MAX
from services.billing.plan.domain import Interval, IntervalUnit
from services.billing.subscription.periods import Period, period, period_at
from services.billing.subscription.proration import days_left, prorated, shares

MONTHLY, QUARTERLY = Interval(IntervalUnit.MONTH), Interval(IntervalUnit.MONTH, 3)
BERLIN = ZoneInfo("Europe/Berlin")
SMALLEST = Decimal("0.000000001")
AMOUNTS = st.decimals(-AMOUNT_MAX + 1, AMOUNT_MAX - 1, places=9)


def local(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def month(first_day: str, zone: ZoneInfo = BERLIN) -> Period:
    return period(local(first_day, zone), MONTHLY, zone, 0)


def test_quarter_joined_on_its_fiftieth_day_has_42_of_91_days() -> None:
    quarter = period(local("2024-04-01"), QUARTERLY, BERLIN, 0)

    assert (days_left(quarter, BERLIN, local("2024-05-20T15:00")), quarter.days) == (42, 91)


@pytest.mark.parametrize(
    ("first_day", "begun", "days", "expected"),
    [
        ("2026-10-01", "2026-10-25", 7, "7.00"),  # The first of these days has 25 hours.
        ("2026-10-01", "2026-10-25T23:59:59.999999", 7, "7.00"),
        ("2026-10-01", "2026-10-31T23:59", 1, "1.00"),
        ("2026-03-01", "2026-03-29", 3, "3.00"),  # The first of these days has 23 hours.
        ("2026-10-01", "2026-10-01", 31, "31.00"),
        ("2026-10-01", "2026-09-01", 31, "31.00"),
        ("2026-10-01", "2026-11-01", 0, "0"),
    ],
)
def test_days_count_alike_whatever_hours_they_have(first_day: str, begun: str, days: int, expected: str) -> None:
    whole = month(first_day)

    left = days_left(whole, BERLIN, local(begun))

    assert left == days
    assert prorated(Decimal("31.00"), left, whole.days) == Decimal(expected)


def test_upgrade_credits_and_charges_the_days_from_its_own_on() -> None:
    september = month("2026-09-01")
    left = days_left(september, BERLIN, local("2026-09-16T11:30"))

    assert prorated(Decimal("30.00"), left, september.days) == Decimal("15.00")
    assert prorated(Decimal("60.00"), left, september.days) == Decimal("30.00")
    plans = shares(
        september, BERLIN, [(local("2026-09-01"), Decimal(30)), (local("2026-09-16T11:30"), Decimal("60.00"))]
    )
    assert [(share.first_day.day, share.amount) for share in plans] == [(1, Decimal(15)), (16, Decimal(30))]
    assert sum((share.end_day - share.first_day).days for share in plans) == september.days == 30


def test_only_the_last_of_three_plans_of_one_day_is_paid() -> None:
    september = month("2026-09-01")
    prices = [(local(f"2026-09-01T{hour}:00"), Decimal(price)) for hour, price in (("10", 0), ("11", 3), ("12", 9))]

    (share,) = shares(september, BERLIN, prices)

    assert (share.first_day, share.end_day, share.amount) == (date(2026, 9, 1), date(2026, 10, 1), Decimal("9.00"))


def test_day_in_which_a_period_ends_belongs_to_the_next() -> None:
    zone, anchor = ZoneInfo("America/New_York"), datetime(2023, 3, 1, 3, 47, 56, tzinfo=UTC)
    first = period(anchor, MONTHLY, zone, 0)
    moment = local("2023-03-28T10:00", zone)

    assert period_at(anchor, MONTHLY, zone, moment) == first
    assert (first.days, days_left(first, zone, moment)) == (28, 0)
    assert shares(first, zone, [(moment, Decimal(28))]) == []


def test_day_before_that_clocks_go_back_to_is_not_shared_twice() -> None:
    """At 00:01 clocks were put back to 23:01 of the day before."""
    zone = ZoneInfo("America/St_Johns")
    november, before = month("2010-11-01", zone), datetime(2010, 11, 7, 2, 30, 30, tzinfo=UTC)
    moments = [before, before + timedelta(minutes=20)]
    assert [moment.astimezone(zone).day for moment in moments] == [7, 6]

    (share,) = shares(november, zone, [(moment, Decimal(30)) for moment in moments])

    assert (share.first_day, share.amount) == (date(2010, 11, 7), Decimal(24))


@pytest.mark.parametrize(
    ("amount", "part", "whole", "expected"),
    [
        ("10", 1, 3, "3.333333333"),
        ("10", 2, 3, "6.666666667"),
        ("0.000000001", 1, 2, "0"),
        ("0.000000003", 1, 2, "0.000000002"),
        ("-0.000000003", 1, 2, "-0.000000002"),
        ("999999999999999.999999999", 364, 365, "997260273972602.739726026"),
        # A quotient of 28 digits is half way between the two nearest amounts, and the exact one is nearer to this.
        ("999999999999998.999967627", 73047, 73049, "999972621117331.201667857"),
        ("15.0000000000", 1, 1, "15"),
    ],
)
def test_amounts_are_rounded_once_half_to_even(amount: str, part: int, whole: int, expected: str) -> None:
    assert prorated(Decimal(amount), part, whole) == Decimal(expected)


@given(AMOUNTS, st.integers(1, 4000), st.data())
def test_prorated_amount_is_the_nearest_to_the_exact_one(amount: Decimal, whole: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, whole))

    found = prorated(amount, part, whole)

    assert abs(Fraction(found) - Fraction(amount) * part / whole) <= Fraction(SMALLEST) / 2
    assert prorated(amount, whole, whole) == amount
    assert prorated(-amount, part, whole) == -found


@pytest.mark.parametrize(("part", "whole"), [(-1, 30), (31, 30), (0, 0), (0, -1), (-1, -1)])
def test_parts_that_are_none_are_refused(part: int, whole: int) -> None:
    with pytest.raises(ValueError, match="are no part of"):
        prorated(Decimal(1), part, whole)


@pytest.mark.parametrize(
    "amount",
    ["NaN", "sNaN", "Infinity", "-Infinity", "1E+15", "-1E+15", "1E+999999", "1E-10", "1E-999999", "0.1234567891"],
)
def test_amounts_that_the_ledger_cannot_hold_are_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        prorated(Decimal(amount), 1, 2)


def test_prices_out_of_order_and_naive_moments_are_refused() -> None:
    september, moments = month("2026-09-01"), [local("2026-09-02"), local("2026-09-01")]
    with pytest.raises(ValueError, match="order"):
        shares(september, BERLIN, [(moment, Decimal(1)) for moment in moments])
    with pytest.raises(ValueError, match="not in any time zone"):
        shares(
            september, BERLIN, [(local("2026-09-02"), Decimal(1)), (datetime.fromisoformat("2026-09-03"), Decimal(1))]
        )


moments_of_a_month = st.lists(
    st.datetimes(*map(datetime.fromisoformat, ("2010-10-25", "2010-12-05")), timezones=st.just(UTC)),
    min_size=1,
    max_size=8,
).map(sorted)
zones = st.sampled_from(["UTC", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]).map(ZoneInfo)


@given(AMOUNTS, zones, moments_of_a_month)
@example(Decimal("0.000000001"), ZoneInfo("UTC"), [datetime(2010, 11, day, tzinfo=UTC) for day in range(1, 31)])
def test_shares_of_one_price_add_up_to_it_exactly(amount: Decimal, zone: ZoneInfo, moments: list[datetime]) -> None:
    whole = month("2010-11-01", zone)
    left = days_left(whole, zone, moments[0])

    made = shares(whole, zone, [(moment, amount) for moment in moments])

    assert sum(share.amount for share in made) == prorated(amount, left, whole.days)
    if left == whole.days:
        assert sum(share.amount for share in made) == amount


@given(st.lists(AMOUNTS, min_size=8, max_size=8), zones, moments_of_a_month)
def test_shares_tile_the_days_and_are_off_by_less_than_the_smallest_amount(
    amounts: list[Decimal], zone: ZoneInfo, moments: list[datetime]
) -> None:
    whole = month("2010-11-01", zone)
    prices = list(zip(moments, amounts, strict=False))

    made = shares(whole, zone, prices)

    assert sum((share.end_day - share.first_day).days for share in made) == days_left(whole, zone, moments[0])
    assert all(share.first_day < share.end_day for share in made)
    assert all(one.end_day == following.first_day for one, following in pairwise(made))
    assert not made or made[-1].end_day == whole.end_day
    for share in made:
        left = (whole.end_day - share.first_day).days
        holding = [amount for moment, amount in prices if days_left(whole, zone, moment) >= left][-1]
        exact = Fraction(holding) * (share.end_day - share.first_day).days / whole.days
        assert abs(Fraction(share.amount) - exact) <= Fraction(SMALLEST)
