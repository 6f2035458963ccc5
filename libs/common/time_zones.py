"""The names of time zones that callers may give: those of the IANA database, and no other file beside it."""

import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from libs.common.errors import FieldViolation

_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
# Files of the system's time zone folder that are no IANA zones: this machine's own zone, a default, a placeholder, and
# two copies of the whole folder.
_NOT_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})
_NOT_AREAS: Final = frozenset({"posix", "right"})


class UnknownTimeZone(ValueError):
    """The name is not an IANA time zone."""


def zone_named(name: str) -> ZoneInfo:
    """Return an IANA time zone; raises UnknownTimeZone for a name that is none."""
    try:
        if not _NAME.fullmatch(name) or name in _NOT_ZONES or name.partition("/")[0] in _NOT_AREAS:
            raise ValueError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownTimeZone(f"{name!r} is not an IANA time zone") from None


def parse_time_zone(field: str, name: str, violations: list[FieldViolation]) -> ZoneInfo:
    """Read a time zone; an empty name is UTC. A name that is none is added to `violations` and reads as UTC."""
    try:
        return zone_named(name or "UTC")
    except UnknownTimeZone:
        violations.append(FieldViolation(field, "is not an IANA time zone"))
        return zone_named("UTC")
