"""How the audit trail is written: chained, without gaps, in the transaction of the change, and append-only."""

import asyncio
import hashlib
from contextlib import AbstractAsyncContextManager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.audit.chain import START, Changed, Event, Flaw, Link, differences, flaws, link
from libs.common.audit.recording import PLATFORM, record_event
from libs.common.audit.trail import Filters, Trail
from libs.common.database import Database, RawConnection, Transaction
from libs.common.ids import new_id
from libs.common.timestamps import EPOCH

pytestmark = pytest.mark.shards

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CONTEXTS = ("identity", "billing", "metering")

texts = st.text(max_size=8)
events = st.builds(
    Event,
    organization_id=st.uuids().map(str),
    sequence=st.just(1),
    event_id=st.uuids().map(str),
    event_time=st.datetimes(min_value=EPOCH.replace(tzinfo=None), timezones=st.just(UTC)),
    action=texts,
    actor=texts,
    api_key_id=st.none() | st.uuids().map(str),
    resource_type=texts,
    resource_id=texts,
    changes=st.lists(st.builds(Changed, texts, st.none() | texts, st.none() | texts), max_size=3).map(tuple),
    peer_address=texts,
    user_agent=texts,
    request_id=texts,
)


def chain_of(events: list[Event]) -> list[Link]:
    links: list[Link] = []
    for number, event in enumerate(events, 1):
        links.append(link(replace(event, sequence=number), links[-1].hash if links else START.hash))
    return links


@given(st.lists(events, max_size=6))
def test_unchanged_chain_has_no_flaw(events: list[Event]) -> None:
    assert list(flaws(chain_of(events), START)) == []


@given(events, events)
def test_events_that_differ_in_anything_differ_in_their_hash(one: Event, other: Event) -> None:
    assert (link(one, START.hash).hash == link(other, START.hash).hash) == (one == other)


@given(events, st.data())
def test_changing_any_field_of_an_event_is_detected(event: Event, data: st.DataObject) -> None:
    (written,) = chain_of([event])
    name = data.draw(st.sampled_from([field.name for field in fields(Event) if field.name != "sequence"]))
    forged = getattr(data.draw(events.filter(lambda other: getattr(other, name) != getattr(event, name))), name)
    found = list(flaws([replace(written, event=replace(written.event, **{name: forged}))], START))
    assert [finding.flaw for finding in found] == [Flaw.EVENT_CHANGED]


@given(texts, st.text(min_size=1, max_size=8), events)
def test_text_moved_from_one_field_to_the_next_is_detected(first: str, second: str, event: Event) -> None:
    one = link(replace(event, action=first + second, actor=""), START.hash)
    assert one.hash != link(replace(event, action=first, actor=second), START.hash).hash


@given(st.lists(events, min_size=3, max_size=6), st.data())
def test_removed_or_swapped_events_are_detected(events: list[Event], data: st.DataObject) -> None:
    chain = chain_of(events)
    gone = data.draw(st.integers(0, len(chain) - 2))
    assert Flaw.EVENTS_MISSING in {found.flaw for found in flaws(chain[:gone] + chain[gone + 1 :], START)}
    one, other = chain[gone], chain[gone + 1]
    swapped = [
        *chain[:gone],
        replace(other, event=replace(other.event, sequence=gone + 1)),
        replace(one, event=replace(one.event, sequence=gone + 2)),
        *chain[gone + 2 :],
    ]
    assert list(flaws(swapped, START)) != []


def test_an_auditor_can_recompute_a_hash_from_the_description_alone() -> None:
    event = Event(
        organization_id="00000000-0000-0000-0000-000000000001",
        sequence=7,
        event_id="00000000-0000-0000-0000-000000000002",
        event_time=datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC),
        action="UpdateUser",
        actor="operator:zoë",
        api_key_id=None,
        resource_type="user",
        resource_id="u",
        changes=(Changed("role", None, "admin"),),
        peer_address="192.0.2.1",
        user_agent="",
        request_id="r-1",
    )
    values = [
        *("tollhouse audit event 1", event.organization_id, "7", event.event_id, "1000005", "UpdateUser"),
        *("operator:zoë", None, "user", "u", "192.0.2.1", "", "r-1", "1", "role", None, "admin"),
    ]
    text = b"".join(
        b"\xff" * 4 if value is None else len(value.encode()).to_bytes(4, "big") + value.encode() for value in values
    )
    assert link(event, bytes(range(32))).hash == hashlib.sha256(bytes(range(32)) + text).digest()


def test_differences_name_changed_added_and_removed_fields() -> None:
    changed = differences({"same": "1", "role": "member", "gone": "x"}, {"same": "1", "role": "admin", "new": "y"})
    assert changed == (Changed("role", "member", "admin"), Changed("gone", "x", None), Changed("new", None, "y"))


async def record(tx: Transaction | RawConnection, resource_id: str = "one", *, now: datetime = NOW) -> None:
    await record_event(tx, now=now, organization_id=PLATFORM, resource_type="thing", resource_id=resource_id)


async def written(database: Database, organization_id: str = PLATFORM) -> list[Link]:
    """The whole chain, oldest first."""
    found = await Trail(lambda _: database, lambda _: database).page(Filters(organization_id), None, 1000)
    return found[::-1]


async def test_fifty_concurrent_events_make_one_chain_without_a_gap(identity_database: Database) -> None:
    async def change(number: int) -> None:
        way = identity_database.transaction if number % 2 else identity_database.raw_transaction
        async with way() as tx:
            await record(tx, str(number))

    await asyncio.gather(*(change(number) for number in range(50)))
    chain = await written(identity_database)
    assert [found.event.sequence for found in chain] == list(range(1, 51))
    assert {found.event.resource_id for found in chain} == {str(number) for number in range(50)}
    assert list(flaws(chain, START)) == []


async def test_each_organization_has_a_chain_of_its_own(identity_database: Database) -> None:
    organizations = [new_id(), new_id()]
    for organization_id in organizations * 2:
        async with identity_database.transaction() as tx:
            await record_event(tx, now=NOW, organization_id=organization_id, resource_type="thing", resource_id="one")
    for organization_id in organizations:
        assert [found.event.sequence for found in await written(identity_database, organization_id)] == [1, 2]


async def test_several_events_of_one_transaction_follow_each_other(identity_database: Database) -> None:
    async with identity_database.transaction() as tx:
        for number in range(3):
            await record(tx, str(number))
    chain = await written(identity_database)
    assert [found.event.resource_id for found in chain] == ["0", "1", "2"]
    assert list(flaws(chain, START)) == []


async def test_a_change_that_is_rolled_back_leaves_no_event_and_no_gap(identity_database: Database) -> None:
    class Regret(Exception):
        pass

    async def change_and_regret(transaction: AbstractAsyncContextManager[Transaction | RawConnection]) -> None:
        async with transaction as tx:
            await record(tx, "regretted")
            raise Regret

    for transaction in (identity_database.transaction(), identity_database.raw_transaction()):
        with pytest.raises(Regret):
            await change_and_regret(transaction)
    async with identity_database.transaction() as tx:
        await record(tx, "kept")
    assert [(found.event.sequence, found.event.resource_id) for found in await written(identity_database)] == [
        (1, "kept")
    ]


async def test_times_never_decrease_along_a_chain(identity_database: Database) -> None:
    for seconds in (0, -60, 60):
        async with identity_database.transaction() as tx:
            await record(tx, now=NOW + timedelta(seconds=seconds))
    times = [found.event.event_time for found in await written(identity_database)]
    assert times == [NOW, NOW, NOW + timedelta(minutes=1)]


async def test_event_outside_of_a_call_has_the_system_as_actor(identity_database: Database) -> None:
    async with identity_database.transaction() as tx:
        await record(tx)
    (found,) = await written(identity_database)
    event = found.event
    assert (event.actor, event.action, event.peer_address, event.request_id) == ("system", "Upkeep", "", "")


async def test_misleading_characters_in_an_event_are_removed_and_long_text_is_cut(identity_database: Database) -> None:
    async with identity_database.transaction() as tx:
        await record_event(
            tx,
            now=NOW,
            organization_id=PLATFORM,
            resource_type="thing",
            resource_id="a\x00b\n\u202ec" + "x" * 1000,
            changed=(Changed("name", "\x1b[31mred", "y" * 100_000),),
        )
    (found,) = await written(identity_database)
    (change,) = found.event.changes
    assert found.event.resource_id.startswith("abcx")
    assert len(found.event.resource_id) <= 256
    assert change.before == "[31mred"
    assert change.after == "y" * 1000
    assert list(flaws([found], START)) == []


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET actor = 'operator:mallory'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "DELETE FROM audit_heads",
        "TRUNCATE audit_heads",
        "ALTER TABLE audit_events DROP COLUMN actor",
    ],
)
async def test_service_role_cannot_change_or_delete_events(
    context: str, statement: str, database_urls: dict[str, str]
) -> None:
    connection: RawConnection = await asyncpg.connect(database_urls[context], server_settings={"search_path": context})
    try:
        async with connection.transaction():
            await record(connection)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        assert await connection.fetchval("SELECT count(*) FROM audit_events") == 1
    finally:
        await connection.close()


async def test_events_are_found_by_every_filter_and_by_pages(identity_database: Database) -> None:
    for number in range(12):
        async with identity_database.transaction() as tx:
            await record_event(
                tx,
                now=NOW + timedelta(minutes=number),
                organization_id=PLATFORM,
                resource_type=("user", "project")[number % 2],
                resource_id=str(number % 3),
                actor=f"user:{number % 4}",
            )
    trail = Trail(lambda _: identity_database, lambda _: identity_database)

    async def found(**filters: str | datetime) -> list[int]:
        page = await trail.page(Filters(PLATFORM, **filters), None, 100)  # type: ignore[arg-type]
        return [found.event.sequence for found in page]

    everything = list(range(12, 0, -1))
    assert await found() == everything
    assert await found(resource_type="user") == everything[1::2]
    assert await found(resource_type="user", resource_id="0") == [7, 1]
    assert await found(actor="user:3") == [12, 8, 4]
    assert await found(action="Upkeep") == everything
    assert await found(action="CreateUser") == []
    assert await found(start_time=NOW + timedelta(minutes=9)) == [12, 11, 10]
    assert await found(end_time=NOW + timedelta(minutes=3)) == [3, 2, 1]
    assert await found(start_time=NOW + timedelta(seconds=1), end_time=NOW + timedelta(minutes=2)) == [2]
    assert await found(start_time=NOW + timedelta(hours=1)) == []
    paged: list[int] = []
    while page := await trail.page(Filters(PLATFORM, resource_type="user"), paged[-1] if paged else None, 4):
        paged += [found.event.sequence for found in page]
    assert paged == everything[1::2]
