"""Requests about limits, read into what the use cases take."""

import base64
import binascii
import hashlib
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from libs.common.errors import FieldViolation, InvalidArgument
from libs.common.ids import is_id
from libs.common.pages import decode_page_token, encode_page_token, foreign_token
from libs.common.time_zones import parse_time_zone
from libs.common.timestamps import parse_range, time_of_text, time_text
from services.metering.clients.subscriptions import Subject
from services.metering.model.catalogue import Catalogue
from services.metering.quota.alert_store import Alert, Place
from services.metering.quota.changes import UPDATABLE, flaws_of_shape, flaws_of_terms
from services.metering.quota.domain import METRICS, Enforcement, Scope, Shape, Terms, Window, canonical_subject
from services.metering.quota.limit_usage import START, Filters, Position
from services.metering.quota.limits import Setting
from services.metering.quota.rendering import RENDERED_ENFORCEMENTS, RENDERED_SCOPES, RENDERED_WINDOWS
from services.metering.quota.subscription_usage import Asked
from tollhouse.metering.v1 import quota_pb2 as pb

_WINDOWS: Final = {value: window for window, value in RENDERED_WINDOWS.items()}
_SCOPES: Final = {value: scope for scope, value in RENDERED_SCOPES.items()}
_ENFORCEMENTS: Final = {value: one for one, value in RENDERED_ENFORCEMENTS.items()}
_DECIMAL: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_IN_ZONES: Final = (Window.DAY, Window.WEEK, Window.MONTH)
_UTC: Final = "UTC"
_VISIBLE: Final = re.compile(r"[!-~]{1,256}", re.ASCII)
"""What a model's name is made of."""
_DIGITS: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_AHEAD: Final = timedelta(minutes=5)
_ALERTS_OF: Final = timedelta(days=35)
_RANGE_MAX: Final = timedelta(days=400)
_MONDAY: Final = 1


def read_setting(request: pb.SetLimitRequest, catalogue: Catalogue) -> Setting:
    """Read what a limit is to be. With an update_mask, fields that it does not name are not looked at.

    Raises:
        InvalidArgument: something is wrong with it; each field at fault is named.
    """
    terms = _read_terms(request)
    if request.HasField("update_mask"):
        flaws = _flaws_of_mask(request)
        if flaws:
            raise InvalidArgument(flaws)
        return Setting(request.name, None, terms, frozenset(request.update_mask.paths), request.etag)
    shape = _read_shape(request)
    flaws = [*flaws_of_shape(shape), *flaws_of_terms(shape, terms), *_flaws_beside(shape, catalogue)]
    if request.WhichOneof("max") is None:
        flaws.append(FieldViolation("max", "must be given: a value, or unlimited"))
    if flaws:
        raise InvalidArgument(flaws)
    return Setting(request.name, _normal(shape), terms, frozenset(UPDATABLE), request.etag)


def needs_newer_catalogue(request: pb.SetLimitRequest, catalogue: Catalogue) -> bool:
    """Tell whether a limit names something that this process does not know, which another may have added just now."""
    has_unknown_unit = request.metric not in METRICS and request.metric not in catalogue.units
    has_unknown_model = request.scope == pb.LIMIT_SCOPE_MODEL and catalogue.model(request.scope_value) is None
    return has_unknown_unit or has_unknown_model


def read_filters(request: pb.GetUsageAgainstLimitsRequest) -> Filters:
    return Filters(request.name, _SCOPES.get(request.scope), request.scope_value)


def read_subscriptions_asked(request: pb.GetUsageAgainstLimitsRequest) -> Asked | None:
    """Return which subscriptions are asked for; None where there can be none of these.

    Raises:
        InvalidArgument: subscriptions cannot be told by the scope, or it is given without its value.
    """
    scope, value = _SCOPES.get(request.scope), request.scope_value
    flaws: list[FieldViolation] = []
    if scope not in (None, Scope.USER, Scope.MODEL, Scope.SUBSCRIPTION):
        flaws.append(FieldViolation("scope", "must be USER, MODEL or SUBSCRIPTION with by_subscription"))
    elif (scope is None) != (not value):
        flaws.append(FieldViolation("scope_value", "must be given with a scope, and with by_subscription not without"))
    if flaws:
        raise InvalidArgument(flaws)
    if scope is None:
        return Asked(Subject("", ""), "", request.name)
    if scope is Scope.MODEL:
        return Asked(Subject("", value), "", request.name) if _VISIBLE.fullmatch(value) else None
    value = canonical_subject(scope, value)
    if not is_id(value):
        return None
    if scope is Scope.USER:
        return Asked(Subject(value, ""), "", request.name)
    return Asked(Subject("", ""), value, request.name)


def check_usage_asked(request: pb.GetUsageAgainstLimitsRequest) -> None:
    """Check what annotations cannot; raises as `read_subscriptions_asked`."""
    if request.by_subscription:
        read_subscriptions_asked(request)


def usage_fingerprint(request: pb.GetUsageAgainstLimitsRequest) -> str:
    """Return what tells a list from others, so that a page token is good for its own only."""
    asked = (request.organization_id.lower(), request.name, str(request.scope), request.scope_value)
    return hashlib.blake2b("\x1f".join(asked).encode(), digest_size=8).hexdigest()


