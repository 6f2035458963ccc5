"""Lists and sums of the usage of several organizations: exact, in pages, and read in bounded parts."""

import base64
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from services.metering.usage import reports, usages
from tests.metering.support import Metering, Platform, refused, stamp, usage
from tests.metering.test_quantities import of
from tollhouse.metering.v1 import model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

SEED: Final = 20261126
START: Final = datetime(2026, 9, 1, tzinfo=UTC)
DAYS: Final = 5
INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
ORGANIZATION: Final = pb.USAGE_DIMENSION_ORGANIZATION
Row = tuple[str, ...]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements read so little that everything is cut into parts, by organization and by time."""
    monkeypatch.setattr(reports, "ROWS_MAX", 3)
    monkeypatch.setattr(reports, "LOOKED_AT_MAX", 4)


async def recorded(metering: Metering, organizations: Sequence[str], count: int = 120) -> list[pb.UsageRecord]:
    """Record usage of organizations in which every dimension varies; return what is stored."""
    source = random.Random(SEED)
    users = [new_id() for _ in range(2)]
    requests = []
    for number in range(count):
        request = usage(source.choice(organizations), f"call-{number}", backfill=True)
        request.occur_time.FromDatetime(START + timedelta(seconds=source.randrange(DAYS * 86_400)))
        request.model = source.choice(["gpt-4o", "mystery"])
        request.tokens.CopyFrom(model_pb2.TokenCounts(input=source.randrange(1, 5000), output=source.randrange(500)))
        if source.random() < 0.5:
            request.user_id = source.choice(users)
        if source.random() < 0.3:
            request.quantities.extend(of(images=str(source.randrange(1, 9)), input_seconds="0.125"))
        if source.random() < 0.5:
            request.labels["category"] = source.choice(["ä", "Z", "a", "\U0001f602", "\uffee"])
        if source.random() < 0.2:
            request.environment = pb.ENVIRONMENT_TEST
        if source.random() < 0.4:
            request.latency_ms = source.randrange(90_000)
        if source.random() < 0.2:
            request.status_code = 500
        requests.append(request)
    outcomes = []
    for part in range(0, count, 120):
        outcomes += await metering.record_batch(requests[part : part + 120])
    return [one.recorded.usage for one in outcomes]


async def query(metering: Metering, **fields: object) -> list[pb.UsageSummary]:
    request = pb.QueryUsageRequest(page_size=11)
    request.start_time.FromDatetime(START - timedelta(days=1))
    request.end_time.FromDatetime(START + timedelta(days=DAYS))
    request.MergeFrom(pb.QueryUsageRequest(**fields))  # type: ignore[arg-type]
    summaries: list[pb.UsageSummary] = []
    while True:
        page = await metering.usage.QueryUsage(request, metadata=metering.gateway)
        assert len(page.summaries) <= request.page_size
        summaries += page.summaries
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return summaries


async def listed(metering: Metering, **fields: object) -> list[pb.UsageRecord]:
    request = pb.ListUsageRequest(page_size=7)
    request.start_time.FromDatetime(START)
    request.end_time.FromDatetime(START + timedelta(days=DAYS))
    request.MergeFrom(pb.ListUsageRequest(**fields))  # type: ignore[arg-type]
    records: list[pb.UsageRecord] = []
    while True:
        page = await metering.usage.ListUsage(request, metadata=metering.operator)
        assert len(page.usages) <= request.page_size
        records += page.usages
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return records


def row_of(summary: pb.UsageSummary, *, with_organization: bool) -> Row:
    """Return what tells a row from others."""
    dimensions = json.dumps(dict(summary.dimensions), sort_keys=True)
    currencies = summary.cost.currency_code, summary.provider_cost.currency_code
    own = summary.model, summary.project_id, summary.user_id, summary.api_key_id
    organization = (summary.organization_id,) if with_organization else ()
    return (*organization, summary.start_time.ToJsonString(), *own, dimensions, *currencies)


def totals(summaries: Sequence[pb.UsageSummary], *, with_organization: bool = False) -> dict[Row, dict[str, Decimal]]:
    """Return the sums of rows that are the same but for their organization."""
    found: dict[Row, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for one in summaries:
        sums = found[row_of(one, with_organization=with_organization)]
        sums["requests"] += one.request_count
        sums["errors"] += one.error_count
        sums["input"] += one.tokens.input
        sums["total_tokens"] += one.total_tokens
        sums["cost"] += Decimal(one.cost.value or 0)
        sums["latency"] += one.latency.sum_ms
        for bucket, count in enumerate(one.latency.buckets):
            sums[f"bucket {bucket}"] += count
        for quantity in one.quantities:
            sums[quantity.unit] += Decimal(quantity.value)
    return {row: dict(sums) for row, sums in found.items()}


QUERIES: Final[Mapping[str, dict[str, object]]] = {
    "everything": {},
    "by day": {"window": pb.USAGE_WINDOW_DAY, "time_zone": "America/New_York", "include_test": True},
    "by hour and model": {"window": pb.USAGE_WINDOW_HOUR, "group_by": [pb.USAGE_DIMENSION_MODEL]},
    "by user and label": {"group_by": [pb.USAGE_DIMENSION_USER, pb.USAGE_DIMENSION_CATEGORY]},
    "by month and environment": {
        "window": pb.USAGE_WINDOW_MONTH,
        "group_by": [pb.USAGE_DIMENSION_ENVIRONMENT, pb.USAGE_DIMENSION_MODEL],
    },
    "by unit": {"window": pb.USAGE_WINDOW_DAY, "group_by": [pb.USAGE_DIMENSION_UNIT]},
    "of one model": {"models": ["gpt-4o"], "window": pb.USAGE_WINDOW_DAY, "group_by": [pb.USAGE_DIMENSION_CATEGORY]},
}


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.usefixtures("small_parts")
async def test_sums_over_organizations_are_the_sums_of_each(platform: Platform, metering: Metering, name: str) -> None:
    organizations = [new_id() for _ in range(5)]
    await recorded(metering, organizations)
    await recorded(metering, [new_id()], 10)
    fields = QUERIES[name]
    group_by = [*fields.get("group_by", ()), ORGANIZATION]  # type: ignore[misc]  # it is a list of dimensions.
    own = [one for id_ in organizations for one in await query(metering, organization_id=id_, **fields)]
    assert own

    together = await query(metering, organization_ids=organizations, **fields)
    assert totals(together) == totals(own)
    assert len(together) == len(totals(own))
    assert [one.start_time.seconds for one in together] == sorted(one.start_time.seconds for one in together)

    each = await query(metering, organization_ids=organizations, **{**fields, "group_by": group_by})
    assert totals(each) == totals(own)
    by_organization = defaultdict(list)
    for one in each:
        by_organization[one.organization_id].append(one)
    changes = [1 for before, now in pairwise(each) if before.organization_id != now.organization_id]
    assert len(changes) == len(by_organization) - 1
    for id_, rows in by_organization.items():
        assert totals(rows) == totals(await query(metering, organization_id=id_, **fields))

    everything = await query(metering, **{**fields, "group_by": group_by})
    assert set(totals(each, with_organization=True)) < set(totals(everything, with_organization=True))
    assert totals(everything) == totals(await query(metering, page_size=1000, **fields))


async def test_a_sum_is_what_was_recorded(platform: Platform, metering: Metering) -> None:
    records = await recorded(metering, [new_id() for _ in range(5)])
    live = [one for one in records if one.environment == pb.ENVIRONMENT_LIVE]

    (unpriced, priced) = await query(metering)

    assert priced.request_count + unpriced.request_count == len(live)
    assert Decimal(priced.cost.value) == sum(Decimal(one.cost.value) for one in live if one.HasField("cost"))
    assert priced.total_tokens + unpriced.total_tokens == sum(one.total_tokens for one in live)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("rows_max", [1, 20, 60])
async def test_page_that_may_read_no_more_ends_early_and_all_pages_have_every_row(
    platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    organizations = [new_id() for _ in range(6)]
    await recorded(metering, organizations)
    by_hour = {"window": pb.USAGE_WINDOW_HOUR, "group_by": [pb.USAGE_DIMENSION_MODEL]}
    by_organization = {"window": pb.USAGE_WINDOW_DAY, "group_by": [ORGANIZATION, pb.USAGE_DIMENSION_MODEL]}
    whole = [await query(metering, page_size=1000, **fields) for fields in (by_hour, by_organization)]
    monkeypatch.setattr(reports, "PAGE_ROWS_MAX", rows_max)

    assert await query(metering, page_size=1000, **by_organization) == whole[1]
    assert await query(metering, page_size=2, **by_organization) == whole[1]
    # A window of all organizations is read whole, or not at all.
    assert await refused(query(metering)) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MUCH_USAGE")
    if rows_max > 1:
        assert await query(metering, page_size=1000, **by_hour) == whole[0]
        assert await query(metering, page_size=3, **by_hour) == whole[0]


@pytest.mark.usefixtures("small_parts")
async def test_list_over_organizations_has_every_usage_once_the_latest_of_each_first(
    platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    organizations = [new_id() for _ in range(7)]
    records = await recorded(metering, organizations, 120)
    expected = {one.usage_id for one in records}

    async def check(found: list[pb.UsageRecord], wanted: set[str]) -> None:
        assert {one.usage_id for one in found} == wanted
        assert len(found) == len(wanted)
        seen = [one.organization_id for one in found]
        assert len([1 for before, now in pairwise(seen) if before != now]) == len(set(seen)) - 1
        for id_ in set(seen):
            times = [one.occur_time.ToNanoseconds() for one in found if one.organization_id == id_]
            assert times == sorted(times, reverse=True)

    await check(await listed(metering), expected)
    monkeypatch.setattr(usages, "_LISTED_MAX", 2)
    monkeypatch.setattr(usages, "_LOOKED_AT_MAX", 3)
    await check(await listed(metering), expected)
    await check(await listed(metering, page_size=1000, organization_ids=organizations), expected)
    chosen = organizations[2:5]
    await check(
        await listed(metering, page_size=3, organization_ids=[one.upper() for one in chosen]),
        {one.usage_id for one in records if one.organization_id in chosen},
    )
    await check(
        await listed(metering, page_size=3, labels={"category": "ä"}, model="gpt-4o"),
        {one.usage_id for one in records if one.labels.get("category") == "ä" and one.model == "gpt-4o"},
    )
    assert await listed(metering, organization_ids=[new_id()]) == []


async def test_page_of_large_records_fits_into_an_answer(metering: Metering) -> None:
    """Each is about 24 KB, together they are more than a client takes."""
    labels = {f"key-{number}": "\U0001f602" * 256 for number in range(16)}
    organizations = [new_id() for _ in range(4)]
    requests = [
        usage(organizations[number % 4], labels=labels, error_message="\U0001f602" * 1024, occur_time=stamp(minutes=-1))
        for number in range(240)
    ]
    for part in range(0, 240, 60):
        await metering.record_batch(requests[part : part + 60])
    now = stamp()

    for fields in ({}, {"organization_id": organizations[0]}):
        found = await listed(metering, page_size=1000, start_time=stamp(hours=-1), end_time=now, **fields)
        assert len(found) == (60 if fields else 240)
        assert len({one.usage_id for one in found}) == len(found)


async def test_usage_of_other_times_is_left_out(platform: Platform, metering: Metering, organization_id: str) -> None:
    await metering.record(usage(organization_id))
    await recorded(metering, [new_id()], 5)

    assert len(await listed(metering)) == 5
    assert sum(one.request_count for one in await query(metering, include_test=True)) == 5


@pytest.mark.parametrize(
    "bad",
    [
        {"organization_id": new_id(), "organization_ids": [new_id()]},
        {"organization_ids": ["x"]},
        {"organization_ids": [new_id() for _ in range(101)]},
        {"page_token": "x"},
    ],
    ids=lambda bad: ",".join(bad),
)
async def test_bad_questions_are_refused(metering: Metering, bad: dict[str, object]) -> None:
    assert (await refused(query(metering, **bad)))[0] is INVALID
    assert (await refused(listed(metering, **bad)))[0] is INVALID


async def test_organization_is_no_filter(metering: Metering) -> None:
    filters = [pb.UsageFilter(dimension=ORGANIZATION, values=[new_id()])]
    assert (await refused(query(metering, filters=filters)))[0] is INVALID


@pytest.mark.parametrize("fields", [{}, {"group_by": [ORGANIZATION]}, {"window": pb.USAGE_WINDOW_HOUR}], ids=str)
async def test_page_tokens_that_were_tampered_with_are_refused(metering: Metering, fields: dict[str, object]) -> None:
    await recorded(metering, [new_id() for _ in range(3)], 60)
    request = pb.QueryUsageRequest(page_size=1, **fields)  # type: ignore[arg-type]
    request.start_time.FromDatetime(START)
    request.end_time.FromDatetime(START + timedelta(days=DAYS))
    page = await metering.usage.QueryUsage(request, metadata=metering.operator)
    fingerprint, *key = json.loads(base64.urlsafe_b64decode(page.next_page_token))
    for wrong in ([], [""], ["x", *key[1:]], [*key, "x"], [new_id()] * (len(key) + 1), [*key, *key]):
        text = json.dumps([fingerprint, *wrong], separators=(",", ":"))
        request.page_token = base64.urlsafe_b64encode(text.encode()).decode()
        assert (await refused(metering.usage.QueryUsage(request, metadata=metering.operator)))[0] is INVALID, wrong


async def test_page_token_of_one_question_is_refused_with_another(metering: Metering) -> None:
    organizations = [new_id() for _ in range(2)]
    await recorded(metering, organizations, 20)
    request = pb.ListUsageRequest(organization_ids=organizations, page_size=1)
    request.start_time.FromDatetime(START)
    request.end_time.FromDatetime(START + timedelta(days=DAYS))
    page = await metering.usage.ListUsage(request, metadata=metering.operator)
    for other in ({"organization_ids": organizations[:1]}, {"organization_id": organizations[0]}, {}):
        foreign = pb.ListUsageRequest(page_size=1, page_token=page.next_page_token, **other)
        assert (await refused(metering.usage.ListUsage(foreign, metadata=metering.operator)))[0] is INVALID
