"""Days of every zone are exact: when sums begin, against the time zone database, and sums against a reference."""

import asyncio
import functools
import random
import zoneinfo
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

import asyncpg
import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.clock import SystemClock
from libs.common.database_url import plain_url
from libs.common.ids import new_id
from libs.common.status import field_violations
from libs.common.time_zones import find_zone
from libs.common.timestamps import render_time
from services.metering.usage.beginnings import (
    COVERED_SINCE,
    MIDNIGHTS,
    beginning,
    beginning_after,
    beginning_before,
    is_beginning,
)
from tests.metering.corrections.calls import amend, void
from tests.metering.support import Metering, Platform, usage
from tollhouse.metering.v1 import usage_pb2 as pb

_T = TypeVar("_T")
SEED: Final = 20261127
TWO_WEEKS: Final = timedelta(days=14)
OFF_BY_PART_OF_AN_HOUR: Final = (
    *("Asia/Kolkata", "Asia/Kathmandu", "Australia/Adelaide", "America/St_Johns", "Pacific/Chatham"),
    *("Australia/Lord_Howe", "Australia/Eucla", "Pacific/Marquesas", "Asia/Tehran", "Asia/Kabul", "Asia/Yangon"),
    *("Indian/Cocos", "Asia/Pyongyang", "Australia/Darwin"),
)
ZONES: Final = (*OFF_BY_PART_OF_AN_HOUR, "UTC", "Europe/Berlin", "America/New_York", "America/Havana")


def midnights_within_hours(zone: ZoneInfo) -> set[tuple[int, int]]:
    """Return the hours and minutes of UTC at which days begin, of all offsets that a zone has since COVERED_SINCE.

    No zone has kept an offset for less than two weeks. After 2037 the rules of a zone are the same in each year.
    """
    found = set()
    moment = COVERED_SINCE
    while moment.year < 2041:
        offset = moment.astimezone(zone).utcoffset() or timedelta()
        start = (datetime(2000, 1, 2) - offset).time()  # noqa: DTZ001 -- only its time of day counts.
        assert start.second == 0, zone
        if start.minute:
            found.add((start.hour, start.minute))
        moment += TWO_WEEKS
    return found


def test_sums_begin_where_the_days_of_todays_zones_do_and_nowhere_else() -> None:
    zones = {name: zone for name in zoneinfo.available_timezones() if (zone := find_zone(name)) is not None}
    assert len(zones) > 400

    found = {start for zone in zones.values() for start in midnights_within_hours(zone)}

    assert found == {(one.hour, one.minute) for one in MIDNIGHTS}


async def test_sql_and_python_agree_when_a_sum_begins(platform: Platform) -> None:
    source = random.Random(SEED)
    moments = [
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=source.randrange(10**6 * 86_400 * 365 * 90))
        for _ in range(3000)
    ]
    quarters = [moment.replace(minute=minute, second=0, microsecond=0) for moment in moments for minute in (0, 15, 30)]
    around = [quarter + timedelta(microseconds=shift) for quarter in quarters[:1500] for shift in (-1, 0, 1)]
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        sql = f"SELECT m, {beginning('m')} FROM unnest($1::timestamptz[]) AS m"  # noqa: S608 -- an expression of ours.
        rows = await connection.fetch(sql, [*moments, *around])
    finally:
        await connection.close()

    for moment, start in rows:
        assert beginning_before(moment) == start
        assert start <= moment < beginning_after(start + timedelta(microseconds=1))
        assert is_beginning(start)
        following = beginning_after(start + timedelta(microseconds=1))
        assert beginning_after(moment) == (moment if moment == start else following)


@functools.cache
def local_start(window: str, zone: ZoneInfo, moment: datetime) -> datetime:
    """Return when the day, week or month of a moment begins, found minute by minute from its local date."""
    day = moment.astimezone(zone).date()
    if window == "WEEK":
        day -= timedelta(days=day.weekday())
    if window == "MONTH":
        day = day.replace(day=1)
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=16)
    while start.astimezone(zone).date() < day:
        start += timedelta(minutes=15)
    return start


