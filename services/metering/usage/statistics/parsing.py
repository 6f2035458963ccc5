"""Reads what trends are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.time_zones import parse_time_zone
from libs.common.timestamps import parse_time
from services.metering.usage.query import UNIT, Measure, Measured, Query
from services.metering.usage.query_parsing import WINDOWS, check_days, read_measure, read_usage_filters
from services.metering.usage.statistics.trends import OBSERVED_MAX
from services.metering.usage.windows import DAY, MONTH, WEEK, window_end, window_starts
from tollhouse.metering.v1 import usage_pb2 as pb

AS_OF_MIN: Final = datetime(1971, 1, 1, tzinfo=UTC)
_INSTANT: Final = timedelta(microseconds=1)
_NO_FILTERS: Final[dict[str, Sequence[str]]] = {"model": (), "api_key_id": ()}


@dataclass(frozen=True, slots=True)
class Asked:
    """What trends are asked for."""

    measured: Measured
    query: Query
    """The sums of all days that are needed, of which the last is the one before today."""
    days: Sequence[datetime]
    """When the days of the query begin."""
    observed: Sequence[datetime]
    """When the days begin that the forecast is made from, which are the last ones."""
    windows: tuple[datetime, datetime, datetime]
    """When the last whole window and the one before it begin, the earlier first, and when the later one ends."""
    month: tuple[datetime, datetime]
    """When the month of the forecast begins and ends."""
    remaining: int
    """How many days of the month are not over, with today."""


def read_trends(request: pb.GetUsageTrendsRequest, now: datetime) -> Asked:
    """Read what trends are asked for.

    Raises:
        InvalidArgument: with every field at fault.
    """
    violations: list[FieldViolation] = []
    as_of = _read_as_of(request, now, violations)
    window = WINDOWS.get(request.window) or DAY
    if window not in (DAY, WEEK, MONTH):
        violations.append(FieldViolation("window", "must be DAY, WEEK or MONTH"))
        window = DAY
    zone = parse_time_zone("time_zone", request.time_zone, violations)
    measured = read_measure("", request, violations)
    given = {
        "project_id": [value.lower() for value in request.project_ids],
        "user_id": [value.lower() for value in request.user_ids],
    }
    filters = _NO_FILTERS | given | read_usage_filters(request.filters, (), given, violations)
    if measured.measure is Measure.QUANTITY:
        filters[UNIT] = [measured.unit_id]
    *_, previous, current, running = window_starts(window, zone, as_of - timedelta(days=70), as_of + _INSTANT)
    (month,) = window_starts(MONTH, zone, as_of, as_of + _INSTANT)
    *observed, today = window_starts(DAY, zone, as_of - timedelta(days=OBSERVED_MAX + 2), as_of + _INSTANT)
    observed = observed[-OBSERVED_MAX:]
    start = min(previous, month, observed[0])
    check_days(DAY, zone, start, today + _INSTANT, violations)
    if violations:
        raise InvalidArgument(violations)
    month_end = window_end(MONTH, zone, month)
    return Asked(
        measured,
        _days(request, start, today, filters, zone),
        window_starts(DAY, zone, start, today),
        observed,
        (previous, current, running),
        (month, month_end),
        len(window_starts(DAY, zone, today, month_end)),
    )


def _read_as_of(request: pb.GetUsageTrendsRequest, now: datetime, violations: list[FieldViolation]) -> datetime:
    if not request.HasField("as_of_time"):
        return now
    as_of = parse_time("as_of_time", request.as_of_time, violations)
    if AS_OF_MIN <= as_of <= now:
        return as_of
    violations.append(FieldViolation("as_of_time", "must be a time from the year 1971 on that is not in the future"))
    return now


def _days(
    request: pb.GetUsageTrendsRequest,
    start_time: datetime,
    end_time: datetime,
    filters: dict[str, Sequence[str]],
    zone: ZoneInfo,
) -> Query:
    return Query(
        organization_id=request.organization_id.lower(),
        organization_ids=(),
        start_time=start_time,
        end_time=end_time,
        window=DAY,
        group_by=(UNIT,) if UNIT in filters else (),
        filters=filters,
        zone=zone,
        include_test=request.include_test,
    )
