"""Configurations of users and of the platform: changed entry by entry, limited in size, without lost updates."""

import asyncio
from collections.abc import Awaitable

import pytest
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, STALE, refused, violated_fields
from tests.identity.support import Identity
from tests.support.callers import Callers, Metadata
from tollhouse.identity.v1 import system_configuration_pb2 as system_pb
from tollhouse.identity.v1 import user_pb2

FULL = ("FAILED_PRECONDITION", "CONFIGURATION_FULL")
Request = user_pb2.UpdateUserConfigurationRequest
SystemRequest = system_pb.UpdateSystemConfigurationRequest


async def _get(identity: Identity, user_id: str, metadata: Metadata | None = None) -> user_pb2.UserConfiguration:
    request = user_pb2.GetUserConfigurationRequest(user_id=user_id)
    answer = await identity.users.GetUserConfiguration(request, metadata=metadata or identity.metadata)
    return answer.configuration


async def _update(identity: Identity, request: Request, metadata: Metadata | None = None) -> user_pb2.UserConfiguration:
    answer = await identity.users.UpdateUserConfiguration(request, metadata=metadata or identity.metadata)
    return answer.configuration


async def _get_system(identity: Identity, metadata: Metadata | None = None) -> system_pb.SystemConfiguration:
    request = system_pb.GetSystemConfigurationRequest()
    answer = await identity.system_configuration.GetSystemConfiguration(request, metadata=metadata or identity.metadata)
    return answer.configuration


async def _update_system(
    identity: Identity, request: SystemRequest, metadata: Metadata | None = None
) -> system_pb.SystemConfiguration:
    answer = await identity.system_configuration.UpdateSystemConfiguration(
        request, metadata=metadata or identity.metadata
    )
    return answer.configuration


async def test_user_configures_themselves_entry_by_entry(identity: Identity, people: People) -> None:
    ada = await people.person()
    empty = await _get(identity, ada.user_id, ada.metadata)
    assert (dict(empty.entries), empty.HasField("update_time")) == ({}, False)

    first = await _update(
        identity, Request(user_id=ada.user_id, entries={"theme": "dark", "language": "en"}), ada.metadata
    )
    second = await _update(
        identity,
        Request(user_id=ada.user_id, entries={"theme": '{"name": "light"}'}, removed_keys=["language", "absent"]),
        ada.metadata,
    )

    assert dict(first.entries) == {"theme": "dark", "language": "en"}
    assert dict(second.entries) == {"theme": '{"name": "light"}'}
    assert len({empty.etag, first.etag, second.etag}) == 3
    assert await _get(identity, ada.user_id, ada.metadata) == second


async def test_change_that_makes_no_difference_keeps_the_etag(identity: Identity) -> None:
    user = await identity.create_user()
    request = Request(user_id=user.user_id, entries={"theme": "dark"}, removed_keys=["absent"])
    assert await _update(identity, request) == await _update(identity, request)


async def test_configuration_of_somebody_else_looks_like_that_of_nobody(identity: Identity, people: People) -> None:
    ada, other = await people.person(), await identity.create_user()
    for user_id in (other.user_id, new_id()):
        assert await refused(_get(identity, user_id, ada.metadata)) == NOT_FOUND
        request = Request(user_id=user_id, entries={"theme": "dark"})
        assert await refused(_update(identity, request, ada.metadata)) == NOT_FOUND
    assert await refused(_get(identity, new_id())) == NOT_FOUND
    assert await refused(_update(identity, Request(user_id=new_id(), entries={"a": "b"}))) == NOT_FOUND


async def test_stale_etag_changes_nothing(identity: Identity) -> None:
    user = await identity.create_user()
    empty = await _get(identity, user.user_id)
    fresh = Request(user_id=user.user_id, entries={"theme": "dark"}, etag=empty.etag)
    after = await _update(identity, fresh)
    assert await refused(_update(identity, fresh)) == STALE
    assert await _get(identity, user.user_id) == after
    system = SystemRequest(entries={"notice": "hello"}, etag=(await _get_system(identity)).etag)
    told = await _update_system(identity, system)
    assert await refused(_update_system(identity, system)) == STALE
    assert await _get_system(identity) == told


