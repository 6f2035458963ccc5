"""`tollhouse replay TRACE.csv`: meter and charge the calls of a trace. Running it again charges nothing twice."""

import asyncio
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.calling import calls_services
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output
from libs.cli.traces.funding import fund
from libs.cli.traces.persistence import Persistence
from libs.cli.traces.population import Population, import_missing_models, make_population
from libs.cli.traces.recording import Recorder, Shift, Tally
from libs.cli.traces.trace import Trace, read_trace
from libs.common.amount import format_amount
from tollhouse.metering.v1 import charge_pb2, charge_pb2_grpc

PATIENCE_S: Final = 60.0
_PREFIX: Final = re.compile(r"[!-~]{1,100}")
_CHARGED_LOOKED_AT_EVERY_S: Final = 0.1


class OnBadRow(StrEnum):
    """What to do about a row that is not a call."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay a trace."""

    prefix: str = ""
    keep_times: bool = False
    rate: float | None = None
    patience_s: float = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay."""

    tally: Tally
    population: Population
    prefix: str
    retries: int
    start: datetime
    end: datetime


@calls_services()
async def replay(
    channels: Channels,
    output: Output,
    trace: Annotated[Path, typer.Argument(help="A CSV file: TIMESTAMP, ContextTokens, GeneratedTokens.")],
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="The speed as a multiple of real time; as fast as possible if left out."),
    ] = None,
    operation_prefix: Annotated[
        str | None,
        typer.Option(help="The beginning of every operation id. Default: derived from the content of the file."),
    ] = None,
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Keep the trace's own times (backfill).")] = False,
    on_bad_row: Annotated[
        OnBadRow,
        typer.Option(
            help="What to do about a row that cannot be read: stop before anything is metered, or skip the row."
        ),
    ] = OnBadRow.STOP,
    patience: Annotated[
        float, typer.Option(min=0, help="How many seconds without any answer to wait before giving up.")
    ] = PATIENCE_S,
) -> None:
    """Meter a trace through the real RPCs, for organizations created for it, shifted in time to end now."""
    if operation_prefix is not None and not _PREFIX.fullmatch(operation_prefix):
        raise WrongUse("--operation-prefix takes 1 to 100 visible ASCII characters, without spaces.")
    calls = read_trace(trace, skip_bad_rows=on_bad_row is OnBadRow.SKIP)
    console = Console(stderr=True, highlight=False)
    for bad_row in calls.bad_rows:
        console.print(f"skipped {bad_row}", markup=False)
    options = ReplayOptions(operation_prefix or "", keep_times, rate, patience)
    replayed = await replay_trace(channels, calls, options, console)
    _print_tally(console, replayed)
    if output.as_json:
        output.json(_as_json(replayed))
    if replayed.tally.refused:
        raise CommandFailed(f"{replayed.tally.refused} rows were refused: {'; '.join(replayed.tally.refusals)}")


async def replay_trace(channels: Channels, trace: Trace, options: ReplayOptions, console: Console) -> Replayed:
    """Create the customers, fund them, meter every row and wait until all of it is charged."""
    prefix = options.prefix or f"replay-{trace.digest}"
    persistence = Persistence(options.patience_s)
    await persistence.call(lambda: import_missing_models(channels))
    population = await persistence.call(lambda: make_population(channels))
    now = datetime.now(UTC)
    end = await persistence.call(
        lambda: fund(channels, population, trace, prefix=prefix, keep_times=options.keep_times, now=now)
    )
    shift = Shift.to_end_at(end, trace.start, trace.end)
    recorder = Recorder(channels, population, persistence, prefix=prefix, shift=shift)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"Metering {trace.name}", total=len(trace.rows))
        await recorder.record(trace.rows, rate=options.rate, on_progress=lambda done: progress.advance(task, done))
    await _wait_until_charged(channels, persistence, options.patience_s)
    return Replayed(
        recorder.tally, population, prefix, persistence.retries, trace.start + shift.by, trace.end + shift.by
    )


async def _wait_until_charged(channels: Channels, persistence: Persistence, patience_s: float) -> None:
    """Wait until usage that was recorded while billing was away is charged, for as long as charges get done."""
    stub = charge_pb2_grpc.ChargeServiceStub(channels.metering)
    request = charge_pb2.ListPendingChargesRequest(page_size=1000)
    waiting: set[str] = set()
    moved_s = time.monotonic()
    while True:
        pending = (await persistence.call(lambda: stub.ListPendingCharges(request))).pending_charges
        dead = [charge for charge in pending if charge.state == charge_pb2.CHARGE_STATE_REFUSED]
        if dead:
            raise CommandFailed(f"Billing refuses to charge {dead[0].operation_id}: {dead[0].last_error_reason}.")
        if not pending:
            return
        still_waiting = {f"{charge.organization_id}/{charge.operation_id}" for charge in pending}
        if still_waiting != waiting:
            waiting, moved_s = still_waiting, time.monotonic()
        if time.monotonic() - moved_s > patience_s:
            raise CommandFailed(f"Everything is metered, but {len(waiting)} charges still wait for billing.")
        await asyncio.sleep(_CHARGED_LOOKED_AT_EVERY_S)


def _as_json(replayed: Replayed) -> dict[str, object]:
    tally = replayed.tally
    return {
        "operation_prefix": replayed.prefix,
        "requests": tally.requests,
        "replayed": tally.replayed,
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "cost": format_amount(tally.cost),
        "unpriced": tally.unpriced,
        "denied": tally.denied,
        "refused": tally.refused,
        "retries": replayed.retries,
    }


def _print_tally(console: Console, replayed: Replayed) -> None:
    tally = replayed.tally
    ways = ", ".join(f"{count:,} {way}" for way, count in sorted(tally.by_way.items()))
    console.print(
        f"{tally.requests:,} calls ({ways}), of them {tally.replayed:,} metered before; "
        f"{tally.input_tokens:,} input and {tally.output_tokens:,} output tokens; "
        f"cost {format_amount(tally.cost)} USD; operation ids {replayed.prefix}:…",
        markup=False,
        soft_wrap=True,
    )
    for count, what in (
        (tally.unpriced, "wait for a price"),
        (tally.denied, "were denied by Authorize and metered nevertheless"),
        (replayed.retries, "calls were retried"),
    ):
        if count:
            console.print(f"{count:,} {what}")