def read_usage_token(token: str, fingerprint: str) -> Position:
    """Return after which limit and subject the page begins.

    Raises:
        InvalidArgument: the token is none of this list.
    """
    if not token:
        return START
    key = decode_page_token(token, fingerprint)
    try:
        name, subject = key
        return Position(name, _plain(base64.b64decode(subject.encode("ascii"), validate=True)))
    except (ValueError, binascii.Error) as error:
        raise foreign_token() from error


def usage_token(position: Position, fingerprint: str) -> str:
    """Return the token of the page after a limit and subject. JSON would make some subjects six times as long."""
    subject = base64.b64encode(position.subject.encode()).decode()
    return encode_page_token(position.name, subject, fingerprint=fingerprint)


def _plain(data: bytes) -> str:
    text = data.decode()
    if "\x00" in text:
        raise ValueError("text that no row has")
    return text


def _read_shape(request: pb.SetLimitRequest) -> Shape:
    scope = _SCOPES.get(request.scope, Scope.ORGANIZATION)
    return Shape(
        metric=request.metric,
        currency_code=request.currency_code,
        window=_WINDOWS.get(request.window, Window.NONE),
        sliding=request.sliding,
        time_zone=request.time_zone,
        week_start=request.week_start,
        scope=scope,
        scope_value=canonical_subject(scope, request.scope_value),
        label=request.label,
    )


def _normal(shape: Shape) -> Shape:
    """Return a shape with the zone and the first day that are meant where none is given."""
    if shape.sliding or shape.window not in _IN_ZONES:
        return shape
    week_start = (shape.week_start or _MONDAY) if shape.window is Window.WEEK else 0
    return shape._replace(time_zone=shape.time_zone or _UTC, week_start=week_start)


def _read_terms(request: pb.SetLimitRequest) -> Terms:
    return Terms(
        maximum=_decimal(request.value) if request.WhichOneof("max") == "value" else None,
        enforcement=_ENFORCEMENTS.get(request.enforcement, Enforcement.HARD),
        burst=_decimal(request.burst),
        replaces=request.replaces,
        thresholds=tuple(sorted(request.thresholds)),
    )


def _decimal(text: str) -> Decimal:
    """Read a decimal. One that is none is refused for its form; here it must not hide the other faults."""
    return Decimal(text) if _DECIMAL.fullmatch(text) else Decimal(0)


def _flaws_of_mask(request: pb.SetLimitRequest) -> list[FieldViolation]:
    paths = request.update_mask.paths
    flaws: list[FieldViolation] = []
    fields = request.DESCRIPTOR.fields_by_name
    fixed = sorted(path for path in set(paths) - set(UPDATABLE) if path in Shape._fields or path == "name")
    if fixed:
        flaws.append(FieldViolation("update_mask", f"{', '.join(fixed)} cannot be changed; delete the limit instead"))
    elif not paths or not set(paths) <= set(UPDATABLE):
        unknown = sorted(path for path in set(paths) - set(UPDATABLE) if path in fields)
        named = f", and not {', '.join(unknown)}" if unknown else ""
        flaws.append(FieldViolation("update_mask", f"must name fields out of {', '.join(UPDATABLE)}{named}"))
    return flaws


def _flaws_beside(shape: Shape, catalogue: Catalogue) -> list[FieldViolation]:
    """Return what of a shape does not exist: its unit, its zone, its model."""
    flaws: list[FieldViolation] = []
    if shape.metric and shape.metric not in METRICS:
        unit = catalogue.units.get(shape.metric)
        if unit is None or unit.archived:
            state = "is no unit" if unit is None else "is an archived unit"
            flaws.append(FieldViolation("metric", f"{state}, and none of {', '.join(METRICS)}"))
    parse_time_zone("time_zone", shape.time_zone, flaws)
    if shape.scope is Scope.MODEL and shape.scope_value and catalogue.model(shape.scope_value) is None:
        flaws.append(FieldViolation("scope_value", "is no model of the catalogue"))
    return flaws


def read_alert_range(request: pb.ListLimitAlertsRequest, now: datetime) -> tuple[datetime, datetime]:
    """Read the times between which alerts are asked for: the last 35 days where nothing is said.

    Raises:
        InvalidArgument: a time is no moment, or they are more than 400 days apart.
    """
    start_time, end_time = parse_range(request)
    end_time = end_time or now + _AHEAD
    start_time = start_time or end_time - _ALERTS_OF
    if not timedelta(0) <= end_time - start_time <= _RANGE_MAX:
        raise InvalidArgument([FieldViolation("end_time", "must be at most 400 days after start_time")])
    return start_time, end_time


def read_alert_token(token: str, fingerprint: str) -> Place | None:
    """Return after which alert the page begins; None for the first page.

    Raises:
        InvalidArgument: the token is none of this list.
    """
    if not token:
        return None
    key = decode_page_token(token, fingerprint)
    try:
        micros, counter_id, threshold = key
        if not is_id(counter_id) or not all(_DIGITS.fullmatch(part) for part in (micros, threshold)):
            raise ValueError(key)
        return time_of_text(micros), counter_id, int(threshold)
    except ValueError as error:
        raise foreign_token() from error


def alert_token(alert: Alert, fingerprint: str) -> str:
    """Return the token of the page after an alert."""
    key = time_text(alert.create_time), alert.counter_id, str(alert.threshold)
    return encode_page_token(*key, fingerprint=fingerprint)
