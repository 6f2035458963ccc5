"""`tollhouse periods …`: what falls due for subscriptions."""

from typing import Annotated, Final

import typer

from libs.cli.terminal.calling import calling
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output, as_dict
from libs.cli.terminal.progress import progress_for
from libs.cli.terminal.times import parse_past
from tollhouse.billing.v1 import subscription_pb2, subscription_pb2_grpc

group = typer.Typer(name="periods", help="What falls due for subscriptions.", no_args_is_help=True)
_BILLING: Final = ("billing",)
_TIMEOUT_S: Final = 6 * 3_600.0
_STEP: Final = "subscriptions"


@calling(group, "run", _BILLING)
async def run(
    channels: Channels,
    output: Output,
    until: Annotated[
        str,
        typer.Option(
            "--until",
            help="Work off what is due by this time: 2026-12-31T23:59:00Z, or 1d for a day ago. Now when left out.",
            metavar="TIME",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Work off what is due for all subscriptions, as billing does by itself; exit status 1 if some were set aside."""
    request = subscription_pb2.RunPeriodsRequest()
    if until:
        request.until_time.CopyFrom(parse_past(until))
    stub = subscription_pb2_grpc.SubscriptionServiceStub(channels.billing)
    progress = progress_for(quiet=output.as_json)
    report, total = subscription_pb2.RunPeriodsResponse(), 0
    async with progress.shown():
        async for report in stub.RunPeriods(request, timeout=_TIMEOUT_S):
            total = max(total, report.due_count)
            progress.note(_STEP, total - report.due_count, total)
    if output.as_json:
        output.json(as_dict(report))
    else:
        columns = ("done", "set_aside", "left", "still_due")
        counts = (report.done_count, report.set_aside_count, report.left_count, report.due_count)
        output.table(columns, [[f"{count:,}" for count in counts]])
        if report.set_aside_count:
            output.remark("Some were set aside: `tollhouse subscription due --set-aside` lists them with the reasons.")
    raise typer.Exit(1 if report.set_aside_count else 0)
