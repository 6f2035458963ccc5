"""`tollhouse models import FILE`: a price list of any size up to 64 MiB, sent in parts."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.calling import calling
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_future
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

group = typer.Typer(name="models", help="The models that can be used, and what they cost.", no_args_is_help=True)
_DOCUMENT_BYTES_MAX: Final = 67_108_864
_CHUNK_BYTES: Final = 250_000
_TIMEOUT_S: Final = 260.0
_SHOWN_ONE_BY_ONE_MAX: Final = 20


class ListFormat(StrEnum):
    """How a price list is written."""

    LITELLM = "litellm"
    YAML = "yaml"


_FORMATS: Final = {
    ListFormat.LITELLM: model_pb2.PRICE_LIST_FORMAT_LITELLM_JSON,
    ListFormat.YAML: model_pb2.PRICE_LIST_FORMAT_YAML,
}
_FORMAT_BY_SUFFIX: Final = {".json": ListFormat.LITELLM, ".yaml": ListFormat.YAML, ".yml": ListFormat.YAML}

# Called with the name of the step, how much of it is done, and how much there is; 0 where that is not known.
_OnProgress = Callable[[str, int, int], None]


@calling(group, "import", ("metering",))
async def import_models(
    channels: Channels,
    output: Output,
    file: Annotated[Path, typer.Argument(help="LiteLLM's price map (JSON), or this platform's own list (YAML).")],
    list_format: Annotated[
        ListFormat | None,
        typer.Option("--format", help="Default: litellm for .json, yaml for .yaml and .yml.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would happen and change nothing.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this model; may be repeated.")
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="Also import entries with prices that no rate holds, without these."),
    ] = False,
    margin: Annotated[
        str,
        typer.Option(
            "--margin",
            metavar="PERCENT",
            help="What customers pay beyond the listed prices, such as 20 or -5.5. Default: the listed prices.",
            show_default=False,
        ),
    ] = "",
    effective_time: Annotated[
        str,
        typer.Option(
            "--effective-time",
            metavar="TIME",
            help="When the prices come into force: a time, or a span from now such as 7d. Default: now.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Import a price list: add its models, and its prices where they differ from those in force.

    The list is imported as a whole or not at all, and importing it again changes nothing. Entries that cannot be used
    are left out with a reason, and a price that was set by hand is kept. With --dry-run, old and new rates are shown.
    The exit status is 1 if a model named by --only could not be imported.
    """
    content = _read(file)
    options = model_pb2.ImportOptions(
        format=_FORMATS[list_format or _format_of(file)],
        size_bytes=len(content),
        validate_only=dry_run,
        model_ids=only,
        allow_partial=allow_partial,
        margin_percent=margin,
    )
    if effective_time:
        options.effective_time.CopyFrom(parse_future(effective_time))
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("Sending")

        def on_progress(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total or None)

        outcomes = await _import(channels, content, options, on_progress)
    _print(output, outcomes, dry_run=dry_run)
    missing = [one.model_id for one in outcomes if only and one.result == model_pb2.IMPORT_RESULT_SKIPPED]
    if missing:
        raise CommandFailed(f"Not imported: {', '.join(missing)}.")


def _format_of(file: Path) -> ListFormat:
    found = _FORMAT_BY_SUFFIX.get(file.suffix.lower())
    if found is None:
        raise WrongUse(f"The name {file.name} does not tell how the list is written; give --format.")
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(_DOCUMENT_BYTES_MAX + 1)
    except OSError as error:
        raise WrongUse(f"The price list {file} cannot be read: {error.strerror}.") from None
    if not content:
        raise WrongUse(f"The price list {file} is empty.")
    if len(content) > _DOCUMENT_BYTES_MAX:
        raise WrongUse(f"The price list {file} is larger than {_DOCUMENT_BYTES_MAX:,} bytes.")
    return content


async def _import(
    channels: Channels, content: bytes, options: model_pb2.ImportOptions, on_progress: _OnProgress
) -> list[model_pb2.ImportOutcome]:
    """Send the list and return the outcomes. After a call that failed, the import can be run again."""
    stub = model_pb2_grpc.ModelServiceStub(channels.metering)

    async def messages() -> AsyncIterator[model_pb2.StreamImportModelsRequest]:
        yield model_pb2.StreamImportModelsRequest(options=options)
        for start in range(0, len(content), _CHUNK_BYTES):
            yield model_pb2.StreamImportModelsRequest(chunk=content[start : start + _CHUNK_BYTES])
            on_progress("Sending", min(start + _CHUNK_BYTES, len(content)), len(content))

    outcomes: list[model_pb2.ImportOutcome] = []
    async for answer in stub.StreamImportModels(messages(), metadata=channels.credentials, timeout=_TIMEOUT_S):
        if answer.HasField("progress"):
            step = "Storing" if answer.progress.entry_count else "Reading"
            on_progress(step, answer.progress.decided_count, answer.progress.entry_count)
        outcomes += answer.outcomes.outcomes
    return outcomes


def _print(output: Output, outcomes: Sequence[model_pb2.ImportOutcome], *, dry_run: bool) -> None:
    results = Counter(cell(one, "result") for one in outcomes)
    if output.as_json:
        counts = {name: results[name] for name in ("imported", "unchanged", "skipped", "kept")}
        output.json(counts | {"dry_run": dry_run, "outcomes": [as_dict(one) for one in outcomes]})
        return
    if len(outcomes) <= _SHOWN_ONE_BY_ONE_MAX:
        columns = ("model_id", "result", "reason", "warnings", "ignored_price_keys")
        output.table(columns, [[cell(one, column) for column in columns] for one in outcomes])
        _print_changes(output, outcomes)
    else:
        _print_table(output, "skipped because", [(one.reason, one.model_id) for one in outcomes if one.reason])
        ignored = [(key, one.model_id) for one in outcomes for key in one.ignored_price_keys]
        _print_table(output, "price that is not charged", ignored)
        _print_table(output, "warning", [(text, one.model_id) for one in outcomes for text in one.warnings])
    done = "would be imported" if dry_run else "imported"
    output.line(
        f"{results['imported']:,} {done}, {results['unchanged']:,} unchanged, {results['skipped']:,} skipped, "
        f"{results['kept']:,} kept as set by hand; "
        f"--json lists {'it' if len(outcomes) == 1 else 'all of them'}"
    )


def _print_changes(output: Output, outcomes: Sequence[model_pb2.ImportOutcome]) -> None:
    """Print the rates that an import would change, where any are shown."""
    changes = [(one.model_id, change) for one in outcomes for change in one.changes]
    hours = ("hours",) if any(change.hours for _, change in changes) else ()
    columns = ("unit", "service_tier", "above", *hours, "before", "after")
    if changes:
        output.line("")
        rows = [[model_id, *(cell(change, column) for column in columns)] for model_id, change in changes]
        output.table(("model_id", *columns), rows)


def _print_table(output: Output, what: str, found: Sequence[tuple[str, str]]) -> None:
    """Print how often each text was found, and the first model it was found with."""
    if not found:
        return
    first = dict(reversed(found))
    counted = Counter(text for text, _ in found).most_common(_SHOWN_ONE_BY_ONE_MAX)
    output.table((what, "models", "such as"), [[text, f"{count:,}", first[text]] for text, count in counted])
    if len(first) > len(counted):
        output.line(f"… and {len(first) - len(counted):,} more")
    output.line("")
