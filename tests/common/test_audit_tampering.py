"""Changes to the audit trail by somebody with write access to the database are detected."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import asyncpg
import pytest
from sqlalchemy import MetaData

from libs.common.audit import store
from libs.common.audit.chain import START, Flaw, Head, Link, link
from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.audit.tables import declare_audit_tables
from libs.common.audit.trail import EVENTS_MAX, FINDINGS_MAX, Filters, Trail, Verification
from libs.common.database import Database, RawConnection
from libs.common.database_url import plain_url
from libs.common.ids import new_id

NOW = datetime(2026, 5, 1, tzinfo=UTC)
EVENTS = 8
VICTIM = 4

# For every column of an event, a forged value.
FORGED = {
    "organization_id": ["gen_random_uuid()"],
    "sequence": ["1000", "-4"],
    "event_id": ["gen_random_uuid()"],
    "event_time": ["event_time + interval '1 microsecond'"],
    "action": ["action || 's'", "''"],
    "actor": ["'operator:mallory'"],
    "api_key_id": ["gen_random_uuid()"],
    "resource_type": ["'project'"],
    "resource_id": ["resource_id || '0'"],
    "changes": [
        "'[]'",
        "'{}'",
        "changes || changes",
        "jsonb_set(changes, '{0,after}', '\"owner\"')",
        "jsonb_set(changes, '{0,after}', 'null')",
        "jsonb_set(changes, '{0,field}', '7')",
        "jsonb_set(changes, '{0,note}', '\"approved\"')",
    ],
    "peer_address": ["'192.0.2.66'"],
    "user_agent": ["'curl'"],
    "request_id": ["'r-0'"],
    "previous_hash": ["decode(repeat('22', 32), 'hex')"],
    "hash": ["decode(repeat('22', 32), 'hex')"],
}


@pytest.fixture
async def owner(database_admin_url: str) -> AsyncIterator[RawConnection]:
    """A connection of the tables' owner, who may change events; the service's role may not."""
    connection: RawConnection = await asyncpg.connect(
        plain_url(database_admin_url), server_settings={"search_path": "identity"}
    )
    await connection.execute("ALTER TABLE audit_events DROP CONSTRAINT audit_events_sequence_from_one")
    yield connection
    await connection.close()


@pytest.fixture
async def trail(identity_database: Database) -> Trail:
    await append(identity_database, EVENTS)
    return Trail(lambda _: identity_database, lambda _: identity_database)


async def append(database: Database, events: int) -> None:
    async with database.transaction() as tx:
        for number in range(events):
            await record_event(
                tx,
                now=NOW,
                organization_id=PLATFORM,
                resource_type="member",
                resource_id=str(number),
                changed=[Changed("role", before="member", after="admin")],
            )


async def verify(trail: Trail, expected_head: Head | None = None, *, after: Head = START) -> Verification:
    return await trail.verify(PLATFORM, after=after, expected_head=expected_head, events_max=EVENTS_MAX)


async def found(trail: Trail, expected_head: Head | None = None) -> set[Flaw]:
    return {finding.flaw for finding in (await verify(trail, expected_head)).findings}


def test_forgeries_cover_every_column() -> None:
    events, _ = declare_audit_tables(MetaData())
    assert set(FORGED) == set(events.c.keys())


async def test_unchanged_trail_is_intact(trail: Trail) -> None:
    verification = await verify(trail)
    assert (verification.findings, verification.verified_events) == ((), EVENTS)
    assert verification.head.sequence == EVENTS
    assert verification.continue_after is None
    assert await found(trail, verification.head) == set()


@pytest.mark.parametrize(
    ("column", "value"), [(column, value) for column, values in FORGED.items() for value in values]
)
@pytest.mark.parametrize("victim", [1, VICTIM, EVENTS])
async def test_a_column_changed_in_any_event_is_found(
    trail: Trail, owner: RawConnection, column: str, value: str, victim: int
) -> None:
    statement = f"UPDATE audit_events SET {column} = {value} WHERE sequence = $1"  # noqa: S608 -- from the list above.
    assert await owner.execute(statement, victim) == "UPDATE 1"
    assert await found(trail) != set()


@pytest.mark.parametrize("victim", range(1, EVENTS + 1))
async def test_a_deleted_event_is_found(trail: Trail, owner: RawConnection, victim: int) -> None:
    await owner.execute("DELETE FROM audit_events WHERE sequence = $1", victim)
    assert Flaw.EVENTS_MISSING in await found(trail)


async def test_swapped_events_are_found(trail: Trail, owner: RawConnection) -> None:
    for before, after in ((3, 1000), (4, 3), (1000, 4)):
        await owner.execute("UPDATE audit_events SET sequence = $2 WHERE sequence = $1", before, after)
    assert await found(trail) == {Flaw.CHAIN_BROKEN, Flaw.EVENT_CHANGED}


async def test_swapped_events_with_recomputed_hashes_are_found(trail: Trail, owner: RawConnection) -> None:
    fourth, third = await trail.page(Filters(PLATFORM), 5, 2)
    for place, moved in ((1003, fourth), (1004, third)):
        event = replace(moved.event, sequence=place - 1000)
        await put(owner, replace(link(event, moved.previous_hash), event=replace(event, sequence=place)))
    await owner.execute("DELETE FROM audit_events WHERE sequence IN (3, 4)")
    await owner.execute("UPDATE audit_events SET sequence = sequence - 1000 WHERE sequence > 1000")
    assert await found(trail) == {Flaw.CHAIN_BROKEN}


async def test_event_inserted_at_the_start_or_end_is_found(trail: Trail, owner: RawConnection) -> None:
    (last,) = await trail.page(Filters(PLATFORM), None, 1)
    for sequence, flaw in ((0, Flaw.CHAIN_BROKEN), (EVENTS + 1, Flaw.HEAD_MOVED)):
        await put(owner, link(replace(last.event, sequence=sequence), last.hash))
        assert await found(trail) == {flaw}
        await owner.execute("DELETE FROM audit_events WHERE sequence = $1", sequence)
        assert await found(trail) == set()


async def test_removed_last_events_are_found(trail: Trail, owner: RawConnection) -> None:
    await owner.execute("DELETE FROM audit_events WHERE sequence > 5")
    assert await found(trail) == {Flaw.EVENTS_MISSING}


async def test_a_moved_head_is_found(trail: Trail, owner: RawConnection) -> None:
    await owner.execute("UPDATE audit_heads SET sequence = sequence - 1")
    assert await found(trail) == {Flaw.HEAD_MOVED}
    await owner.execute("UPDATE audit_heads SET sequence = sequence + 1, hash = decode(repeat('22', 32), 'hex')")
    assert await found(trail) == {Flaw.HEAD_MOVED}


async def test_removed_head_is_found(trail: Trail, owner: RawConnection) -> None:
    await owner.execute("DELETE FROM audit_heads")
    assert await found(trail) == {Flaw.HEAD_MOVED}


async def test_removed_last_events_with_an_adjusted_head_are_found_by_an_expected_head(
    trail: Trail, owner: RawConnection
) -> None:
    kept = (await verify(trail)).head
    await owner.execute("DELETE FROM audit_events WHERE sequence > 5")
    await owner.execute(
        "UPDATE audit_heads SET sequence = 5, hash = (SELECT hash FROM audit_events WHERE sequence = 5)"
    )
    assert await found(trail) == set()
    assert await found(trail, kept) == {Flaw.EXPECTED_HEAD_MISSING}


async def test_rewritten_chain_is_found_by_an_expected_head(trail: Trail, owner: RawConnection) -> None:
    kept = (await verify(trail)).head
    await owner.execute("UPDATE audit_events SET actor = 'operator:mallory' WHERE sequence = $1", VICTIM)
    previous = START.hash
    for written in (await trail.page(Filters(PLATFORM), None, EVENTS))[::-1]:
        forged = link(written.event, previous)
        await owner.execute(
            "UPDATE audit_events SET previous_hash = $2, hash = $3 WHERE sequence = $1",
            *(written.event.sequence, forged.previous_hash, forged.hash),
        )
        previous = forged.hash
    await owner.execute("UPDATE audit_heads SET hash = $1", previous)
    assert await found(trail) == set()
    assert await found(trail, kept) == {Flaw.EXPECTED_HEAD_MISSING}


async def test_expected_head_stays_valid_as_the_chain_grows(trail: Trail, identity_database: Database) -> None:
    kept = (await verify(trail)).head
    await append(identity_database, 3)
    assert await found(trail, kept) == set()


async def test_verification_in_pieces_gives_the_same_result(trail: Trail, owner: RawConnection) -> None:
    await owner.execute("UPDATE audit_events SET actor = 'x' WHERE sequence IN (2, 6)")
    await owner.execute("DELETE FROM audit_events WHERE sequence = 4")
    whole = await verify(trail)
    pieces: list[Verification] = []
    after: Head | None = START
    while after is not None:
        pieces.append(await trail.verify(PLATFORM, after=after, expected_head=None, events_max=2))
        after = pieces[-1].continue_after
    assert tuple(finding for piece in pieces for finding in piece.findings) == whole.findings
    assert sum(piece.verified_events for piece in pieces) == whole.verified_events
    places = [piece.continue_after.sequence for piece in pieces if piece.continue_after]
    assert all(one < other for one, other in pairwise(places))


async def test_verification_from_an_event_on_checks_the_given_hash(trail: Trail) -> None:
    known = (await trail.page(Filters(PLATFORM), 6, 1))[0]
    assert (await verify(trail, after=Head(5, known.hash))).findings == ()
    assert (await verify(trail, after=Head(5, b""))).verified_events == 3
    (broken,) = (await verify(trail, after=Head(5, b"1" * 32))).findings
    assert (broken.flaw, broken.sequence) == (Flaw.CHAIN_BROKEN, 6)
    assert Flaw.EVENTS_MISSING in {finding.flaw for finding in (await verify(trail, after=Head(50, b""))).findings}


async def test_findings_are_limited_and_the_rest_is_found_by_continuing(
    trail: Trail, owner: RawConnection, identity_database: Database
) -> None:
    await append(identity_database, 1500)
    await owner.execute("UPDATE audit_events SET user_agent = 'x'")
    first = await verify(trail)
    assert len(first.findings) == FINDINGS_MAX
    assert first.continue_after is not None
    assert len((await verify(trail, after=first.continue_after)).findings) == FINDINGS_MAX


async def test_an_empty_chain_is_intact(trail: Trail) -> None:
    verification = await trail.verify(new_id(), after=START, expected_head=None, events_max=10)
    assert verification == Verification(0, START, None, ())


async def put(owner: RawConnection, forged: Link) -> None:
    """Insert an event with a correctly computed hash, as an informed attacker would."""
    async with owner.transaction():
        await store.append(owner, forged)
        # The head is unchanged.
        head = await owner.fetchval("SELECT hash FROM audit_events WHERE sequence = $1", EVENTS)
        await owner.execute("UPDATE audit_heads SET hash = $1", head)