class Recorded:
    """Usage of two organizations around changes of clocks, with corrections, and what the reference knows of it."""

    AROUND: Final = (
        datetime(2026, 4, 4, 15, tzinfo=UTC),  # Adelaide, Lord Howe (half an hour) and Chatham put clocks back.
        datetime(2026, 10, 3, 15, tzinfo=UTC),  # They put them forward.
        datetime(2025, 11, 2, 4, tzinfo=UTC),  # St. John's and New York put them back.
        datetime(2026, 3, 8, 5, tzinfo=UTC),  # They put them forward.
        datetime(2022, 3, 21, 20, tzinfo=UTC),  # Tehran put clocks forward at midnight.
        SystemClock().now() - timedelta(days=5),
    )

    def __init__(self) -> None:
        self.organization_id, self.other_id = new_id(), new_id()
        self.moments: list[datetime] = []

    async def make(self, metering: Metering) -> None:
        source = random.Random(SEED)
        last = f"call-{len(self.AROUND) - 1}-119"
        for number, around in enumerate(self.AROUND):
            requests = []
            for one in range(120):
                moment = around + timedelta(seconds=source.randrange(-2 * 86_400, 2 * 86_400))
                sent = usage(self.organization_id, f"call-{number}-{one}", backfill=True, latency_ms=one)
                sent.occur_time.FromDatetime(moment)
                sent.quantities.add(unit="input_seconds", value="0.5")
                requests.append(sent)
                self.moments.append(moment)
            assert not [one for one in await metering.record_batch(requests) if one.HasField("refused")]
            await metering.record(usage(self.other_id, f"call-{number}", backfill=True, occur_time=render_time(around)))
        # Some are voided, another is moved to another time: the sums follow.
        for one in range(3):
            await void(metering, self.organization_id, f"call-0-{one}")
        moved = self.moments[-1] + timedelta(minutes=47)
        await amend(metering, self.organization_id, last, occur_time=render_time(moved))
        self.moments[-1] = moved
        del self.moments[:3]

    async def check(self, metering: Metering, name: str, window: str, start: datetime, end: datetime) -> None:
        zone = ZoneInfo(name)
        request = pb.QueryUsageRequest(
            organization_id=self.organization_id,
            start_time=render_time(start),
            end_time=render_time(end),
            window=pb.UsageWindow.Value(f"USAGE_WINDOW_{window}"),
            time_zone=name,
            page_size=1000,
        )
        answer = await metering.usage.QueryUsage(request, metadata=metering.operator)
        first, last = beginning_before(start), beginning_after(end)
        expected = Counter(local_start(window, zone, one) for one in self.moments if first <= one < last)
        assert {one.start_time.ToDatetime(tzinfo=UTC): one.request_count for one in answer.summaries} == expected, (
            name,
            window,
            start,
            end,
        )


@pytest.fixture(scope="module")
async def recorded(module_platform: Platform) -> Recorded:
    made = Recorded()
    await made.make(module_platform.metering)
    return made


