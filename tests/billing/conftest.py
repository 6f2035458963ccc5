"""Billing's server for tests: a real one on a free port, with a database of its own."""

from collections.abc import AsyncIterator

import pytest

from libs.common.database import Database, open_database
from tests.billing.support import BillingServer, Ledger
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tests.support.own_database import has_own_database


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture
def server(callers: Callers, database_urls: dict[str, str]) -> BillingServer:
    return BillingServer(callers, database_urls["billing"])


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """Billing on the system's clock, of the test's own or of its module; what is left behind must be consistent."""
    ledger: Ledger = request.getfixturevalue("own_ledger" if has_own_database(request) else "module_ledger")
    return ledger


@pytest.fixture
async def own_ledger(server: BillingServer) -> AsyncIterator[Ledger]:
    async with server.start() as ledger:
        yield ledger
        assert await ledger.findings() == []


@pytest.fixture(scope="module")
async def module_ledger(callers: Callers, module_database_urls: dict[str, str]) -> AsyncIterator[Ledger]:
    async with BillingServer(callers, module_database_urls["billing"]).start() as ledger:
        yield ledger
        assert await ledger.findings() == []


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def timed(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    """Billing on a clock that the test moves; the sweeper does not run meanwhile."""
    async with server.start(clock, sweep_every_s=3600) as ledger:
        yield ledger
        assert await ledger.findings() == []


@pytest.fixture
async def platform(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    """Billing's own schema."""
    database = open_database(database_urls["billing"], schema="billing")
    yield database
    await database.close()
