"""Sums by minute and week, percentiles, margins and the largest groups, against a plain reference of the usage."""

import random
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.ids import new_id
from libs.common.status import field_violations, reason_of
from libs.common.timestamps import render_time
from services.metering.tables import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from services.metering.usage.latencies import OVER_MS, percentile_ms
from tests.metering.corrections.calls import amend, tokens, void
from tests.metering.support import Metering, Platform, usage
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import usage_pb2 as pb

SEED: Final = 14
USERS: Final = [new_id() for _ in range(7)]
MODEL, USER = pb.USAGE_DIMENSION_MODEL, pb.USAGE_DIMENSION_USER
UNLIMITED: Final = 10**9


@dataclass(frozen=True)
class Call:
    """What the reference knows of a usage."""

    moment: datetime
    model: str
    user_id: str
    input: int
    images: int
    failed: bool
    cost: Decimal
    currency_code: str


class Recorded:
    """Usage of the last day and of two weeks before, with corrections and prices in two currencies."""

    def __init__(self) -> None:
        self.organization_id, self.other_id = new_id(), new_id()
        self.calls: list[Call] = []
        self.now = datetime.now(UTC)

    async def make(self, metering: Metering) -> None:
        source = random.Random(SEED)
        requests = []
        for number in range(240):
            back = timedelta(seconds=source.randrange(60, 20 * 3600 if number % 2 else 15 * 86_400))
            stated = Decimal(source.randrange(1, 500)) / 1000
            currency_code = source.choice(["USD", "USD", "EUR"])
            call = Call(
                self.now - back,
                source.choice(["gpt-4o", "other", "third"]),
                source.choice([*USERS, ""]),
                source.randrange(3000),
                source.randrange(3),
                source.random() < 0.25,
                stated,
                currency_code,
            )
            sent = usage(self.organization_id, f"call-{number}", model=call.model, user_id=call.user_id)
            sent.occur_time.FromDatetime(call.moment)
            sent.tokens.CopyFrom(tokens(call.input))
            sent.stated_amount.CopyFrom(Amount(currency_code=currency_code, value=str(stated)))
            if call.images:
                sent.quantities.add(unit="images", value=str(call.images))
            if call.failed:
                sent.status_code = 500
            requests.append(sent)
            self.calls.append(call)
        outcomes = await metering.record_batch(requests)
        assert not [one for one in outcomes if one.HasField("refused")]
        await metering.record(usage(self.other_id, occur_time=render_time(self.calls[0].moment)))
        for number in (0, 1):
            await void(metering, self.organization_id, f"call-{number}")
        for number in (2, 3):
            await amend(metering, self.organization_id, f"call-{number}", tokens=tokens(77_000))
            self.calls[number] = replace(self.calls[number], input=77_000)
        del self.calls[:2]

    def query(self, window: str, days: int = 20, **fields: object) -> pb.QueryUsageRequest:
        return pb.QueryUsageRequest(
            organization_id=self.organization_id,
            start_time=render_time(self.now - timedelta(days=days)),
            end_time=render_time(self.now + timedelta(minutes=1)),
            window=pb.UsageWindow.Value(f"USAGE_WINDOW_{window}"),
            **fields,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
async def recorded(module_platform: Platform) -> Recorded:
    made = Recorded()
    await made.make(module_platform.metering)
    return made


async def rows(metering: Metering, request: pb.QueryUsageRequest) -> list[pb.UsageSummary]:
    found: list[pb.UsageSummary] = []
    while True:
        page = await metering.usage.QueryUsage(request, metadata=metering.operator)
        found += page.summaries
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


def week_of(moment: datetime, zone: ZoneInfo) -> datetime:
    local = moment.astimezone(zone)
    monday = (local - timedelta(days=local.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    return monday.astimezone(UTC)


async def test_minutes_equal_the_usage_itself_with_corrections_units_and_dimensions(
    module_platform: Platform, recorded: Recorded
) -> None:
    request = recorded.query("MINUTE", group_by=[MODEL], page_size=17)
    start = recorded.now - timedelta(hours=23)
    request.start_time.FromDatetime(start)
    first = start.replace(second=0, microsecond=0)
    expected: defaultdict[tuple[datetime, str, str], list[object]] = defaultdict(lambda: [0, 0, 0, 0, Decimal(0)])
    for call in recorded.calls:
        if call.moment >= first:
            row = expected[call.moment.replace(second=0, microsecond=0), call.model, call.currency_code]
            added = (1, call.failed, call.input, call.images * 1000, call.cost)
            row[:] = [one + more for one, more in zip(row, added, strict=True)]  # type: ignore[operator]

    found = await rows(module_platform.metering, request)

    assert {
        (one.start_time.ToDatetime(tzinfo=UTC), one.model, one.cost.currency_code): [
            one.request_count,
            one.error_count,
            one.tokens.input,
            sum(int(Decimal(unit.value) * 1000) for unit in one.quantities),
            Decimal(one.cost.value),
        ]
        for one in found
    } == expected
    assert len(found) > 100
    assert {one.end_time.seconds - one.start_time.seconds for one in found} == {60}
    request.page_token, request.page_size = "", 1000
    request.window = pb.USAGE_WINDOW_UNSPECIFIED
    whole = await rows(module_platform.metering, request)
    request.start_time.FromDatetime(first.replace(minute=0) + timedelta(hours=1))
    request.end_time.FromDatetime(recorded.now.replace(minute=0, second=0, microsecond=0))
    by_hours = [await rows(module_platform.metering, request)]
    request.window = pb.USAGE_WINDOW_MINUTE
    by_hours.append(await rows(module_platform.metering, request))
    assert whole
    assert sum(one.total_tokens for one in by_hours[0]) == sum(one.total_tokens for one in by_hours[1])


async def test_minutes_are_refused_over_two_days_long_ago_or_without_an_organization(
    module_platform: Platform, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    metering = module_platform.metering
    day = recorded.query("MINUTE", days=1)
    for problem in ("two days", "long ago", "all organizations"):
        request = recorded.query("MINUTE", days=1)
        if problem == "two days":
            request.start_time.FromDatetime(recorded.now - timedelta(days=2))
        elif problem == "long ago":
            request.start_time.FromDatetime(recorded.now - timedelta(days=3))
            request.end_time.FromDatetime(recorded.now - timedelta(days=2, hours=12))
        else:
            request.organization_id = ""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await metering.usage.QueryUsage(request, metadata=metering.operator)
        assert list(field_violations(raised.value)) == ["window"], problem
    monkeypatch.setattr("services.metering.usage.summaries.MINUTE_USAGES_MAX", 20)
    day.start_time.FromDatetime(recorded.now - timedelta(hours=23))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await metering.usage.QueryUsage(day, metadata=metering.operator)
    assert reason_of(raised.value) == "TOO_MANY_CALLS"


@pytest.mark.parametrize("name", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
async def test_weeks_begin_with_monday_in_any_zone(module_platform: Platform, recorded: Recorded, name: str) -> None:
    zone = ZoneInfo(name)
    expected: defaultdict[datetime, int] = defaultdict(int)
    for call in recorded.calls:
        expected[week_of(call.moment, zone)] += 1

    found = await rows(module_platform.metering, recorded.query("WEEK", time_zone=name, page_size=2))

    actual: defaultdict[datetime, int] = defaultdict(int)
    for one in found:
        start = one.start_time.ToDatetime(tzinfo=UTC)
        actual[start] += one.request_count
        assert (one.end_time.ToDatetime(tzinfo=UTC) - start) % timedelta(days=7) == timedelta()
        assert start.astimezone(zone).weekday() == 0
    assert actual == expected


def measured(call: Call, measure: str) -> Decimal:
    return {
        "REQUESTS": Decimal(1),
        "ERRORS": Decimal(call.failed),
        "TOTAL_TOKENS": Decimal(call.input),
        "QUANTITY": Decimal(call.images),
        "COST": call.cost if call.currency_code == "USD" else Decimal(0),
    }[measure]


@pytest.mark.parametrize("measure", ["REQUESTS", "ERRORS", "TOTAL_TOKENS", "QUANTITY", "COST"])
@pytest.mark.parametrize("count", [1, 3, 100])
async def test_the_largest_groups_and_all_others_have_the_exact_sums_of_each_window(
    module_platform: Platform, recorded: Recorded, measure: str, count: int
) -> None:
    totals: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for call in recorded.calls:
        if measure != "QUANTITY" or call.images:
            totals[call.model, call.user_id] += measured(call, measure)
    nil = "00000000-0000-0000-0000-000000000000"
    ranking = sorted(totals, key=lambda group: (-totals[group], group[0], group[1] or nil))[:count]
    expected: defaultdict[tuple[datetime, int, str], list[object]] = defaultdict(lambda: [0, 0, Decimal(0)])
    for call in recorded.calls:
        group = (call.model, call.user_id)
        rank = ranking.index(group) + 1 if group in ranking else len(ranking) + 1
        row = expected[week_of(call.moment, ZoneInfo("UTC")), rank, call.currency_code]
        row[:] = [row[0] + 1, row[1] + call.input, row[2] + call.cost]  # type: ignore[operator]
    top = pb.UsageTop(
        count=count,
        measure=pb.UsageMeasure.Value(f"USAGE_MEASURE_{measure}"),
        currency_code="USD" if measure == "COST" else "",
        unit="images" if measure == "QUANTITY" else "",
    )
    request = recorded.query("WEEK", group_by=[MODEL, USER], top=top)

    answer = await module_platform.metering.usage.QueryUsage(request, metadata=module_platform.metering.operator)

    assert answer.next_page_token == ""
    found = {
        (one.start_time.ToDatetime(tzinfo=UTC), one.rank, one.cost.currency_code): [
            one.request_count,
            one.tokens.input,
            Decimal(one.cost.value),
        ]
        for one in answer.summaries
    }
    assert found == expected
    for one in answer.summaries:
        assert one.others == (one.rank > len(ranking))
        assert (one.model, one.user_id) == (("", "") if one.others else ranking[one.rank - 1])
    order = [(one.start_time.seconds, one.rank) for one in answer.summaries]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"group_by": []}, ["top"]),
        ({"group_by": [pb.USAGE_DIMENSION_UNIT]}, ["top"]),
        ({"organization_id": ""}, ["top"]),
        ({"page_size": 5}, ["top"]),
        ({"top": pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_COST)}, ["top.currency_code"]),
        ({"top": pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_QUANTITY)}, ["top.unit"]),
        ({"top": pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_ERRORS, unit="images")}, ["top.unit"]),
        ({"top": pb.UsageTop(count=101, measure=pb.USAGE_MEASURE_ERRORS)}, ["top.count"]),
        ({"top": pb.UsageTop(count=3)}, ["top.measure"]),
    ],
    ids=str,
)
async def test_a_top_that_makes_no_sense_is_refused_by_name(
    module_platform: Platform, recorded: Recorded, changed: dict[str, object], named: list[str]
) -> None:
    fields: dict[str, object] = {"group_by": [USER], "top": pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_REQUESTS)}
    changed = dict(changed)
    organization_id = changed.pop("organization_id", recorded.organization_id)
    request = recorded.query("DAY", 20, **(fields | changed))
    request.organization_id = str(organization_id)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await module_platform.metering.usage.QueryUsage(request, metadata=module_platform.metering.operator)

    assert list(field_violations(raised.value)) == named


