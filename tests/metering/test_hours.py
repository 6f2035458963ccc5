"""Hours of a card: which of them a moment is in, over time zones and changes of clocks, and which rates hold then."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.metering.model.hours import (
    ALL_DAY,
    DAY_MINUTES,
    NO_TIME,
    Hours,
    Schedule,
    Span,
    minutes_of,
    time_of,
)
from services.metering.model.rate_checks import check_rates
from services.metering.model.rates import RateCard
from services.metering.model.units import SEEDED_UNITS
from tests.metering.rate_cards import card, each, in_hours, per_million

ZONES: Final = (
    *("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Kolkata"),
    # Off UTC by parts of an hour, clocks that change by half an hour or two hours, and a day that was left out.
    *("Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns", "Antarctica/Troll", "Pacific/Apia"),
)
NAMES: Final = ("night", "noon", "weekend")
NOW: Final = datetime(2026, 11, 26, tzinfo=UTC)
UNHURRIED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Cards are made of many draws, which takes long on a machine that does other work."""


def hours(name: str, *spans: tuple[str, str] | tuple[str, str, tuple[int, ...]]) -> Hours:
    return Hours(name, tuple(Span(minutes_of(one[0]), minutes_of(one[1]), *one[2:]) for one in spans))


def schedule(time_zone: str, *listed: Hours) -> Schedule:
    return Schedule(time_zone, listed)


def reference(listed: Schedule, moment: datetime) -> str:
    """Which hours a moment is in: those of which a span of this local day or the one before has begun and not ended."""
    local = moment.astimezone(ZoneInfo(listed.time_zone)).replace(tzinfo=None)
    found = set()
    for one in listed.hours:
        for span in one.spans:
            for day in (local.date(), local.date() - timedelta(days=1)):
                start = datetime.combine(day, time()) + timedelta(minutes=span.start)
                end = datetime.combine(day, time()) + timedelta(minutes=span.end)
                end += timedelta(days=span.end <= span.start)
                if day.isoweekday() in span.weekdays and start <= local < end:
                    found.add(one.name)
    assert len(found) <= 1, "hours do not overlap"
    return found.pop() if found else ALL_DAY


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Up to three hours. The day is cut at some times; on each weekday each part of it is in some hours or in none."""
    cuts = sorted(draw(st.sets(st.integers(0, DAY_MINUTES - 1), min_size=2, max_size=4)))
    parts = zip(cuts, (*cuts[1:], cuts[0] or draw(st.sampled_from([0, DAY_MINUTES]))), strict=True)
    kept: dict[str, list[Span]] = {}
    for start, end in parts:
        days = draw(st.lists(st.sampled_from(("", "", *NAMES)), min_size=7, max_size=7))
        for name in {*days} - {""}:
            weekdays = tuple(number for number, one in enumerate(days, start=1) if one == name)
            kept.setdefault(name, []).append(Span(start, end, weekdays))
    kept = kept or {"night": [Span(0, 1)]}
    return Schedule(draw(st.sampled_from(ZONES)), tuple(Hours(name, tuple(kept[name])) for name in sorted(kept)))


def changes_of(zone: str) -> list[datetime]:
    """The hours of UTC in which the zone's offset changes, in the years that usage may be of; the ends of 2011, too."""
    start = datetime(2011, 12, 1, tzinfo=UTC)
    moments = [start + timedelta(hours=number) for number in (*range(24 * 62), *range(24 * 365 * 14, 24 * 365 * 16))]
    offsets = [moment.astimezone(ZoneInfo(zone)).utcoffset() for moment in moments]
    return [moments[place] for place in range(1, len(moments)) if offsets[place] != offsets[place - 1]]


CHANGES: Final = [moment for zone in ZONES for moment in changes_of(zone)]
MOMENTS: Final = st.builds(
    lambda moment, seconds: moment + timedelta(seconds=seconds), st.sampled_from(CHANGES), st.integers(-9_000, 9_000)
) | st.builds(lambda minutes: NOW + timedelta(minutes=minutes), st.integers(-(10**6), 10**7))


@UNHURRIED
@given(schedules(), MOMENTS)
def test_a_moment_is_in_the_hours_of_its_local_time_whatever_clocks_do(listed: Schedule, moment: datetime) -> None:
    assert listed.at(moment) == reference(listed, moment)


@UNHURRIED
@given(schedules(), st.sampled_from(CHANGES))
def test_the_time_around_a_change_of_clocks_is_in_the_hours_of_its_local_time(
    listed: Schedule, change: datetime
) -> None:
    """No moment is without the rates it should have, and none has those of two hours: `reference` sees to it."""
    moments = [change + timedelta(minutes=minute, microseconds=minute % 2 - 1) for minute in range(-130, 131, 5)]

    assert [listed.at(moment) for moment in moments] == [reference(listed, moment) for moment in moments]


