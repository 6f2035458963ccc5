"""Trends of usage: the methods against numbers computed by hand and a plain reference, and the RPC from end to end."""

import statistics
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.ids import new_id
from libs.common.status import field_violations
from libs.common.timestamps import render_time
from services.metering.usage.statistics.trends import forecast, median, percent_of, scores, stands_out
from tests.metering.corrections.calls import tokens
from tests.metering.support import Metering, usage
from tollhouse.metering.v1 import usage_pb2 as pb

AS_OF_2999: Final = render_time(datetime(2999, 1, 1, tzinfo=UTC))
AS_OF_1970: Final = render_time(datetime(1970, 1, 1, tzinfo=UTC))
AMOUNTS: Final = st.decimals(0, 10**6, places=9)


def decimals(*values: int) -> list[Decimal]:
    return [Decimal(value) for value in values]


def test_forecast_by_hand() -> None:
    """Seven days of 10, 12, 14, 10, 12, 14, 12: mean 12, squares 4 + 0 + 4 + 4 + 0 + 4 + 0 = 16, variance 16 / 6.

    Three days remain: sqrt(16/6 * (3 + 9/7)) = sqrt(11.428571…) = 3.380617…, times 2.447 = 8.272370….
    """
    found = forecast(decimals(10, 12, 14, 10, 12, 14, 12), Decimal(100), 3, may_fall=False)

    assert found is not None
    assert found.expected == Decimal("136.000000000")
    assert round(found.low, 4) == Decimal("127.7276")
    assert round(found.high, 4) == Decimal("144.2724")


def test_forecast_of_equal_days_is_certain_and_of_few_days_is_none() -> None:
    certain = forecast(decimals(*[5] * 28), Decimal("2.5"), 10, may_fall=False)

    assert certain is not None
    assert certain.expected == certain.low == certain.high == Decimal("52.5")
    assert forecast(decimals(1, 2, 3, 4, 5, 6), Decimal(1), 3, may_fall=False) is None


def test_usage_cannot_fall_but_a_margin_can() -> None:
    observed = decimals(0, 0, 0, 0, 0, 0, 700)
    usage_of_month = forecast(observed, Decimal(50), 1, may_fall=False)
    margin = forecast(observed, Decimal(50), 1, may_fall=True)

    assert usage_of_month is not None
    assert margin is not None
    assert usage_of_month.low == Decimal(50)
    assert margin.low < Decimal(50)
    assert usage_of_month.high == margin.high


@settings(max_examples=40)
@given(st.lists(AMOUNTS, min_size=7, max_size=28), st.integers(1, 31), AMOUNTS)
def test_forecast_equals_a_plain_reference(observed: list[Decimal], remaining: int, to_date: Decimal) -> None:
    found = forecast(observed, to_date, remaining, may_fall=True)

    assert found is not None
    values = [float(value) for value in observed]
    spread = statistics.stdev(values) * (remaining + remaining**2 / len(values)) ** 0.5
    assert float(found.expected) == pytest.approx(float(to_date) + remaining * statistics.fmean(values), abs=1e-3)
    assert float(found.high - found.expected) >= 1.99 * spread - 1e-3
    assert float(found.high - found.expected) <= 2.45 * spread + 1e-3
    assert abs((found.high - found.expected) - (found.expected - found.low)) <= Decimal("0.000000002")


def test_scores_by_hand() -> None:
    """Median 10; distances 1, 0, 1, 2, 0, 1, 90, whose median is 1: the last score is 0.6745 * 90 = 60.705."""
    found = scores(decimals(9, 10, 11, 12, 10, 9, 100))

    assert found == [Decimal(one) for one in ("-0.674", "0", "0.674", "1.349", "0", "-0.674", "60.705")]
    assert [stands_out(one, 7) for one in found] == [False] * 6 + [True]
    assert not stands_out(found[-1], 6)


def test_scores_where_most_days_are_the_same_use_the_mean_distance() -> None:
    """Median 0, mean distance 80 / 8 = 10: 80 / (1.253314 * 10) = 6.383."""
    found = scores(decimals(0, 0, 0, 0, 0, 0, 0, 80))

    assert found[-1] == Decimal("6.383")
    assert set(found[:-1]) == {Decimal(0)}
    assert scores(decimals(4, 4, 4)) == decimals(0, 0, 0)
    assert scores([]) == []


@settings(max_examples=40)
@given(st.lists(AMOUNTS, min_size=1, max_size=28))
def test_median_equals_that_of_the_standard_library(values: list[Decimal]) -> None:
    assert abs(median(values) - statistics.median(values)) < Decimal("1e-20")


def test_percent_of_what_was_before() -> None:
    assert percent_of(Decimal(1), Decimal(3)) == Decimal("33.33")
    assert percent_of(Decimal("-0.5"), Decimal(2)) == Decimal("-25.00")
    assert percent_of(Decimal(3), Decimal(-2)) == Decimal("150.00")
    assert percent_of(Decimal(3), Decimal(0)) is None


async def trends(metering: Metering, organization_id: str, **fields: object) -> pb.GetUsageTrendsResponse:
    request = pb.GetUsageTrendsRequest(
        organization_id=organization_id,
        **fields,  # type: ignore[arg-type]
    )
    return await metering.usage.GetUsageTrends(request, metadata=metering.operator)


