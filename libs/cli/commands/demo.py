"""`tollhouse demo`: start everything on a Postgres of its own, meter and charge a trace, and check the totals."""

import asyncio
import fcntl
import json
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from libs.cli.commands.replay import Replayed, ReplayOptions, replay_trace
from libs.cli.commands.verify import print_verdict
from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.installation.environment import shards_from_environment
from libs.cli.installation.stack import Stack, StackOptions
from libs.cli.reconciliation import verify
from libs.cli.terminal.connection import Channels, Connection
from libs.cli.terminal.migrations import tell_progress
from libs.cli.terminal.options import DataDirOption, ShardsOption, data_dir_of
from libs.cli.traces.bill import Bill, print_bill, read_bill
from libs.cli.traces.funding import costs, list_prices
from libs.cli.traces.invoicing import Invoiced, invoice, print_invoice
from libs.cli.traces.plans import PlanBill, plan_problems, print_plans, read_plan_bills, subscribe
from libs.cli.traces.population import make_population
from libs.cli.traces.shop import Sales, print_sales, sell
from libs.cli.traces.synthetic import write_synthetic_trace
from libs.cli.traces.trace import Trace, read_trace
from libs.cli.traces.tutor import Attempts, call_too_often, print_attempts
from libs.cli.verdict import Verdict
from libs.common import postgres
from libs.common.amount import format_amount

_FOLDERS: Final = "demo-"
_MEBIBYTE: Final = 1024


def demo(
    trace: Annotated[
        Path | None, typer.Option(help="A CSV trace; if left out, a synthetic one of 20,000 calls.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the totals as JSON.")] = None,
    data_dir: DataDirOption = None,
    shards: ShardsOption = None,
) -> None:
    """Meter and charge a trace of customers with plans and limits, and other sales; print the bill, verify it, stop."""
    console = Console(highlight=False)
    if out is not None and not out.absolute().parent.is_dir():
        raise WrongUse(f"The folder {out.absolute().parent} for the totals does not exist.")
    count = shards or shards_from_environment() or 1
    parent = data_dir_of(data_dir)
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(parent)
    with _folder_for_now(parent) as folder:
        if trace is None:
            trace = folder / "synthetic.csv"
            write_synthetic_trace(trace)
        calls = read_trace(trace, skip_bad_rows=False)
        problems = asyncio.run(_demonstrate(console, calls, StackOptions(data_dir=folder, shards=count), out))
    for problem in problems:
        console.print(problem, style="red", markup=False)
    if problems:
        raise CommandFailed("The bill does not add up.")
    console.print("Everything adds up: trace, usage, ledger and invariants.", style="green")


@dataclass(frozen=True, slots=True)
class _Outcome:
    replayed: Replayed
    bill: Bill
    verdict: Verdict
    expected_cost: Decimal
    plans: list[PlanBill]
    sales: Sales
    attempts: Attempts
    invoiced: Invoiced


async def _demonstrate(console: Console, trace: Trace, options: StackOptions, out: Path | None) -> list[str]:
    """Run the demonstration and return what does not add up."""
    _stop_on_signal()
    started_s = time.monotonic()
    async with _running(Stack(options, tell_progress)) as stack:
        console.print(f"Postgres and the three services are up after {time.monotonic() - started_s:.1f} s.")
        places = stack.endpoints
        connection = Connection(places["identity"], places["billing"], places["metering"], stack.operator_token)
        async with connection.open() as channels:
            outcome = await _meter_and_reconcile(console, channels, trace)
        resident = {name: [_resident_mib(pid) for pid in pids] for name, pids in stack.service_pids().items()}
    print_bill(console, outcome.bill)
    print_plans(console, outcome.plans)
    print_sales(console, outcome.sales)
    print_attempts(console, outcome.attempts)
    print_invoice(console, outcome.invoiced)
    print_verdict(console, outcome.verdict)
    memory = ", ".join(f"{name} {sum(sizes):.0f} MiB" for name, sizes in resident.items())
    console.print(f"Resident memory: {memory}. {time.monotonic() - started_s:.1f} s in all.", soft_wrap=True)
    problems = _problems(trace, outcome)
    if out is not None:
        _write_totals(out, outcome, problems)
    return problems


