"""Periods of subscriptions, and parts of them: values that others got wrong, and what holds in every zone."""

import zoneinfo
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from services.billing.plan.domain import Interval, IntervalUnit
from services.billing.subscription.periods import (
    OutsideCalendar,
    Period,
    boundary,
    period,
    period_at,
    period_number_at,
)

DAY, WEEK, MONTH, YEAR = IntervalUnit
DAILY, WEEKLY, MONTHLY, QUARTERLY, YEARLY = (
    *(Interval(DAY), Interval(WEEK), Interval(MONTH)),
    *(Interval(MONTH, 3), Interval(YEAR)),
)
ZONES = sorted(zoneinfo.available_timezones())
ONE_DAY, AN_HOUR, MICROSECOND = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
SAMPLED_SECONDS = range(
    int(datetime(1840, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2045, 1, 1, tzinfo=UTC).timestamp()), 30 * 86_400
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local(text: str, zone: ZoneInfo) -> datetime:
    """Return the moment of a wall-clock time."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None)


def offset(second: int, zone: ZoneInfo) -> timedelta:
    return datetime.fromtimestamp(second, zone).utcoffset() or timedelta(0)


@cache
def changes(zone: ZoneInfo) -> tuple[datetime, ...]:
    """Return the first second of each new offset of a zone that lasts for a month."""
    found = []
    samples = [(second, offset(second, zone)) for second in SAMPLED_SECONDS]
    for (low, before), (high, after) in pairwise(samples):
        while before != after and high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle, zone) == before else (low, middle)
        if before != after:
            found.append(datetime.fromtimestamp(high, UTC))
    return tuple(found)


@cache
def kinds_of_change() -> list[tuple[ZoneInfo, datetime, datetime, datetime]]:
    """Return of each zone the changes that differ, each with the wall-clock times before and after it.

    Changes from the same to the same offset at the same time of the day are one.
    """
    found: dict[tuple[str, timedelta, timedelta, time], tuple[ZoneInfo, datetime, datetime, datetime]] = {}
    for zone in map(ZoneInfo, ZONES):
        for change in changes(zone):
            old, new = wall(change - MICROSECOND, zone) + MICROSECOND, wall(change, zone)
            utc_time = change.replace(tzinfo=None)
            found[zone.key, old - utc_time, new - utc_time, old.time()] = zone, change, old, new
    return list(found.values())


zones = st.sampled_from(ZONES).map(ZoneInfo)
intervals = st.builds(Interval, st.sampled_from(IntervalUnit), st.integers(1, 40))
EARLIEST, LATEST = datetime.fromisoformat("1850-01-01"), datetime.fromisoformat("2150-01-01")
times = st.datetimes(EARLIEST, LATEST, timezones=st.just(UTC))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[datetime, Interval, ZoneInfo]:
    """An anchor, an interval and a zone; some boundary within ten is often about when the clocks change."""
    zone, interval = draw(zones), draw(intervals)
    if not changes(zone) or draw(st.integers(0, 3)) == 0:
        return draw(times), interval, zone
    about = draw(st.sampled_from(changes(zone))) + draw(st.timedeltas(-2 * ONE_DAY, 2 * ONE_DAY) | st.just(0 * AN_HOUR))
    return boundary(about, interval, zone, draw(st.integers(-10, 10))), interval, zone


def periods_within(
    anchor: datetime, interval: Interval, zone: ZoneInfo, start: datetime, end: datetime
) -> list[Period]:
    """Return the periods that have a moment from `start` until before `end`."""
    first = period_number_at(anchor, interval, zone, start)
    last = period_number_at(anchor, interval, zone, end - MICROSECOND)
    return [period(anchor, interval, zone, number) for number in range(first, last + 1)]


def dates(anchor: datetime, interval: Interval, zone: ZoneInfo, *, last: int) -> list[str]:
    return [f"{boundary(anchor, interval, zone, n).astimezone(zone):%Y-%m-%d}" for n in range(1, last + 1)]


@pytest.mark.parametrize(
    ("anchor", "interval", "ends"),
    [
        ("2023-01-31", MONTHLY, "2023-02-28 2023-03-31 2023-04-30"),
        ("2024-01-30", MONTHLY, "2024-02-29 2024-03-30"),
        ("2026-01-30", MONTHLY, "2026-02-28 2026-03-30"),
        (
            "2026-01-31",
            MONTHLY,
            (
                "2026-02-28 2026-03-31 2026-04-30 2026-05-31 2026-06-30 2026-07-31 "
                "2026-08-31 2026-09-30 2026-10-31 2026-11-30 2026-12-31 2027-01-31"
            ),
        ),
        ("2028-01-31", MONTHLY, "2028-02-29 2028-03-31"),
        ("2024-02-29", YEARLY, "2025-02-28 2026-02-28 2027-02-28 2028-02-29"),
        ("2028-02-29", YEARLY, "2029-02-28 2030-02-28 2031-02-28 2032-02-29"),
        ("2026-03-31", QUARTERLY, "2026-06-30 2026-09-30 2026-12-31 2027-03-31"),
        ("2026-12-31", Interval(WEEK, 2), "2027-01-14 2027-01-28"),
        ("2028-02-28", DAILY, "2028-02-29 2028-03-01"),
    ],
)
def test_boundaries_are_computed_from_the_anchor(anchor: str, interval: Interval, ends: str) -> None:
    expected = ends.split()

    assert dates(utc(anchor), interval, ZoneInfo("UTC"), last=len(expected)) == expected


def test_calendar_is_the_one_of_the_zone() -> None:
    anchor, zone = utc("2023-03-01T03:47:56"), ZoneInfo("America/New_York")

    assert f"{anchor.astimezone(zone):%d %H:%M}" == "28 22:47"
    assert dates(anchor, MONTHLY, zone, last=3) == ["2023-03-28", "2023-04-28", "2023-05-28"]
    assert boundary(anchor, MONTHLY, zone, 1) == utc("2023-03-29T02:47:56")  # Daylight saving time has begun.


def test_months_of_a_quarter_are_three_and_end_with_it() -> None:
    anchor, zone = utc("2026-03-31"), ZoneInfo("UTC")
    quarter = period(anchor, QUARTERLY, zone, 2)

    months = periods_within(anchor, MONTHLY, zone, quarter.start, quarter.end)

    assert [month.first_day for month in months] == [date(2026, 9, 30), date(2026, 10, 31), date(2026, 11, 30)]
    assert [month.end for month in months] == [utc("2026-10-31"), utc("2026-11-30"), quarter.end]
    assert quarter.end == utc("2026-12-31")


@pytest.mark.parametrize(
    ("name", "anchor", "n", "expected"),
    [
        ("Europe/Berlin", "2026-03-28T02:30", 1, "2026-03-29T03:30"),  # 02:30 does not exist.
        ("Europe/Berlin", "2026-03-28T02:30", 2, "2026-03-30T02:30"),
        ("America/Sao_Paulo", "2018-11-03", 1, "2018-11-04T01:00"),  # Midnight does not exist.
        ("Australia/Lord_Howe", "2026-10-03T02:10", 1, "2026-10-04T02:40"),  # Clocks are put forward by half an hour.
        ("Asia/Kathmandu", "2026-01-31T00:00", 28, "2026-02-28"),
    ],
)
def test_boundary_at_a_time_that_does_not_exist_is_later(name: str, anchor: str, n: int, expected: str) -> None:
    zone = ZoneInfo(name)

    assert wall(boundary(local(anchor, zone), DAILY, zone, n), zone) == datetime.fromisoformat(expected)


def test_boundary_at_a_time_that_comes_twice_is_the_first() -> None:
    zone = ZoneInfo("Europe/Berlin")

    assert boundary(local("2026-10-24T02:30", zone), DAILY, zone, 1) == utc("2026-10-25T00:30")
    assert boundary(local("2026-09-25T02:30", zone), MONTHLY, zone, 1) == utc("2026-10-25T00:30")


def test_anchor_at_the_second_of_two_times_begins_its_own_period() -> None:
    zone, anchor = ZoneInfo("Europe/Berlin"), utc("2026-10-25T01:30")

    assert wall(anchor, zone) == wall(anchor - AN_HOUR, zone)
    assert [boundary(anchor, DAILY, zone, n) for n in (-1, 0, 1)] == [
        utc("2026-10-24T00:30"),
        anchor,
        utc("2026-10-26T01:30"),
    ]
    assert boundary(anchor, YEARLY, zone, 11) == utc("2037-10-25T00:30")
    assert period_number_at(anchor, DAILY, zone, anchor - MICROSECOND) == -1


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("Pacific/Apia", "2011-12-30"), ("Pacific/Kwajalein", "1993-08-21"), ("Pacific/Kiritimati", "1994-12-31")],
)
def test_day_that_the_zone_left_out_shares_the_day_before_it(name: str, left_out: str) -> None:
    zone, skipped = ZoneInfo(name), date.fromisoformat(left_out)
    anchor = local(f"{skipped - 3 * ONE_DAY}", zone)
    last = boundary(anchor, DAILY, zone, 2)

    found = periods_within(anchor, DAILY, zone, last, last + ONE_DAY)

    assert [(made.end - made.start, made.first_day, made.days) for made in found] == [
        (timedelta(hours=12), skipped - ONE_DAY, 1),
        (timedelta(hours=12), skipped, 1),
    ]
    assert wall(found[1].end, zone) == datetime.combine(skipped + ONE_DAY, datetime.min.time())


def test_daily_boundaries_increase_at_every_change_of_every_zone() -> None:
    for zone, change, old, new in kinds_of_change():
        # Boundary 3 is at the beginning, in the middle or at the end of the time that was left out or repeated.
        for about in (old, old + (new - old) / 2, new):
            anchor = (about - 3 * ONE_DAY).replace(tzinfo=zone).astimezone(UTC)
            found = [boundary(anchor, DAILY, zone, n) for n in range(1, 6)]
            assert all(earlier < later for earlier, later in pairwise(found)), (zone, change, anchor)
    left_out = {zone.key for zone, _, old, new in kinds_of_change() if new - old >= ONE_DAY}
    assert left_out >= {"Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati", "Asia/Manila"}


@pytest.mark.parametrize("interval", [DAILY, MONTHLY], ids=lambda interval: interval.unit)
def test_number_of_a_period_is_right_at_every_change_of_every_zone(interval: Interval) -> None:
    for zone, change, old, new in kinds_of_change():
        for about in (old, old + (new - old) / 2, new):
            anchor = (about - 31 * ONE_DAY).replace(tzinfo=zone).astimezone(UTC)
            for moment in (change - AN_HOUR, change - MICROSECOND, change, change + 2 * AN_HOUR, change + 23 * AN_HOUR):
                number = period_number_at(anchor, interval, zone, moment)
                start, end = (boundary(anchor, interval, zone, number + more) for more in (0, 1))
                assert start <= moment < end, (zone, change, anchor)


@given(schedules(), st.integers(-30, 30))
def test_periods_follow_each_other_without_gap_or_overlap(
    schedule: tuple[datetime, Interval, ZoneInfo], first: int
) -> None:
    made = [period(*schedule, number) for number in range(first, first + 8)]

    assert boundary(*schedule, 0) == schedule[0]
    assert all(one.start < one.end and one.days >= 1 for one in made)
    assert all(one.end == following.start for one, following in pairwise(made))
    assert all(one.end_day == following.first_day for one, following in pairwise(made))


@given(schedules(), st.integers(-60, 60).filter(bool))
def test_boundary_has_the_wall_clock_time_of_the_anchor(schedule: tuple[datetime, Interval, ZoneInfo], n: int) -> None:
    anchor, interval, zone = schedule
    assume(interval.unit is not YEAR or 2 < anchor.year + n * interval.count < MAXYEAR - 1)
    began, found = wall(anchor, zone), boundary(anchor, interval, zone, n).astimezone(zone)
    day = period(anchor, interval, zone, n).first_day
    expected = datetime.combine(day, began.time())

    if interval.unit in (DAY, WEEK):
        assert day == began.date() + n * interval.count * (7 if interval.unit is WEEK else 1) * ONE_DAY
    else:
        months = n * interval.count * (12 if interval.unit is YEAR else 1)
        assert (day.year - began.year) * 12 + day.month - began.month == months
        assert day.day == began.day or (day.day < began.day and (day + ONE_DAY).month != day.month)
    if wall(expected.replace(tzinfo=zone).astimezone(UTC), zone) == expected:
        assert (found.replace(tzinfo=None), found.fold) == (expected, 0)
    else:  # The clocks were put forward over it.
        assert timedelta(0) < abs(found.replace(tzinfo=None) - expected) < ONE_DAY


def plain_search(schedule: tuple[datetime, Interval, ZoneInfo], moment: datetime) -> int:
    (number,) = [n for n in range(-16, 16) if boundary(*schedule, n) <= moment < boundary(*schedule, n + 1)]
    return number


@given(schedules(), st.integers(-12, 12), st.timedeltas(-2 * ONE_DAY, 2 * ONE_DAY) | st.sampled_from([0, -1]))
@example((utc("2011-12-27T10:00"), DAILY, ZoneInfo("Pacific/Apia")), 3, 0)
@example((utc("1867-10-17T12:00"), DAILY, ZoneInfo("America/Sitka")), 2, ONE_DAY)  # A day came twice.
def test_number_of_a_period_agrees_with_a_plain_search(
    schedule: tuple[datetime, Interval, ZoneInfo], n: int, away: timedelta | int
) -> None:
    moment = boundary(*schedule, n) + (away if isinstance(away, timedelta) else away * MICROSECOND)

    number = period_number_at(*schedule, moment)

    assert number == plain_search(schedule, moment)
    found = period_at(*schedule, moment)
    assert found.number == number
    assert found.start <= moment < found.end


@given(schedules(), st.integers(-2000, 2000))
def test_far_period_begins_at_its_boundary(schedule: tuple[datetime, Interval, ZoneInfo], n: int) -> None:
    anchor, interval, zone = schedule
    schedule = (anchor, Interval(interval.unit, 1 + interval.count % 3), zone)
    n = n if interval.unit is not YEAR else n // 10

    assert period_number_at(*schedule, boundary(*schedule, n)) == n
    assert period_number_at(*schedule, boundary(*schedule, n) - MICROSECOND) == n - 1


@given(schedules(), st.integers(-10, 10), st.integers(1, 5))
def test_parts_tile_a_whole_of_the_same_anchor(
    schedule: tuple[datetime, Interval, ZoneInfo], number: int, times_: int
) -> None:
    anchor, interval, zone = schedule
    larger = {DAY: (WEEK, 7), MONTH: (YEAR, 12)}
    wholes = [(Interval(interval.unit, interval.count * times_), times_)]
    if interval.unit in larger:
        unit, size = larger[interval.unit]
        wholes.append((Interval(unit, interval.count), size))
    for whole_interval, count in wholes:
        whole = period(anchor, whole_interval, zone, number)

        parts = periods_within(anchor, interval, zone, whole.start, whole.end)

        assert len(parts) == count
        assert (parts[0].start, parts[-1].end) == (whole.start, whole.end)
        assert sum(part.days for part in parts) == whole.days


def test_intervals_of_nothing_are_refused() -> None:
    for unit in IntervalUnit:
        for count in (0, -1):
            with pytest.raises(ValueError, match="count of an interval"):
                boundary(utc("2026-01-31"), Interval(unit, count), ZoneInfo("UTC"), 1)


def test_naive_times_are_refused() -> None:
    zone, naive, aware = ZoneInfo("UTC"), datetime.fromisoformat("2026-01-01"), utc("2026-01-01")
    for call in (
        lambda: boundary(naive, DAILY, zone, 0),
        lambda: boundary(naive, DAILY, zone, 1),
        lambda: period_number_at(naive, DAILY, zone, aware),
        lambda: period_number_at(aware, DAILY, zone, naive),
    ):
        with pytest.raises(ValueError, match="not in any time zone"):
            call()


@pytest.mark.parametrize("interval", [DAILY, WEEKLY, MONTHLY, YEARLY], ids=lambda interval: interval.unit)
@pytest.mark.parametrize("n", [10**7, -(10**7), 10**30, -(10**30)])
def test_boundaries_outside_the_calendar_are_refused(interval: Interval, n: int) -> None:
    with pytest.raises(OutsideCalendar):
        boundary(utc("2026-01-31"), interval, ZoneInfo("Europe/Berlin"), n)
    with pytest.raises(OutsideCalendar):
        boundary(utc("2026-01-31"), Interval(interval.unit, abs(n)), ZoneInfo("Europe/Berlin"), n)


def test_last_and_first_times_of_the_calendar_are_answered_or_refused_by_name() -> None:
    end, start = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    for zone in map(ZoneInfo, ZONES):
        for anchor in (end, end - 20 * AN_HOUR, start, start + 20 * AN_HOUR):
            for n in (-1, 0, 1):
                try:
                    assert (boundary(anchor, DAILY, zone, n) > anchor) == (n > 0)
                except OutsideCalendar:
                    assert min(end - anchor, anchor - start) < 2 * ONE_DAY


def test_period_without_an_end_in_the_calendar_has_a_number_only() -> None:
    schedule = (utc("2026-01-31"), Interval(YEAR, 8000), ZoneInfo("UTC"))

    assert period_number_at(*schedule, utc("2030-01-01")) == 0
    with pytest.raises(OutsideCalendar):
        period_at(*schedule, utc("2030-01-01"))
    with pytest.raises(OutsideCalendar):
        period_number_at(*schedule, utc("2026-01-30"))
