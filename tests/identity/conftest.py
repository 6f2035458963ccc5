"""A real identity server for tests, on a free port, with a database of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from libs.common.database import Database
from tests.identity.people import People
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers

OpenIdentity = Callable[[], Awaitable[Identity]]


@pytest.fixture(scope="session")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    return Callers(tmp_path_factory.mktemp("callers"))


@pytest.fixture
async def start_identity(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> AsyncIterator[OpenIdentity]:
    """Starts another identity server on the test's database each time it is called."""
    async with AsyncExitStack() as stack:

        async def start() -> Identity:
            return await stack.enter_async_context(open_identity(callers, database_urls["identity"], tmp_path))

        yield start


@pytest.fixture
async def identity(start_identity: OpenIdentity) -> Identity:
    return await start_identity()


@pytest.fixture
def people(identity: Identity, identity_database: Database, callers: Callers) -> People:
    return People(identity, identity_database, callers)


@pytest.fixture(scope="module")
async def module_identity(
    callers: Callers, module_database_urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Identity]:
    """One server for all those tests of a module that leave each other's data alone."""
    folder = tmp_path_factory.mktemp("identity")
    async with open_identity(callers, module_database_urls["identity"], folder) as identity:
        yield identity
