"""Every RPC of every service, called by every kind of caller on resources of their own and of others.

Exactly the callers that the proto declares are let in. The calls are made from the descriptors. An RPC, role, scope or
service for which the test code defines no call fails the tests.
"""

from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest

from libs.cli.installation.data_folder import CONTEXTS, SERVICE_NAMES
from libs.common.authentication import SigningKey
from tests.system.authorization import matrix, rpcs, twins, ways
from tests.system.authorization.bad_credentials import bad_credentials, mint
from tests.system.authorization.callers import Caller, Kind
from tests.system.authorization.calls import Wire
from tests.system.authorization.furniture import nowhere
from tests.system.authorization.matrix import Cell
from tests.system.authorization.oracle import IN_PERSON, Verdict, expected
from tests.system.authorization.rpcs import Rpc
from tests.system.authorization.world import MEMBER_ROLES, PLATFORM_ROLES, PROJECT_ROLES, World, build
from tests.system.installation import Installation, running
from tollhouse.common.v1 import access_pb2
from tollhouse.identity.v1 import organization_pb2, project_pb2, user_pb2

# All users sign in from one address within a minute. Password hashes use the lowest cost that is allowed.
ENVIRONMENT = {
    "TOLLHOUSE_IDENTITY_SIGN_IN_ATTEMPTS_PER_ADDRESS_MAX": "100000",
    "TOLLHOUSE_IDENTITY_PASSWORD_HASH_MEMORY_KIB": str(19 * 1024),
    "TOLLHOUSE_IDENTITY_PASSWORD_HASH_PASSES": "2",
}


@pytest.fixture(scope="module")
async def installation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with running(
        Installation(tmp_path_factory.mktemp("access"), environment=ENVIRONMENT, prepared=True)
    ) as installation:
        yield installation


@pytest.fixture(scope="module")
async def world(installation: Installation) -> AsyncIterator[World]:
    async with installation.connection().open() as channels:
        yield await build(channels)


@pytest.fixture(scope="module")
async def served(installation: Installation) -> list[Rpc]:
    return await rpcs.served(installation.endpoints(), installation.connection().token)


@pytest.fixture(scope="module")
async def wire(installation: Installation) -> AsyncIterator[Wire]:
    async with Wire(installation.endpoints()) as wire:
        yield wire


@pytest.fixture(scope="module")
def unlimited(installation: Installation) -> list[Caller]:
    """The operator and every service."""
    keys = {name: SigningKey.read(installation.data.signing_key_file(name)) for name in (*SERVICE_NAMES, "operator")}
    operator = Caller("operator", Kind.OPERATOR, mint(keys["operator"]))
    return [operator, *(Caller(f"service {name}", Kind.SERVICE, mint(keys[name])) for name in SERVICE_NAMES)]


def test_every_rpc_declares_who_may_call_it() -> None:
    rules = {name: method.GetOptions().Extensions[access_pb2.access] for name, method in rpcs.declared().items()}
    assert len(rules) > 80
    silent = [n for n, a in rules.items() if not (a.operators or a.services or a.public or a.scope or a.users)]
    assert silent == []


def test_rpcs_name_existing_services_only() -> None:
    rules = [method.GetOptions().Extensions[access_pb2.access] for method in rpcs.declared().values()]
    assert {name for access in rules for name in access.services} <= {*SERVICE_NAMES, "*"}


def test_every_rpc_that_changes_something_has_a_test_method() -> None:
    known = {name.removeprefix(rpcs.PACKAGE) for name in rpcs.declared()}
    assert [flaw for method in rpcs.declared().values() for flaw in ways.flaws(Rpc("", method))] == []
    assert {*ways.WAYS, *ways.OWN_FIELDS, *IN_PERSON} - known == set()


def test_every_rpc_has_a_request_that_its_rules_allow() -> None:
    for method in rpcs.declared().values():
        matrix.request_on(Rpc("", method), nowhere("missing"))


def test_every_role_is_held_by_some_caller() -> None:
    organization = {name.removeprefix("MEMBER_ROLE_").lower() for name in organization_pb2.MemberRole.keys()}
    project = {name.removeprefix("PROJECT_MEMBER_ROLE_").lower() for name in project_pb2.ProjectMemberRole.keys()}
    platform = {name.removeprefix("PLATFORM_ROLE_").lower() for name in user_pb2.PlatformRole.keys()}
    assert organization == {*MEMBER_ROLES, "unspecified"}
    assert project == {*PROJECT_ROLES, "unspecified"}
    assert platform == {*PLATFORM_ROLES, "user", "unspecified"}


def test_every_scope_is_held_by_some_caller_and_required_by_some_rpc() -> None:
    scopes = {value.number for value in access_pb2.Scope.DESCRIPTOR.values if value.number}
    rules = [method.GetOptions().Extensions[access_pb2.access] for method in rpcs.declared().values()]
    assert {scope for access in rules for scope in (access.scope, access.gateway_scope) if scope} == scopes
    for value in access_pb2.Scope.DESCRIPTOR.values:
        holders = value.GetOptions().Extensions[access_pb2.holders]
        assert bool(value.number) == bool(holders.name and (holders.organization_roles or holders.gateways))


