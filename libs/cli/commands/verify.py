"""`tollhouse verify`: every invariant of every service, and those that hold between them."""

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from libs.cli.reconciliation import Verdict
from libs.cli.reconciliation import verify as verify_all
from libs.cli.terminal.connection import (
    BillingOption,
    IdentityOption,
    MeteringOption,
    ReadyFileOption,
    TokenOption,
    find_connection,
)

_SHOWN_MAX = 50


def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    ready_file: ReadyFileOption = None,
    identity: IdentityOption = None,
    billing: BillingOption = None,
    metering: MeteringOption = None,
    token: TokenOption = None,
) -> None:
    """Check every invariant; exit status 1 and a list if anything is violated."""
    connection = find_connection(ready_file, identity, billing, metering, token)

    async def run() -> Verdict:
        async with connection.open() as channels:
            return await verify_all(channels)

    verdict = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(verdict.as_json(), indent=2))
    else:
        print_verdict(Console(highlight=False), verdict)
    raise typer.Exit(1 if verdict.violation_count else 0)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print what was looked at, then what is wrong."""
    table = Table(box=None, pad_edge=False)
    table.add_column("service", no_wrap=True)
    table.add_column("invariant", overflow="fold")
    table.add_column("looked at", justify="right", no_wrap=True)
    table.add_column("wrong", justify="right", no_wrap=True)
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
