"""Which charges ListCharges lists, the same in billing and metering."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.digests import is_bucket_count
from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.timestamps import parse_time


class ChargeFilter(NamedTuple):
    """Which charges are wanted. What is None or empty leaves nothing out."""

    organization_id: str | None = None
    operation_ids: tuple[str, ...] = ()
    buckets: tuple[int, ...] = ()
    bucket_count: int = 0
    since_time: datetime | None = None
    until_time: datetime | None = None

    @property
    def fingerprint(self) -> str:
        """A name for the filter, for page tokens."""
        return hashlib.sha256(repr(tuple(self)).encode()).hexdigest()


class HasTimes(Protocol):
    """A request with the two times."""

    @property
    def since_time(self) -> Timestamp: ...

    @property
    def until_time(self) -> Timestamp: ...

    def HasField(self, field_name: Literal["since_time", "until_time"], /) -> bool: ...  # noqa: N802


class HasFilter(HasTimes, Protocol):
    """A request with a filter."""

    @property
    def organization_id(self) -> str: ...

    @property
    def operation_ids(self) -> Sequence[str]: ...

    @property
    def buckets(self) -> Sequence[int]: ...

    @property
    def bucket_count(self) -> int: ...


def parse_times(request: HasTimes) -> tuple[datetime | None, datetime | None]:
    """Read `since_time` and `until_time`, each of which may be absent.

    Raises:
        InvalidArgument: naming each of them that makes no sense.
    """
    violations: list[FieldViolation] = []
    times = _times(request, violations)
    if violations:
        raise InvalidArgument(violations)
    return times


def _times(request: HasTimes, violations: list[FieldViolation]) -> tuple[datetime | None, datetime | None]:
    since_time = until_time = None
    if request.HasField("since_time"):
        since_time = parse_time("since_time", request.since_time, violations)
    if request.HasField("until_time"):
        until_time = parse_time("until_time", request.until_time, violations)
    return since_time, until_time


def parse_filter(request: HasFilter) -> ChargeFilter:
    """Read the filter of a request.

    Raises:
        InvalidArgument: naming each field that makes no sense, alone or beside the others.
    """
    violations: list[FieldViolation] = []
    times = _times(request, violations)
    if (request.operation_ids or request.buckets) and not request.organization_id:
        violations.append(FieldViolation("organization_id", "is required with operation_ids or buckets"))
    if request.operation_ids and request.buckets:
        violations.append(FieldViolation("operation_ids", "cannot be combined with buckets"))
    if request.buckets and not is_bucket_count(request.bucket_count):
        violations.append(FieldViolation("bucket_count", "must be a power of two"))
    elif request.buckets and max(request.buckets) >= request.bucket_count:
        violations.append(FieldViolation("buckets", "must be less than bucket_count"))
    if request.bucket_count and not request.buckets:
        violations.append(FieldViolation("bucket_count", "is allowed only with buckets"))
    if violations:
        raise InvalidArgument(violations)
    return ChargeFilter(
        request.organization_id.lower() or None,
        tuple(sorted(set(request.operation_ids))),
        tuple(sorted(set(request.buckets))),
        request.bucket_count,
        *times,
    )
