"""What a limit may be, and what of it may be changed: pure rules."""

from collections.abc import Collection, Mapping
from typing import Final

from libs.common.amount import format_amount
from libs.common.audit.chain import Changed, differences
from libs.common.errors import FieldViolation
from services.metering.quota.domain import (
    CONCURRENT_CALLS,
    SPEND,
    Limit,
    Scope,
    Shape,
    Terms,
    Window,
    may_be_subject,
)
from services.metering.quota.windows import CALENDAR, STEPS

UPDATABLE: Final[Mapping[str, str]] = {
    "max": "maximum",
    "enforcement": "enforcement",
    "burst": "burst",
    "replaces": "replaces",
    "thresholds": "thresholds",
}
"""The fields of a request that change a limit's terms, and the terms."""

_ID_NEEDED: Final = "must be an id, which is a UUID, or empty"


def merged(before: Terms, new: Terms, fields: Collection[str]) -> Terms:
    """Return terms with some fields, named as in a request, taken from others."""
    return before._replace(**{UPDATABLE[field]: getattr(new, UPDATABLE[field]) for field in fields})


def differing(before: Shape, after: Shape) -> str | None:
    """Return the first field in which two shapes differ."""
    pairs = zip(Shape._fields, before, after, strict=True)
    return next((field for field, one, other in pairs if one != other), None)


def flaws_of_shape(shape: Shape) -> list[FieldViolation]:
    """Return what is wrong with what a limit would count, by itself: no catalogue and no time zones are looked at."""
    return [*_flaws_of_metric(shape), *_flaws_of_window(shape), *_flaws_of_scope(shape)]


def flaws_of_terms(shape: Shape, terms: Terms) -> list[FieldViolation]:
    """Return what is wrong with what a limit would allow."""
    flaws: list[FieldViolation] = []
    if terms.burst and (shape.sliding or shape.window not in CALENDAR):
        flaws.append(
            FieldViolation("burst", "must be empty except for minutes, hours, days, weeks and months, not sliding")
        )
    elif terms.burst and terms.maximum is None:
        flaws.append(FieldViolation("burst", "must be empty where any amount may be used"))
    if terms.thresholds and (shape.sliding or shape.window in (Window.NONE, Window.CALL)):
        flaws.append(
            FieldViolation("thresholds", "must be empty for sliding windows, single calls and concurrent_calls")
        )
    return flaws


def changes(before: Limit | None, after: Limit | None) -> tuple[Changed, ...]:
    """Return the changed fields for the audit trail; None is no limit."""
    return differences(_plain_fields(before), _plain_fields(after))


def _flaws_of_metric(shape: Shape) -> list[FieldViolation]:
    if not shape.metric:
        return [FieldViolation("metric", "must be given")]
    if (shape.metric == SPEND) != bool(shape.currency_code):
        rule = "must be empty except for spend" if shape.currency_code else "must be given for spend"
        return [FieldViolation("currency_code", rule)]
    return []


def _flaws_of_window(shape: Shape) -> list[FieldViolation]:
    flaws: list[FieldViolation] = []
    window = shape.window
    if shape.metric == CONCURRENT_CALLS and window is not Window.NONE:
        flaws.append(FieldViolation("window", "must be unspecified for concurrent_calls"))
    elif shape.metric not in ("", CONCURRENT_CALLS) and window is Window.NONE:
        flaws.append(FieldViolation("window", "must be given except for concurrent_calls"))
    if window is Window.PERIOD:
        flaws.append(FieldViolation("window", "can be a billing period only for an entitlement of a plan"))
    if shape.sliding and window not in STEPS:
        flaws.append(FieldViolation("sliding", "can be true for minutes, hours, days and weeks only"))
    if shape.time_zone and (shape.sliding or window not in (Window.DAY, Window.WEEK, Window.MONTH)):
        flaws.append(FieldViolation("time_zone", "must be empty except for days, weeks and months, not sliding"))
    if shape.week_start and (shape.sliding or window is not Window.WEEK):
        flaws.append(FieldViolation("week_start", "must be zero except for weeks, not sliding"))
    return flaws


def _flaws_of_scope(shape: Shape) -> list[FieldViolation]:
    flaws: list[FieldViolation] = []
    if shape.scope is Scope.ORGANIZATION and shape.scope_value:
        flaws.append(FieldViolation("scope_value", "must be empty for all calls of the organization"))
    elif not may_be_subject(shape.scope, shape.scope_value):
        flaws.append(FieldViolation("scope_value", _ID_NEEDED))
    if (shape.scope is Scope.LABEL) != bool(shape.label):
        rule = "must be empty except with the scope LABEL" if shape.label else "must be given with the scope LABEL"
        flaws.append(FieldViolation("label", rule))
    return flaws


def _plain_fields(limit: Limit | None) -> dict[str, str | None]:
    if limit is None:
        return {}
    shape, terms = limit.shape, limit.terms
    fields = {
        "limit_id": limit.limit_id,
        "metric": shape.metric,
        "currency_code": shape.currency_code,
        "window": shape.window.value,
        "sliding": str(shape.sliding).lower(),
        "time_zone": shape.time_zone,
        "week_start": str(shape.week_start) if shape.week_start else "",
        "scope": shape.scope.value,
        "scope_value": shape.scope_value,
        "label": shape.label,
        "max": "unlimited" if terms.maximum is None else format_amount(terms.maximum),
        "enforcement": terms.enforcement.value,
        "burst": format_amount(terms.burst),
        "replaces": str(terms.replaces).lower(),
        "thresholds": " ".join(map(str, terms.thresholds)),
    }
    return {name: value or None for name, value in fields.items()}