async def test_every_rpc_is_served(served: list[Rpc]) -> None:
    assert {rpc.method.full_name for rpc in served} == {*rpcs.declared()}


@pytest.mark.parametrize("context", CONTEXTS)
async def test_every_rpc_lets_in_exactly_the_callers_it_declares(
    context: str, served: list[Rpc], world: World, wire: Wire, unlimited: list[Caller]
) -> None:
    operator, *services = unlimited
    first = [*world.places.values()][:1]
    cells = [
        cell
        for rpc in served
        if rpc.context == context
        for caller in (operator, *services, *world.callers)
        for cell in matrix.cells(rpc, caller, first if caller.kind is Kind.SERVICE else world.targets_of(caller))
    ]

    async def wrong(cell: Cell) -> str:
        return await matrix.try_out(wire, world, cell)

    _assert_nothing(await matrix.each(cells, wrong))
    due = Counter(expected(cell.rpc, cell.caller, cell.target) for cell in cells)
    assert min(due[v] for v in (Verdict.ADMITTED, Verdict.PERMISSION_DENIED, Verdict.NO_ORGANIZATION)) > 50


async def test_usage_of_several_organizations_is_shown_to_operators_and_services_alone(
    served: list[Rpc], world: World, wire: Wire, unlimited: list[Caller]
) -> None:
    """Whoever may read one organization's usage may not read that of all, nor of a list in which theirs is."""
    ours = world.places["own project"].organization_id
    rpcs_of_usage = [rpc for rpc in served if rpc.verb in ("ListUsage", "QueryUsage")]
    wrong, let_in = [], 0
    for rpc in rpcs_of_usage:
        for caller in (*unlimited, *world.callers):
            for organization_ids in ([], [ours], [ours, world.places["other tenant"].organization_id]):
                target = world.places["own project"].with_ids(organization_id="", project_id="", user_id="")
                request = matrix.request_on(rpc, target)
                request.MergeFrom(type(request)(organization_ids=organization_ids))
                outcome = await wire.call(rpc, caller.token, request)
                admitted = not caller.is_limited or (caller.kind is Kind.SESSION and caller.platform_role != "user")
                let_in += admitted
                due = grpc.StatusCode.OK if admitted else grpc.StatusCode.NOT_FOUND
                if outcome.code is not due:
                    wrong.append(f"{rpc} as {caller} of {organization_ids}: {due.name} was due, but {outcome}")
                both = matrix.request_on(rpc, world.places["own project"])
                both.MergeFrom(type(both)(organization_ids=organization_ids))
                if organization_ids and (await wire.call(rpc, caller.token, both)).code is grpc.StatusCode.OK:
                    wrong.append(f"{rpc} as {caller} of one and of {organization_ids}: was answered")
    _assert_nothing(wrong)
    assert len(rpcs_of_usage) == 2
    assert let_in > 20


async def test_ids_in_capitals_get_the_same_access_decision(served: list[Rpc], world: World, wire: Wire) -> None:
    cells = [
        cell
        for rpc in served
        if rpc.only_reads and twins.is_open_to_users(rpc)
        for caller in world.callers
        for cell in matrix.cells(rpc, caller, world.targets_of(caller))
    ]

    async def wrong(cell: Cell) -> str:
        return await matrix.try_in_capitals(wire, cell)

    _assert_nothing(await matrix.each(cells, wrong))
    assert len(cells) > 1_000


async def test_no_rpc_accepts_a_bad_credential(
    installation: Installation, served: list[Rpc], world: World, wire: Wire
) -> None:
    credentials = await bad_credentials(installation.data, world)
    target = world.places["own project"]

    async def wrong(asked: tuple[Rpc, str]) -> str:
        rpc, credential = asked
        outcome = await wire.call(rpc, credentials[credential], matrix.request_on(rpc, target))
        wanted = Verdict.ADMITTED if rpc.access.public else Verdict.UNAUTHENTICATED
        right = outcome.verdict is wanted and not outcome.is_fault
        return "" if right else f"{rpc} with {credential}: {wanted.value} was due, but {outcome}"

    asked = [(rpc, credential) for rpc in served for credential in credentials]
    _assert_nothing(await matrix.each(asked, wrong))
    assert len(credentials) > 20


async def test_resource_of_another_tenant_looks_exactly_like_a_missing_one(
    served: list[Rpc], world: World, wire: Wire
) -> None:
    callers = [c for c in world.callers if c.platform_role == "user" and c.name != "owner of other tenant"]
    pairs = [pair for rpc in served if twins.is_open_to_users(rpc) for pair in twins.pairs(rpc, world)]

    async def difference(asked: tuple[twins.Twins, Caller]) -> str:
        pair, caller = asked
        return await twins.difference(wire, pair, caller)

    _assert_nothing(await matrix.each([(pair, caller) for pair in pairs for caller in callers], difference))
    assert len({pair.rpc.name for pair in pairs}) > 40


def _assert_nothing(findings: list[str]) -> None:
    found = [finding for finding in findings if finding]
    assert not found, "\n".join(found)
