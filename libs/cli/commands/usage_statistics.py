"""`tollhouse usage query` and `trends`: sums of usage, and how it develops."""

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from enum import StrEnum
from itertools import compress
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.chart import Bar, bars
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output, amount_text, as_dict
from libs.cli.terminal.times import parse_past
from libs.common.amount import format_amount
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

group = typer.Typer()
_METERING: Final = ("metering",)
_OWN_FIELDS: Final = {"model": "model", "project": "project_id", "user": "user_id", "api_key": "api_key_id"}
_COLUMNS: Final = (
    *("start_time", "requests", "errors", "tokens", "cost", "provider_cost", "margin", "mean_ms", "p50_ms"),
    *("p95_ms", "p99_ms"),
)
_OF_DAYS: Final = (usage_pb2.USAGE_WINDOW_DAY, usage_pb2.USAGE_WINDOW_WEEK, usage_pb2.USAGE_WINDOW_MONTH)
_OTHERS: Final = "(others)"
ZoneOption = Annotated[str, typer.Option("--zone", help="The time zone of days, weeks and months.")]
TestOption = Annotated[bool, typer.Option("--include-test", help="Usage of test keys too.")]
FilterOption = Annotated[
    list[str] | None, typer.Option("--filter", help="DIMENSION=VALUE, such as model=gpt-4o; several are alternatives.")
]


class Drawn(StrEnum):
    """What the chart of a query shows."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    COST = "cost"


@calling(group, "query", _METERING)
async def query(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    since: Annotated[str, typer.Option(help="The beginning: a time, or a span back such as 30d.")] = "30d",
    until: Annotated[str, typer.Option(help="The end, not included: a time, or a span back.")] = "0s",
    window: Annotated[str, typer.Option(help="minute, hour, day, week or month; one window where left out.")] = "",
    zone: ZoneOption = "",
    by: Annotated[
        list[str] | None, typer.Option("--by", help="A dimension, such as user or model; up to four.")
    ] = None,
    chosen: FilterOption = None,
    top: Annotated[
        str,
        typer.Option(help="COUNT:MEASURE, such as 10:requests, 10:cost:USD or 5:quantity:images; others in one row."),
    ] = "",
    chart: Annotated[Drawn, typer.Option(help="What the chart in a terminal shows.")] = Drawn.REQUESTS,
    include_test: TestOption = False,
    limit: LimitOption = LIMIT,
) -> None:
    """Sum usage by windows of time and by dimensions; in a terminal with a chart."""
    request = usage_pb2.QueryUsageRequest(
        organization_id=organization,
        start_time=parse_past(since),
        end_time=parse_past(until),
        window=_window(window),
        time_zone=zone,
        group_by=map(_dimension, by or ()),
        filters=_filters(chosen),
        include_test=include_test,
    )
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    if top:
        request.top.CopyFrom(_top(top))
        found, more = list((await stub.QueryUsage(request)).summaries), False
    else:
        found, more = await listed(stub.QueryUsage, request, lambda page: page.summaries, limit)
    names = [
        one.removeprefix("USAGE_DIMENSION_").lower() for one in map(usage_pb2.UsageDimension.Name, request.group_by)
    ]
    table = _Table(names, request.window, zone)
    output.many_as(found, table.filled(found), table.cells, more=more)
    if output.draws:
        for line in bars([_bar(table, row, chart) for row in found], width=output.width):
            output.line(line)


@calling(group, "trends", _METERING)
async def trends(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    measure: Annotated[str, typer.Option(help="Such as requests, cost:USD or quantity:images.")] = "requests",
    window: Annotated[str, typer.Option(help="What is compared: day, week or month.")] = "day",
    zone: ZoneOption = "",
    chosen: FilterOption = None,
    include_test: TestOption = False,
) -> None:
    """Compare usage with the time before, forecast the month, and mark days that stand out."""
    kind, currency_code, unit = _measure(measure)
    request = usage_pb2.GetUsageTrendsRequest(
        organization_id=organization,
        measure=kind,
        currency_code=currency_code,
        unit=unit,
        window=_window(window),
        time_zone=zone,
        filters=_filters(chosen),
        include_test=include_test,
    )
    found = await usage_pb2_grpc.UsageServiceStub(channels.metering).GetUsageTrends(request)
    if output.as_json:
        output.json(as_dict(found))
        return
    change = found.change
    output.line(f"{'measure':<24} {measure}")
    percent = f" ({change.difference_percent} %)" if change.difference_percent else ""
    output.line(f"{'last ' + window:<24} {change.value}")
    output.line(f"{'the one before':<24} {change.previous_value}")
    output.line(f"{'difference':<24} {change.difference}{percent}")
    if found.HasField("forecast"):
        month = found.forecast
        output.line(f"{'month to date':<24} {month.value_to_date}")
        output.line(f"{'month expected':<24} {month.expected}, 95 % between {month.low} and {month.high}")
    for day in found.days:
        if day.stands_out:
            output.line(f"{'stands out':<24} {_date(day.start_time, zone)}: {day.value}, score {day.score}")


class _Table:
    """The rows of a query as a table. Columns that no row fills are left out, so that most fit into a terminal."""

    def __init__(self, names: list[str], window: "usage_pb2.UsageWindow.ValueType", zone: str) -> None:
        self._names = names
        self._window = window
        self._zone = zone
        self._columns: tuple[str, ...] = (_COLUMNS[0], *names, *_COLUMNS[1:])
        self._shown = [True] * len(self._columns)

    def filled(self, rows: Sequence[usage_pb2.UsageSummary]) -> list[str]:
        """Return the columns that these rows fill; only they are shown from then on."""
        if rows:
            self._shown = [any(cells) for cells in zip(*map(self._all_cells, rows), strict=True)]
        return list(compress(self._columns, self._shown))

    def cells(self, row: usage_pb2.UsageSummary) -> list[str]:
        return list(compress(self._all_cells(row), self._shown))

    def named_by(self, row: usage_pb2.UsageSummary) -> list[str]:
        """Return the window and the dimensions of a row. Windows of whole days have their date in the query's zone."""
        start = f"{row.start_time.ToDatetime(tzinfo=UTC):%Y-%m-%dT%H:%MZ}"
        if self._window in _OF_DAYS:
            start = _date(row.start_time, self._zone)
        return [start, *(_OTHERS if row.others else _value(row, name) for name in self._names)]

    def _all_cells(self, row: usage_pb2.UsageSummary) -> list[str]:
        latency = row.latency
        has_latency = latency.count > 0
        return [
            *self.named_by(row),
            str(row.request_count),
            str(row.error_count),
            str(row.total_tokens),
            *map(amount_text, (row.cost, row.provider_cost, row.margin)),
            format_amount(Decimal(latency.mean_ms)) if has_latency else "",
            *(str(one) if has_latency else "" for one in (latency.p50_ms, latency.p95_ms, latency.p99_ms)),
        ]


