"""`tollhouse usage export` and `verify-export`: usage as a file with a manifest, and whether both are right."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.exports import reading
from libs.cli.exports.checking import check_export
from libs.cli.exports.parquet import require_parquet
from libs.cli.exports.writing import manifest_of, write_export
from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calls_services
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output
from libs.cli.terminal.progress import progress_for
from libs.cli.terminal.times import parse_past
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc


class ExportFormat(StrEnum):
    """The forms of a file."""

    CSV = reading.CSV
    JSON_LINES = reading.JSON_LINES
    PARQUET = reading.PARQUET
    FOCUS = reading.FOCUS


_FORMS: Final = {
    ExportFormat.CSV: pb.USAGE_EXPORT_FORMAT_CSV,
    ExportFormat.JSON_LINES: pb.USAGE_EXPORT_FORMAT_JSON_LINES,
    # Metering sends CSV, of which Parquet is made here.
    ExportFormat.PARQUET: pb.USAGE_EXPORT_FORMAT_CSV,
    ExportFormat.FOCUS: pb.USAGE_EXPORT_FORMAT_FOCUS,
}
_ENVIRONMENTS: Final = {"": pb.ENVIRONMENT_UNSPECIFIED, "live": pb.ENVIRONMENT_LIVE, "test": pb.ENVIRONMENT_TEST}


@calls_services(("metering",))
async def export(
    channels: Channels,
    output: Output,
    out: Annotated[Path, typer.Option("--out", help="The file to write; it must not be there yet.")],
    format: Annotated[ExportFormat, typer.Option("--format", help="The form of the file.")] = ExportFormat.CSV,  # noqa: A002
    organization: Annotated[
        list[str] | None, typer.Option("--organization", help="Only this organization's; may be given several times.")
    ] = None,
    since: Annotated[str, typer.Option(help="From this time on, or a span back such as 30d; 35d if left out.")] = "",
    until: Annotated[str, typer.Option(help="Before this time, or a span back.")] = "",
    project: Annotated[str, typer.Option(help="Only this project's.")] = "",
    user: Annotated[str, typer.Option(help="Only this user's.")] = "",
    key: Annotated[str, typer.Option(help="Only this API key's.")] = "",
    model: Annotated[str, typer.Option(help="Only this model's.")] = "",
    environment: Annotated[str, typer.Option(help="Only `live` or `test` usage.")] = "",
    bom: Annotated[bool, typer.Option("--bom", help="Begin CSV with a byte order mark.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Leave text as it is that a spreadsheet takes for a formula.")
    ] = False,
    issuer: Annotated[str, typer.Option(help="For FOCUS, the name of the platform.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an export that was not finished.")] = False,
) -> None:
    """Write usage into a file, with a manifest beside it.

    What was received before a kill stays in FILE.part; the same command with --resume goes on there.
    """
    if environment not in _ENVIRONMENTS:
        raise WrongUse("--environment is `live` or `test`.")
    if format is ExportFormat.PARQUET:
        require_parquet()
    words: dict[str, object] = {
        "format": format.value,
        "organization": organization or [],
        "since": since,
        "until": until,
        "project": project,
        "user": user,
        "key": key,
        "model": model,
        "environment": environment,
        "bom": bom,
        "raw": raw,
        "issuer": issuer,
    }
    one = organization or []
    request = pb.ExportUsageRequest(
        organization_id=one[0] if len(one) == 1 else "",
        organization_ids=one if len(one) > 1 else [],
        format=_FORMS[format],
        start_time=_time(since),
        end_time=_time(until),
        project_id=project,
        user_id=user,
        api_key_id=key,
        model=model,
        environment=_ENVIRONMENTS[environment],
        byte_order_mark=bom,
        raw_text=raw or format is ExportFormat.PARQUET,
        issuer_name=issuer,
    )
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    progress = progress_for(quiet=output.as_json)
    async with progress.shown():
        manifest = await write_export(stub, request, out, words, resume=resume, progress=progress)
    if output.as_json:
        output.json(manifest)
    else:
        output.line(f"{int(str(manifest.get('row_count', 0))):,} rows in {out}, described in {manifest_of(out)}")


@calls_services(("billing", "metering"))
async def verify_export(
    channels: Channels,
    output: Output,
    file: Annotated[Path, typer.Argument(help="A file that `export` wrote, with its manifest beside it.")],
    file_only: Annotated[
        bool, typer.Option("--file-only", help="Compare the file with its manifest alone, and ask no service.")
    ] = False,
) -> None:
    """Check a file against its manifest, metering and the ledger; exit status 1 and a list if anything differs.

    Charges that billing has not confirmed yet are counted, and are no difference.
    """
    if not file.is_file():
        raise WrongUse(f"{file} is not a file.")
    progress = progress_for(quiet=output.as_json)
    async with progress.shown():
        found = await check_export(file, None if file_only else channels, progress)
    if output.as_json:
        output.json(
            {
                "rows": found.rows,
                "charges": found.charges,
                "waiting_charges": found.waiting,
                "difference_count": found.count,
                "differences": found.differences,
            }
        )
    else:
        for difference in found.differences:
            output.line(difference)
        if found.count > len(found.differences):
            output.line(f"… and {found.count - len(found.differences):,} more")
        output.line(
            f"{found.rows:,} rows, {found.charges:,} charges compared, {found.waiting:,} of them waiting,"
            f" {found.count:,} differences"
        )
    raise typer.Exit(1 if found.count else 0)


def _time(text: str) -> Timestamp | None:
    return parse_past(text) if text else None
