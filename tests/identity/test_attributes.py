"""Metadata and external ids of organizations, users, projects and service accounts."""

from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.database import Database
from libs.common.ids import new_id
from tests.identity.people import People
from tests.identity.refusals import refused, refused_field, violated_fields
from tests.identity.support import Identity
from tests.support.callers import Metadata
from tollhouse.identity.v1 import organization_pb2, project_pb2, service_account_pb2, user_pb2

METADATA = {"team": "blue", "crm/id": "7", "note": "Grüße ' OR 1=1 --"}
CONTEXT = ("organization", "user", "project", "service_account")


class Kind:
    """One of the four resource types: its stubs, messages and ids."""

    def __init__(self, identity: Identity, name: str, organization_id: str, owner: str) -> None:
        self._identity = identity
        self.name = name
        self._organization_id = organization_id
        self._owner = owner
        self._caller = identity.metadata
        title = "".join(word.title() for word in name.split("_"))
        self._module: Any = {
            "organization": organization_pb2,
            "user": user_pb2,
            "project": project_pb2,
            "service_account": service_account_pb2,
        }[name]
        self._title = title
        self._stub: Any = getattr(identity, f"{name}s")

    def _base(self) -> dict[str, str]:
        return {"organization_id": self._organization_id} if self.name in ("project", "service_account") else {}

    def of(self, caller: Metadata) -> "Kind":
        """Return the same resource type with another caller."""
        other = copy(self)
        other._caller = caller
        return other

    async def call(self, verb: str, /, **fields: object) -> Any:
        suffix = "s" if verb == "List" else ""
        request = getattr(self._module, f"{verb}{self._title}{suffix}Request")(**self._base(), **fields)
        method = getattr(self._stub, f"{verb}{self._title}{suffix}")
        answer = await method(request, metadata=self._caller)
        return getattr(answer, f"{self.name}{suffix}", answer)

    async def create(self, **fields: object) -> Any:
        own: dict[str, dict[str, object]] = {
            "organization": {"name": "Acme", "owner_user_id": self._owner},
            "user": {"email": f"{new_id()}@example.com"},
            "project": {"name": new_id()},
            "service_account": {"name": new_id(), "role": organization_pb2.MEMBER_ROLE_MEMBER},
        }
        return await self.call("Create", **{**own[self.name], **fields})

    def id_of(self, resource: Any) -> dict[str, str]:
        return {f"{self.name}_id": getattr(resource, f"{self.name}_id")}

    async def get(self, resource: Any) -> Any:
        return await self.call("Get", **self.id_of(resource))

    async def update(self, resource: Any, *paths: str, **fields: object) -> Any:
        return await self.call("Update", **self.id_of(resource), update_mask=FieldMask(paths=paths), **fields)

    async def ids(self, external_id: str) -> list[dict[str, str]]:
        return [self.id_of(one) for one in await self.call("List", external_id=external_id)]


@pytest.fixture(params=CONTEXT)
async def kind(identity: Identity, request: pytest.FixtureRequest) -> Kind:
    organization_id, owner = await identity.create_organization()
    return Kind(identity, request.param, organization_id, owner)


async def test_what_is_given_at_creation_is_kept_and_found(kind: Kind) -> None:
    made = await kind.create(metadata=METADATA, external_id="crm:42/{x}+=")
    assert (dict(made.metadata), made.external_id) == (METADATA, "crm:42/{x}+=")
    assert await kind.get(made) == made
    other, third = await kind.create(external_id="other"), await kind.create()
    assert (dict(third.metadata), third.external_id) == ({}, "")
    assert await kind.ids("crm:42/{x}+=") == [kind.id_of(made)]
    assert await kind.ids("other") == [kind.id_of(other)]
    assert await kind.ids("nobody's") == []


