"""Moments on the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation


def render_time(moment: datetime | None) -> Timestamp | None:
    """Return the moment as a message; None stays None, which leaves a field absent."""
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def parse_time(field: str, timestamp: Timestamp, violations: list[FieldViolation]) -> datetime | None:
    """Return the moment, or None after adding a violation where it is none that a calendar knows."""
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        violations.append(FieldViolation(field, "is not a moment between the years 1 and 9999"))
        return None
