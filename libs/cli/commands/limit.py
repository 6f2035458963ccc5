"""`tollhouse limit …`: how much may be used in a window of time, and how much is."""

import asyncio
from datetime import UTC, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.limits import (
    ALERTS,
    SUBSCRIPTIONS,
    USAGE,
    alert_key,
    alert_row,
    limit_row,
    subscription_rows,
    usage_row,
)
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output, as_dict
from tollhouse.metering.v1 import quota_pb2 as pb
from tollhouse.metering.v1 import quota_pb2_grpc as rpc

group = typer.Typer(
    name="limit", help="How much may be used in a window of time, and how much is.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(help="The limit's name, such as requests.", metavar="NAME")]
_METERING: Final = ("metering",)
_LIMITS: Final = ("name", "metric", "window", "for", "max", "enforcement", "burst", "replaces", "alerts_at")
_WATCH_EVERY_S: Final = 1.0
_ALERTS_LATE: Final = timedelta(seconds=10)
_ALERTS_MAX: Final = 10_000
"""How many new alerts are shown in a second at most."""


class Window(StrEnum):
    """In what time something is counted."""

    CALL = "call"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    LIFETIME = "lifetime"


class Scope(StrEnum):
    """Which calls are counted."""

    ORGANIZATION = "organization"
    PROJECT = "project"
    USER = "user"
    SERVICE_ACCOUNT = "service-account"
    API_KEY = "api-key"
    SUBSCRIPTION = "subscription"
    MODEL = "model"
    PROVIDER = "provider"
    LABEL = "label"


class Weekday(StrEnum):
    """The day on which weeks begin, in the order of ISO 8601."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


ScopeOption = Annotated[Scope | None, typer.Option("--scope", help="Whose calls are counted.", show_default=False)]
ScopeValueOption = Annotated[
    str, typer.Option("--scope-value", help="The id, the model, the provider or the label's value.", show_default=False)
]


MetricOption = Annotated[
    str,
    typer.Option(
        help="requests, total_tokens, spend, items, concurrent_calls or a unit's id. "
        "Without it only what is given changes, of a limit that there is.",
        show_default=False,
    ),
]
PerOption = Annotated[
    Window | None, typer.Option(help="In what time; never changes. Not for concurrent_calls.", show_default=False)
]
MaximumOption = Annotated[str | None, typer.Option("--max", help="How much at most.", show_default=False)]
ReplacesOption = Annotated[
    bool | None, typer.Option("--replaces/--no-replaces", help="Whether limits of wider scopes do not hold beside it.")
]
ThresholdOption = Annotated[
    list[int] | None, typer.Option(help="A percentage of the maximum at which an alert is due; may be repeated.")
]


@calling(group, "set", _METERING)
async def set_limit(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    name: NameArgument,
    metric: MetricOption = "",
    per: PerOption = None,
    maximum: MaximumOption = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Any amount: it is counted alone.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Let calls pass that use more.")] = False,
    shadow: Annotated[bool, typer.Option("--shadow", help="Let calls pass, and count what would be refused.")] = False,
    hard: Annotated[bool, typer.Option("--hard", help="Refuse calls that would use more, as by default.")] = False,
    scope: ScopeOption = None,
    scope_value: ScopeValueOption = "",
    label: Annotated[str, typer.Option(help="For the scope label: its key.", show_default=False)] = "",
    currency: Annotated[str, typer.Option(help="For spend: the unit of money, such as USD.", show_default=False)] = "",
    zone: Annotated[str, typer.Option(help="For days, weeks and months: such as Asia/Tokyo. Default: UTC.")] = "",
    week_start: Annotated[Weekday | None, typer.Option(help="For weeks: the first day. Default: monday.")] = None,
    sliding: Annotated[bool, typer.Option("--sliding", help="Count the time that ends now.")] = False,
    burst: Annotated[str | None, typer.Option(help="How much more after a window in which less was used.")] = None,
    replaces: ReplacesOption = None,
    threshold: ThresholdOption = None,
) -> None:
    """Set a limit, or change what one allows. What it counts never changes."""
    if maximum is not None and unlimited:
        raise WrongUse("Give --max or --unlimited, and not both.")
    shape = pb.SetLimitRequest(
        metric=metric,
        currency_code=currency,
        window=_window(per),
        sliding=sliding,
        time_zone=zone,
        week_start=0 if week_start is None else list(Weekday).index(week_start) + 1,
        scope=_scope(scope),
        scope_value=scope_value,
        label=label,
    )
    terms: dict[str, object] = {
        "value": maximum,
        "unlimited": unlimited or None,
        "enforcement": _enforcement(hard=hard, soft=soft, shadow=shadow),
        "burst": burst,
        "replaces": replaces,
        "thresholds": threshold,
    }
    request = _request(shape, {field: value for field, value in terms.items() if value is not None})
    request.organization_id, request.name = organization, name
    _print(output, (await _stub(channels).SetLimit(request)).limit)


@calling(group, "get", _METERING)
async def get(channels: Channels, output: Output, organization: OrganizationArgument, name: NameArgument) -> None:
    """Show a limit."""
    request = pb.GetLimitRequest(organization_id=organization, name=name)
    _print(output, (await _stub(channels).GetLimit(request)).limit)


@calling(group, "list", _METERING)
async def list_limits(
    channels: Channels, output: Output, organization: OrganizationArgument, limit: LimitOption = LIMIT
) -> None:
    """List the limits of an organization in the order of their names."""
    request = pb.ListLimitsRequest(organization_id=organization)
    limits, more = await listed(_stub(channels).ListLimits, request, lambda page: page.limits, limit)
    output.many_as(limits, _LIMITS, limit_row, more=more)


@calling(group, "delete", _METERING)
async def delete(
    channels: Channels, output: Output, organization: OrganizationArgument, name: NameArgument, yes: YesOption = False
) -> None:
    """Delete a limit with all that it counted."""
    confirm(f"Delete the limit {name} with all that it counted?", yes=yes)
    answer = await _stub(channels).DeleteLimit(pb.DeleteLimitRequest(organization_id=organization, name=name))
    if output.as_json:
        output.json(as_dict(answer))
    else:
        output.line(f"There is no limit {name} now.")


@calling(group, "usage", _METERING)
async def usage(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    name: Annotated[str, typer.Option("--name", help="Only this limit.", show_default=False)] = "",
    scope: ScopeOption = None,
    scope_value: ScopeValueOption = "",
    subscriptions: Annotated[
        bool, typer.Option("--subscriptions", help="List subscriptions, each with its limits.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """Show where limits stand: # is used, = is reserved."""
    stub = _stub(channels)
    while True:
        request = pb.GetUsageAgainstLimitsRequest(
            organization_id=organization,
            name=name,
            scope=_scope(scope),
            scope_value=scope_value,
            by_subscription=subscriptions,
        )
        if subscriptions:
            listing = await listed(stub.GetUsageAgainstLimits, request, lambda page: page.subscriptions, limit)
            if watch:
                output.clear()
            output.many_rows(listing[0], SUBSCRIPTIONS, subscription_rows, more=listing[1])
        else:
            found, more = await listed(stub.GetUsageAgainstLimits, request, lambda page: page.limits, limit)
            if watch:
                output.clear()
            output.many_as(found, USAGE, usage_row, more=more)
        if not watch:
            return
        await asyncio.sleep(_WATCH_EVERY_S)


@calling(group, "alerts", _METERING)
async def alerts(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Show further ones as they come, until Ctrl-C.")] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """Show the thresholds of limits that were reached in the last 35 days, the latest first."""
    request = pb.ListLimitAlertsRequest(organization_id=organization)
    found, more = await listed(_stub(channels).ListLimitAlerts, request, lambda page: page.alerts, limit)
    output.many_as(found, ALERTS, alert_row, more=more)
    known = set(map(alert_key, found))
    while watch:
        await asyncio.sleep(_WATCH_EVERY_S)
        request = pb.ListLimitAlertsRequest(organization_id=organization)
        if found:
            # Some seconds back, since the clocks of two processes may differ.
            request.start_time.FromDatetime(found[0].create_time.ToDatetime(UTC) - _ALERTS_LATE)
        listed_now, _ = await listed(_stub(channels).ListLimitAlerts, request, lambda page: page.alerts, _ALERTS_MAX)
        for alert in reversed(listed_now):
            if alert_key(alert) not in known:
                output.row(alert, alert_row)
        found = listed_now or found
        known = set(map(alert_key, found))


def _stub(channels: Channels) -> rpc.QuotaServiceStub:
    stub: rpc.QuotaServiceStub = rpc.QuotaServiceStub(channels.metering)
    return stub


def _print(output: Output, limit: pb.Limit) -> None:
    if output.as_json:
        output.json(as_dict(limit))
    else:
        output.table(_LIMITS, [limit_row(limit)])


def _window(window: Window | None) -> pb.LimitWindow.ValueType:
    return pb.LIMIT_WINDOW_UNSPECIFIED if window is None else pb.LimitWindow.Value(f"LIMIT_WINDOW_{window.name}")


def _scope(scope: Scope | None) -> pb.LimitScope.ValueType:
    return pb.LIMIT_SCOPE_UNSPECIFIED if scope is None else pb.LimitScope.Value(f"LIMIT_SCOPE_{scope.name}")


def _request(shape: pb.SetLimitRequest, terms: dict[str, object]) -> pb.SetLimitRequest:
    """Return a request for a limit as it is given, or, where it is not said what it counts, for what is to change."""
    request = pb.SetLimitRequest(**terms)  # type: ignore[arg-type]
    if shape.metric:
        request.MergeFrom(shape)
    elif shape.ListFields():
        raise WrongUse("What a limit counts is said as a whole: give --metric, too.")
    elif not terms:
        raise WrongUse("Give --metric and what belongs to it, or what is to change.")
    else:
        paths = ["max" if field in ("value", "unlimited") else field for field in terms]
        request.update_mask.CopyFrom(FieldMask(paths=paths))
    return request


def _enforcement(**given: bool) -> pb.LimitEnforcement.ValueType | None:
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise WrongUse(f"Give one of --{', --'.join(names)}.")
    return pb.LimitEnforcement.Value(f"LIMIT_ENFORCEMENT_{names[0].upper()}") if names else None
