"""A real identity server for tests, on a free port, with a database of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from libs.common.database import Database, open_database
from tests.identity.people import People
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tests.support.own_database import has_own_database

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
def identity(request: pytest.FixtureRequest) -> Identity:
    """A server of the test's own or of its module."""
    identity: Identity = request.getfixturevalue("own_identity" if has_own_database(request) else "module_identity")
    return identity


@pytest.fixture
async def own_identity(start_identity: OpenIdentity) -> Identity:
    return await start_identity()


@pytest.fixture
def people(request: pytest.FixtureRequest, identity: Identity, callers: Callers) -> People:
    database = "identity_database" if has_own_database(request) else "module_identity_database"
    return People(identity, request.getfixturevalue(database), callers)


@pytest.fixture(scope="module")
async def module_identity(
    callers: Callers, module_database_urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Identity]:
    folder = tmp_path_factory.mktemp("identity")
    async with open_identity(callers, module_database_urls["identity"], folder) as identity:
        yield identity


@pytest.fixture(scope="module")
async def module_identity_database(module_database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = open_database(module_database_urls["identity"], schema="identity")
    yield database
    await database.close()
