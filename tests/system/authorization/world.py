"""Tenants, one of them deleted, with a caller of every kind; made through the RPCs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from libs.cli.terminal.connection import Channels
from tests.system.authorization.callers import EVERYWHERE, Caller, Kind
from tests.system.authorization.furniture import Furniture, nowhere
from tests.system.authorization.people import People, Person, scopes_of
from tests.system.authorization.targets import Target

MEMBER_ROLES = ("owner", "admin", "member", "billing", "viewer")
PROJECT_ROLES = ("admin", "member")
PLATFORM_ROLES = ("admin", "admin_readonly")
# The role in the organization of users with a platform role: without one, their keys could carry no scope.
_PLATFORM_USERS_ROLE = "viewer"
_SERVICE_ACCOUNT_ROLE = "admin"
# The role that demoted users had before.
_FORMER_ROLE = "admin"
# A scope defined by the platform, which Tollhouse does not interpret.
_FOREIGN_SCOPE = "models.use"


@dataclass(frozen=True)
class World:
    """All callers with valid credentials, and all places."""

    people: People
    furniture: Furniture
    callers: Sequence[Caller]
    places: Mapping[str, Target]
    """Places whose things belong to no caller, and some that do not exist, by their names."""
    own_places: Mapping[str, Target]
    """What belongs to a user who calls, by the user's id."""

    def targets_of(self, caller: Caller) -> list[Target]:
        """Every place on which the caller's calls are tested."""
        if caller.reaches:
            return [self.places[name] for name in ("own project", "other tenant", "missing")]
        own = self.own_places.get(caller.user_id)
        return [*self.places.values(), *([own] if own else [])]


@dataclass(frozen=True)
class _Staff:
    """The users of the organization, by role."""

    members: Mapping[str, Person]
    of_project: Mapping[str, Person]
    of_platform: Mapping[str, Person]
    removed: Person
    demoted: Person
    bystander: str


@dataclass(frozen=True)
class _Sites:
    """The organizations, and the projects of the first."""

    organization_id: str
    project_id: str
    other_project_id: str
    deleted_project_id: str
    sister_id: str
    """Another organization of the same owner."""
    deleted_id: str
    """One that was also theirs."""


async def build(channels: Channels) -> World:
    """Create everything, as an operator."""
    people = People(channels)
    furniture = Furniture(channels, people)
    await furniture.add_model()
    await furniture.add_experiment()
    owner, stranger = await asyncio.gather(people.person(), people.person())
    ours, sister_id, deleted_id, theirs = [
        await people.organization(user_id) for user_id in (*[owner.user_id] * 3, stranger.user_id)
    ]
    working, other, deleted = [await furniture.project(ours) for _ in range(3)]
    sites = _Sites(ours, working, other, deleted, sister_id, deleted_id)
    staff = await _hire(people, owner, sites)
    callers = [*_sessions(staff, sites), *await _keys(people, furniture, staff, sites)]
    callers += await _gateways(people, furniture, sites)
    callers.append(Caller("owner of other tenant", Kind.SESSION, stranger.token, stranger.user_id, {theirs: "owner"}))
    places = await _places(furniture, staff, sites)
    their_project = await furniture.project(theirs)
    places.append(await furniture.furnish("other tenant", theirs, their_project, stranger.user_id))
    members = [*staff.members.values(), *staff.of_project.values(), *staff.of_platform.values(), staff.demoted]
    own_places = {person.user_id: await _own_place(furniture, places[1], person) for person in members}
    for person in (staff.removed, stranger):
        own_places[person.user_id] = replace(places[1], name="own", user_id=person.user_id)
    return World(people, furniture, callers, {place.name: place for place in places}, own_places)


async def _hire(people: People, owner: Person, sites: _Sites) -> _Staff:
    of = sites.organization_id
    members = await asyncio.gather(*(people.person(of, role) for role in MEMBER_ROLES[1:]))
    of_project = await asyncio.gather(*(people.person(of, "member") for _ in PROJECT_ROLES))
    of_platform = await asyncio.gather(*(people.person(of, _PLATFORM_USERS_ROLE, role) for role in PLATFORM_ROLES))
    removed, demoted, bystander = await asyncio.gather(
        people.person(of, _FORMER_ROLE), people.person(of, _FORMER_ROLE), people.user()
    )
    await people.leave(of, removed.user_id)
    await people.join(of, bystander, "member")
    for role, person in zip(PROJECT_ROLES, of_project, strict=True):
        await people.join_project(of, sites.project_id, person.user_id, role)
    for project_id in (sites.project_id, sites.other_project_id):
        await people.join_project(of, project_id, bystander, "member")
    return _Staff(
        members=dict(zip(MEMBER_ROLES, (owner, *members), strict=True)),
        of_project=dict(zip(PROJECT_ROLES, of_project, strict=True)),
        of_platform=dict(zip(PLATFORM_ROLES, of_platform, strict=True)),
        removed=removed,
        demoted=demoted,
        bystander=bystander,
    )


