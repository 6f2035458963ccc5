"""`tollhouse migrate`, `shards`, `up` and `demo` with a number of shards."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.cli.terminal.migrations import ranges, status_lines
from libs.common import postgres
from libs.common.databases import execute
from libs.common.ids import new_id
from libs.common.migrate import MigrationStatus
from libs.common.postgres import PostgresServer
from libs.common.sharding import shard_number
from tests.support import citus_extension
from tests.support.shard_versions import newest_shard_version, shard_migrations
from tests.system.installation import Installation, create_organization, is_running, running
from tests.system.own_server import Target, new_target
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

_ACCOUNT = """
INSERT INTO billing_{number:02}.accounts (
    organization_id, account_id, owner_id, currency_code, posted, held, sequence, overdraft_limit, state, version,
    revision, create_time, update_time
) SELECT '{organization_id}', gen_random_uuid(), gen_random_uuid(), 'USD', 0, 0, 0, 0, 'OPEN', 1, 1, now(), now()
FROM generate_series(1, {accounts})
"""
_CALLS = "SELECT call FROM calls WHERE call ~ '^(citus_schema_distribute|create_reference_table) ' ORDER BY number"
# The sizes that a node would tell, for the tables that tests/support/citus_extension.py has on one.
_SIZE_ON_NODE = """
CREATE FUNCTION citus_total_relation_size(relation regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1000'
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    folder = tmp_path_factory.mktemp("shards") / "postgres"
    yield postgres.start(folder, port=0)
    postgres.remove(folder)


@pytest.fixture
async def target(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Target]:
    async with new_target(server, tmp_path) as target:
        yield target


def schemas(count: int) -> list[str]:
    return sorted(
        ["identity", "billing", "metering", *(f"{c}_{n:02}" for c in ("billing", "metering") for n in range(count))]
    )


async def test_number_comes_from_the_env_file_and_the_option_comes_first(target: Target) -> None:
    (target.folder / ".env").write_text("TOLLHOUSE_SHARDS=2\n")
    assert json.loads(target.done("migrate", "--json", "--shards", "3"))["shards"] == 3
    assert await target.schemas() == schemas(3)
    line = target.refused(1, "migrate", "--json")
    assert "billing has 3 shards in this database, not 2" in line
    assert "TOLLHOUSE_SHARDS=3" in line
    (target.folder / ".env").unlink()
    assert json.loads(target.done("migrate", "--json"))["shards"] == 3, "what the database has"
    assert await target.schemas() == schemas(3)


@pytest.mark.parametrize("number", ["0", "257", "two", "٣"])
async def test_bad_number_is_refused_by_name_and_nothing_is_made(target: Target, number: str) -> None:
    line = target.refused(2, "migrate", TOLLHOUSE_SHARDS=number)
    assert line == "tollhouse: TOLLHOUSE_SHARDS: must be a number from 1 to 256.\n"
    assert await target.schemas() == []


async def test_progress_goes_to_standard_error_and_json_stays_one_document(target: Target) -> None:
    finished = target.tollhouse("migrate", "--json", "--shards", "12")
    assert json.loads(finished.stdout) == {"migrated": ["identity", "billing", "metering"], "shards": 12}
    expected = [f"{context}: shard {number} of 12" for context in ("billing", "metering") for number in range(1, 13)]
    assert finished.stderr.splitlines() == expected


async def test_status_sums_up_shards_at_one_version_and_names_those_that_differ(target: Target) -> None:
    target.done("migrate", "--shards", "4")
    even = target.done("migrate", "--status")
    for context in ("billing", "metering"):
        assert f"{context} shards 0-3 applied {', '.join(shard_migrations(context))}\n" in even
    await execute(target.url, ["UPDATE metering_02.alembic_version SET version_num = '0001'"])
    differing = target.done("migrate", "--status").splitlines()
    first, *others = shard_migrations("metering")
    assert f"metering shards 0-1, 3 applied {', '.join([first, *others])}" in differing
    assert differing[-2:] == [
        "metering shard 2 applied 0001_initial",
        f"metering shard 2 pending {', '.join(others)}",
    ]
    document = json.loads(target.done("migrate", "--status", "--json"))
    assert document["metering_02"] == {
        "applied": ["0001_initial"],
        "pending": others,
        "unknown": [],
    }
    assert set(document) == set(schemas(4))


def test_many_shards_make_few_lines_of_status() -> None:
    own = MigrationStatus(["0001_initial"], [], [])
    statuses = {"billing": own} | {f"billing_{number:02}": own for number in range(256)}
    statuses["billing_255"] = MigrationStatus(["0001_initial"], [], ["0009"])
    assert list(status_lines(["billing"], statuses)) == [
        "billing    applied  0001_initial",
        "billing shards 0-254 applied 0001_initial",
        "billing shard 255 applied 0001_initial",
        "billing shard 255 unknown 0009",
    ]
    assert ranges([0, 2, 3, 4, 9]) == "0, 2-4, 9"


async def test_distribute_without_citus_is_refused_before_anything_is_migrated(target: Target) -> None:
    line = target.refused(1, "migrate", "--distribute", "--shards", "2")
    assert "is on a server without Citus" in line
    assert await target.schemas() == []
    assert not (target.folder / "data").exists()


@pytest.mark.parametrize("arguments", [("billing",), ("--database-url", "")])
async def test_distribute_needs_all_contexts_and_a_named_database(target: Target, arguments: tuple[str, ...]) -> None:
    line = target.refused(2, "migrate", "--distribute", *arguments)
    assert "--distribute needs all contexts and a database" in line
    assert await target.schemas() == []


async def test_distribute_spreads_all_shards_and_shards_says_where_they_are(target: Target) -> None:
    await citus_extension.install(target.url)
    await execute(target.url, [_SIZE_ON_NODE])
    made = json.loads(target.done("migrate", "--distribute", "--shards", "2", "--json"))
    of_shards = ["billing_00", "billing_01", "metering_00", "metering_01"]
    of_all = ["billing.plans", "billing.plan_versions", "metering.models", "metering.price_versions"]
    assert made["distributed"] == [*of_all, *of_shards]
    calls = [call for (call,) in await target.fetch(_CALLS)]
    assert calls == [
        *(f"create_reference_table {table}" for table in of_all),
        *(f"citus_schema_distribute {schema}" for schema in of_shards),
    ]
    again = json.loads(target.done("migrate", "--distribute", "--json"))
    assert again["distributed"] == []
    first, second = json.loads(target.done("shards", "--json"))
    assert (first["node"], second["node"]) == ("first:5432", "second:6432")
    assert (first["rows"], first["organizations"]) == (None, 0)
    assert first["bytes"] > 10_000
    assert first["bytes"] % 1000 == 0, "the nodes are asked for the sizes"


async def test_shards_lists_what_each_holds(target: Target) -> None:
    target.done("migrate", "--shards", "3")
    organizations = [new_id() for _ in range(20)]
    places = [shard_number(one, 3) for one in organizations]
    await execute(
        target.url,
        [
            _ACCOUNT.format(number=number, organization_id=one, accounts=2)
            for number, one in zip(places, organizations, strict=True)
        ]
        + [f"ANALYZE billing_{number:02}.accounts" for number in range(3)],
    )
    shards = json.loads(target.done("shards", "--json"))
    assert [shard["organizations"] for shard in shards] == [places.count(number) for number in range(3)]
    assert [shard["rows"] for shard in shards] == [2 * places.count(number) for number in range(3)]
    assert [(shard["billing"], shard["metering"]) for shard in shards] == [
        (f"billing_{number:02}", f"metering_{number:02}") for number in range(3)
    ]
    assert all(shard["bytes"] > 100_000 and shard["problems"] == [] for shard in shards)
    assert all(not shard["organizations_are_more"] for shard in shards)
    table = target.done("shards").splitlines()
    assert "rows (about)" in table[0]
    assert [line.split()[:4] for line in table[1:]] == [
        [str(number), f"billing_{number:02}", f"metering_{number:02}", str(places.count(number))] for number in range(3)
    ]


async def test_shards_names_a_shard_that_is_missing_or_behind(target: Target) -> None:
    target.done("migrate", "--shards", "3")
    await execute(
        target.url,
        [
            "DROP SCHEMA billing_01 CASCADE",
            "UPDATE metering_02.alembic_version SET version_num = '0001'",
        ],
    )
    finished = target.tollhouse("shards")
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        "billing_01 is missing, or has not all its tables.",
        f"metering_02 is at version 0001; this version of Tollhouse needs {newest_shard_version('metering')}.",
        "tollhouse: Run `tollhouse migrate`; it goes on where it was interrupted.",
    ]
    assert [line.split()[3] for line in finished.stdout.splitlines()[1:]] == ["0", "missing", "0"]
    newest = newest_shard_version("metering")
    await execute(target.url, [f"UPDATE metering_02.alembic_version SET version_num = '{newest}'"])  # noqa: S608 -- ours.
    target.done("migrate")
    assert [shard["problems"] for shard in json.loads(target.done("shards", "--json"))] == [[]] * 3


