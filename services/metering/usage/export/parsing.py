"""Requests for exports, read."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_optional_time, parse_range
from services.metering.usage.dimensions import LABELS, LIVE, TEST
from services.metering.usage.domain import EARLY_MAX, LATE_MAX
from services.metering.usage.export.domain import Asked, Place, Span, Totals
from services.metering.usage.export.store import Written
from services.metering.usage.export.tokens import read_token
from services.metering.usage.store import Filters
from services.metering.usage.usages import LIST_RANGE_MAX
from tollhouse.metering.v1 import usage_pb2 as pb

_ENVIRONMENTS: Final = {pb.ENVIRONMENT_LIVE: LIVE, pb.ENVIRONMENT_TEST: TEST}


def read_export(request: pb.ExportUsageRequest, now: datetime) -> tuple[Asked, Place, Totals]:
    """Return what is to be exported, where to begin, and what was sent before.

    Raises:
        InvalidArgument: the times are wrong, or the token is none of this request.
    """
    organization_ids = _organizations(request)
    if request.resume_token:
        span, place, totals = read_token(request.resume_token, fingerprint_of(request))
        _check_place(request, organization_ids, place)
    else:
        span, place, totals = _span(request, now), Place(), Totals()
    asked = Asked(request.organization_id.lower(), organization_ids, span, _filters(request), _written(request))
    return asked, place, totals


def fingerprint_of(request: pb.ExportUsageRequest) -> str:
    """Return what tells an export from others."""
    own = pb.ExportUsageRequest()
    own.CopyFrom(request)
    own.ClearField("resume_token")
    return hashlib.blake2b(own.SerializeToString(deterministic=True), digest_size=8).hexdigest()


def _written(request: pb.ExportUsageRequest) -> Written:
    if request.format == pb.USAGE_EXPORT_FORMAT_JSON_LINES:
        return Written.JSON
    if request.format == pb.USAGE_EXPORT_FORMAT_FOCUS:
        return Written.COLUMNS if request.raw_text else Written.GUARDED_COLUMNS
    return Written.CSV if request.raw_text else Written.GUARDED_CSV


def _organizations(request: pb.ExportUsageRequest) -> Sequence[str]:
    if request.organization_id and request.organization_ids:
        raise InvalidArgument([FieldViolation("organization_ids", "can only be given without organization_id")])
    return tuple(sorted({organization_id.lower() for organization_id in request.organization_ids}))


def _check_place(request: pb.ExportUsageRequest, organization_ids: Sequence[str], place: Place) -> None:
    """A token comes from the caller: it may lead to no organization that the request does not name."""
    named = [request.organization_id.lower()] if request.organization_id else organization_ids
    if place.organization_id and named and place.organization_id not in named:
        raise InvalidArgument([FieldViolation("resume_token", "is not a token of this export")])


def _span(request: pb.ExportUsageRequest, now: datetime) -> Span:
    start_time, end_time = parse_range(request)
    end_time = end_time or now + EARLY_MAX
    start_time = start_time or end_time - LATE_MAX
    if not start_time <= end_time <= start_time + LIST_RANGE_MAX:
        raise InvalidArgument([FieldViolation("end_time", "must be at most 400 days after start_time")])
    as_of_time = parse_optional_time("as_of_time", request.as_of_time, present=request.HasField("as_of_time"))
    return Span(start_time, end_time, min(as_of_time or now, now))


def _filters(request: pb.ExportUsageRequest) -> Filters:
    ids = (request.project_id, request.user_id, request.api_key_id)
    return Filters(
        (ids[0].lower() or None, ids[1].lower() or None, ids[2].lower() or None, request.model or None),
        (
            request.service_account_id.lower() or None,
            request.subscription_id.lower() or None,
            request.provider or None,
            request.service_tier or None,
            _ENVIRONMENTS.get(request.environment),
            request.endpoint or None,
            *(request.labels.get(name) for name in LABELS),
        ),
    )
