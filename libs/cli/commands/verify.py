"""`tollhouse verify`: check every invariant of every service, and those between services."""

from datetime import UTC
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from libs.cli.comparison import Scope
from libs.cli.failures import WrongUse
from libs.cli.reconciliation import verify as verify_all
from libs.cli.terminal.calling import calls_services
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output, shown
from libs.cli.terminal.progress import progress_for
from libs.cli.terminal.times import parse_past
from libs.cli.verdict import Verdict
from libs.common.clock import SystemClock
from libs.common.ids import is_id

_SHOWN_MAX = 50


@calls_services()
async def verify(
    channels: Channels,
    output: Output,
    organization: Annotated[
        str, typer.Option("--organization", help="Verify this organization alone.", metavar="ID", show_default=False)
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            help="Leave out what is older than this time: 2026-12-31T23:59:00Z, or 30d for 30 days ago.",
            metavar="TIME",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Check every invariant; exit status 1 and a list if anything is violated, 3 if it could not all be checked."""
    organization_id = organization.lower()
    if organization_id and not is_id(organization_id):
        raise WrongUse(f"{organization!r} is not the id of an organization.")
    scope = Scope(organization_id, parse_past(since) if since else None)
    if scope.since_time is not None and scope.since_time.ToDatetime(UTC) > SystemClock().now():
        raise WrongUse(f"{since} is in the future: nothing would be verified.")
    verdict = await verify_all(channels, scope, progress_for(quiet=output.as_json))
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
        line = (
            f"{violation.service} {violation.invariant} {violation.organization_id} {violation.subject}: "
            f"{violation.detail}"
        )
        # Whole, whatever the width of the terminal: people search for what it names.
        console.print(shown(line), markup=False, soft_wrap=True)
    if len(verdict.violations) > _SHOWN_MAX:
        console.print("… and more; --json lists them all.")
    console.print(f"{len(verdict.checks)} invariants, {verdict.violation_count:,} violations")