async def test_days_weeks_and_months_of_every_zone_equal_a_plain_reference(
    module_platform: Platform, recorded: Recorded
) -> None:
    loop, metering = asyncio.get_running_loop(), module_platform.metering

    def wait(work: Coroutine[None, None, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(ZONES),
        st.sampled_from(["DAY", "WEEK", "MONTH"]),
        st.sampled_from(Recorded.AROUND),
        st.integers(0, 3 * 86_400),
        st.integers(1, 5 * 86_400),
    )
    def run(name: str, window: str, around: datetime, before_s: int, length_s: int) -> None:
        start = around - timedelta(seconds=before_s)
        wait(recorded.check(metering, name, window, start, start + timedelta(seconds=length_s)))

    await asyncio.to_thread(run)
    assert await metering.findings() == []


@pytest.mark.parametrize("window", ["DAY", "WEEK"])
@pytest.mark.parametrize("by_organization", [False, True])
async def test_several_organizations_are_summed_by_days_of_a_zone(
    module_platform: Platform, recorded: Recorded, window: str, by_organization: bool
) -> None:
    zone, metering = ZoneInfo("Asia/Kathmandu"), module_platform.metering
    request = pb.QueryUsageRequest(
        organization_ids=[recorded.organization_id, recorded.other_id],
        start_time=render_time(datetime(2021, 1, 1, tzinfo=UTC)),
        end_time=render_time(recorded.AROUND[-1] + timedelta(days=9)),
        window=pb.UsageWindow.Value(f"USAGE_WINDOW_{window}"),
        time_zone=zone.key,
        group_by=[pb.USAGE_DIMENSION_ORGANIZATION] if by_organization else [],
        page_size=4,
    )
    used = [(recorded.organization_id, one) for one in recorded.moments]
    used += [(recorded.other_id, one) for one in recorded.AROUND]
    expected = Counter((by_organization and one, local_start(window, zone, moment)) for one, moment in used)
    found: Counter[tuple[str | bool, datetime]] = Counter()
    while True:
        page = await metering.usage.QueryUsage(request, metadata=metering.operator)
        for row in page.summaries:
            key = by_organization and row.organization_id, row.start_time.ToDatetime(tzinfo=UTC)
            found[key] += row.request_count
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break

    assert found == expected


@pytest.mark.parametrize(
    ("name", "start", "hours"),
    [
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 13, 0, tzinfo=UTC), 24.5),
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 13, 30, tzinfo=UTC), 23.5),
        ("Australia/Adelaide", datetime(2026, 4, 4, 13, 30, tzinfo=UTC), 25),
        ("America/St_Johns", datetime(2026, 3, 8, 3, 30, tzinfo=UTC), 23),
        ("Pacific/Chatham", datetime(2026, 4, 4, 10, 15, tzinfo=UTC), 25),
        ("Asia/Kolkata", datetime(2026, 4, 3, 18, 30, tzinfo=UTC), 24),
    ],
    ids=str,
)
async def test_a_day_holds_the_usage_from_its_first_moment_to_its_last(
    module_platform: Platform, name: str, start: datetime, hours: float
) -> None:
    metering, organization_id, instant = module_platform.metering, new_id(), timedelta(microseconds=1)
    end = start + timedelta(hours=hours)
    moments = (start - instant, start, end - instant, end)
    await metering.record_batch(
        [
            usage(organization_id, f"call-{number}", backfill=True, occur_time=render_time(moment))
            for number, moment in enumerate(moments)
        ]
    )
    request = pb.QueryUsageRequest(
        organization_id=organization_id,
        start_time=render_time(start - timedelta(days=2)),
        end_time=render_time(end + timedelta(days=2)),
        window=pb.USAGE_WINDOW_DAY,
        time_zone=name,
    )

    answer = await metering.usage.QueryUsage(request, metadata=metering.operator)

    (day,) = [one for one in answer.summaries if one.start_time.ToDatetime(tzinfo=UTC) == start]
    assert (day.end_time.ToDatetime(tzinfo=UTC), day.request_count) == (end, 2)
    assert sum(one.request_count for one in answer.summaries) == 4
    # The beginning of the day is a beginning of sums, so a query can begin and end there.
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    request.window = pb.USAGE_WINDOW_UNSPECIFIED
    (whole,) = (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries
    assert whole.request_count == 2


async def test_hours_are_full_hours_of_utc_where_a_day_begins_within_them(module_platform: Platform) -> None:
    metering, organization_id, hour = module_platform.metering, new_id(), datetime(2026, 4, 3, 18, tzinfo=UTC)
    for minute in (0, 16, 31, 59):
        moment = hour + timedelta(minutes=minute)
        await metering.record(usage(organization_id, f"call-{minute}", backfill=True, occur_time=render_time(moment)))
    request = pb.QueryUsageRequest(
        organization_id=organization_id,
        start_time=render_time(hour + timedelta(minutes=20)),
        end_time=render_time(hour + timedelta(minutes=40)),
        window=pb.USAGE_WINDOW_HOUR,
        time_zone="Asia/Kolkata",
    )

    (one,) = (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries

    assert (one.start_time.ToDatetime(tzinfo=UTC), one.request_count) == (hour, 4)


async def test_a_day_that_begins_within_a_sum_is_refused_by_name(module_platform: Platform) -> None:
    metering = module_platform.metering
    request = pb.QueryUsageRequest(organization_id=new_id(), window=pb.USAGE_WINDOW_DAY, time_zone="Africa/Monrovia")
    request.start_time.FromDatetime(datetime(1971, 12, 1, tzinfo=UTC))
    request.end_time.FromDatetime(datetime(1972, 2, 1, tzinfo=UTC))

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await metering.usage.QueryUsage(request, metadata=metering.operator)

    assert list(field_violations(raised.value)) == ["time_zone"]
    assert "1971-12-01" in field_violations(raised.value)["time_zone"]
    request.time_zone = "Europe/Berlin"
    assert not (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries
