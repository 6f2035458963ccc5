"""A service that expects other shards than its database has does not start, and never serves a call."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest

from libs.cli.installation.data_folder import DataFolder
from libs.cli.installation.environment import repository, service_environment
from libs.cli.installation.health import is_serving
from libs.cli.installation.processes import service_program
from libs.cli.terminal.connection import Connection
from libs.common import postgres
from libs.common.clock import SystemClock
from libs.common.database_url import with_database
from libs.common.databases import create_database, drop_database, execute
from libs.common.ids import new_id
from libs.common.migrate import CONTEXTS, migrate
from libs.common.ports import free_port
from libs.common.postgres import PostgresServer
from libs.common.roles import role_of
from tests.support.database import new_database_name
from tests.support.shard_versions import newest_shard_version
from tests.system.installation import until
from tollhouse.billing.v1 import account_pb2, account_pb2_grpc
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

ENDS_WITHIN_S = 30
SHARDED = ("billing", "metering")
NEWEST = {context: newest_shard_version(context) for context in SHARDED}
ANSWERED = grpc.StatusCode.NOT_FOUND
"""What a service says that works: it is asked for what there is not."""
DIFFERENT_NUMBER = (
    "TOLLHOUSE_SHARDS is 3, but {context} has 2 in this database. The number is fixed when an installation is made: set"
    " TOLLHOUSE_SHARDS=2."
)
NOT_ALL = (
    "The shards of {context} are not all at version {newest}: {context}_01. Run `tollhouse migrate`; it goes on where"
    " it was interrupted."
)
NONE = "The schema of {context} is missing or from before shards. Run `tollhouse migrate`."


@dataclass
class Place:
    """A Postgres server on a port of its own with a migrated database, and a data folder."""

    server: PostgresServer
    data: DataFolder
    database: str = ""

    @property
    def url(self) -> str:
        return with_database(self.server.admin_url, self.database)

    @contextmanager
    def service(self, context: str, port: int, *, shards: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run the service's process, and end it if it still runs."""
        environment = service_environment(
            context,
            folder=self.data,
            database_url=self.server.tcp_url(self.database, role_of(context), self.data.passwords()[context]),
            host="127.0.0.1",
            ports=dict.fromkeys(CONTEXTS, free_port()) | {context: port},
            reuse_port=False,
            shards=shards,
        )
        with (
            self.output(context, port).open("wb") as output,
            subprocess.Popen(service_program(context), cwd=repository(), env=environment, stderr=output) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def output(self, context: str, port: int) -> Path:
        """The file to which the service at a port writes its log and its errors."""
        return self.data.path / f"{context}-{port}.log"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("differ")
    data = DataFolder(folder / "data")
    data.prepare()
    yield Place(postgres.start(folder / "postgres", port=free_port()), data)
    postgres.remove(folder / "postgres")


@pytest.fixture
async def place(server: Place) -> AsyncIterator[Place]:
    """The database has two shards."""
    server.database = new_database_name()
    url = await create_database(server.server.admin_url, server.database)
    await migrate(CONTEXTS, url, shards=2, passwords=server.data.passwords())
    yield server
    await drop_database(server.server.admin_url, server.database)


async def is_answered(place: Place, context: str, port: int) -> bool:
    """Call the service as an operator."""
    target = f"127.0.0.1:{port}"
    token = place.data.operator_token(timedelta(minutes=5), SystemClock())
    try:
        async with Connection(target, target, target, token).open() as channels:
            if context == "billing":
                accounts = account_pb2_grpc.AccountServiceStub(channels.billing)
                await accounts.GetBalance(account_pb2.GetBalanceRequest(organization_id=new_id()), timeout=2)
            else:
                usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
                request = usage_pb2.GetUsageRequest(organization_id=new_id(), operation_id="none")
                await usage.GetUsage(request, timeout=2)
    except grpc.aio.AioRpcError as error:
        return error.code() == ANSWERED
    return True


async def last_words(process: subprocess.Popen[bytes], place: Place, context: str, port: int) -> str:
    """Call the service until its process ends; no call may be answered. Return the last line of its errors."""
    give_up = time.monotonic() + ENDS_WITHIN_S
    while process.poll() is None:
        assert time.monotonic() < give_up, "the service still runs"
        assert not await is_serving(f"127.0.0.1:{port}")
        assert not await is_answered(place, context, port)
    assert process.returncode == 2
    return place.output(context, port).read_text().splitlines()[-1]


@pytest.mark.parametrize("context", SHARDED)
@pytest.mark.parametrize(
    ("change", "shards", "message"),
    [
        ("SELECT 1", 3, DIFFERENT_NUMBER),
        ("DROP SCHEMA {context}_01 CASCADE", 2, NOT_ALL),
        ("UPDATE {context}_01.alembic_version SET version_num = '0000'", 2, NOT_ALL),
        ("DROP SCHEMA {context} CASCADE", 2, NONE),
    ],
)
async def test_service_that_expects_other_shards_ends_with_status_2_and_says_why(
    place: Place, context: str, change: str, shards: int, message: str
) -> None:
    await execute(place.url, [change.format(context=context)])
    port = free_port()
    with place.service(context, port, shards=shards) as process:
        said = await last_words(process, place, context, port)
    assert said == message.format(context=context, newest=NEWEST[context])


@pytest.mark.parametrize("context", SHARDED)
async def test_service_that_finds_other_shards_only_when_the_database_is_back_answers_no_call(
    place: Place, context: str
) -> None:
    wrong_port, right_port = free_port(), free_port()
    await asyncio.to_thread(place.server.stop)
    try:
        with (
            place.service(context, wrong_port, shards=3) as wrong,
            place.service(context, right_port, shards=2) as right,
        ):
            for port in (wrong_port, right_port):
                await until(partial(listens, port), 30, "it listens")
                assert not await is_serving(f"127.0.0.1:{port}")
                assert not await is_answered(place, context, port)
            await asyncio.to_thread(postgres.start, place.server.data_dir, port=place.server.port)
            said = await last_words(wrong, place, context, wrong_port)
            assert said == DIFFERENT_NUMBER.format(context=context)
            # The same calls are answered where the number is right.
            await until(lambda: is_serving(f"127.0.0.1:{right_port}"), 30, "it serves")
            assert await is_answered(place, context, right_port)
            assert right.poll() is None
    finally:
        place.server = await asyncio.to_thread(postgres.start, place.server.data_dir, port=place.server.port)


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