@pytest.mark.own_database
async def test_changes_at_once_are_all_kept(identity: Identity) -> None:
    user = await identity.create_user()
    await asyncio.gather(
        *(_update(identity, Request(user_id=user.user_id, entries={f"key{n}": "x"})) for n in range(8)),
        *(_update_system(identity, SystemRequest(entries={f"key{n}": "x"})) for n in range(8)),
    )
    keys = {f"key{n}" for n in range(8)}
    assert set((await _get(identity, user.user_id)).entries) == keys
    assert set((await _get_system(identity)).entries) == keys


@pytest.mark.own_database
async def test_configurations_are_bounded(identity: Identity) -> None:
    user = await identity.create_user()
    await _update(identity, Request(user_id=user.user_id, entries={f"key{n}": "x" for n in range(100)}))
    assert await refused(_update(identity, Request(user_id=user.user_id, entries={"more": "x"}))) == FULL
    exchanged = Request(user_id=user.user_id, entries={"more": "x"}, removed_keys=["key0"])
    assert len((await _update(identity, exchanged)).entries) == 100
    for start in range(0, 500, 100):
        await _update_system(identity, SystemRequest(entries={f"key{start + n}": "x" for n in range(100)}))
    assert await refused(_update_system(identity, SystemRequest(entries={"more": "x"}))) == FULL


BAD: list[tuple[dict[str, str], list[str], set[str]]] = [
    ({}, [], {"entries"}),
    ({"theme": "dark"}, ["theme"], {"removed_keys"}),
    ({"Theme": "dark"}, [], {"entries[Theme]"}),
    ({"k" * 65: "dark"}, [], {f"entries[{'k' * 65}]"}),
    ({"theme": "x" * 2049}, [], {"entries[theme]"}),
    ({f"key{n}": "x" for n in range(101)}, [], {"entries"}),
    ({}, ["No"], {"removed_keys[0]"}),
    ({}, [f"key{n}" for n in range(101)], {"removed_keys"}),
]


@pytest.mark.parametrize(("entries", "removed_keys", "fields"), BAD)
async def test_malformed_change_names_every_field_at_fault(
    identity: Identity, entries: dict[str, str], removed_keys: list[str], fields: set[str]
) -> None:
    user_request = Request(user_id=new_id(), entries=entries, removed_keys=removed_keys)
    system_request = SystemRequest(entries=entries, removed_keys=removed_keys)
    calls: list[Awaitable[object]] = [_update(identity, user_request), _update_system(identity, system_request)]
    for call in calls:
        assert await violated_fields(call) == fields


async def test_everybody_but_users_reads_what_operators_configure(
    identity: Identity, people: People, callers: Callers
) -> None:
    ada = await people.person()
    told = await _update_system(identity, SystemRequest(entries={"notice": "Closed on Sunday"}))
    assert await _get_system(identity, callers.service("gateway")) == told
    assert await refused(_get_system(identity, ada.metadata)) == DENIED
    for metadata in (callers.service("gateway"), ada.metadata):
        request = SystemRequest(entries={"notice": "Free beer"})
        assert await refused(_update_system(identity, request, metadata)) == DENIED
    assert await _get_system(identity) == told


async def test_trail_names_the_entries_and_not_what_they_say(
    identity: Identity, people: People, identity_database: Database
) -> None:
    ada = await people.person()
    for _ in range(2):
        await _update(identity, Request(user_id=ada.user_id, entries={"theme": "dark"}), ada.metadata)
        await _update_system(identity, SystemRequest(entries={"notice": "Closed on Sunday"}))
    async with identity_database.transaction() as tx:
        found = await tx.execute(
            text("SELECT action, e::text AS told FROM identity.audit_events e WHERE action LIKE 'Update%' ORDER BY 1")
        )
        rows = found.all()
    assert [row.action for row in rows] == ["UpdateSystemConfiguration", "UpdateUserConfiguration"]
    assert "entries.notice" in rows[0].told
    assert "entries.theme" in rows[1].told
    assert not any("Sunday" in row.told or "dark" in row.told for row in rows)
