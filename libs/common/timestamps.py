"""Times in protobuf and in Python: aware, in UTC, to the microsecond; and as text in page tokens."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidArgument

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""After every time that is stored."""
_SECONDS_MAX: Final = 253_370_764_800  # The beginning of the year 9999.
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_time(field: str, timestamp: Timestamp, violations: list[FieldViolation]) -> datetime:
    """Read a moment from 1970 on; what is wrong with it is added to `violations` and reads as 1970."""
    if not 0 <= timestamp.seconds < _SECONDS_MAX or not 0 <= timestamp.nanos < 10**9:
        violations.append(FieldViolation(field, "must be a time between the years 1970 and 9999"))
        return EPOCH
    return EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def parse_optional_time(field: str, timestamp: Timestamp, *, present: bool) -> datetime | None:
    """Read a moment that may be absent.

    Raises:
        InvalidArgument: it is there and makes no sense.
    """
    if not present:
        return None
    violations: list[FieldViolation] = []
    moment = parse_time(field, timestamp, violations)
    if violations:
        raise InvalidArgument(violations)
    return moment


class HasRange(Protocol):
    """A request with an optional beginning and an optional end."""

    @property
    def start_time(self) -> Timestamp: ...

    @property
    def end_time(self) -> Timestamp: ...

    def HasField(self, field_name: Literal["start_time", "end_time"], /) -> bool: ...  # noqa: N802 -- protobuf's name.


def parse_range(request: HasRange) -> tuple[datetime | None, datetime | None]:
    """Read `start_time` and `end_time`, each of which may be absent.

    Raises:
        InvalidArgument: naming each of them that makes no sense, or the end where it is not after the start.
    """
    violations: list[FieldViolation] = []
    start_time = end_time = None
    if request.HasField("start_time"):
        start_time = parse_time("start_time", request.start_time, violations)
    if request.HasField("end_time"):
        end_time = parse_time("end_time", request.end_time, violations)
    if start_time is not None and end_time is not None and end_time <= start_time and not violations:
        violations.append(FieldViolation("end_time", "must be after start_time"))
    if violations:
        raise InvalidArgument(violations)
    return start_time, end_time


def render_time(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    fill_time(timestamp, moment)
    return timestamp


def render_optional_time(moment: datetime | None) -> Timestamp | None:
    """Return the moment as a message; None stays None, which leaves a field absent."""
    return None if moment is None else render_time(moment)


def fill_time(timestamp: Timestamp, moment: datetime) -> None:
    """Write a moment into a message where it stands."""
    since = moment - EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000


def micros_of(moment: datetime) -> int:
    """Return how many microseconds after 1970 a moment is."""
    return (moment - EPOCH) // _MICROSECOND


def moment_of(micros: int) -> datetime:
    """Return the moment that is so many microseconds after 1970; raises OverflowError beyond the calendar."""
    return EPOCH + timedelta(microseconds=micros)


def rfc3339(moment: datetime) -> str:
    """Return a moment as RFC 3339 writes it, in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_text(moment: datetime) -> str:
    """Return the moment as text that reads back exactly."""
    return str(micros_of(moment))


def time_of_text(text: str) -> datetime:
    """Return the moment a text stands for; raises ValueError for a text that is none, or one beyond the calendar."""
    try:
        return moment_of(int(text))
    except OverflowError:
        raise ValueError(text) from None
