"""Windows of queries: their bounds against an oracle that looks at the local date of every hour."""

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
import pytest

from libs.common.pages import encode_page_token
from libs.common.status import field_violations
from services.metering.usage.windows import DAY, MONTH, WINDOWS_MAX, window_end, window_starts
from tests.common.test_time_zones import NOT_IANA_ZONES
from tests.metering.support import Metering, usage
from tests.metering.test_query import query
from tollhouse.metering.v1 import usage_pb2 as pb

HOUR = timedelta(hours=1)


def local_dates(zone: ZoneInfo, start: datetime, end: datetime) -> dict[date, datetime]:
    """Return the first whole hour of every local date in the range."""
    first: dict[date, datetime] = {}
    moment = start
    while moment < end:
        first.setdefault(moment.astimezone(zone).date(), moment)
        moment += HOUR
    return first


@pytest.mark.parametrize(
    ("name", "around"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
        ("America/Sao_Paulo", datetime(2018, 11, 4, tzinfo=UTC)),  # Midnight did not exist.
        ("America/Havana", datetime(2026, 11, 1, tzinfo=UTC)),  # Midnight came twice.
        ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),  # A day did not exist.
    ],
    ids=str,
)
def test_days_begin_with_the_first_hour_of_their_local_date(name: str, around: datetime) -> None:
    zone, start, end = ZoneInfo(name), around - timedelta(days=40), around + timedelta(days=40)
    expected = list(local_dates(zone, start, end).values())

    days = window_starts(DAY, zone, start, end)
    months = window_starts(MONTH, zone, start, end)

    assert days[1:] == expected[1:]
    assert days[0] <= start < days[1]
    assert [window_end(DAY, zone, day) for day in days[:-1]] == days[1:]
    assert [window_end(MONTH, zone, month) for month in months[:-1]] == months[1:]
    assert set(months[1:]) <= set(days)


async def test_days_of_23_and_25_hours_hold_all_their_usage(metering: Metering, organization_id: str) -> None:
    lengths = []
    for start in (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)):
        requests = []
        for hour in range(-1, 27):
            request = usage(organization_id, f"{start:%m}-{hour}", backfill=True)
            request.occur_time.FromDatetime(start + hour * HOUR)
            requests.append(request)
        await metering.record_batch(requests)

        days = await query(
            metering, organization_id, start - HOUR, window=pb.USAGE_WINDOW_DAY, time_zone="Europe/Berlin"
        )

        (day,) = [day for day in days if day.start_time.ToDatetime(tzinfo=UTC) == start]
        lengths.append((day.end_time.seconds - day.start_time.seconds, day.request_count))
    assert lengths == [(23 * 3600, 23), (25 * 3600, 25)]


async def test_zone_that_only_python_knows_is_answered(
    metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    """Debian's Postgres has no legacy names; a name that no Postgres has stands for them."""
    (tmp_path / "Legacy").mkdir()
    folder = next(Path(folder) for folder in zoneinfo.TZPATH if (Path(folder) / "Etc/GMT+7").exists())
    (tmp_path / "Legacy" / "Pacific").write_bytes((folder / "Etc/GMT+7").read_bytes())
    zoneinfo.reset_tzpath([str(tmp_path), *zoneinfo.TZPATH])
    request = usage(organization_id, backfill=True)
    request.occur_time.FromDatetime(datetime(2026, 7, 1, 6, 59, tzinfo=UTC))
    await metering.record(request)
    start = datetime(2026, 6, 1, tzinfo=UTC)

    try:
        days = await query(metering, organization_id, start, window=pb.USAGE_WINDOW_DAY, time_zone="Legacy/Pacific")
    finally:
        zoneinfo.reset_tzpath()

    assert [day.start_time.ToDatetime(tzinfo=UTC) for day in days] == [datetime(2026, 6, 30, 7, tzinfo=UTC)]


async def test_time_zone_that_is_none_is_refused_by_name(metering: Metering, organization_id: str) -> None:
    for name in NOT_IANA_ZONES:
        for window in (pb.USAGE_WINDOW_DAY, pb.USAGE_WINDOW_HOUR):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await query(metering, organization_id, datetime(2026, 1, 1, tzinfo=UTC), window=window, time_zone=name)
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert list(field_violations(raised.value)) == ["time_zone"]


async def test_range_of_too_many_hours_is_refused_by_name(metering: Metering, organization_id: str) -> None:
    request = pb.QueryUsageRequest(organization_id=organization_id, window=pb.USAGE_WINDOW_HOUR)
    request.start_time.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    request.end_time.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC) + (WINDOWS_MAX + 1) * HOUR)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await metering.usage.QueryUsage(request, metadata=metering.operator)

    assert list(field_violations(raised.value)) == ["window"]
    request.window = pb.USAGE_WINDOW_DAY
    await metering.usage.QueryUsage(request, metadata=metering.operator)


async def test_times_at_the_end_of_the_calendar_are_answered(metering: Metering, organization_id: str) -> None:
    request = pb.QueryUsageRequest(organization_id=organization_id, window=pb.USAGE_WINDOW_MONTH)
    request.start_time.FromDatetime(datetime(9998, 11, 1, tzinfo=UTC))
    request.end_time.FromDatetime(datetime(9998, 12, 31, tzinfo=UTC))
    request.time_zone = "Europe/Berlin"
    listing = pb.ListUsageRequest(organization_id=organization_id)
    listing.start_time.FromDatetime(datetime(9998, 11, 1, tzinfo=UTC))
    listing.end_time.FromDatetime(datetime(9998, 12, 31, tzinfo=UTC))

    assert not (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries
    assert not (await metering.usage.ListUsage(listing, metadata=metering.operator)).usages


@pytest.mark.own_database
@pytest.mark.parametrize("window", [pb.USAGE_WINDOW_HOUR, pb.USAGE_WINDOW_DAY, pb.USAGE_WINDOW_UNSPECIFIED])
@pytest.mark.parametrize(
    "key",
    [
        (),
        ("2026-01-01T00:00:00+00:00",),
        ("x", "USD", ""),
        ("2026-01-01T00:00:00", "USD", ""),
        ("2026-01-01T00:30+00:00", "", "", ""),
    ],
    ids=str,
)
async def test_forged_page_token_is_refused_by_name(
    metering: Metering,
    organization_id: str,
    monkeypatch: pytest.MonkeyPatch,
    window: "pb.UsageWindow.ValueType",
    key: tuple[str, ...],
) -> None:
    """The fingerprint in a token is no secret: a caller can compute it and put any key after it."""
    await metering.record_batch([usage(organization_id), usage(organization_id, model="unpriced")])
    request = pb.QueryUsageRequest(organization_id=organization_id, window=window)
    fingerprints: list[str] = []

    def encode(*_key: str, fingerprint: str) -> str:
        fingerprints.append(fingerprint)
        return encode_page_token(*key, fingerprint=fingerprint)

    monkeypatch.setattr("services.metering.usage.statistics.servicer.encode_page_token", encode)
    request.start_time.FromDatetime(datetime.now(UTC) - timedelta(days=1))
    request.end_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    request.page_size = 1
    page = await metering.usage.QueryUsage(request, metadata=metering.operator)
    request.page_token = page.next_page_token

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await metering.usage.QueryUsage(request, metadata=metering.operator)

    assert fingerprints
    assert list(field_violations(raised.value)) == ["page_token"]
