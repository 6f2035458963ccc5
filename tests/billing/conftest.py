"""Billing's server for tests: a real one on a free port, with a database of its own."""

from collections.abc import AsyncIterator

import pytest

from libs.common.database import Database, open_database
from tests.billing.support import BillingServer, Ledger
from tests.support.callers import Callers
from tests.support.clock import FixedClock


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture
def server(callers: Callers, database_urls: dict[str, str]) -> BillingServer:
    return BillingServer(callers, database_urls["billing"])


@pytest.fixture
async def ledger(server: BillingServer) -> AsyncIterator[Ledger]:
    """Billing on the system's clock; what the test leaves behind must be consistent."""
    async with server.start() as ledger:
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
