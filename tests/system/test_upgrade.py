"""An installation that the version before shards made is brought up to date with nothing lost, and goes on.

`data/before_shards.sql` is such an installation: 40 replayed calls, holds, declines, charges that are pending, refused
and set aside, usage without a price, usage in two months and in the default partition, and the audit trail.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from libs.cli.terminal.connection import Channels
from libs.common import postgres
from libs.common.database_url import plain_url
from libs.common.databases import execute
from libs.common.migrate import CONTEXTS
from libs.common.postgres import PostgresServer
from libs.common.roles import create_role
from libs.common.timestamps import render_optional_time
from tests.system.installation import Installation, running, until
from tests.system.own_server import Target, new_target
from tollhouse.billing.v1 import account_pb2, account_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import (
    admission_pb2,
    admission_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    model_pb2,
    usage_pb2,
    usage_pb2_grpc,
)

DUMP = Path(__file__).parent / "data" / "before_shards.sql"
ACME = "01a21591-dc2c-769a-824b-3114acd37b48"
"""Most of what is in the dump belongs to it; it has a price of its own, of 2 and 10 USD for a million tokens."""
EURO = "01a21591-dc36-70e6-b96b-67e2f6bfa593"
POOR = "01a21591-dc3d-7a32-960b-c28a8913c46a"
LONG_AGO = datetime(2024, 5, 6, tzinfo=UTC)
"""A month for which the dump has no partition, but a usage in the default one."""

_COLUMNS = """
    SELECT n.nspname::text, c.relname::text, array_agg(a.attname::text ORDER BY a.attname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname ~ '^(identity|billing|metering)' AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relname NOT IN ('alembic_version', 'sharding', 'catalogue_state')
    GROUP BY 1, 2
"""

Columns = dict[tuple[str, str], list[str]]
"""The columns of each table, by service and table."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    folder = tmp_path_factory.mktemp("upgrade") / "postgres"
    yield postgres.start(folder, port=0)
    postgres.remove(folder)


@pytest.fixture
async def before(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Target]:
    async with new_target(server, tmp_path) as target:
        roles = [statement for context in CONTEXTS for statement in create_role(context)]
        await execute(target.url, [*roles, DUMP.read_text(encoding="utf-8")])
        yield target


async def columns(target: Target) -> Columns:
    rows = await target.fetch(_COLUMNS)
    return {(str(schema).partition("_")[0], str(table)): list(map(str, names)) for schema, table, names in rows}  # type: ignore[call-overload]


async def contents(target: Target, kept_columns: Columns) -> dict[tuple[str, str], tuple[int, int]]:
    """Return by service and table how many rows there are, and a sum over the text of all rows in these columns.

    A service's own schema and its shard are added up. Tables without rows, and those of later versions, are left out.
    """
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for schema, table, _ in await target.fetch(_COLUMNS):
        place = (str(schema).partition("_")[0], str(table))
        if place not in kept_columns:
            continue
        names = ", ".join(f't."{name}"' for name in kept_columns[place])
        digest_of_rows = f"coalesce(sum(hashtextextended(ROW({names})::text, 0)), 0)::text"
        ((count, total),) = await target.fetch(f'SELECT count(*), {digest_of_rows} FROM {schema}."{table}" t')  # noqa: S608
        rows, digest = found.get(place, (0, 0))
        found[place] = (rows + int(str(count)), digest + int(str(total)))
    return {place: content for place, content in found.items() if content[0]}


async def test_every_row_is_kept_and_is_where_it_belongs(before: Target) -> None:
    names = await columns(before)
    kept = await contents(before, names)
    assert len(kept) > 20
    assert before.done("migrate") == ""
    assert await contents(before, names) == kept
    assert await before.schemas() == ["billing", "billing_00", "identity", "metering", "metering_00"]
    platform = await before.fetch("SELECT DISTINCT organization_id::text FROM metering.audit_events")
    assert platform == [("00000000-0000-0000-0000-000000000000",)]
    in_shard = await before.fetch("SELECT DISTINCT organization_id::text FROM metering_00.audit_events")
    assert in_shard == [(ACME,)]
    counts = "SELECT (SELECT shard_count FROM billing.sharding), (SELECT shard_count FROM metering.sharding)"
    assert await before.fetch(counts) == [(1, 1)]


@pytest.mark.parametrize("table", ["billing.transactions", "metering.usage_records", "metering.audit_heads"])
async def test_migration_killed_in_the_middle_is_repeated_and_nothing_is_lost(before: Target, table: str) -> None:
    names = await columns(before)
    kept = await contents(before, names)
    reader = await asyncpg.connect(plain_url(before.url))
    try:
        # While somebody reads the table, the migration waits before it moves it.
        await reader.execute(f"BEGIN; SELECT FROM {table} LIMIT 1")
        with before.start("migrate") as migrating:
            await until(lambda: _waits(before), 30, "the migration waits for the table")
            migrating.kill()
    finally:
        await reader.close()
    # What was moved of another service before stays moved; the interrupted one is as it was.
    assert (await before.fetch("SELECT to_regclass($1) IS NOT NULL", table)) == [(True,)]
    assert await contents(before, names) == kept
    before.done("migrate")
    assert await contents(before, names) == kept
    assert await before.fetch("SELECT to_regclass($1) IS NULL", "metering.usage_records") == [(True,)]


async def _waits(target: Target) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE application_name = 'tollhouse-migrate' AND wait_event_type = 'Lock'"
    return bool(await target.fetch(query))


async def test_another_number_of_shards_is_refused_and_nothing_is_changed(before: Target) -> None:
    names = await columns(before)
    kept, schemas = await contents(before, names), await before.schemas()
    line = before.refused(1, "migrate", "--shards", "4")
    assert "billing has 1 shard in this database, not 4" in line
    assert (await contents(before, names), await before.schemas()) == (kept, schemas)
    assert (await before.fetch("SELECT version_num FROM billing.alembic_version")) == [("0003",)]


class Calls:
    """Calls for Acme. Each returns whether it was answered as a repetition of an earlier one."""

    def __init__(self, channels: Channels) -> None:
        self._usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
        self._admission = admission_pb2_grpc.AdmissionServiceStub(channels.metering)
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
        self._charges = charge_pb2_grpc.ChargeServiceStub(channels.metering)
        self._accounts = account_pb2_grpc.AccountServiceStub(channels.billing)

    async def record(self, operation_id: str, occur_time: datetime | None = None) -> bool:
        request = usage_pb2.RecordUsageRequest(
            organization_id=ACME,
            operation_id=operation_id,
            model="swift-1",
            tokens=model_pb2.TokenCounts(input=1000, output=200),
            occur_time=render_optional_time(occur_time),
            backfill=occur_time is not None,
        )
        return (await self._usage.RecordUsage(request)).replayed

    async def settle(self, operation_id: str, tokens: tuple[int, int]) -> bool:
        request = admission_pb2.SettleRequest(
            organization_id=ACME,
            operation_id=operation_id,
            model="swift-1",
            tokens=model_pb2.TokenCounts(input=tokens[0], output=tokens[1]),
        )
        return (await self._admission.Settle(request)).replayed

    async def debit(self, operation_id: str, amount: str) -> bool:
        request = ledger_pb2.DebitRequest(
            organization_id=ACME,
            operation_id=operation_id,
            amount=Amount(currency_code="USD", value=amount),
            mode=ledger_pb2.DEBIT_MODE_GUARDED,
        )
        return (await self._ledger.Debit(request)).replayed

    async def open_account_in_dollars(self, organization_id: str) -> None:
        await self._accounts.OpenAccount(
            account_pb2.OpenAccountRequest(organization_id=organization_id, currency_code="USD")
        )

    async def retry_charges(self, organization_id: str) -> int:
        """Return how many refused charges are tried again at once."""
        request = charge_pb2.RetryChargesRequest(organization_id=organization_id)
        return (await self._charges.RetryCharges(request)).charge_count

    async def posted(self) -> Decimal:
        answer = await self._accounts.GetBalance(account_pb2.GetBalanceRequest(organization_id=ACME))
        return Decimal(answer.balance.posted.value)


@pytest.mark.timeout(300)
async def test_services_go_on_where_they_were_and_charge_nothing_twice(before: Target) -> None:
    ((posted,),) = await before.fetch("SELECT posted FROM billing.accounts WHERE organization_id = $1", ACME)
    assert isinstance(posted, Decimal)
    before.done("migrate")
    async with running(Installation(before.folder, ["--database-url", before.url])) as installation:
        assert installation.ready()["shards"] == 1
        await until(lambda: _none_is_pending(before), 30, "the pending charges are made")
        async with installation.connection().open() as channels:
            calls = Calls(channels)
            # Three pending charges of 1,000 input and 200 output tokens, at Acme's own price.
            posted -= 3 * _cost(1000, 200)
            assert await calls.posted() == posted
            assert [await calls.record(name) for name in ("recorded", "pending-0", "pending-2")] == [True] * 3
            assert await calls.settle("call-settled", (1200, 345))
            assert await calls.debit("manual", "7.25")
            assert await calls.posted() == posted
            assert not await calls.record("new")
            assert not await calls.settle("call-open", (1000, 200))
            assert not await calls.record("long-ago-too", occur_time=LONG_AGO)
            assert not await calls.debit("manual-too", "1")
            assert await calls.posted() == posted - 3 * _cost(1000, 200) - 1
            # Billing refused two charges, since the organization had an account in euros only.
            assert _refused_charges(await asyncio.to_thread(installation.verify)) == {"refused", "set-aside"}
            await calls.open_account_in_dollars(EURO)
            assert await calls.retry_charges(EURO) == 2
            await until(lambda: _none_waits(before), 30, "the refused charges are made")
        month = "SELECT count(*) FROM metering_00.usage_records_2024_05"
        assert await before.fetch(month) == [(2,)], "the usage in the default partition was moved to the new month"
        await asyncio.to_thread(_is_sound, installation)


def _refused_charges(verdict: dict[str, object]) -> set[str]:
    """Return the operations of the charges that `tollhouse verify` finds; it must find nothing else."""
    findings = verdict["findings"]
    assert isinstance(findings, list)
    assert {one["invariant"] for one in findings} == {"charges_come_from_usage"}
    return {one["subject"].removeprefix("charges/") for one in findings}


def _cost(input_tokens: int, output_tokens: int) -> Decimal:
    return Decimal(2 * input_tokens + 10 * output_tokens) / 10**6


def _is_sound(installation: Installation) -> None:
    assert installation.verify()["findings"] == []
    for chain in (("--platform",), ("--organization", ACME), ("--organization", POOR)):
        done = installation.command("audit", "verify", *chain)
        assert done.returncode == 0, done.stdout


async def _none_is_pending(target: Target) -> bool:
    return await target.fetch("SELECT FROM metering_00.outbox WHERE state = 'PENDING'") == []


async def _none_waits(target: Target) -> bool:
    return await target.fetch("SELECT FROM metering_00.outbox") == []
