"""Fixtures for every test.

postgres            the server, one for each test process (under pytest-xdist each worker has its own); session
template_database   the name of a database with every context migrated, made once; session
database_admin_url  a clone of the template for this test alone, logged in as the owner of the schemas
database_urls       the same clone, by context: the URL by which that context's service logs in
identity_database   the same clone, opened as identity's service opens it; so also
billing_shards      and
metering_shards     the shards of both, as many as TOLLHOUSE_TEST_SHARDS says
module_database_admin_url  and
module_database_urls  such URLs of a clone that the tests of a module share

The services of `identity`, `ledger` and `platform` are shared by the tests of a module. A test has its own, on its own
database, if it asks for one of the fixtures of a database or is marked `own_database`; see `has_own_database`.

Set TOLLHOUSE_TEST_DATABASE_URL to test on a real server instead of an embedded one.

A test fails if a secret appears in a log, a refusal, a table or the output while it runs.
"""

import gc
import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager

import pytest

from libs.common.database import Database, open_database
from libs.common.database_url import database_name
from libs.common.databases import create_database, drop_database
from libs.common.shards import Shards, open_shards
from tests.support.database import Clones, TestPostgres, migrated_contexts, new_database_name, open_server
from tests.support.memory import keep_files_in_memory
from tests.support.patience import let_transactions_rest, wait_long_for_locks
from tests.support.secrecy import WATCH
from tests.support.sharded import SHARDS, keep_shards_apart
from tests.support.watched_server import watch_servers


def pytest_configure() -> None:
    keep_files_in_memory()
    WATCH.open_log()
    watch_servers(WATCH)
    # Every process of a test reads it: services in this process, and those that `tollhouse` starts.
    os.environ["TOLLHOUSE_SHARDS"] = str(SHARDS)
    keep_shards_apart()
    let_transactions_rest()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Show the logs of a failed test in production format, with complete exceptions."""
    capturing = session.config.pluginmanager.get_plugin("logging-plugin")
    if capturing is not None:
        capturing.report_handler.setFormatter(WATCH.formatter)


def pytest_unconfigure() -> None:
    WATCH.close_log()


def pytest_collection_finish() -> None:
    """What was imported and collected stays: full collections of garbage in the tests need not go through it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest tests, those of whole installations, so that no worker is left with them at the end.

    What needs a program of another language that is not here is left out. With CI set, it runs and fails.
    """
    items.sort(key=lambda item: item.path.parent.name not in {"system", "client"})
    missing = [] if os.environ.get("CI") else [item for item in items if _lacks_a_program(item)]
    if missing:
        items[:] = [item for item in items if item not in missing]
        config.hook.pytest_deselected(items=missing)


def _lacks_a_program(item: pytest.Item) -> bool:
    return any(not mark.args[0] or not os.path.exists(mark.args[0]) for mark in item.iter_markers("needs"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail the test at its end if a secret leaked during it."""
    report = yield
    if call.when == "teardown":
        for stream in (report.capstdout, report.capstderr):
            WATCH.scan("the output", stream)
        leaks = WATCH.take_leaks()
        if leaks:
            report.outcome = "failed"
            report.longrepr = "A secret got out: " + "; ".join(leaks)
    return report


@pytest.fixture
def patient_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that make calls wait for a lock in a known order, which may take long on a busy machine."""
    wait_long_for_locks(monkeypatch)


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestPostgres]:
    with open_server() as server:
        yield server


@pytest.fixture(scope="session")
async def template_database(postgres: TestPostgres) -> AsyncIterator[str]:
    name = new_database_name()
    await create_database(postgres.admin_url, name)
    await postgres.migrate(name)
    yield name
    await drop_database(postgres.admin_url, name)


@pytest.fixture(scope="session")
def clones(postgres: TestPostgres, template_database: str) -> Iterator[Clones]:
    clones = Clones(postgres, template_database)
    yield clones
    clones.close()


@asynccontextmanager
async def _clone(postgres: TestPostgres, clones: Clones) -> AsyncIterator[str]:
    name = await clones.take()
    yield name
    await WATCH.scan_database(postgres.admin_url_of(name))
    clones.give_back(name)


@pytest.fixture
async def database_admin_url(postgres: TestPostgres, clones: Clones) -> AsyncIterator[str]:
    async with _clone(postgres, clones) as name:
        yield postgres.admin_url_of(name)


@pytest.fixture(scope="module")
async def module_database_admin_url(postgres: TestPostgres, clones: Clones) -> AsyncIterator[str]:
    async with _clone(postgres, clones) as name:
        yield postgres.admin_url_of(name)


@pytest.fixture
def database_urls(postgres: TestPostgres, database_admin_url: str) -> dict[str, str]:
    return _urls(postgres, database_admin_url)


@pytest.fixture(scope="module")
def module_database_urls(postgres: TestPostgres, module_database_admin_url: str) -> dict[str, str]:
    return _urls(postgres, module_database_admin_url)


def _urls(postgres: TestPostgres, admin_url: str) -> dict[str, str]:
    return {context: postgres.url(database_name(admin_url), context) for context in migrated_contexts()}


@pytest.fixture
async def identity_database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = open_database(database_urls["identity"], schema="identity")
    yield database
    await database.close()


@pytest.fixture
async def billing_shards(database_urls: dict[str, str]) -> AsyncIterator[Shards]:
    shards = open_shards(database_urls["billing"], schema="billing", count=SHARDS)
    yield shards
    await shards.close()


@pytest.fixture
async def metering_shards(database_urls: dict[str, str]) -> AsyncIterator[Shards]:
    shards = open_shards(database_urls["metering"], schema="metering", count=SHARDS)
    yield shards
    await shards.close()