async def _meter_and_reconcile(console: Console, channels: Channels, trace: Trace) -> _Outcome:
    await subscribe(channels, (await make_population(channels)).organizations)
    started_s = time.monotonic()
    replayed = await replay_trace(channels, trace, ReplayOptions(), Console(stderr=True, highlight=False))
    ways = ", ".join(f"{count:,} {way}" for way, count in sorted(replayed.tally.by_way.items()))
    elapsed_s = time.monotonic() - started_s
    console.print(
        f"{replayed.tally.requests:,} calls metered and charged ({ways}) in {elapsed_s:.1f} s, "
        f"{replayed.tally.requests / elapsed_s:,.0f} a second.",
        soft_wrap=True,
    )
    organizations = replayed.population.organizations
    bill = await read_bill(channels, organizations, start=replayed.start, end=replayed.end, prefix=replayed.prefix)
    expected = costs(trace.rows, replayed.population, await list_prices(channels))
    plans = await read_plan_bills(channels, organizations, [one.charged for one in bill.organizations])
    sales, attempts = await sell(channels), await call_too_often(channels)
    invoiced = await invoice(channels, organizations[0])
    verdict = await verify(channels)
    return _Outcome(replayed, bill, verdict, sum(expected.values(), Decimal(0)), plans, sales, attempts, invoiced)


def _problems(trace: Trace, outcome: _Outcome) -> list[str]:
    """Compare what the services report with the sums of the trace."""
    bill, tally = outcome.bill, outcome.replayed.tally
    included = sum((plan.included for plan in outcome.plans), Decimal(0))
    pairs: list[tuple[str, int | Decimal, int | Decimal]] = [
        ("requests metered", bill.requests, len(trace.rows)),
        ("input tokens metered", bill.input_tokens, trace.input_tokens),
        ("output tokens metered", bill.output_tokens, trace.output_tokens),
        ("cost of the usage", bill.cost, outcome.expected_cost),
        ("charged in the ledger", bill.charged, outcome.expected_cost),
        ("paid in and included, less charged", bill.paid_in + included - bill.charged, bill.balance),
        ("usage on the invoice", outcome.invoiced.used, bill.organizations[0].charged),
        ("rows refused", tally.refused, 0),
        ("violations of invariants", outcome.verdict.violation_count, 0),
    ]
    differing = [f"{what}: {found} instead of {wanted}" for what, found, wanted in pairs if found != wanted]
    return (
        differing + plan_problems(outcome.plans) + outcome.sales.problems + outcome.attempts.problems + tally.refusals
    )


def _write_totals(out: Path, outcome: _Outcome, problems: list[str]) -> None:
    totals = {
        "requests": outcome.bill.requests,
        "input_tokens": outcome.bill.input_tokens,
        "output_tokens": outcome.bill.output_tokens,
        "charged": format_amount(outcome.bill.charged),
        "violations": max(outcome.verdict.violation_count, len(problems)),
    }
    out.write_text(json.dumps(totals) + "\n")


def _stop_on_signal() -> None:
    """Let Ctrl-C and SIGTERM cancel the work, so that everything is stopped in order."""
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


@asynccontextmanager
async def _running(stack: Stack) -> AsyncIterator[Stack]:
    with stack.folder.locked():
        try:
            await stack.start()
            yield stack
        finally:
            await stack.stop()


@contextmanager
def _folder_for_now(data_dir: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_FOLDERS, dir=data_dir))
    try:
        yield folder
    finally:
        postgres.remove(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(data_dir: Path) -> None:
    """Remove folders of demonstrations that were killed. One that still runs holds the lock of its folder."""
    for folder in data_dir.glob(f"{_FOLDERS}*"):
        try:
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                postgres.remove(folder / "postgres")
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _resident_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(sizes[0]) / _MEBIBYTE if sizes else 0.0
