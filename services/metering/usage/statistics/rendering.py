"""Trends as messages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from services.metering.model.units import THOUSANDTHS, Units, total_tokens
from services.metering.usage.query import Measure, Measured
from services.metering.usage.statistics.parsing import Asked
from services.metering.usage.statistics.trends import forecast, percent_of, scores, stands_out
from services.metering.usage.summaries import Summary
from tollhouse.metering.v1 import usage_pb2 as pb

_ZERO: Final = Decimal(0)


def measure_of(measured: Measured, summary: Summary, units: Units) -> Decimal:
    """Return what is measured of a row; zero if it is in another currency."""
    match measured.measure:
        case Measure.REQUESTS:
            return Decimal(summary.requests)
        case Measure.ERRORS:
            return Decimal(summary.errors)
        case Measure.TOTAL_TOKENS:
            return Decimal(sum(summary.tokens) + total_tokens(summary.quantities, units))
        case Measure.QUANTITY:
            return Decimal(summary.quantities.get(measured.unit_id, 0)) / THOUSANDTHS
    is_price = summary.currency_code == measured.currency_code
    is_provider_cost = summary.provider_currency_code == measured.currency_code
    if measured.measure is Measure.COST:
        return summary.cost if is_price else _ZERO
    if measured.measure is Measure.PROVIDER_COST:
        return summary.provider_cost if is_provider_cost else _ZERO
    return summary.cost - summary.provider_cost if is_price and is_provider_cost else _ZERO


def render_trends(asked: Asked, summaries: Sequence[Summary], units: Units) -> pb.GetUsageTrendsResponse:
    values = dict.fromkeys(asked.days, _ZERO)
    for summary in summaries:
        values[summary.start_time] += measure_of(asked.measured, summary, units)
    used = {summary.start_time for summary in summaries}
    first = next((number for number, day in enumerate(asked.observed) if day in used), len(asked.observed))
    observed = asked.observed[first:]
    response = pb.GetUsageTrendsResponse(change=_render_change(asked, values))
    found = [values[day] for day in observed]
    for day, score in zip(observed, scores(found), strict=True):
        response.days.add(
            start_time=render_time(day),
            value=format_amount(values[day]),
            score=format_amount(score),
            stands_out=stands_out(score, len(observed)),
        )
    start, end = asked.month
    to_date = _sum(values, start, end)
    may_fall = asked.measured.measure is Measure.MARGIN
    expected = forecast(found, to_date, asked.remaining, may_fall=may_fall)
    if expected is not None:
        response.forecast.CopyFrom(
            pb.UsageForecast(
                start_time=render_time(start),
                end_time=render_time(end),
                value_to_date=format_amount(to_date),
                expected=format_amount(expected.expected),
                low=format_amount(expected.low),
                high=format_amount(expected.high),
                observed_day_count=len(observed),
                remaining_day_count=asked.remaining,
            )
        )
    return response


def _render_change(asked: Asked, values: Mapping[datetime, Decimal]) -> pb.UsageChange:
    previous, current, end = asked.windows
    before, value = _sum(values, previous, current), _sum(values, current, end)
    percent = percent_of(value - before, before)
    return pb.UsageChange(
        previous_start_time=render_time(previous),
        start_time=render_time(current),
        end_time=render_time(end),
        previous_value=format_amount(before),
        value=format_amount(value),
        difference=format_amount(value - before),
        difference_percent="" if percent is None else format_amount(percent),
    )


def _sum(values: Mapping[datetime, Decimal], start: datetime, end: datetime) -> Decimal:
    return sum((value for day, value in values.items() if start <= day < end), _ZERO)