async def test_a_top_with_too_many_rows_is_refused(
    module_platform: Platform, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.usages.TOP_ROWS_MAX", 10)
    top = pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_REQUESTS)
    request = recorded.query("HOUR", group_by=[USER], top=top)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await module_platform.metering.usage.QueryUsage(request, metadata=module_platform.metering.operator)

    assert reason_of(raised.value) == "TOO_MANY_ROWS"


async def test_another_organizations_usage_is_in_no_group(module_platform: Platform, recorded: Recorded) -> None:
    top = pb.UsageTop(count=3, measure=pb.USAGE_MEASURE_REQUESTS)
    request = recorded.query("DAY", group_by=[MODEL], top=top)
    request.organization_id = recorded.other_id

    (one,) = (
        await module_platform.metering.usage.QueryUsage(request, metadata=module_platform.metering.operator)
    ).summaries

    assert (one.request_count, one.rank, one.others) == (1, 1, False)


async def test_rates_margins_and_percentiles_of_a_row(metering: Metering, organization_id: str) -> None:
    model = f"m-{new_id()}"
    await metering.add_model(model)
    await metering.set_price(model, price_in="3", price_out="9")
    now = datetime.now(UTC)
    latencies = [5, 40, 60, 200, 300, 400, 450, 900, 2000, 70_000]
    await metering.record_batch(
        [
            usage(
                organization_id,
                f"call-{number}",
                model=model,
                latency_ms=latency,
                status_code=500 if number < 3 else 200,
            )
            for number, latency in enumerate(latencies)
        ]
    )
    request = pb.QueryUsageRequest(organization_id=organization_id)
    request.start_time.FromDatetime(now - timedelta(hours=1))
    request.end_time.FromDatetime(now + timedelta(hours=1))

    (one,) = await rows(metering, request)

    assert one.error_rate == "0.3"
    assert one.latency.mean_ms == "7435.5"
    # The fifth call is the first of three between 250 and 500 ms; the tenth has no upper bound.
    assert (one.latency.p50_ms, one.latency.p95_ms, one.latency.p99_ms) == (334, OVER_MS, OVER_MS)
    assert not one.HasField("margin")


@settings(max_examples=40)
@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=60), st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_in_the_bucket_of_the_call_with_that_rank(latencies: list[int], percent: int) -> None:
    buckets = [0] * len(LATENCY_BUCKETS)
    for latency in latencies:
        buckets[sum(latency > bound for bound in LATENCY_BOUNDS_MS)] += 1
    exact = sorted(latencies)[-(-percent * len(latencies) // 100) - 1]

    estimated = percentile_ms(buckets, percent)

    bounds = [0, *LATENCY_BOUNDS_MS, UNLIMITED]
    upper = next(number for number, bound in enumerate(bounds) if number and exact <= bound)
    if bounds[upper] == UNLIMITED:
        assert estimated == OVER_MS
    else:
        assert bounds[upper - 1] < estimated <= bounds[upper]
        assert abs(estimated - exact) <= bounds[upper] - bounds[upper - 1]


def test_no_call_has_no_percentile() -> None:
    assert percentile_ms([0] * len(LATENCY_BUCKETS), 99) == 0