def _date(time: Timestamp, zone: str) -> str:
    return time.ToDatetime(tzinfo=UTC).astimezone(ZoneInfo(zone or "UTC")).date().isoformat()


def _bar(table: _Table, row: usage_pb2.UsageSummary, drawn: Drawn) -> Bar:
    label = " ".join(table.named_by(row))
    if drawn is Drawn.COST:
        return Bar(label, Decimal(row.cost.value or 0), amount_text(row.cost))
    value = row.total_tokens if drawn is Drawn.TOKENS else row.request_count
    return Bar(label, Decimal(value), f"{value:,}")


def _value(row: usage_pb2.UsageSummary, name: str) -> str:
    if name == "organization":
        return row.organization_id
    if name in _OWN_FIELDS:
        return str(getattr(row, _OWN_FIELDS[name]))
    if name == "unit":
        return ", ".join(f"{one.value} {one.unit}" for one in row.quantities)
    return next((value for key, value in row.dimensions.items() if key in (name, f"{name}_id")), "")


def _window(text: str) -> "usage_pb2.UsageWindow.ValueType":
    return usage_pb2.UsageWindow.Value(_named(text or "unspecified", "USAGE_WINDOW", usage_pb2.UsageWindow.keys()))


def _dimension(text: str) -> "usage_pb2.UsageDimension.ValueType":
    return usage_pb2.UsageDimension.Value(_named(text, "USAGE_DIMENSION", usage_pb2.UsageDimension.keys()))


def _named(text: str, prefix: str, names: list[str]) -> str:
    name = f"{prefix}_{text.upper().replace('-', '_')}"
    if name not in names:
        known = ", ".join(one.removeprefix(f"{prefix}_").lower() for one in names[1:])
        raise WrongUse(f"{text!r} is none of {known}.")
    return name


def _measure(text: str) -> tuple["usage_pb2.UsageMeasure.ValueType", str, str]:
    """Read a measure, with its currency or unit."""
    name, _, of = text.partition(":")
    kind = usage_pb2.UsageMeasure.Value(_named(name, "USAGE_MEASURE", usage_pb2.UsageMeasure.keys()))
    return (kind, "", of) if kind == usage_pb2.USAGE_MEASURE_QUANTITY else (kind, of, "")


def _top(text: str) -> usage_pb2.UsageTop:
    count, _, measure = text.partition(":")
    if not count.isdecimal() or len(count) > 3 or not measure:
        raise WrongUse(f"{text!r} is no top such as 10:requests or 10:cost:USD.")
    kind, currency_code, unit = _measure(measure)
    return usage_pb2.UsageTop(count=int(count), measure=kind, currency_code=currency_code, unit=unit)


def _filters(texts: list[str] | None) -> list[usage_pb2.UsageFilter]:
    """Read filters; several values of a dimension are alternatives."""
    found: dict[usage_pb2.UsageDimension.ValueType, list[str]] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not sign:
            raise WrongUse("--filter takes DIMENSION=VALUE, such as model=gpt-4o.")
        found.setdefault(_dimension(name), []).append(value)
    return [usage_pb2.UsageFilter(dimension=dimension, values=values) for dimension, values in found.items()]