async def record_days(metering: Metering, organization_id: str, zone: str, values: dict[datetime, int]) -> None:
    """Record tokens at local times of a zone."""
    requests = []
    for local, count in values.items():
        moment = local.replace(tzinfo=ZoneInfo(zone))
        sent = usage(organization_id, f"{moment.isoformat()}", backfill=True, occur_time=render_time(moment))
        sent.tokens.CopyFrom(tokens(count))
        requests.append(sent)
    outcomes = await metering.record_batch(requests)
    assert not [one for one in outcomes if one.HasField("refused")]


async def test_trends_of_days_in_a_zone_off_utc_by_half_an_hour(metering: Metering, organization_id: str) -> None:
    zone = "Asia/Kolkata"
    # Ten days from 28 August on with 1000 tokens, but 9000 on the last one; half of each at its last second.
    first = datetime(2026, 8, 28)  # noqa: DTZ001 -- a local time.
    values = {}
    for number in range(10):
        count = 9000 if number == 9 else 1000
        values[first + timedelta(days=number)] = count // 2
        values[first + timedelta(days=number, hours=23, minutes=59, seconds=59)] = count // 2
    values[first + timedelta(days=10, hours=3)] = 123_456
    await record_days(metering, organization_id, zone, values)
    await record_days(metering, new_id(), zone, {first + timedelta(days=1): 5})
    as_of = (first + timedelta(days=10, hours=5)).replace(tzinfo=ZoneInfo(zone))
    fields = {"as_of_time": render_time(as_of), "time_zone": zone}

    found = await trends(metering, organization_id, measure=pb.USAGE_MEASURE_TOTAL_TOKENS, **fields)

    change = found.change
    assert (change.previous_value, change.value, change.difference, change.difference_percent) == (
        *("1000", "9000", "8000", "800"),
    )
    assert change.end_time.ToDatetime(tzinfo=UTC) == datetime(2026, 9, 6, 18, 30, tzinfo=UTC)
    assert [one.value for one in found.days] == ["1000"] * 9 + ["9000"]
    assert [one.stands_out for one in found.days] == [False] * 9 + [True]
    # Six days of September are over, 24 remain; the mean of the ten days is 1800.
    month = found.forecast
    assert (month.value_to_date, month.expected) == ("14000", str(14_000 + 24 * 1800))
    assert (month.observed_day_count, month.remaining_day_count) == (10, 24)
    assert month.end_time.ToDatetime(tzinfo=UTC) == datetime(2026, 9, 30, 18, 30, tzinfo=UTC)
    # Variance 6,400,000: 2.262 * sqrt(6400000 * (24 + 57.6)) = 51692.9, more than what is expected of the rest.
    assert (month.low, round(Decimal(month.high))) == ("14000", 108_893)
    assert found == await trends(metering, organization_id, measure=pb.USAGE_MEASURE_TOTAL_TOKENS, **fields)

    requests = await trends(
        metering, organization_id, measure=pb.USAGE_MEASURE_REQUESTS, window=pb.USAGE_WINDOW_WEEK, **fields
    )
    assert (requests.change.previous_value, requests.change.value) == ("6", "14")
    cost = await trends(
        metering,
        organization_id,
        measure=pb.USAGE_MEASURE_COST,
        currency_code="USD",
        window=pb.USAGE_WINDOW_MONTH,
        **fields,
    )
    assert (cost.change.previous_value, cost.change.value) == ("0", "0.01")
    assert cost.change.difference_percent == ""
    assert cost.forecast.value_to_date == "0.035"


async def test_trends_of_nothing_are_zero_without_a_forecast(metering: Metering, organization_id: str) -> None:
    found = await trends(metering, organization_id, measure=pb.USAGE_MEASURE_REQUESTS)

    assert (found.change.value, found.change.difference, found.change.difference_percent) == ("0", "0", "")
    assert not found.HasField("forecast")
    assert not found.days


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"measure": pb.USAGE_MEASURE_COST}, ["currency_code"]),
        ({"measure": pb.USAGE_MEASURE_ERRORS, "currency_code": "USD"}, ["currency_code"]),
        ({"measure": pb.USAGE_MEASURE_QUANTITY}, ["unit"]),
        ({"measure": pb.USAGE_MEASURE_ERRORS, "window": pb.USAGE_WINDOW_HOUR}, ["window"]),
        ({"measure": pb.USAGE_MEASURE_ERRORS, "time_zone": "Mars/Olympus"}, ["time_zone"]),
        (
            {
                "measure": pb.USAGE_MEASURE_ERRORS,
                "as_of_time": render_time(datetime(1971, 12, 1, tzinfo=UTC)),
                "time_zone": "Africa/Monrovia",
            },
            ["time_zone"],
        ),
        (
            {"measure": pb.USAGE_MEASURE_ERRORS, "as_of_time": render_time(datetime(2999, 1, 1, tzinfo=UTC))},
            ["as_of_time"],
        ),
        (
            {"measure": pb.USAGE_MEASURE_ERRORS, "as_of_time": render_time(datetime(1970, 1, 1, tzinfo=UTC))},
            ["as_of_time"],
        ),
        (
            {
                "measure": pb.USAGE_MEASURE_QUANTITY,
                "unit": "images",
                "filters": [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_UNIT, values=["images"])],
            },
            ["filters[0].dimension"],
        ),
        ({}, ["measure"]),
    ],
    ids=str,
)
async def test_trends_that_make_no_sense_are_refused_by_name(
    metering: Metering, organization_id: str, fields: dict[str, object], named: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await trends(metering, organization_id, **fields)

    assert list(field_violations(raised.value)) == named
