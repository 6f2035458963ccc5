"""A process that delivers events may be killed anywhere: every event arrives, in order, each time with the same id."""

import signal
from datetime import timedelta
from typing import Final

import pytest

from libs.common.database import Database
from libs.common.events.domain import Status
from libs.common.events.homes import one_home
from libs.common.ids import new_id
from tests.common.events.dying_deliverer import POINTS, run
from tests.common.events.receiver import Receiver
from tests.common.events.support import House
from tests.support.clock import FixedClock
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT

pytestmark = pytest.mark.thorough

SUBJECTS: Final = ("thing/1", "thing/2", "thing/3")


@pytest.mark.parametrize("point", POINTS)
async def test_a_deliverer_that_is_killed_loses_no_event_and_no_order(
    identity_database: Database, database_urls: dict[str, str], receiver: Receiver, point: str
) -> None:
    house = House(one_home(identity_database), FixedClock())
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    for number in range(KILLS_AT_EACH_POINT):
        for subject in SUBJECTS:
            await house.announce(org, subject, count=2)
        after = 1 + number % 3 if point in ("sent", "finished", "noted") else 1
        assert await exit_code_of(run, database_urls["identity"], point, after) == -signal.SIGKILL
        # Others may take what the dead process had when an attempt would be over.
        await house.pass_time(timedelta(minutes=1))
        await house.pass_time(timedelta(minutes=1))
    found = await house.deliveries(org, made.endpoint.endpoint_id)
    assert [(one.subject, one.sequence) for one in found] == [
        (subject, sequence) for subject in SUBJECTS for sequence in range(1, 2 * KILLS_AT_EACH_POINT + 1)
    ]
    assert {one.status for one in found} == {Status.DELIVERED}
    for subject in SUBJECTS:
        first_times = dict.fromkeys(sequence for name, sequence in receiver.sequences if name == subject)
        assert list(first_times) == list(range(1, 2 * KILLS_AT_EACH_POINT + 1))
    bodies = {(one.headers["webhook-id"], one.body) for one in receiver.received}
    assert len(bodies) == len(set(receiver.ids)) == len(found)
    assert await house.findings() == []
