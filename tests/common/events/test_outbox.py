"""Events are numbered within each subject without a gap, and exist exactly if the change does."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.audit.recording import PLATFORM
from libs.common.database import Database
from libs.common.events.outbox import DATA_BYTES_MAX, NewEvent, announce
from libs.common.events.store import EventFilters
from libs.common.ids import new_id
from tests.common.events.support import HIGHEST, House

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def event(subject: str = "thing/1", organization_id: str = PLATFORM, **data: object) -> NewEvent:
    return NewEvent(organization_id, "tollhouse.thing.changed", subject, data)


async def written(house: House, organization_id: str = PLATFORM) -> list[tuple[str, int, datetime]]:
    far = datetime(9000, 1, 1, tzinfo=UTC)
    filters = EventFilters(organization_id, datetime(1970, 1, 1, tzinfo=UTC), far)
    found = await house.replays.events(filters, (far, HIGHEST), 1000)
    return sorted((one.subject, one.sequence, one.event_time) for one in found)


async def test_events_of_fifty_transactions_at_once_have_numbers_without_a_gap(
    house: House, identity_database: Database, patient_locks: None
) -> None:
    async def change(number: int) -> None:
        way = identity_database.transaction if number % 2 else identity_database.raw_transaction
        async with way() as tx:
            await announce(tx, [event("thing/1"), event("thing/2"), event("thing/1")], NOW)

    await asyncio.gather(*(change(number) for number in range(50)))
    found = await written(house)
    assert [n for subject, n, _ in found if subject == "thing/1"] == list(range(1, 101))
    assert [n for subject, n, _ in found if subject == "thing/2"] == list(range(1, 51))


async def test_a_change_that_is_rolled_back_leaves_no_event_and_no_gap(
    house: House, identity_database: Database
) -> None:
    async def change_and_regret() -> None:
        async with identity_database.transaction() as tx:
            await announce(tx, [event()], NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_and_regret()
    async with identity_database.transaction() as tx:
        await announce(tx, [event()], NOW)
    assert await written(house) == [("thing/1", 1, NOW)]


async def test_times_never_decrease_along_a_subject(house: House, identity_database: Database) -> None:
    for seconds in (0, -60, 60):
        async with identity_database.transaction() as tx:
            await announce(tx, [event()], NOW + timedelta(seconds=seconds))
    assert [moment for _, _, moment in await written(house)] == [NOW, NOW, NOW + timedelta(minutes=1)]


async def test_more_events_than_one_statement_takes_are_numbered_on(house: House, identity_database: Database) -> None:
    async with identity_database.transaction() as tx:
        await announce(tx, [event(n=number) for number in range(900)], NOW)
    assert [n for _, n, _ in await written(house)] == list(range(1, 901))


async def test_organizations_have_subjects_of_their_own(house: House, identity_database: Database) -> None:
    organizations = [new_id(), new_id()]
    async with identity_database.transaction() as tx:
        await announce(tx, [event(organization_id=one) for one in organizations], NOW)
    for one in organizations:
        assert [n for _, n, _ in await written(house, one)] == [1]


async def test_hostile_text_in_the_data_is_stored_without_what_postgres_cannot_hold(
    house: House, identity_database: Database
) -> None:
    hostile = "a\x00b\ud800c'\"\\u0000../" + "x" * 1000
    async with identity_database.transaction() as tx:
        await announce(tx, [event(text=hostile, parts=[hostile], inner={hostile: hostile})], NOW)
    filters = EventFilters(PLATFORM, NOW, NOW + timedelta(days=1))
    (found,) = await house.replays.events(filters, (NOW + timedelta(days=1), HIGHEST), 10)
    clean = "a\ufffdb?c'\"\\u0000../" + "x" * 1000
    assert found.data == {"text": clean, "parts": [clean], "inner": {clean: clean}}


@pytest.mark.parametrize(
    ("kind", "subject", "data"),
    [
        ("thing.changed", "thing/1", {}),
        ("tollhouse.thing", "thing/1", {}),
        ("tollhouse.thing.changed", "", {}),
        ("tollhouse.thing.changed", "a b", {}),
        ("tollhouse.thing.changed", "x" * 257, {}),
        ("tollhouse.thing.changed", "thing/1", {"x": "y" * DATA_BYTES_MAX}),
        ("tollhouse.thing.changed", "thing/1", {"x": float("nan")}),
    ],
)
def test_what_is_no_event_cannot_be_announced(kind: str, subject: str, data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        NewEvent(PLATFORM, kind, subject, data)
