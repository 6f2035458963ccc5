"""The windows of limits against a plain reference: a day begins at the first instant whose local date is that day."""

import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metering.quota.decisions import counter_id, place_of
from services.metering.quota.domain import Limit, Scope, Shape, Terms, Window
from services.metering.quota.windows import ALWAYS, STEPS, kept_until, length_of, steps_of, window_before, window_of

MINUTE = timedelta(minutes=1)
MOMENTS = st.integers(725_846_400, 2_208_988_800).map(lambda seconds: datetime.fromtimestamp(seconds + 0.5, UTC))
"""From 1993 to 2040."""
# From twelve hours west to fourteen east; clocks that change at midnight in either direction, by half an hour, and
# zones that skipped a day.
ZONES = (
    "Etc/GMT+12",
    "Pacific/Pago_Pago",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Havana",
    "America/New_York",
    "UTC",
    "Europe/Amsterdam",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Pacific/Kiritimati",
)


def shape(
    window: Window, zone: str = "", *, week_start: int = 0, sliding: bool = False, metric: str = "requests"
) -> Shape:
    return Shape(metric, "", window, sliding, zone, week_start, Scope.ORGANIZATION, "", "")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def first_of(window: Window, week_start: int, day: date) -> date:
    """The first day of the day's window, found by going back a day at a time."""
    while not (
        window is Window.DAY
        or (window is Window.MONTH and day.day == 1)
        or (window is Window.WEEK and day.isoweekday() == week_start)
    ):
        day -= timedelta(days=1)
    return day


def begins(zone: ZoneInfo, day: date) -> datetime:
    """The first whole minute whose date in the zone is this day or later."""
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=27)
    while moment.astimezone(zone).date() < day:
        moment += MINUTE
    return moment


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    window=st.sampled_from([Window.DAY, Window.WEEK, Window.MONTH]),
    week_start=st.integers(1, 7),
    moment=MOMENTS,
)
def test_window_is_what_a_calendar_of_the_zone_says(
    zone: str, window: Window, week_start: int, moment: datetime
) -> None:
    of = shape(window, zone, week_start=week_start)
    span = window_of(of, moment)
    assert span.start <= moment
    assert span.end is not None
    assert moment < span.end
    here = ZoneInfo(zone)
    latest = max(moment.astimezone(here).date(), span.start.astimezone(here).date())
    first = first_of(window, week_start, latest)
    candidates = [first_of(window, week_start, first - timedelta(days=1)), first]
    after = latest
    while len(candidates) < 4:
        after += timedelta(days=1)
        if first_of(window, week_start, after) == after:
            candidates.append(after)
    starts = sorted({begins(here, day) for day in candidates})
    assert span.start == max(start for start in starts if start <= moment)
    assert span.end == min(start for start in starts if start > moment)


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    window=st.sampled_from([Window.MINUTE, Window.HOUR, Window.DAY, Window.WEEK, Window.MONTH]),
    moment=MOMENTS,
)
def test_windows_follow_each_other_without_gap_or_overlap(zone: str, window: Window, moment: datetime) -> None:
    of = shape(window, zone if window not in (Window.MINUTE, Window.HOUR) else "")
    span = window_of(of, moment)
    assert span.end is not None
    following = window_of(of, span.end)
    assert following.start == span.end
    assert window_before(of, following) == span
    assert window_of(of, span.start) == span
    assert window_of(of, span.end - timedelta(microseconds=1)) == span


@pytest.mark.parametrize(
    ("window", "zone", "moment", "start", "end"),
    [
        (Window.MONTH, "Asia/Tokyo", "2026-02-28T15:00", "2026-02-28T15:00", "2026-03-31T15:00"),
        (Window.MONTH, "Asia/Tokyo", "2026-02-28T14:59:59.999999", "2026-01-31T15:00", "2026-02-28T15:00"),
        (Window.DAY, "Europe/Amsterdam", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (Window.DAY, "Europe/Amsterdam", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (Window.DAY, "America/Havana", "2026-11-01T05:30", "2026-11-01T04:00", "2026-11-02T05:00"),
        (Window.DAY, "America/Sao_Paulo", "2018-11-04T03:00", "2018-11-04T03:00", "2018-11-05T02:00"),
        (Window.DAY, "America/Sao_Paulo", "2018-02-18T02:30", "2018-02-17T02:00", "2018-02-18T03:00"),
        (Window.DAY, "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        (Window.DAY, "Pacific/Kiritimati", "2028-02-28T10:00", "2028-02-28T10:00", "2028-02-29T10:00"),
        (Window.MONTH, "Etc/GMT+12", "2028-03-01T11:59", "2028-02-01T12:00", "2028-03-01T12:00"),
        (Window.WEEK, "UTC", "2026-11-26T12:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        (Window.HOUR, "", "2026-11-26T12:59:59.999999", "2026-11-26T12:00", "2026-11-26T13:00"),
        (Window.MINUTE, "", "2026-11-26T12:59:00", "2026-11-26T12:59", "2026-11-26T13:00"),
    ],
)
def test_windows_of_known_days(window: Window, zone: str, moment: str, start: str, end: str) -> None:
    assert window_of(shape(window, zone), utc(moment)) == (utc(start), utc(end))


@pytest.mark.parametrize("process_zone", ["Pacific/Kiritimati", "America/St_Johns", "UTC"])
def test_windows_do_not_depend_on_the_zone_of_the_process(process_zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", process_zone)
    time.tzset()
    try:
        span = window_of(shape(Window.MONTH, "Asia/Tokyo"), utc("2026-02-28T15:00"))
        assert span == (utc("2026-02-28T15:00"), utc("2026-03-31T15:00"))
    finally:
        monkeypatch.undo()
        time.tzset()


@settings(max_examples=100, deadline=None)
@given(
    window=st.sampled_from(list(STEPS)),
    moment=MOMENTS,
)
def test_steps_of_a_sliding_window_reach_back_at_least_its_length(window: Window, moment: datetime) -> None:
    of = shape(window, sliding=True)
    step = window_of(of, moment)
    steps = steps_of(of, step)
    assert step.end is not None
    starts = [step.start, *(one.start for one in steps)]
    assert all(before - after == STEPS[window] for before, after in pairwise(starts))
    assert starts[-1] <= moment - length_of(of) < starts[-1] + STEPS[window]
    kept = kept_until(of, steps[-1])
    assert kept is not None
    assert kept >= step.end, "a step that counts is not dropped"


def test_counters_differ_by_limit_subject_and_window() -> None:
    one = "0198c0de-0000-7000-8000-000000000001"
    other = "0198c0de-0000-7000-8000-000000000002"
    ids = {
        counter_id(limit, subject, start)
        for limit in (one, other)
        for subject in ("", "a", "b")
        for start in (ALWAYS, utc("2026-11-26T00:00"))
    }
    assert len(ids) == 12
    limit = Limit(one, "n", shape(Window.DAY), Terms(None))
    assert place_of(limit, "a", utc("2026-11-26T13:00")).counter.counter_id == counter_id(one, "a", utc("2026-11-26"))
