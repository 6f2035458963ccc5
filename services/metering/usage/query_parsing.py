"""Reads what lists and sums of usage are asked for."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import NIL, is_id
from libs.common.time_zones import parse_time_zone
from libs.common.timestamps import parse_time
from services.metering.usage.dimensions import LABELS, LIVE, TEST
from services.metering.usage.store import Filters
from services.metering.usage.summaries import RANGE_MAX, UNIT, Query
from services.metering.usage.windows import DAY, HOUR, MONTH, check_window_count, keeps_whole_hours
from tollhouse.metering.v1 import usage_pb2 as pb

_WINDOWS: Final = {
    pb.USAGE_WINDOW_UNSPECIFIED: None,
    pb.USAGE_WINDOW_HOUR: HOUR,
    pb.USAGE_WINDOW_DAY: DAY,
    pb.USAGE_WINDOW_MONTH: MONTH,
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
}
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


def read_query(request: pb.QueryUsageRequest) -> Query:
    violations: list[FieldViolation] = []
    start_time = parse_time("start_time", request.start_time, violations)
    end_time = parse_time("end_time", request.end_time, violations)
    if not violations and not timedelta(0) < end_time - start_time <= RANGE_MAX:
        violations.append(FieldViolation("end_time", "must be after start_time, at most 3660 days"))
    window, zone = _WINDOWS.get(request.window), parse_time_zone("time_zone", request.time_zone, violations)
    if not violations:
        check_window_count(window, start_time, end_time, violations)
        if window in (DAY, MONTH) and not keeps_whole_hours(zone, start_time, end_time):
            violations.append(FieldViolation("time_zone", "is off UTC by part of an hour; ask by HOUR"))
    further = _read_query_filters(request, violations)
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
        start_time=start_time.replace(minute=0, second=0, microsecond=0),
        end_time=_full_hour_after(end_time),
        window=window,
        group_by=tuple(name for dimension, name in _DIMENSIONS.items() if dimension in group_by),
        filters=filters | further,
        zone=zone,
        include_test=request.include_test,
    )


def _read_query_filters(request: pb.QueryUsageRequest, violations: list[FieldViolation]) -> dict[str, Sequence[str]]:
    """Read the filters by dimension; ids are compared in lower case."""
    found: dict[str, Sequence[str]] = {}
    given = {
        "model": request.models,
        "project_id": request.project_ids,
        "user_id": request.user_ids,
        "api_key_id": request.api_key_ids,
    }
    for number, one in enumerate(request.filters):
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
        if name == UNIT and pb.USAGE_DIMENSION_UNIT not in request.group_by:
            violations.append(FieldViolation(f"filters[{number}].dimension", "needs grouping by unit"))
        found[name] = values
    return found


def _full_hour_after(moment: datetime) -> datetime:
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if hour == moment else hour + timedelta(hours=1)


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
