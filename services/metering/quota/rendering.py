"""Limits in answers."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.timestamps import render_time
from services.metering.quota.decisions import Counter, Place, Refused, Standing, left
from services.metering.quota.domain import Enforcement, Limit, Scope, Window
from services.metering.quota.windows import length_of
from tollhouse.metering.v1 import quota_pb2 as pb

RENDERED_WINDOWS: Final = {
    Window.NONE: pb.LIMIT_WINDOW_UNSPECIFIED,
    Window.CALL: pb.LIMIT_WINDOW_CALL,
    Window.MINUTE: pb.LIMIT_WINDOW_MINUTE,
    Window.HOUR: pb.LIMIT_WINDOW_HOUR,
    Window.DAY: pb.LIMIT_WINDOW_DAY,
    Window.WEEK: pb.LIMIT_WINDOW_WEEK,
    Window.MONTH: pb.LIMIT_WINDOW_MONTH,
    Window.PERIOD: pb.LIMIT_WINDOW_PERIOD,
    Window.LIFETIME: pb.LIMIT_WINDOW_LIFETIME,
}
RENDERED_SCOPES: Final = {
    Scope.ORGANIZATION: pb.LIMIT_SCOPE_ORGANIZATION,
    Scope.PROJECT: pb.LIMIT_SCOPE_PROJECT,
    Scope.USER: pb.LIMIT_SCOPE_USER,
    Scope.SERVICE_ACCOUNT: pb.LIMIT_SCOPE_SERVICE_ACCOUNT,
    Scope.API_KEY: pb.LIMIT_SCOPE_API_KEY,
    Scope.SUBSCRIPTION: pb.LIMIT_SCOPE_SUBSCRIPTION,
    Scope.MODEL: pb.LIMIT_SCOPE_MODEL,
    Scope.PROVIDER: pb.LIMIT_SCOPE_PROVIDER,
    Scope.LABEL: pb.LIMIT_SCOPE_LABEL,
}
RENDERED_ENFORCEMENTS: Final = {
    Enforcement.HARD: pb.LIMIT_ENFORCEMENT_HARD,
    Enforcement.SOFT: pb.LIMIT_ENFORCEMENT_SOFT,
    Enforcement.SHADOW: pb.LIMIT_ENFORCEMENT_SHADOW,
}

_NAMED_MAX: Final = 20_000
_NAMED: Final[OrderedDict[str, tuple[Limit, pb.LimitStatus]]] = OrderedDict()


def render_status(place: Place, standing: Standing) -> pb.LimitStatus:
    """Return where a limit stands."""
    limit = place.counter.limit
    status = pb.LimitStatus()
    status.CopyFrom(_named(place.counter))
    status.used = format_amount(standing.used + standing.earlier_sum if standing.earlier else standing.used)
    status.reserved = format_amount(standing.reserved)
    maximum, rest = limit.terms.maximum, left(limit, standing)
    if maximum is not None and rest is not None:
        now_at_most = maximum + standing.carried
        status.max, status.remaining = format_amount(now_at_most), format_amount(rest)
        status.exceeded = standing.total > now_at_most
    return status


def _named(counter: Counter) -> pb.LimitStatus:
    """Return what is told of a counter whatever it has. It is remembered, since it is told with every call."""
    limit, status = _NAMED.get(counter.counter_id, (None, None))
    if limit is counter.limit and status is not None:
        return status
    status = _new_named(counter)
    _NAMED.pop(counter.counter_id, None)
    _NAMED[counter.counter_id] = counter.limit, status
    if len(_NAMED) > _NAMED_MAX:
        _NAMED.popitem(last=False)
    return status


def _new_named(counter: Counter) -> pb.LimitStatus:
    limit, span = counter.limit, counter.span
    shape = limit.shape
    status = pb.LimitStatus(
        name=limit.name,
        limit_id=limit.limit_id,
        metric=shape.metric,
        currency_code=shape.currency_code,
        window=RENDERED_WINDOWS[shape.window],
        sliding=shape.sliding,
        scope=RENDERED_SCOPES[shape.scope],
        scope_value=counter.subject,
        enforcement=RENDERED_ENFORCEMENTS[limit.terms.enforcement],
        entitled=limit.is_entitled,
    )
    if shape.sliding and span.end is not None:
        status.window_start_time.CopyFrom(render_time(span.end - length_of(shape)))
    elif span.end is not None:
        status.window_start_time.CopyFrom(render_time(span.start))
        status.reset_time.CopyFrom(render_time(span.end))
    return status


def render_statuses(places: Sequence[tuple[Place, Standing]], refused: Refused | None = None) -> list[pb.LimitStatus]:
    """Return where limits stand. One that refused comes first, with what was needed."""
    statuses = [
        render_status(place, standing)
        for place, standing in places
        if refused is None or place.counter.limit is not refused.take.limit
    ]
    if refused is None:
        return statuses
    first = render_status(refused.take.place, refused.standing)
    first.needed = format_amount(refused.take.amount)
    if refused.retry_after is not None:
        first.retry_after.FromTimedelta(max(refused.retry_after, timedelta(0)))
    return [first, *statuses]


def facts_of(refused: Refused) -> dict[str, str]:
    """Return the numbers behind a refusal."""
    limit, standing = refused.take.limit, refused.standing
    maximum = (limit.terms.maximum or Decimal(0)) + standing.carried
    facts = {
        "limit": limit.name,
        "metric": limit.shape.metric,
        "max": format_amount(maximum),
        "used": format_amount(standing.used + standing.earlier_sum),
        "reserved": format_amount(standing.reserved),
        "remaining": format_amount(left(limit, standing) or Decimal(0)),
        "needed": format_amount(refused.take.amount),
    }
    if limit.shape.currency_code:
        facts["currency_code"] = limit.shape.currency_code
    if refused.take.place.counter.subject:
        facts["scope_value"] = refused.take.place.counter.subject
    if refused.retry_after is not None:
        facts["retry_after_ms"] = str(-(-refused.retry_after // timedelta(milliseconds=1)))
    return facts