async def test_an_external_id_is_unique_until_its_resource_is_deleted(kind: Kind) -> None:
    first, second = await kind.create(external_id="x-1"), await kind.create(external_id="x-2")
    reason = f"{kind.name.upper()}_ALREADY_EXISTS"
    assert await refused_field(kind.create(external_id="x-1")) == (reason, "external_id")
    assert await refused_field(kind.update(second, "external_id", external_id="x-1")) == (reason, "external_id")
    await kind.call("Delete", **kind.id_of(first))
    assert await kind.ids("x-1") == []
    again = await kind.create(external_id="x-1")
    assert await kind.ids("x-1") == [kind.id_of(again)]


@pytest.mark.own_database
async def test_updates_replace_and_clear_what_the_mask_names(kind: Kind) -> None:
    made = await kind.create(metadata=METADATA, external_id="x-1")
    changed = await kind.update(made, "metadata", metadata={"a": "b"})
    assert (dict(changed.metadata), changed.external_id) == ({"a": "b"}, "x-1")
    assert changed.etag != made.etag
    cleared = await kind.update(made, "metadata", "external_id")
    assert (dict(cleared.metadata), cleared.external_id) == ({}, "")
    assert await kind.ids("x-1") == []
    same = await kind.update(made, "metadata", "external_id", etag=cleared.etag)
    assert same.etag == cleared.etag
    assert await refused(kind.update(made, "metadata", etag=made.etag)) == ("ABORTED", "STALE_ETAG")


@pytest.mark.own_database
async def test_a_creation_is_repeated_with_the_same_attributes_alone(kind: Kind) -> None:
    first = await kind.create(request_id="r-1", metadata=METADATA, external_id="x-1", **_named(kind))
    again = await kind.create(request_id="r-1", metadata=METADATA, external_id="x-1", **_named(kind))
    assert kind.id_of(again) == kind.id_of(first)
    for other in ({"metadata": {}, "external_id": "x-1"}, {"metadata": METADATA, "external_id": "x-2"}):
        repeat = kind.create(request_id="r-1", **other, **_named(kind))
        assert await refused(repeat) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


def _named(kind: Kind) -> dict[str, object]:
    return {"email": "ada@example.com"} if kind.name == "user" else {"name": "Same"}


