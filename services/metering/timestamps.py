"""Times between protobuf and Python: aware, in UTC, to the microsecond."""

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidArgument

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MAX: Final = 253_370_764_800  # the beginning of the year 9999
_MICROSECOND: Final = timedelta(microseconds=1)


def read_time(field: str, timestamp: Timestamp, violations: list[FieldViolation]) -> datetime:
    """Read a time after 1970; what is wrong with it is added to `violations` and reads as 1970."""
    if not 0 <= timestamp.seconds < _SECONDS_MAX or not 0 <= timestamp.nanos < 10**9:
        violations.append(FieldViolation(field, "must be a time between 1970 and 9999"))
        return _EPOCH
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def read_optional_time(field: str, timestamp: Timestamp, *, present: bool) -> datetime | None:
    """Read a time that may be absent; raises InvalidArgument when it makes no sense."""
    if not present:
        return None
    violations: list[FieldViolation] = []
    moment = read_time(field, timestamp, violations)
    if violations:
        raise InvalidArgument(violations)
    return moment


def render_time(moment: datetime) -> Timestamp:
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def fill_time(timestamp: Timestamp, moment: datetime) -> None:
    """Write a time into a message where it stands."""
    since = moment - _EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000


def time_text(moment: datetime) -> str:
    """Return a time as text that reads back exactly, for page tokens."""
    return str((moment - _EPOCH) // _MICROSECOND)


def time_of_text(text: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(text))
