"""Reads requests to re-rate usage."""

import hashlib
from datetime import timedelta
from typing import Final, NamedTuple

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.repeats.parsing import repeatable
from libs.common.timestamps import parse_range
from services.metering.usage.rerate.domain import Scope
from services.metering.usage.rerate.jobs import Asked
from tollhouse.metering.v1 import usage_pb2 as pb

RANGE_MAX: Final = timedelta(days=400)
_FINGERPRINT_BYTES: Final = 16
_IDS: Final = (
    *("project_id", "user_id", "api_key_id", "subscription_id"),
    *("current_price_version_id", "price_version_id"),
)


def read_scope(request: pb.RerateUsageRequest) -> Scope:
    """Read which usage is re-rated, and at which price.

    Raises:
        InvalidArgument: a time is no moment, or the range is empty or too long, or a page is asked for of a job.
    """
    start_time, end_time = parse_range(request)
    violations: list[FieldViolation] = []
    if start_time is None or end_time is None:
        violations.append(FieldViolation("start_time" if start_time is None else "end_time", "is required"))
    elif end_time - start_time > RANGE_MAX:
        violations.append(FieldViolation("end_time", "must be at most 400 days after start_time"))
    pages = [name for name in ("page_size", "page_token") if getattr(request, name)]
    violations += [FieldViolation(name, "is for validate_only") for name in pages if not request.validate_only]
    if start_time is None or end_time is None or violations:
        raise InvalidArgument(violations)
    return Scope(
        sorted({one.lower() for one in request.organization_ids}),
        start_time,
        end_time,
        sorted(set(request.models)),
        (
            request.project_id.lower() or None,
            request.user_id.lower() or None,
            request.api_key_id.lower() or None,
            request.subscription_id.lower() or None,
        ),
        request.current_price_version_id.lower() or None,
        request.price_version_id.lower() or None,
    )


def read_asked(request: pb.RerateUsageRequest) -> Asked:
    """Read the job that is asked for. Ids in upper case make no difference."""
    body = pb.RerateUsageRequest()
    body.CopyFrom(request)
    for name in _IDS:
        setattr(body, name, getattr(body, name).lower())
    body.organization_ids[:] = [one.lower() for one in request.organization_ids]
    return Asked(request.operation_id, repeatable("", "RerateUsage", body), read_scope(request), request.digest)


class Kept(NamedTuple):
    """What a job does, as it was asked for."""

    scope: Scope
    reason: str
    digest: str


def read_kept(request: bytes) -> Kept:
    """Read the request of a job as it is stored."""
    kept = pb.RerateUsageRequest.FromString(request)
    return Kept(read_scope(kept), kept.reason, kept.digest)


def preview_fingerprint(scope: Scope) -> str:
    """Return what names the filters and the price of a preview, so that a page token is refused with others."""
    return "rerate/" + hashlib.blake2b(repr(scope).encode(), digest_size=_FINGERPRINT_BYTES).hexdigest()
