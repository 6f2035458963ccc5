"""Times and durations as people type them: `30d`, `12h`, or `2026-12-31T23:59:00Z`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.failures import WrongUse
from libs.common.clock import SystemClock

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)


def parse_span(text: str) -> timedelta:
    """Read a duration: a number with a unit."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise WrongUse(f"{text!r} is not a span of time such as 90m, 12h or 30d.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_future(text: str) -> Timestamp:
    """Read a time, or a span counted from now."""
    return _moment(text, 1)


def parse_past(text: str) -> Timestamp:
    """Read a time, or a span counted back from now."""
    return _moment(text, -1)


def _moment(text: str, direction: int) -> Timestamp:
    stamp = Timestamp()
    try:
        time = SystemClock().now() + direction * parse_span(text) if _SPAN.fullmatch(text) else _time(text)
        stamp.FromDatetime(time)
    except (ValueError, OverflowError):
        raise WrongUse(f"{text!r} is neither a time such as 2026-12-31T23:59:00Z nor a span such as 30d.") from None
    return stamp


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
