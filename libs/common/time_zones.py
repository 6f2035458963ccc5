"""IANA time zones by name, from Python's time zone data: the system's, else those of the package `tzdata`."""

import re
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
# Files of the system's time zone folder that are no IANA zones: this machine's own zone, a default, a placeholder, and
# two copies of the whole folder.
_NOT_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})
_NOT_AREAS: Final = frozenset({"posix", "right"})


def find_zone(name: str) -> ZoneInfo | None:
    """Return an IANA time zone; None if no zone has the name."""
    if not _NAME.fullmatch(name) or name in _NOT_ZONES or name.partition("/")[0] in _NOT_AREAS:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
