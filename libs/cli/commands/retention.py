"""`tollhouse retention …`: how long usage is kept, months that are dropped after their export, and forgotten users."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from libs.cli.exports import reading
from libs.cli.exports.checking import Findings, check_export, read_manifest, request_of
from libs.cli.exports.parquet import require_parquet
from libs.cli.exports.writing import write_export
from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption
from libs.cli.terminal.output import Output
from libs.cli.terminal.progress import Progress, progress_for
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import retention_pb2 as pb
from tollhouse.metering.v1 import retention_pb2_grpc as rpc
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

group = typer.Typer(
    name="retention", help="How long usage is kept, and what of it is dropped or forgotten.", no_args_is_help=True
)


class ArchiveFormat(StrEnum):
    """The forms of a file that keeps all of a usage."""

    CSV = reading.CSV
    JSON_LINES = reading.JSON_LINES
    PARQUET = reading.PARQUET


MonthArgument = Annotated[str, typer.Argument(help="The month in UTC, such as 2026-01.", metavar="MONTH")]
OfOption = Annotated[str, typer.Option("--organization", help="The organization; the whole platform without it.")]
_METERING: Final = ("metering",)
_COLUMNS: Final = ("month", "state", "usage_count", "dropped_count", "size_bytes", "expired")
_LOOK_EVERY_S: Final = 1.0
_IN_PROGRESS: Final = (pb.USAGE_DROP_STATE_SEALED, pb.USAGE_DROP_STATE_DROPPING)


@calling(group, "show", _METERING)
async def show(channels: Channels, output: Output, organization: OfOption = "") -> None:
    """Show for how many months usage is kept."""
    request = pb.GetUsageRetentionRequest(organization_id=organization)
    output.one((await _stub(channels).GetUsageRetention(request)).retention)


@calling(group, "set", _METERING)
async def set_retention(
    channels: Channels,
    output: Output,
    months: Annotated[
        int, typer.Argument(help="How many whole months are kept besides the present one; 0 for ever.", min=0)
    ] = 0,
    organization: OfOption = "",
    inherit: Annotated[bool, typer.Option(help="Let the organization have the platform's retention again.")] = False,
) -> None:
    """Set for how many months usage is kept. Nothing is dropped by that alone."""
    request = pb.SetUsageRetentionRequest(organization_id=organization, months=months, inherit=inherit)
    output.one((await _stub(channels).SetUsageRetention(request)).retention)


@calling(group, "months", _METERING)
async def months(channels: Channels, output: Output, organization: OfOption = "", limit: LimitOption = LIMIT) -> None:
    """List the months of usage, with what is left of each."""
    request = pb.ListUsageMonthsRequest(organization_id=organization)
    found, more = await listed(_stub(channels).ListUsageMonths, request, lambda page: page.months, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "digest", _METERING)
async def digest(channels: Channels, output: Output, month: MonthArgument, organization: OfOption = "") -> None:
    """Compute the numbers of a month with which an export is compared; --json prints a manifest for `drop`."""
    progress = progress_for(quiet=output.as_json)
    async with progress.shown():
        last = await _counted(channels, month, organization, progress)
    totals = {total.currency_code: total.value for total in last.totals}
    document = {"month": month, "usage_count": last.usage_count, "totals": totals, "digest": last.digest}
    if output.as_json:
        output.json(document)
        return
    for name, value in document.items():
        output.line(f"{name:<24} {value}")


@calling(group, "drop", _METERING)
async def drop(
    channels: Channels,
    output: Output,
    month: MonthArgument,
    manifest: Annotated[
        Path, typer.Option(help="The manifest of the export: JSON with usage_count, totals and digest.", exists=True)
    ],
    organization: OfOption = "",
    wait: Annotated[bool, typer.Option(help="Wait until the month is dropped.")] = True,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Only look if it may be dropped.")] = False,
) -> None:
    """Drop a month of usage that was exported; exit status 1 if it differs from its export."""
    request = _read_manifest(manifest)
    request.organization_id, request.month, request.validate_only = organization, month, validate_only
    await _drop(channels, output, request, wait=wait)


@calling(group, "retire", ("billing", "metering"))
async def retire(
    channels: Channels,
    output: Output,
    month: MonthArgument,
    out: Annotated[Path, typer.Option("--out", help="The file to export to. One that is there is verified anew.")],
    format: Annotated[ArchiveFormat, typer.Option("--format", help="Its form.")] = ArchiveFormat.JSON_LINES,  # noqa: A002
    organization: OfOption = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an export that was not finished.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the month is dropped.")] = True,
) -> None:
    """Export a month, verify the file, and drop the month if both agree; exit status 1 and a list if they do not."""
    if format is ArchiveFormat.PARQUET:
        require_parquet()
    progress = progress_for(quiet=output.as_json)
    async with progress.shown():
        counted = await _counted(channels, month, organization, progress)
        request = _export_of(month, organization, format)
        if not out.exists():
            words: dict[str, object] = {"format": format.value, "organization": organization, "month": month}
            stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
            await write_export(stub, request, out, words, resume=resume, progress=progress)
        found = await check_export(out, channels, progress)
    if _asked(request_of(read_manifest(out))) != _asked(request):
        found.differ(f"{out} is not an export of all usage of {month} that is to be dropped")
    _compare(found, counted)
    if found.count:
        for difference in found.differences:
            output.line(difference)
        raise CommandFailed(f"{month} is not dropped: {found.count:,} differences between {out} and what is recorded.")
    wanted = pb.DropUsageMonthRequest(
        organization_id=organization,
        month=month,
        usage_count=counted.usage_count,
        totals=counted.totals,
        digest=counted.digest,
    )
    await _drop(channels, output, wanted, wait=wait)


@calling(group, "forget-user", _METERING)
async def forget_user(
    channels: Channels,
    output: Output,
    user: Annotated[str, typer.Argument(help="The user's id.", metavar="USER")],
    wait: Annotated[bool, typer.Option(help="Wait until all is done.")] = True,
) -> None:
    """Empty the texts of a user: labels, error messages and conversation ids of usage, and conversations."""
    stub, progress = _stub(channels), progress_for(quiet=output.as_json)
    forgotten = (await stub.ForgetUser(pb.ForgetUserRequest(user_id=user))).forgotten_user
    async with progress.shown():
        while wait and not forgotten.done:
            progress.note("records emptied", forgotten.emptied_count)
            await asyncio.sleep(_LOOK_EVERY_S)
            asked = pb.GetForgottenUserRequest(user_id=user)
            forgotten = (await stub.GetForgottenUser(asked)).forgotten_user
    output.one(forgotten)


async def _counted(
    channels: Channels, month: str, organization: str, progress: Progress
) -> pb.DigestUsageMonthResponse:
    """Return the numbers of a month."""
    request, read = pb.DigestUsageMonthRequest(organization_id=organization, month=month), 0
    last = pb.DigestUsageMonthResponse()
    async for piece in _stub(channels).DigestUsageMonth(request):
        read += piece.rows_read
        progress.note("usage read", read)
        last = piece
    return last


async def _drop(channels: Channels, output: Output, request: pb.DropUsageMonthRequest, *, wait: bool) -> None:
    stub, progress = _stub(channels), progress_for(quiet=output.as_json)
    dropped = (await stub.DropUsageMonth(request)).drop
    async with progress.shown():
        while wait and dropped.state in _IN_PROGRESS:
            progress.note(f"{request.month} is sealed or being dropped", dropped.dropped_count, dropped.usage_count)
            await asyncio.sleep(_LOOK_EVERY_S)
            asked = pb.GetUsageDropRequest(organization_id=request.organization_id, month=request.month)
            dropped = (await stub.GetUsageDrop(asked)).drop
    output.one(dropped)
    if dropped.state == pb.USAGE_DROP_STATE_REFUSED:
        raise typer.Exit(1)


def _export_of(month: str, organization: str, form: ArchiveFormat) -> usage_pb2.ExportUsageRequest:
    """Return the request that exports a month with all texts as they are."""
    try:
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise WrongUse(f"{month} is not a month such as 2026-01.") from None
    request = usage_pb2.ExportUsageRequest(
        organization_id=organization,
        format=usage_pb2.USAGE_EXPORT_FORMAT_JSON_LINES
        if form is ArchiveFormat.JSON_LINES
        else usage_pb2.USAGE_EXPORT_FORMAT_CSV,
        raw_text=True,
    )
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime((start + timedelta(days=32)).replace(day=1))
    return request


def _asked(request: usage_pb2.ExportUsageRequest) -> usage_pb2.ExportUsageRequest:
    """Return what a request asks for, without when it was made and how its texts are written."""
    asked = usage_pb2.ExportUsageRequest()
    asked.CopyFrom(request)
    for field in ("format", "as_of_time", "byte_order_mark", "raw_text", "issuer_name"):
        asked.ClearField(field)
    asked.organization_id = asked.organization_id.lower()
    return asked


def _compare(found: Findings, counted: pb.DigestUsageMonthResponse) -> None:
    """Note where the recorded usage of a file is not what metering counts in the month."""
    if found.recorded != counted.usage_count:
        found.differ(
            f"the file has {found.recorded:,} usages, metering counts {counted.usage_count:,} whose retention is over"
        )
    in_file = {code: f"{amount.normalize():f}" for code, amount in found.recorded_costs.items() if amount}
    totals = {total.currency_code: total.value for total in counted.totals if Decimal(total.value)}
    found.compare_sums("costs of the file", in_file, "metering", totals)


def _stub(channels: Channels) -> rpc.RetentionServiceStub:
    return rpc.RetentionServiceStub(channels.metering)


def _read_manifest(path: Path) -> pb.DropUsageMonthRequest:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return pb.DropUsageMonthRequest(
            usage_count=int(document["usage_count"]),
            totals=[Amount(currency_code=code, value=str(value)) for code, value in document["totals"].items()],
            digest=int(document["digest"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WrongUse(f"{path} is no manifest: it needs usage_count, totals by currency and digest.") from None
