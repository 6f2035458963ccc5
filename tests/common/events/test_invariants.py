"""The invariants of events find each fault that is planted, and nothing where there is none."""

import asyncpg
import pytest

from libs.common.database_url import plain_url
from libs.common.ids import new_id
from tests.common.events.receiver import Receiver, status
from tests.common.events.support import House

IN_ORDER, MOVE = "events_are_in_order", "event_deliveries_move"


@pytest.mark.parametrize(
    ("statement", "invariant"),
    [
        ("DELETE FROM events WHERE sequence = 2", IN_ORDER),
        ("DELETE FROM events WHERE sequence = 3", IN_ORDER),
        ("DELETE FROM events", IN_ORDER),
        ("DELETE FROM event_subjects", IN_ORDER),
        ("UPDATE event_subjects SET sequence = 2", IN_ORDER),
        ("UPDATE event_subjects SET sequence = 4", IN_ORDER),
        ("UPDATE events SET event_time = event_time - interval '1 second' WHERE sequence = 2", IN_ORDER),
        ("UPDATE event_deliveries SET status = 'WAITING' WHERE sequence = 1", MOVE),
        ("DELETE FROM event_deliveries WHERE sequence = 1", MOVE),
        ("UPDATE event_deliveries SET event_id = gen_random_uuid() WHERE sequence = 1", MOVE),
    ],
)
async def test_a_planted_fault_is_found(
    house: House, receiver: Receiver, database_admin_url: str, statement: str, invariant: str
) -> None:
    org = new_id()
    receiver.answer = status(500)
    await house.add_endpoint(org, receiver.url)
    await house.announce(org, count=3)
    await house.deliver()
    assert await house.findings() == []
    connection = await asyncpg.connect(plain_url(database_admin_url))
    try:
        await connection.execute("SET search_path = identity")
        await connection.execute(statement)
    finally:
        await connection.close()
    assert invariant in {found.invariant for found in await house.findings()}