@pytest.mark.parametrize("name", CONTEXT)
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"external_id": "x" * 256}, "external_id"),
        ({"external_id": "has space"}, "external_id"),
        ({"external_id": "\N{SNOWMAN}"}, "external_id"),
        ({"external_id": "a\x00"}, "external_id"),
        ({"metadata": {f"k{number}": "v" for number in range(33)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, f'metadata["{"k" * 65}"]'),
        ({"metadata": {"": "v"}}, 'metadata[""]'),
        ({"metadata": {"k": "v" * 513}}, 'metadata["k"]'),
        ({"metadata": {"k": "a\x00b"}}, 'metadata["k"]'),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_attributes_out_of_bounds_are_refused_by_name(
    identity: Identity, name: str, fields: dict[str, object], named: str
) -> None:
    kind = Kind(identity, name, *await identity.create_organization())
    made = await kind.create()
    field = named.replace('["', "[").replace('"]', "]")
    assert await violated_fields(kind.create(**fields)) == {field}
    assert await violated_fields(kind.update(made, *fields, **fields)) == {field}
    if "external_id" in fields:
        assert await violated_fields(kind.call("List", **fields)) == {"external_id"}
    assert await kind.get(made) == made


async def test_the_largest_attributes_are_kept(kind: Kind) -> None:
    metadata = {f"{number:02}" + "k" * 62: "\N{FACE WITH TEARS OF JOY}" * 512 for number in range(32)}
    made = await kind.create(metadata=metadata, external_id="~" * 255)
    assert (dict(made.metadata), made.external_id) == (metadata, "~" * 255)


async def test_the_trail_tells_of_metadata_only_that_it_changed(kind: Kind, identity_database: Database) -> None:
    made = await kind.create(metadata={"secret-ish": "told to nobody"}, external_id="x-1")
    await kind.update(made, "metadata", "external_id", metadata={"secret-ish": "nor this"}, external_id="x-2")
    async with identity_database.raw_connection() as connection:
        rows = await connection.fetch(
            "SELECT changes::text FROM audit_events WHERE resource_id = $1 ORDER BY sequence",
            *kind.id_of(made).values(),
        )
    told = [row["changes"] for row in rows]
    assert all('"metadata"' in changes for changes in (told if kind.name != "user" else told[1:]))
    assert '"external_id"' in told[-1]
    assert not any("told to nobody" in changes or "nor this" in changes for changes in told)
    assert ("x-2" in told[-1]) == (kind.name != "user")


async def test_of_a_deleted_user_nothing_is_kept(identity: Identity, identity_database: Database) -> None:
    organization_id, owner = await identity.create_organization()
    kind = Kind(identity, "user", organization_id, owner)
    made = await kind.create(metadata=METADATA, external_id="x-1")
    await kind.call("Delete", user_id=made.user_id)
    async with identity_database.raw_connection() as connection:
        row = await connection.fetchrow(
            "SELECT metadata::text, external_id FROM users WHERE user_id = $1", made.user_id
        )
    assert row is not None
    assert tuple(row) == ("{}", "")


@pytest.mark.parametrize("make", [lambda: {"external_id": "x-1"}, lambda: {"external_id": ""}])
async def test_members_neither_set_nor_probe_external_ids_of_the_platform(
    identity: Identity, people: People, make: Callable[[], dict[str, str]]
) -> None:
    """Another tenant's external id must look the same as one that nobody has."""
    person = await people.person()
    organization_id, _ = await identity.create_organization(person.user_id)
    organizations = Kind(identity, "organization", organization_id, person.user_id).of(person.metadata)
    users = Kind(identity, "user", organization_id, person.user_id).of(person.metadata)
    me = await users.call("Get", user_id=person.user_id)
    mine = await organizations.call("Get", organization_id=organization_id)
    changes: list[Awaitable[object]] = [
        organizations.update(mine, "external_id", **make()),
        users.update(me, "external_id", **make()),
        users.update(me, "metadata", metadata={"plan": "gold"}),
    ]
    if make()["external_id"]:
        changes.append(organizations.create(**make()))
    for change in changes:
        assert (await refused(change))[0] == "PERMISSION_DENIED"
    changed = await organizations.update(mine, "metadata", metadata={"plan": "gold"})
    assert dict(changed.metadata) == {"plan": "gold"}


async def test_other_organizations_may_use_the_same_external_ids_for_their_own(identity: Identity) -> None:
    for name in ("project", "service_account"):
        kinds = [Kind(identity, name, *await identity.create_organization()) for _ in range(2)]
        made = [await kind.create(external_id="x-1") for kind in kinds]
        assert [await kind.ids("x-1") for kind in kinds] == [
            [kind.id_of(one)] for kind, one in zip(kinds, made, strict=True)
        ]


async def test_a_page_token_is_good_for_its_filter_alone(kind: Kind) -> None:
    for _ in range(3):
        await kind.create()
    answer = await _raw_list(kind, page_size=1)
    repeat = _raw_list(kind, page_size=1, page_token=answer.next_page_token, external_id="x-1")
    assert await violated_fields(repeat) == {"page_token"}


async def _raw_list(kind: Kind, **fields: object) -> Any:
    request = getattr(kind._module, f"List{kind._title}sRequest")(**kind._base(), **fields)
    return await getattr(kind._stub, f"List{kind._title}s")(request, metadata=kind._identity.metadata)


async def test_a_filter_by_external_id_reads_an_index(identity_database: Database) -> None:
    for table in ("organizations", "users", "projects", "service_accounts"):
        async with identity_database.raw_transaction() as connection:
            await connection.execute("SET LOCAL enable_seqscan = off")
            tenant = "organization_id = gen_random_uuid() AND" if table in ("projects", "service_accounts") else ""
            rows = await connection.fetch(
                f"EXPLAIN SELECT 1 FROM {table}"  # noqa: S608 -- names of our own.
                f" WHERE {tenant} external_id = 'x' AND external_id <> '' AND delete_time IS NULL"
            )
        assert any(f"{table}_external_id_once" in row[0] for row in rows), rows
