"""Databases of three shards, whatever TOLLHOUSE_TEST_SHARDS says, and the services on them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.database_url import database_name
from libs.common.databases import create_database, drop_database
from libs.common.migrate import migrate
from tests.billing.support import BillingServer
from tests.metering.support import Platform, priced
from tests.shards.support import SHARDS
from tests.support.callers import Callers
from tests.support.database import TestPostgres, migrated_contexts, new_database_name
from tests.support.secrecy import WATCH
from tests.support.sharded import prepare_shards


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture(scope="session")
async def template_of_three(postgres: TestPostgres) -> AsyncIterator[str]:
    name = new_database_name()
    url = await create_database(postgres.admin_url, name)
    passwords = dict.fromkeys(migrated_contexts(), postgres.password) if postgres.password else None
    await migrate(migrated_contexts(), url, shards=SHARDS, passwords=passwords)
    await prepare_shards(url, SHARDS)
    yield name
    await drop_database(postgres.admin_url, name)


@pytest.fixture
async def admin_url(
    postgres: TestPostgres, template_of_three: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A database of three shards for this test alone; the services that the test starts expect three."""
    monkeypatch.setenv("TOLLHOUSE_SHARDS", str(SHARDS))
    name = new_database_name()
    url = await create_database(postgres.admin_url, name, template_of_three)
    yield url
    await WATCH.scan_database(url)
    await drop_database(postgres.admin_url, name)


@pytest.fixture
def urls(postgres: TestPostgres, admin_url: str) -> dict[str, str]:
    return {context: postgres.url(database_name(admin_url), context) for context in migrated_contexts()}


@pytest.fixture
def server(callers: Callers, urls: dict[str, str]) -> BillingServer:
    return BillingServer(callers, urls["billing"])


@pytest.fixture
async def platform(callers: Callers, urls: dict[str, str], admin_url: str, tmp_path: Path) -> AsyncIterator[Platform]:
    """Billing and metering, with gpt-4o at 2.5 and 10 dollars."""
    async with priced(Platform(callers, urls, admin_url, tmp_path, SystemClock())) as platform:
        yield platform
