"""A process that delivers events, on a database of each test's own, and a receiver."""

from collections.abc import AsyncIterator

import pytest

from libs.common.database import Database
from libs.common.events.homes import one_home
from tests.common.events.receiver import Receiver, receiving
from tests.common.events.support import House
from tests.support.clock import FixedClock


@pytest.fixture
def house(identity_database: Database) -> House:
    return House(one_home(identity_database), FixedClock())


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver
