"""Limits and where they stand, as people read them."""

from datetime import UTC
from decimal import Decimal
from typing import Final

from libs.cli.terminal.output import cell
from tollhouse.metering.v1 import quota_pb2 as pb

USAGE: Final = ("name", "for", "usage", "used", "reserved", "max", "remaining", "resets")
SUBSCRIPTIONS: Final = ("subscription_id", "for", "state", "ends", *USAGE[:1], *USAGE[2:])
ALERTS: Final = ("time", "name", "for", "reached", "used", "max")
_BAR_CHARS: Final = 20
_USED: Final = "#"
_RESERVED: Final = "="
_LEFT: Final = "."


def limit_row(limit: pb.Limit) -> list[str]:
    """Return a limit as the cells of a table."""
    return [
        limit.name,
        _metric(limit),
        _window_text(limit),
        _for(limit, limit.label),
        limit.value or "unlimited",
        cell(limit, "enforcement"),
        limit.burst,
        cell(limit, "replaces"),
        " ".join(f"{one}%" for one in limit.thresholds),
    ]


def usage_row(status: pb.LimitStatus) -> list[str]:
    """Return where a limit stands as the cells of a table."""
    resets = status.reset_time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if status.HasField("reset_time") else ""
    used = f"{status.used} {_metric(status)}"
    left = f"{status.remaining} (exceeded)" if status.exceeded else status.remaining
    return [status.name, _for(status), bar(status), used, status.reserved, status.max or "unlimited", left, resets]


def subscription_rows(one: pb.SubscriptionUsage) -> list[list[str]]:
    """Return a subscription as the cells of a table, with a row for each of its limits."""
    plan = f"plan {one.plan_code}" if one.plan_code else ""
    subject = " ".join(filter(None, (one.user_id or "organization", one.model, plan)))
    state = cell(one, "state").replace("_", " ")
    state = f"{state} ({one.state_reason})" if one.state != one.billing_state else state
    ends = next((name for name in ("expire_time", "period_end_time") if one.HasField(name)), "")
    shown = [one.subscription_id, subject, state, cell(one, ends) if ends else ""]
    cells = [usage_row(limit) for limit in one.limits] or [[""] * len(USAGE)]
    return [[*shown, *row[:1], *row[2:]] for row in cells]


def alert_row(alert: pb.LimitAlert) -> list[str]:
    """Return a threshold that was reached as the cells of a table."""
    time = alert.create_time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return [time, alert.name, _for(alert), f"{alert.threshold}%", f"{alert.used} {_metric(alert)}", alert.max]


def alert_key(alert: pb.LimitAlert) -> tuple[str, str, int, int]:
    """Return what tells an alert from others: the limit, whose, the window and the threshold."""
    return alert.limit_id, alert.scope_value, alert.window_start_time.seconds, alert.threshold


def bar(status: pb.LimitStatus, chars: int = _BAR_CHARS) -> str:
    """Return a bar of what is used and reserved of a maximum, as full as it is but never rounded up to full.

    It is empty text where any amount may be used. More than the maximum fills the bar.
    """
    if not status.max:
        return ""
    maximum, used, reserved = Decimal(status.max), Decimal(status.used), Decimal(status.reserved)
    taken = used + reserved
    if not maximum:
        return f"[{_USED * chars if taken else _LEFT * chars}]"
    used_chars = _chars(used, maximum, chars)
    reserved_chars = max(_chars(taken, maximum, chars) - used_chars, 0)
    return f"[{_USED * used_chars}{_RESERVED * reserved_chars}{_LEFT * (chars - used_chars - reserved_chars)}]"


def _chars(value: Decimal, maximum: Decimal, chars: int) -> int:
    """Return how many characters stand for a part of the maximum; one at least for anything at all."""
    if value <= 0:
        return 0
    return max(1, min(chars, int(value * chars / maximum)))


def _metric(message: pb.Limit | pb.LimitStatus | pb.LimitAlert) -> str:
    return " ".join(filter(None, (message.metric, message.currency_code)))


def _window_text(limit: pb.Limit) -> str:
    window = cell(limit, "window")
    if limit.sliding:
        return f"sliding {window}"
    begins = f"from day {limit.week_start}" if limit.week_start else ""
    return " ".join(filter(None, (window, begins, limit.time_zone)))


def _for(message: pb.Limit | pb.LimitStatus | pb.LimitAlert, label: str = "") -> str:
    scope = cell(message, "scope").replace("_", " ")
    if message.scope == pb.LIMIT_SCOPE_ORGANIZATION:
        return scope
    named = f"{scope} {label}".strip()
    return f"{named} {message.scope_value}" if message.scope_value else f"each {named}"
