"""What a gateway may pass on of limits in the header of its own HTTP answer.

`ratelimit-policy` and `ratelimit` are written as the IETF draft "RateLimit header fields for HTTP" says
(draft-ietf-httpapi-ratelimit-headers), in structured fields (RFC 9651). Its numbers are whole: what is left and what
may be used are rounded down, and a time until something is left is rounded up.
"""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.metering.admission.domain import Decision, Denied, Status
from services.metering.admission.limits import retry_after_s
from services.metering.quota.decisions import left
from services.metering.quota.domain import REQUESTS, Enforcement, Limit, Window
from services.metering.quota.windows import length_of

LIMITS_MAX: Final = 16
"""The most limits in a header, since clients take 8 KiB of metadata. The one that refused is among them."""
_INTEGER_MAX: Final = 999_999_999_999_999
"""The largest whole number of a structured field."""
_NAME: Final = re.compile(r"[a-z0-9_.-]+")
"""What a limit's name is made of. Anything else could break the header."""
_SECOND: Final = timedelta(seconds=1)
_NO_WINDOW: Final = (Window.NONE, Window.CALL, Window.LIFETIME)


def hints_of(decision: Decision, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return the hints to a decision: of hard limits that have a window and a maximum, by name and value."""
    refused = decision.refused if isinstance(decision, Denied) else None
    limits = [one for one in decision.limits if _is_told(one[0].counter.limit)]
    if refused is not None:
        limits.sort(key=lambda one: one[0].counter.limit is not refused.take.limit)
    limits = limits[:LIMITS_MAX]
    hints: list[tuple[str, str]] = []
    seconds = None if refused is None else retry_after_s(refused)
    if seconds is not None:
        hints.append(("retry-after", str(seconds)))
    if limits:
        hints.append(("ratelimit-policy", ", ".join(map(_policy, limits))))
        hints.append(("ratelimit", ", ".join([_left(one, now) for one in limits])))
    return tuple(hints)


def _is_told(limit: Limit) -> bool:
    terms = limit.terms
    has_window = limit.shape.window not in _NO_WINDOW
    is_hard = terms.maximum is not None and terms.enforcement is Enforcement.HARD
    return has_window and is_hard and _NAME.fullmatch(limit.name) is not None


def _policy(one: Status) -> str:
    place, standing = one
    limit, span = place.counter.limit, place.counter.span
    shape, maximum = limit.shape, limit.terms.maximum or Decimal(0)
    length = length_of(shape) if shape.sliding or span.end is None else span.end - span.start
    unit = "" if shape.metric == REQUESTS else f';qu="{shape.currency_code or shape.metric}"'
    return f'"{limit.name}";q={_whole(maximum + standing.carried)}{unit};w={length // _SECOND}'


def _left(one: Status, now: datetime) -> str:
    place, standing = one
    limit, span = place.counter.limit, place.counter.span
    rest = left(limit, standing) or Decimal(0)
    # In a sliding window there is no moment at which everything is left again.
    reset = "" if limit.shape.sliding or span.end is None else f";t={max(-((now - span.end) // _SECOND), 0)}"
    return f'"{limit.name}";r={_whole(rest)}{reset}'


def _whole(value: Decimal) -> int:
    return min(int(value), _INTEGER_MAX)
