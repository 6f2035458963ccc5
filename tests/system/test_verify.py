"""`tollhouse verify` finds damage that no single service can detect, and reports no manual changes of operators."""

import asyncio
import io
import json
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console

from libs.cli.terminal.progress import Lines, Progress, TerminalBars
from libs.common.ids import new_id
from tests.support.sharded import in_each_shard
from tests.system.installation import Installation, create_organization, running
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import amount_pb2

pytestmark = pytest.mark.shards

PREFIX = "verified"


async def damage(installation: Installation, *damages: tuple[str, str]) -> None:
    """Change rows as the owner of the database, which no service can."""
    connection = await asyncpg.connect(str(installation.ready()["database_url"]))
    try:
        for statement, operation_id in damages:
            done = [await connection.execute(one, operation_id) for one in in_each_shard(statement)]
            assert sum(int(one.rpartition(" ")[2]) for one in done) == 1
    finally:
        await connection.close()


def findings(installation: Installation) -> set[tuple[str, str]]:
    """Return the violated invariants that compare two services, with the operations concerned."""
    found = installation.verify()["findings"]
    assert isinstance(found, list)
    return {(one["invariant"], one["subject"]) for one in found if "," in one["service"]}


async def charge_by_hand(installation: Installation, *, exists: bool) -> str:
    """Credit and debit an account; return the id of its organization, which may be missing in identity."""
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels) if exists else new_id()
        stub = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
        amount = amount_pb2.Amount(currency_code="USD", value="3.5")
        await stub.Credit(ledger_pb2.CreditRequest(organization_id=organization_id, operation_id="in", amount=amount))
        await stub.Debit(
            ledger_pb2.DebitRequest(
                organization_id=organization_id,
                operation_id="out",
                amount=amount,
                mode=ledger_pb2.DEBIT_MODE_MUST_POST,
            )
        )
        return organization_id


async def test_verify_compares_metering_with_billing_both_ways(tmp_path: Path, small_trace: Path) -> None:
    async with running(Installation(tmp_path, prepared=True)) as installation:
        done = await asyncio.to_thread(installation.command, "replay", str(small_trace), "--operation-prefix", PREFIX)
        assert done.returncode == 0, done.stderr
        await charge_by_hand(installation, exists=True)
        assert installation.verify()["violations"] == 0
        nobody = await charge_by_hand(installation, exists=False)
        await damage(
            installation,
            # A missing charge, a charge without usage, and a charge with a different amount.
            ("DELETE FROM billing.transactions WHERE operation_id = $1", f"{PREFIX}:2"),
            ("DELETE FROM metering.usage_operations WHERE operation_id = $1", f"{PREFIX}:3"),
            ("DELETE FROM metering.usage_records WHERE operation_id = $1", f"{PREFIX}:3"),
            ("UPDATE billing.transactions SET amount = amount + 1 WHERE operation_id = $1", f"{PREFIX}:4"),
        )
        assert findings(installation) == {
            ("X2_settled_is_charged", f"{PREFIX}:2"),
            ("X1_charges_agree", f"{PREFIX}:3"),
            ("X1_charges_agree", f"{PREFIX}:4"),
            ("organizations_exist", f"organizations/{nobody}"),
        }
        shown = installation.command("verify")
        assert shown.returncode == 1
        assert f"{PREFIX}:4: costs" in shown.stdout


async def test_verify_takes_one_organization_or_a_time(installation: Installation) -> None:
    organization_id = await charge_by_hand(installation, exists=True)

    ways = (("--organization", organization_id.upper()), ("--since", "1h"), ("--since", "2024-01-01T00:00:00Z"))
    for options in ways:
        done = installation.command("verify", "--json", *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["violations"] == 0
        assert done.stderr == ""

    nobody = new_id()
    for options, line in (
        (("--organization", nobody), f"There is no organization {nobody}."),
        (("--organization", "me"), "is not the id of an organization"),
        (("--since", "yesterday"), "is neither a time"),
        (("--since", "2999-01-01T00:00:00Z"), "is in the future"),
    ):
        done = installation.command("verify", *options)
        assert done.returncode == 2
        assert line in done.stderr
        assert done.stdout == ""


async def test_verify_without_a_verdict_has_an_exit_status_of_its_own(installation: Installation) -> None:
    done = installation.command("verify", "--billing", "127.0.0.1:1")

    assert done.returncode == 3
    assert "billing did not complete its part" in done.stderr
    assert done.stdout == ""


async def test_progress_is_a_line_now_and_then_and_bars_in_a_terminal() -> None:
    for kind, terminal in ((Lines, False), (TerminalBars, True)):
        written = io.StringIO()
        console = Console(file=written, force_terminal=terminal, width=100)
        progress = Lines(console, every_s=0.01) if kind is Lines else TerminalBars(console)
        async with progress.shown():
            progress.note("billing checks itself")
            progress.note("comparing charges", 3_400_000, 10_000_000)
            await asyncio.sleep(0.3)
            progress.end("billing checks itself")
            progress.end("comparing charges")
        assert "billing checks itself" in written.getvalue()
        assert "3,400,000" in written.getvalue()
    assert Progress().line() == ""