def _sessions(staff: _Staff, sites: _Sites) -> list[Caller]:
    def caller(
        name: str, person: Person, role: str = "", project_role: str = "", platform_role: str = "user"
    ) -> Caller:
        roles = {sites.organization_id: role} if role else {}
        if role == "owner":
            roles[sites.sister_id] = role
        project_roles = {sites.project_id: project_role} if project_role else {}
        return Caller(name, Kind.SESSION, person.token, person.user_id, roles, project_roles, platform_role)

    return [
        *(caller(role, person, role) for role, person in staff.members.items()),
        *(caller(f"project {role}", person, "member", role) for role, person in staff.of_project.items()),
        *(
            caller(f"platform {role}", person, _PLATFORM_USERS_ROLE, platform_role=role)
            for role, person in staff.of_platform.items()
        ),
        caller("removed", staff.removed),
    ]


async def _keys(people: People, furniture: Furniture, staff: _Staff, sites: _Sites) -> list[Caller]:
    """Keys that carry every scope their owners hold, and one that carries none of ours."""
    service_account_id = await furniture.service_account(sites.organization_id, _SERVICE_ACCOUNT_ROLE)
    owner, worker = staff.members["owner"], staff.of_project["admin"]

    async def key(
        name: str,
        role: str,
        person: Person | None,
        *,
        project_role: str = "",
        bound_to: str = "",
        bare: bool = False,
        made_as: str = "",
    ) -> Caller:
        scopes = frozenset({_FOREIGN_SCOPE}) if bare else scopes_of(made_as or role, [project_role])
        _, secret = await people.key(
            sites.organization_id,
            scopes=scopes,
            project_id=bound_to,
            user_id=person.user_id if person else "",
            service_account_id="" if person else service_account_id,
        )
        if person and made_as:
            await people.change_role(sites.organization_id, person.user_id, role)
        return Caller(
            name,
            Kind.KEY,
            secret,
            person.user_id if person else "",
            {sites.organization_id: role},
            {sites.project_id: project_role} if project_role else {},
            scopes=scopes,
            key_project_id=bound_to,
        )

    return [
        await key("key of owner", "owner", owner),
        await key("key of owner without scope", "owner", owner, bare=True),
        await key("key of owner for project", "owner", owner, bound_to=sites.project_id),
        await key("key of member", "member", staff.members["member"]),
        await key("key of somebody demoted", "member", staff.demoted, made_as=_FORMER_ROLE),
        await key("key of project admin", "member", worker, project_role="admin"),
        await key(
            "key of project admin for project", "member", worker, project_role="admin", bound_to=sites.project_id
        ),
        await key("key of platform admin", _PLATFORM_USERS_ROLE, staff.of_platform["admin"]),
        await key("key of service account", _SERVICE_ACCOUNT_ROLE, None),
    ]


async def _gateways(people: People, furniture: Furniture, sites: _Sites) -> list[Caller]:
    """Keys of gateways, whose service account belongs to an organization of the platform's own."""
    platform_id = await people.organization(await people.user())
    service_account_id = await furniture.service_account(platform_id, _SERVICE_ACCOUNT_ROLE)

    async def key(name: str, reaches: str, *scopes: str) -> Caller:
        _, secret = await people.key(platform_id, scopes=scopes, service_account_id=service_account_id, reaches=reaches)
        role = {platform_id: _SERVICE_ACCOUNT_ROLE}
        return Caller(name, Kind.KEY, secret, roles=role, scopes=frozenset(scopes), reaches=reaches)

    both = ("tollhouse:admission", "tollhouse:usage.write")
    return [
        await key("key of gateway for all", EVERYWHERE, *both),
        await key("key of gateway for our organization", sites.organization_id, *both),
        await key("key of gateway that only records", EVERYWHERE, both[1]),
    ]


async def _places(furniture: Furniture, staff: _Staff, sites: _Sites) -> list[Target]:
    ours, somebody, owner_id = sites.organization_id, staff.bystander, staff.members["owner"].user_id
    in_project = await furniture.furnish("own project", ours, sites.project_id, somebody)
    no_project = await furniture.furnish("no project", ours, "", somebody)
    deleted_project = await furniture.furnish("deleted project", ours, sites.deleted_project_id, somebody)
    await furniture.delete_project(ours, sites.deleted_project_id)
    sister_project, lost_project = [await furniture.project(id_) for id_ in (sites.sister_id, sites.deleted_id)]
    deleted = await furniture.furnish("deleted", sites.deleted_id, lost_project, owner_id)
    await furniture.delete_organization(sites.deleted_id)
    return [
        in_project,
        replace(no_project, optional=True),
        replace(no_project, name="nobody's", user_id="", optional=True),
        replace(no_project, name="no organization", organization_id="", optional=True),
        await furniture.furnish("other project", ours, sites.other_project_id, somebody),
        deleted_project,
        await furniture.furnish("sister", sites.sister_id, sister_project, owner_id),
        replace(deleted, missing=frozenset({"organization"})),
        nowhere("missing"),
    ]


async def _own_place(furniture: Furniture, no_project: Target, person: Person) -> Target:
    things = await furniture.own_things(no_project.organization_id, "", person.user_id)
    return replace(no_project.with_ids(**things), name="own", user_id=person.user_id)