def local(zone: str, text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def test_an_hour_that_comes_twice_has_the_same_hours_twice_and_one_left_out_none() -> None:
    berlin = schedule("Europe/Berlin", hours("night", ("02:00", "03:00")))

    both = [local("Europe/Berlin", "2026-10-25T02:30", fold) for fold in (0, 1)]
    assert (both[1] - both[0], [berlin.at(one) for one in both]) == (timedelta(hours=1), ["night", "night"])
    # On 29 March 01:59:59 is followed by 03:00.
    before = local("Europe/Berlin", "2026-03-29T01:59:59")
    assert [berlin.at(before + timedelta(seconds=number)) for number in range(3)] == [ALL_DAY] * 3
    # Lord Howe's clocks change by half an hour: 01:30 to 02:00 comes twice.
    island = schedule("Australia/Lord_Howe", hours("night", ("01:45", "02:00")))
    both = [local("Australia/Lord_Howe", "2026-04-05T01:50", fold) for fold in (0, 1)]
    assert (both[1] - both[0], [island.at(one) for one in both]) == (timedelta(minutes=30), ["night", "night"])


def test_hours_begin_with_their_first_moment_end_before_their_last_and_may_span_midnight() -> None:
    nepal = schedule("Asia/Kathmandu", hours("night", ("22:30", "06:00", (7,)), ("12:00", "13:00")))

    at = {
        "2026-11-22T22:29:59": ALL_DAY,  # A Sunday.
        "2026-11-22T22:30:00": "night",
        "2026-11-23T00:00:00": "night",
        "2026-11-23T05:59:59": "night",
        "2026-11-23T06:00:00": ALL_DAY,
        "2026-11-23T22:30:00": ALL_DAY,
        "2026-11-24T05:59:59": ALL_DAY,
        "2026-11-25T12:59:59": "night",
    }
    assert {text: nepal.at(local("Asia/Kathmandu", text)) for text in at} == at


def test_a_whole_day_is_from_midnight_to_24_and_days_may_be_the_whole_week() -> None:
    week = schedule(
        "UTC", hours("work", ("00:00", "24:00", (1, 2, 3, 4, 5))), hours("rest", ("00:00", "24:00", (6, 7)))
    )

    assert week.names == ("work", "rest")
    days = [week.at(datetime(2026, 11, 23 + day, 23, 59, 59, 999_999, tzinfo=UTC)) for day in range(7)]
    assert days == ["work"] * 5 + ["rest"] * 2
    assert schedule("UTC", hours("most", ("00:00", "23:59"))).names == (ALL_DAY, "most")


@UNHURRIED
@given(st.integers(0, DAY_MINUTES))
def test_times_are_read_as_they_are_written(minutes: int) -> None:
    assert minutes_of(time_of(minutes)) == minutes


@pytest.mark.parametrize(
    "text", ["", "9:00", "25:00", "24:01", "12:60", "12:00 ", "12:00\n", "\uff11\uff12:00", "12.00", "-1:00"]
)
def test_what_is_no_time_is_not_read_as_one(text: str) -> None:
    assert minutes_of(text) == NO_TIME


IN = per_million("input_tokens", "3")
OUT_RATE = per_million("output_tokens", "9")
NIGHT: Final = schedule("Europe/Berlin", hours("night", ("22:00", "06:00")))
CARD: Final = card(IN, OUT_RATE, in_hours(per_million("input_tokens", "1"), "night"), schedule=NIGHT)


def test_a_good_card_with_hours_has_no_violation() -> None:
    assert check_rates(CARD, SEEDED_UNITS) == []


OFF: Final = in_hours(per_million("input_tokens", "1"), "night")


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        (card(IN, OFF), ["rates[1].hours"]),
        (card(IN, schedule=schedule("UTC")), ["time_zone"]),
        (card(IN, OFF, schedule=schedule("", *NIGHT.hours)), ["time_zone"]),
        *(
            (card(IN, OFF, schedule=schedule(name, *NIGHT.hours)), ["time_zone"])
            for name in ("Mars/Olympus", "localtime", "+08:00", "../UTC", "Europe", "posix/UTC", "UTC\0")
        ),
        (card(IN, OFF, schedule=schedule("UTC", hours("night"))), ["hours[0].spans"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", *[("00:00", "24:00")] * 33))), ["hours[0].spans"]),
        (card(IN, OFF, schedule=schedule("UTC", *[NIGHT.hours[0]] * 9)),
         ["hours", *(f"hours[{place}].name" for place in range(1, 8))]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("22:00", "22:00")))), ["hours[0].spans[0].end"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("00:00", "00:00")))), ["hours[0].spans[0].end"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("24:00", "01:00")))), ["hours[0].spans[0].start"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("2", "01:00")))), ["hours[0].spans[0].start"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("02:00", "x")))), ["hours[0].spans[0].end"]),
        *(
            (card(IN, OFF, schedule=schedule("UTC", hours("night", ("02:00", "03:00", days)))),
             ["hours[0].spans[0].weekdays"])
            for days in ((), (0,), (8,), (1, 1), (2, 1))
        ),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("22:00", "06:00"), ("05:59", "07:00")))),
         ["hours[0].spans[1]"]),
        (card(IN, OFF, schedule=schedule("UTC", hours("night", ("22:00", "06:00", (7,)), ("05:00", "05:01", (1,))))),
         ["hours[0].spans[1]"]),
        (card(IN, OFF, in_hours(IN, "day"),
              schedule=schedule("UTC", hours("night", ("22:00", "06:00")), hours("day", ("05:00", "22:00")))),
         ["hours[1].spans[0]"]),
        (card(IN, OFF, schedule=schedule("UTC", *NIGHT.hours, hours("day", ("08:00", "09:00")))), ["hours[1].name"]),
        (card(IN, in_hours(IN, "Night"), schedule=schedule("UTC", hours("Night", ("08:00", "09:00")))),
         ["hours[0].name"]),
        (card(IN, OFF, schedule=schedule("UTC", *NIGHT.hours, hours("night", ("08:00", "09:00")))), ["hours[1].name"]),
        (card(IN, OFF, OFF, schedule=NIGHT), ["rates[2]"]),
        (card(IN, in_hours(each("images", "1"), "night"), schedule=NIGHT), ["rates[1].hours"]),
        (card(IN, in_hours(per_million("input_tokens", "1", "batch"), "night"), schedule=NIGHT), ["rates[1].hours"]),
        (card(per_million("input_tokens", "3", above=10), OFF, schedule=NIGHT), ["rates[1].hours"]),
        (card(IN, in_hours(IN, "work"), in_hours(each("pages", "1"), "rest"),
              schedule=schedule("UTC", hours("work", ("00:00", "12:00")), hours("rest", ("12:00", "24:00")))),
         ["rates[2].hours"]),
    ],
)  # fmt: skip
def test_hours_that_are_wrong_are_refused_by_their_field(wrong: RateCard, fields: Sequence[str]) -> None:
    assert [flaw.field for flaw in check_rates(wrong, SEEDED_UNITS)] == fields


