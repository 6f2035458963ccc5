"""`tollhouse verify`: check every invariant of every service, and those between services."""

import typer
from rich.console import Console
from rich.table import Table

from libs.cli.reconciliation import Verdict
from libs.cli.reconciliation import verify as verify_all
from libs.cli.terminal.calling import calls_services
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output

_SHOWN_MAX = 50


@calls_services()
async def verify(channels: Channels, output: Output) -> None:
    """Check every invariant; exit status 1 and a list if anything is violated."""
    verdict = await verify_all(channels)
    if output.as_json:
        output.json(verdict.as_json())
    else:
        print_verdict(Console(highlight=False), verdict)
    raise typer.Exit(1 if verdict.violation_count else 0)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print the checks, then the violations."""
    table = Table(box=None, pad_edge=False)
    table.add_column("service", no_wrap=True)
    table.add_column("invariant", overflow="fold")
    table.add_column("examined", justify="right", no_wrap=True)
    table.add_column("violations", justify="right", no_wrap=True)
    for check in verdict.checks:
        table.add_row(check.service, check.invariant, f"{check.examined:,}", f"{check.violations:,}")
    console.print(table)
    for violation in verdict.violations[:_SHOWN_MAX]:
        console.print(
            f"{violation.service} {violation.invariant} {violation.organization_id} {violation.subject}: "
            f"{violation.detail}",
            markup=False,
        )
    if len(verdict.violations) > _SHOWN_MAX:
        console.print("… and more; --json lists them all.")
    console.print(f"{len(verdict.checks)} invariants, {verdict.violation_count:,} violations")
