"""What a gateway may pass on of limits in the header of its own HTTP answer.

`ratelimit-policy` and `ratelimit` are written as the IETF draft "RateLimit header fields for HTTP" says
(draft-ietf-httpapi-ratelimit-headers), in structured fields (RFC 9651). Its numbers are whole: what is left and what
may be used are rounded down, and a time until something is left is rounded up.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.status import HTTP_STATUS, RETRY_AFTER
from services.metering.admission.domain import Allowed, Decision, Denied, Status
from services.metering.quota.decisions import Refused, left, retry_after_s
from services.metering.quota.domain import REQUESTS, Enforcement, Limit, Window
from services.metering.quota.windows import Span, length_of

LIMITS_MAX: Final = 16
"""The most limits in a header, since clients take 8 KiB of metadata. The one that refused is among them."""
_INTEGER_MAX: Final = 999_999_999_999_999
"""The largest whole number of a structured field."""
_NAME: Final = re.compile(r"[a-z0-9_.-]+")
"""What a limit's name is made of. Anything else could break the header."""
_VALID_KEYS: Final = (
    "KEY_OWNER_INACTIVE",
    "KEY_INSUFFICIENT_SCOPE",
    "KEY_MODEL_NOT_ALLOWED",
    "KEY_ADDRESS_NOT_ALLOWED",
)
"""Refusals of keys that are valid, but may not be used for this."""
_SECOND: Final = timedelta(seconds=1)
_NO_WINDOW: Final = (Window.NONE, Window.CALL, Window.LIFETIME)
_ZERO: Final = Decimal(0)
_POLICIES_MAX: Final = 20_000
_policies: OrderedDict[str, tuple[Limit, str]] = OrderedDict()
"""What was written of limits in windows, by their counters; the one that was written first comes first."""
_RECENT_MAX: Final = 256
_recent: OrderedDict[int, tuple[Sequence[Status], tuple[tuple[str, str], ...]]] = OrderedDict()
"""The hints to the last lists of limits, by their identity: calls of a batch that are under the same ones share the
list. The earliest comes first."""


def http_status_of(reason: str) -> int:
    """Return the HTTP status of a denial: over REST, as for whoever asks about requests of a proxy."""
    if reason == "LIMIT_EXCEEDED":
        return 429
    if reason == "INSUFFICIENT_BALANCE":
        return 402
    return 401 if reason.startswith("KEY_") and reason not in _VALID_KEYS else 403


def hints_of(decision: Decision, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return the hints to a decision, by name and value.

    They tell the status of a denial, and where hard limits stand that have a window and a maximum.
    """
    if isinstance(decision, Denied):
        return hints_of_denied(decision, now)
    return _hints_of_passed(decision, now) if decision.limits else ()


def hints_of_denied(denied: Denied, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return the hints to a denial of a call or a lease."""
    limits = hints_of_limits(denied.limits, denied.refused, now)
    return ((HTTP_STATUS, str(http_status_of(denied.reason))), *limits)


def _hints_of_passed(decision: Allowed, now: datetime) -> tuple[tuple[str, str], ...]:
    known, hints = _recent.get(id(decision.limits), (None, ()))
    if known is not decision.limits:
        hints = hints_of_limits(decision.limits, None, now)
        _recent.pop(id(decision.limits), None)
        _recent[id(decision.limits)] = decision.limits, hints
        if len(_recent) > _RECENT_MAX:
            _recent.popitem(last=False)
    return hints


def hints_of_limits(statuses: Sequence[Status], refused: Refused | None, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return the hints to where limits stand, of which one may have refused a call, by name and value."""
    limits = [(policy, one) for one in statuses if (policy := _policy(one))]
    if refused is not None:
        limits.sort(key=lambda told: told[1][0].counter.limit is not refused.take.limit)
    limits = limits[:LIMITS_MAX]
    hints: list[tuple[str, str]] = []
    seconds = None if refused is None else retry_after_s(refused)
    if seconds is not None:
        hints.append((RETRY_AFTER, str(seconds)))
    if limits:
        hints.append(("ratelimit-policy", ", ".join([policy for policy, _ in limits])))
        hints.append(("ratelimit", ", ".join([_left(one, now) for _, one in limits])))
    return tuple(hints)


def _policy(one: Status) -> str:
    """Return what a limit allows, empty where that is not told. It is written once for each window."""
    (counter, _, before, _), standing = one
    if before is not None:
        return _policy_of(counter.limit, counter.span, standing.carried)
    limit, policy = _policies.get(counter.counter_id, (None, ""))
    if limit is not counter.limit:
        policy = _policy_of(counter.limit, counter.span, _ZERO)
        _policies.pop(counter.counter_id, None)
        _policies[counter.counter_id] = counter.limit, policy
        if len(_policies) > _POLICIES_MAX:
            _policies.popitem(last=False)
    return policy


def _policy_of(limit: Limit, span: Span, carried: Decimal) -> str:
    shape, terms = limit.shape, limit.terms
    if terms.maximum is None or terms.enforcement is not Enforcement.HARD or span.end is None:
        return ""
    if shape.window in _NO_WINDOW or _NAME.fullmatch(limit.name) is None:
        return ""
    length = length_of(shape) if shape.sliding else span.end - span.start
    unit = "" if shape.metric == REQUESTS else f';qu="{shape.currency_code or shape.metric}"'
    return f'"{limit.name}";q={_whole(terms.maximum + carried)}{unit};w={length // _SECOND}'


def _left(one: Status, now: datetime) -> str:
    place, standing = one
    limit, span = place.counter.limit, place.counter.span
    rest = _whole(left(limit, standing) or _ZERO)
    if limit.shape.sliding or span.end is None:
        # In a sliding window there is no moment at which everything is left again.
        return f'"{limit.name}";r={rest}'
    return f'"{limit.name}";r={rest};t={max(-((now - span.end) // _SECOND), 0)}'


def _whole(value: Decimal) -> int:
    return min(int(value), _INTEGER_MAX)