async def test_shards_of_a_database_without_any_is_one_clear_line(target: Target) -> None:
    assert "has no shards yet" in target.refused(1, "shards")
    assert "cannot be reached" in Target("postgresql://x@127.0.0.1:1/x", target.folder).refused(1, "shards")


async def test_up_makes_the_shards_and_later_takes_what_there_are(tmp_path: Path) -> None:
    told = {"TOLLHOUSE_SHARDS": "2", "TOLLHOUSE_BILLING_FREE_PLAN_FOR_NEW_USERS": "false"}
    async with running(Installation(tmp_path, ["--shards", "3"], told)) as installation:
        assert installation.ready()["shards"] == 3
        async with installation.connection().open() as channels:
            stub = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
            organizations = [await create_organization(channels) for _ in range(6)]
            for one in organizations:
                amount = Amount(currency_code="USD", value="1")
                await stub.Credit(ledger_pb2.CreditRequest(organization_id=one, operation_id="in", amount=amount))
        listed = await asyncio.to_thread(installation.command, "shards", "--json", "--data-dir", str(tmp_path / "data"))
        counts = [shard["organizations"] for shard in json.loads(listed.stdout)]
        places = [shard_number(one, 3) for one in organizations]
        assert counts == [places.count(number) for number in range(3)]
        installation.stop()

        refused = await asyncio.to_thread(
            installation.command, "up", "--data-dir", str(tmp_path / "data"), "--shards", "2"
        )
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("tollhouse: billing has 3 shards in this database, not 2")
        assert refused.stderr.count("\n") == 1
        assert postgres.find(tmp_path / "data" / "postgres") is None, "what was started to look is stopped"

        installation.options = []
        installation.start()
        assert installation.ready()["shards"] == 3
        assert "TOLLHOUSE_SHARDS=2 is not used: this installation has 3." in installation.output()
        assert all(is_running(pid) for pid in installation.pids().values())
        assert installation.verify()["violations"] == 0


def test_demo_with_several_shards_adds_up(tmp_path: Path, small_trace: Path) -> None:
    target = Installation(tmp_path)
    finished = target.command(
        "demo", "--trace", str(small_trace), "--data-dir", str(tmp_path / "demo"), "--shards", "3"
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Everything adds up" in finished.stdout
