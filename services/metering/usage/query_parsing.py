"""Reads what lists and sums of usage are asked for."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL, is_id
from libs.common.time_zones import parse_time_zone
from libs.common.timestamps import parse_time
from services.metering.usage.beginnings import COVERED_SINCE
from services.metering.usage.dimensions import LABELS, LIVE, TEST
from services.metering.usage.query import ORGANIZATION, RANGE_MAX, UNIT, Measure, Measured, Query, Top
from services.metering.usage.store import Filters
from services.metering.usage.windows import (
    DAY,
    HOUR,
    MINUTE,
    MONTH,
    WEEK,
    check_window_count,
    outer_range,
    split_day,
)
from tollhouse.metering.v1 import usage_pb2 as pb

WINDOWS: Final = {
    pb.USAGE_WINDOW_UNSPECIFIED: None,
    pb.USAGE_WINDOW_HOUR: HOUR,
    pb.USAGE_WINDOW_DAY: DAY,
    pb.USAGE_WINDOW_MONTH: MONTH,
    pb.USAGE_WINDOW_WEEK: WEEK,
    pb.USAGE_WINDOW_MINUTE: MINUTE,
}
_DIMENSIONS: Final = {
    pb.USAGE_DIMENSION_MODEL: "model",
    pb.USAGE_DIMENSION_PROJECT: "project_id",
    pb.USAGE_DIMENSION_USER: "user_id",
    pb.USAGE_DIMENSION_API_KEY: "api_key_id",
    pb.USAGE_DIMENSION_SERVICE_ACCOUNT: "service_account_id",
    pb.USAGE_DIMENSION_SUBSCRIPTION: "subscription_id",
    pb.USAGE_DIMENSION_PROVIDER: "provider",
    pb.USAGE_DIMENSION_SERVICE_TIER: "service_tier",
    pb.USAGE_DIMENSION_ENVIRONMENT: "environment",
    pb.USAGE_DIMENSION_UNIT: "unit_id",
    pb.USAGE_DIMENSION_ENDPOINT: "endpoint",
    pb.USAGE_DIMENSION_USAGE_TYPE: "usage_type",
    pb.USAGE_DIMENSION_LANGUAGE_CODE: "language_code",
    pb.USAGE_DIMENSION_CATEGORY: "category",
    pb.USAGE_DIMENSION_BATCH_ID: "batch_id",
    pb.USAGE_DIMENSION_ORGANIZATION: ORGANIZATION,
}
_MEASURES: Final = {
    pb.USAGE_MEASURE_REQUESTS: Measure.REQUESTS,
    pb.USAGE_MEASURE_ERRORS: Measure.ERRORS,
    pb.USAGE_MEASURE_TOTAL_TOKENS: Measure.TOTAL_TOKENS,
    pb.USAGE_MEASURE_QUANTITY: Measure.QUANTITY,
    pb.USAGE_MEASURE_COST: Measure.COST,
    pb.USAGE_MEASURE_PROVIDER_COST: Measure.PROVIDER_COST,
    pb.USAGE_MEASURE_MARGIN: Measure.MARGIN,
}
_MONEY: Final = (Measure.COST, Measure.PROVIDER_COST, Measure.MARGIN)
_ENVIRONMENTS: Final = {pb.ENVIRONMENT_LIVE: LIVE, pb.ENVIRONMENT_TEST: TEST}


def list_fingerprint(request: Message, *left_out: str) -> str:
    """Return what tells a list from others, so that a page token is good for its own only.

    `left_out` are the fields that may differ between its pages, beside the size and the token.
    """
    unpaged: Message = type(request)()
    unpaged.CopyFrom(request)
    for field in ("page_size", "page_token", *left_out):
        unpaged.ClearField(field)
    return hashlib.blake2b(unpaged.SerializeToString(deterministic=True), digest_size=8).hexdigest()


def read_query(request: pb.QueryUsageRequest, now: datetime) -> Query:
    violations: list[FieldViolation] = []
    start_time = parse_time("start_time", request.start_time, violations)
    end_time = parse_time("end_time", request.end_time, violations)
    if not violations and not timedelta(0) < end_time - start_time <= RANGE_MAX:
        violations.append(FieldViolation("end_time", "must be after start_time, at most 3660 days"))
    window, zone = WINDOWS.get(request.window), parse_time_zone("time_zone", request.time_zone, violations)
    if not violations:
        start_time, end_time = outer_range(window, start_time, end_time)
        check_window_count(window, start_time, end_time, now, violations)
        check_days(window, zone, start_time, end_time, violations)
    if window == MINUTE and not request.organization_id:
        violations.append(FieldViolation("window", "is MINUTE, which needs an organization_id"))
    top = _read_top(request, violations)
    further = _read_query_filters(request, violations)
    organization_ids = read_organizations(request, violations)
    if violations:
        raise InvalidArgument(violations)
    group_by = set(request.group_by)
    filters: dict[str, Sequence[str]] = {
        "model": list(request.models),
        "project_id": [value.lower() for value in request.project_ids],
        "user_id": [value.lower() for value in request.user_ids],
        "api_key_id": [value.lower() for value in request.api_key_ids],
    }
    return Query(
        organization_id=request.organization_id.lower(),
        organization_ids=organization_ids,
        start_time=start_time,
        end_time=end_time,
        window=window,
        group_by=tuple(name for dimension, name in _DIMENSIONS.items() if dimension in group_by),
        filters=filters | further,
        zone=zone,
        include_test=request.include_test,
        top=top,
    )


def check_days(
    window: str | None, zone: ZoneInfo, start_time: datetime, end_time: datetime, violations: list[FieldViolation]
) -> None:
    """Add to `violations` a zone of which a day in the range begins where no sum does."""
    if (day := split_day(window, zone, start_time, end_time)) is not None:
        problem = f"has a day, {day}, that begins at a time of UTC at which no sum begins; ask by HOUR, or from"
        violations.append(FieldViolation("time_zone", f"{problem} {COVERED_SINCE:%Y-%m-%d} on"))


def read_measure(
    field: str, request: pb.UsageTop | pb.GetUsageTrendsRequest, violations: list[FieldViolation]
) -> Measured:
    """Read what is measured. A currency or a unit that is missing, or not needed, is added to `violations`."""
    measure = _MEASURES.get(request.measure, Measure.REQUESTS)
    for name, value, is_needed in (
        ("currency_code", request.currency_code, measure in _MONEY),
        ("unit", request.unit, measure is Measure.QUANTITY),
    ):
        if bool(value) != is_needed:
            problem = "is needed for this measure" if is_needed else "can only be given for a measure that needs it"
            violations.append(FieldViolation(f"{field}{name}", problem))
    return Measured(measure, request.currency_code, request.unit)


def _read_top(request: pb.QueryUsageRequest, violations: list[FieldViolation]) -> Top | None:
    if not request.HasField("top"):
        return None
    for problem, is_so in (
        ("needs an organization_id", not request.organization_id),
        ("needs dimensions to group by", not set(request.group_by) - {pb.USAGE_DIMENSION_ORGANIZATION}),
        ("cannot be grouped by unit", pb.USAGE_DIMENSION_UNIT in request.group_by),
        ("is one page, without page_size and page_token", bool(request.page_size or request.page_token)),
    ):
        if is_so:
            violations.append(FieldViolation("top", problem))
    return Top(request.top.count, read_measure("top.", request.top, violations))


def read_organizations(
    request: pb.QueryUsageRequest | pb.ListUsageRequest, violations: list[FieldViolation]
) -> tuple[str, ...]:
    """Return the organizations of a request about several. That it is about one as well is added to `violations`."""
    if request.organization_id and request.organization_ids:
        violations.append(FieldViolation("organization_ids", "can only be given without organization_id"))
    return tuple(sorted({organization_id.lower() for organization_id in request.organization_ids}))


def _read_query_filters(request: pb.QueryUsageRequest, violations: list[FieldViolation]) -> dict[str, Sequence[str]]:
    given = {
        "model": request.models,
        "project_id": request.project_ids,
        "user_id": request.user_ids,
        "api_key_id": request.api_key_ids,
    }
    return read_usage_filters(request.filters, request.group_by, given, violations)


def read_usage_filters(
    filters: Iterable[pb.UsageFilter],
    group_by: Collection[int],
    given: Mapping[str, Sequence[str]],
    violations: list[FieldViolation],
) -> dict[str, Sequence[str]]:
    """Read the filters by dimension; ids are compared in lower case. `given` are those of other fields."""
    found: dict[str, Sequence[str]] = {}
    for number, one in enumerate(filters):
        name = _DIMENSIONS.get(one.dimension, "")
        if name in found or given.get(name):
            violations.append(FieldViolation(f"filters[{number}].dimension", "is filtered twice"))
        values = [value.lower() if name.endswith("_id") and name != "batch_id" else value for value in one.values]
        if name in ("project_id", "user_id", "api_key_id"):
            values = [value or NIL for value in values]
            if not all(map(is_id, values)):
                violations.append(FieldViolation(f"filters[{number}].values", "must be UUIDs, or empty"))
        if name == "environment" and not set(values) <= {LIVE, TEST}:
            violations.append(FieldViolation(f"filters[{number}].values", "must be LIVE or TEST"))
        if name == UNIT and pb.USAGE_DIMENSION_UNIT not in group_by:
            violations.append(FieldViolation(f"filters[{number}].dimension", "needs grouping by unit"))
        found[name] = values
    return found


def read_filters(request: pb.ListUsageRequest) -> Filters:
    environment = _ENVIRONMENTS.get(request.environment)
    plain = (request.project_id, request.user_id, request.api_key_id)
    return Filters(
        (plain[0].lower() or None, plain[1].lower() or None, plain[2].lower() or None, request.model or None),
        (
            request.service_account_id.lower() or None,
            request.subscription_id.lower() or None,
            request.provider or None,
            request.service_tier or None,
            environment,
            request.endpoint or None,
            *(request.labels.get(name) for name in LABELS),
        ),
        request.unit or None,
    )