@pytest.mark.parametrize(
    "good",
    [
        # The rest of the day has a rate: by a fall-back, for any tier, or for hours that are the rest of the week.
        card(IN, in_hours(per_million("cache_read_tokens", "1"), "night"), schedule=NIGHT,
             fallbacks={"cache_read_tokens": "input_tokens"}),
        card(per_million("input_tokens", "3", "any"), in_hours(per_million("input_tokens", "1", "batch"), "night"),
             schedule=NIGHT),
        card(in_hours(IN, "work"), in_hours(IN, "rest"),
             schedule=schedule("UTC", hours("work", ("06:00", "22:00")), hours("rest", ("22:00", "06:00")))),
        card(IN, in_hours(per_million("input_tokens", "1", above=10), "night"), schedule=NIGHT),
        # Hours that meet do not overlap.
        card(IN, OFF, schedule=schedule("UTC", hours("night", ("22:00", "06:00"), ("06:00", "07:00")))),
        card(IN, OFF, schedule=schedule("UTC", hours("night", ("22:00", "06:00", (7,)), ("06:00", "07:00", (1,))))),
    ],
)  # fmt: skip
def test_a_unit_may_have_hours_where_the_rest_of_the_day_has_a_rate(good: RateCard) -> None:
    assert check_rates(good, SEEDED_UNITS) == []


def test_the_zones_of_these_tests_have_the_changes_they_are_chosen_for() -> None:
    for zone in ("Europe/Berlin", "Australia/Lord_Howe", "Antarctica/Troll"):
        assert len(changes_of(zone)) >= 4
    assert date(2011, 12, 30) not in {
        (datetime(2011, 12, 29, tzinfo=UTC) + timedelta(hours=number)).astimezone(ZoneInfo("Pacific/Apia")).date()
        for number in range(72)
    }
