"""Billing's server for tests: a real one on a free port, with a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.billing.support import BillingServer, Ledger
from tests.support.callers import Callers


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
