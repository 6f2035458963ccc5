"""Separate resources for calls that change or delete what other calls need: each such call gets its own copy."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from tests.system.authorization.callers import Caller, Kind
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.targets import Target
from tests.system.authorization.ways import WAYS, Way
from tests.system.authorization.world import World

Staged = tuple[Caller, Target]


async def stage(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    """Return the caller and the target for a call that must be let in."""
    setting = _SETTINGS.get(WAYS.get(rpc.name, Way.ADDS))
    # A missing resource cannot be changed, so the call needs no copy.
    named = {"organization"} if "organization_id" in rpc.fields else {"user"}
    if setting is None or named & target.missing:
        return caller, target
    return await setting(world, rpc, caller, target)


async def _key(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    if target.name == "deleted project":
        return caller, target
    things = await world.people.key(
        target.organization_id, project_id=target.project_id, user_id=target.user_id or _somebody(world)
    )
    return caller, target.with_ids(api_key_id=things[0])


async def _service_account(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    made = await world.furniture.service_account(target.organization_id, "viewer")
    return caller, target.with_ids(service_account_id=made)


async def _invitation(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    return caller, target.with_ids(invitation_id=await world.furniture.invitation(target.organization_id))


async def _user(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    """A separate user. A user who calls for themselves is signed in and gets the caller's role in the organization."""
    in_person = caller.kind is Kind.SESSION and target.user_id == caller.user_id
    user_id = await world.people.user()
    role = (caller.roles.get(target.organization_id, "") if in_person else "") or "viewer"
    if "organization_id" in rpc.fields and rpc.verb != "AddMember":
        await world.people.join(target.organization_id, user_id, role)
        if rpc.verb == "RemoveProjectMember" and target.name != "deleted project":
            await world.people.join_project(target.organization_id, target.project_id, user_id, "member")
    if in_person and rpc.access.self_field:
        caller = replace(caller, token=(await world.people.sign_in(user_id)).token, user_id=user_id)
    return caller, replace(target, user_id=user_id)


async def _project(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    """A project in which the caller has the same role. A key bound to the original gets a copy bound to this one."""
    if target.name == "deleted project":
        return caller, target
    organization_id = target.organization_id
    project_id = await world.furniture.project(organization_id)
    role = caller.project_roles.get(target.project_id)
    if role:
        await world.people.join_project(organization_id, project_id, caller.user_id, role)
    if caller.key_project_id:
        _, secret = await world.people.key(
            organization_id, scopes=caller.scopes or (), project_id=project_id, user_id=caller.user_id
        )
        caller = replace(caller, token=secret, key_project_id=project_id)
    return caller, replace(target, project_id=project_id)


async def _organization(world: World, rpc: Rpc, caller: Caller, target: Target) -> Staged:
    """An organization that the caller owns, too. A key of the original organization gets a copy in this one."""
    organization_id = await world.people.organization(caller.user_id or _somebody(world))
    if caller.kind is Kind.KEY:
        _, secret = await world.people.key(organization_id, scopes=caller.scopes or (), user_id=caller.user_id)
        caller = replace(caller, token=secret)
    return caller, replace(target, organization_id=organization_id)


def _somebody(world: World) -> str:
    return world.places["own project"].user_id


_SETTINGS: Mapping[Way, Callable[[World, Rpc, Caller, Target], Awaitable[Staged]]] = {
    Way.ON_KEY: _key,
    Way.ON_USER: _user,
    Way.ON_PROJECT: _project,
    Way.ON_SERVICE_ACCOUNT: _service_account,
    Way.ON_INVITATION: _invitation,
    Way.ON_ORGANIZATION: _organization,
}
