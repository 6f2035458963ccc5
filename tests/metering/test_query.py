import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, refused, usage
from tollhouse.metering.v1 import model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = pytest.mark.shards

SEED = 20260301


def shuffled_usage(organization_id: str, count: int, start: datetime) -> list[pb.RecordUsageRequest]:
    """Return usage over two months with every dimension varied, the same for the same count."""
    source = random.Random(SEED)
    users, projects = [new_id() for _ in range(3)], [new_id() for _ in range(2)]
    requests = []
    for number in range(count):
        request = usage(organization_id, f"call-{number}", backfill=True)
        request.occur_time.FromDatetime(start + timedelta(seconds=source.randrange(60 * 86_400)))
        request.model = source.choice(["gpt-4o", "gpt-4o", "mystery"])
        request.tokens.CopyFrom(
            model_pb2.TokenCounts(
                input=source.randrange(5000), output=source.randrange(500), reasoning=source.randrange(9)
            )
        )
        if source.random() < 0.8:
            request.user_id = source.choice(users)
        if source.random() < 0.5:
            request.project_id = source.choice(projects)
        if source.random() < 0.9:
            request.latency_ms = source.randrange(90_000)
        if source.random() < 0.2:
            request.status_code = 500
        requests.append(request)
    return requests


async def query(metering: Metering, organization_id: str, start: datetime, **fields: object) -> list[pb.UsageSummary]:
    request = pb.QueryUsageRequest(organization_id=organization_id, page_size=7)
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(start + timedelta(days=70))
    request.MergeFrom(pb.QueryUsageRequest(**fields))  # type: ignore[arg-type]
    summaries: list[pb.UsageSummary] = []
    while True:
        page = await metering.usage.QueryUsage(request, metadata=metering.gateway)
        summaries += page.summaries
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return summaries


@pytest.mark.own_database
async def test_sums_equal_the_records_however_they_are_grouped_shuffled_and_repeated(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    start = datetime(2026, 1, 15, tzinfo=UTC)
    requests = shuffled_usage(organization_id, 300, start)
    sent = requests + requests[:100]
    random.Random(SEED).shuffle(sent)
    for part in range(0, len(sent), 150):
        await metering.record_batch(sent[part : part + 150])

    zone = ZoneInfo("America/New_York")
    expected: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for request in requests:
        day = (
            request.occur_time.ToDatetime(tzinfo=UTC)
            .astimezone(zone)
            .replace(hour=0, minute=0, second=0, microsecond=0)
        )
        row = expected[day.astimezone(UTC).isoformat(), request.model, request.user_id]
        row[0] += 1
        row[1] += request.tokens.input
        row[2] += request.status_code == 500
        row[3] += request.HasField("latency_ms")
    dimensions = [pb.USAGE_DIMENSION_USER, pb.USAGE_DIMENSION_MODEL]
    found = await query(
        metering,
        organization_id,
        start - timedelta(days=1),
        window=pb.USAGE_WINDOW_DAY,
        group_by=dimensions,
        time_zone="America/New_York",
    )

    actual = {
        (s.start_time.ToDatetime(tzinfo=UTC).isoformat(), s.model, s.user_id): [
            s.request_count,
            s.tokens.input,
            s.error_count,
            s.latency.count,
        ]
        for s in found
    }
    assert actual == expected
    assert all(sum(s.latency.buckets) == s.latency.count for s in found)
    (priced,) = [s for s in await query(metering, organization_id, start) if s.HasField("cost")]
    charged = await metering.charges()
    assert Decimal(priced.cost.value) == sum(charged.values())
    assert await metering.findings() == []


async def test_order_and_repeats_change_no_total(platform: Platform, metering: Metering) -> None:
    totals = []
    for seed in range(2):
        organization_id = new_id()
        sent = [usage(organization_id, f"call-{n}", latency_ms=n, status_code=200 + n % 2 * 300) for n in range(60)]
        sent += sent[seed::3]
        random.Random(seed).shuffle(sent)
        for part in range(0, len(sent), 9):
            await metering.record_batch(sent[part : part + 9])
        summaries = await query(metering, organization_id, datetime.now(UTC) - timedelta(days=1))
        (summary,) = summaries
        summary.ClearField("start_time")
        summary.ClearField("end_time")
        totals.append(summary.SerializeToString(deterministic=True))

    assert totals[0] == totals[1]


async def test_windows_of_months_and_hours_have_their_ends(metering: Metering, organization_id: str) -> None:
    start = datetime(2026, 2, 1, tzinfo=UTC)
    for number, moment in enumerate((datetime(2026, 2, 28, 23, 59, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))):
        request = usage(organization_id, f"call-{number}", backfill=True)
        request.occur_time.FromDatetime(moment)
        await metering.record(request)

    months = await query(metering, organization_id, start, window=pb.USAGE_WINDOW_MONTH)
    hours = await query(metering, organization_id, start, window=pb.USAGE_WINDOW_HOUR)

    assert [(m.start_time.ToDatetime().month, m.end_time.ToDatetime().month) for m in months] == [(2, 3), (3, 4)]
    assert [h.end_time.seconds - h.start_time.seconds for h in hours] == [3600, 3600]


async def test_filters_keep_what_they_name(metering: Metering, organization_id: str) -> None:
    user_id = new_id()
    await metering.record_batch([usage(organization_id), usage(organization_id, user_id=user_id)])
    start = datetime.now(UTC) - timedelta(days=1)

    (mine,) = await query(metering, organization_id, start, user_ids=[user_id])

    assert mine.request_count == 1
    assert await query(metering, organization_id, start, models=["other"]) == []
    assert await query(metering, new_id(), start) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"time_zone": "Mars/Olympus"},
        {"time_zone": "../../etc/passwd"},
        {"page_token": "x"},
        {"group_by": [pb.USAGE_DIMENSION_UNSPECIFIED]},
        {"user_ids": ["x"]},
    ],
    ids=str,
)
async def test_bad_questions_are_refused(metering: Metering, organization_id: str, bad: dict[str, object]) -> None:
    call = query(metering, organization_id, datetime.now(UTC) - timedelta(days=1), **bad)

    assert (await refused(call))[0] == grpc.StatusCode.INVALID_ARGUMENT
