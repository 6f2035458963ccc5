"""How billing and metering resolve a user or a key through identity, and how long they cache the answer."""

from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from libs.common.access import CallerKind
from libs.common.callers import ANSWER_AGE_MAX_S, Credential, RemoteDirectory
from libs.common.channel import open_channel
from libs.common.database import Database
from libs.common.errors import Unauthenticated, Unavailable
from libs.common.ids import new_id
from tests.identity.people import People
from tests.identity.support import Identity
from tests.support.callers import Callers, Metadata
from tollhouse.common.v1 import caller_pb2, caller_pb2_grpc
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, user_pb2


class Elsewhere:
    """Another service's directory of callers, with a clock of its own."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.now_s = 1_000.0
        self.directory = RemoteDirectory(channel, lambda: self.now_s)


@pytest.fixture
def people(identity: Identity, identity_database: Database, callers: Callers) -> People:
    return People(identity, identity_database, callers)


@pytest.fixture
async def channel(identity: Identity, callers: Callers) -> AsyncIterator[grpc.aio.Channel]:
    tokens = callers.token_source("metering")
    opened = open_channel(f"127.0.0.1:{identity.port}", caller=tokens, audience="identity.tollhouse")
    yield opened
    await opened.close()


@pytest.fixture
def elsewhere(channel: grpc.aio.Channel) -> Elsewhere:
    return Elsewhere(channel)


def session_of(metadata: Metadata, callers: Callers, clock: Callable[[], float] | None = None) -> Credential:
    """Return the session that a token of these tests names."""
    caller = callers.authenticator("metering.tollhouse").caller_of(metadata[0][1])
    return Credential(user_id=caller.name, session_id=caller.session_id)


async def test_role_taken_away_is_gone_elsewhere_after_five_seconds_and_at_once_in_identity(
    identity: Identity, people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, organization_pb2.MEMBER_ROLE_ADMIN)
    credential = session_of(admin.metadata, callers)
    known = await elsewhere.directory.resolve(credential, organization_id)
    assert known.rights.organization_role == "admin"
    request = organization_pb2.UpdateMemberRequest(
        organization_id=organization_id, user_id=admin.user_id, role=organization_pb2.MEMBER_ROLE_VIEWER
    )
    await identity.organizations.UpdateMember(request, metadata=identity.metadata)

    change = organization_pb2.UpdateOrganizationRequest(organization_id=organization_id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.organizations.UpdateOrganization(change, metadata=admin.metadata)
    assert refused.value.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
    elsewhere.now_s += ANSWER_AGE_MAX_S - 0.001
    assert (await elsewhere.directory.resolve(credential, organization_id)).rights.organization_role == "admin"
    elsewhere.now_s += 0.001
    assert (await elsewhere.directory.resolve(credential, organization_id)).rights.organization_role == "viewer"


async def test_user_who_is_stopped_is_nobody(
    identity: Identity, people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    person = await people.person()
    credential = session_of(person.metadata, callers)
    assert (await elsewhere.directory.resolve(credential, "")).caller.name == person.user_id
    await identity.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=person.user_id), metadata=identity.metadata
    )
    elsewhere.now_s += ANSWER_AGE_MAX_S
    with pytest.raises(Unauthenticated):
        await elsewhere.directory.resolve(credential, "")


async def test_one_users_session_does_not_stand_for_another(
    people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    one, other = await people.person(), await people.person()
    stolen = Credential(user_id=other.user_id, session_id=session_of(one.metadata, callers).session_id)
    for credential in (stolen, Credential(user_id=one.user_id, session_id=new_id())):
        with pytest.raises(Unauthenticated):
            await elsewhere.directory.resolve(credential, "")


async def test_organization_one_does_not_belong_to_looks_like_none(
    identity: Identity, people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    strange, _ = await identity.create_organization()
    credential = session_of((await people.person()).metadata, callers)
    there = await elsewhere.directory.resolve(credential, strange)
    nowhere = await elsewhere.directory.resolve(credential, new_id())
    assert there.rights.organization_role == nowhere.rights.organization_role == ""
    assert there.caller == nowhere.caller


async def test_roles_in_living_projects_are_told(
    identity: Identity, people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    organization_id, _ = await identity.create_organization()
    person = await people.member(organization_id, organization_pb2.MEMBER_ROLE_MEMBER)
    kept, gone = [await identity.create_project(organization_id, name) for name in ("Kept", "Gone")]
    for project, role in (
        (kept, project_pb2.PROJECT_MEMBER_ROLE_ADMIN),
        (gone, project_pb2.PROJECT_MEMBER_ROLE_MEMBER),
    ):
        request = project_pb2.AddProjectMemberRequest(
            organization_id=organization_id, project_id=project.project_id, user_id=person.user_id, role=role
        )
        await identity.projects.AddProjectMember(request, metadata=identity.metadata)
    deletion = project_pb2.DeleteProjectRequest(organization_id=organization_id, project_id=gone.project_id)
    await identity.projects.DeleteProject(deletion, metadata=identity.metadata)
    known = await elsewhere.directory.resolve(session_of(person.metadata, callers), organization_id)
    assert known.rights.project_roles == {kept.project_id: "admin"}


async def test_key_calls_as_its_owner_within_its_scopes_and_its_organization(
    identity: Identity, elsewhere: Elsewhere
) -> None:
    organization_id, owner = await identity.create_organization()
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, scopes=["tollhouse:usage.read", "chat:write"]
        )
    )
    credential = Credential(api_key=created.secret)
    known = await elsewhere.directory.resolve(credential, organization_id)
    assert (known.caller.kind, known.caller.name) == (CallerKind.USER, owner)
    assert known.caller.api_key_id == created.api_key.api_key_id
    assert known.caller.session_id == ""
    assert known.rights.organization_role == "owner"
    assert known.rights.key_scopes == frozenset({"tollhouse:usage.read", "chat:write"})
    strange, _ = await identity.create_organization(owner)
    assert (await elsewhere.directory.resolve(credential, strange)).rights.organization_role == ""
    await identity.revoke(created.api_key)
    elsewhere.now_s += ANSWER_AGE_MAX_S
    with pytest.raises(Unauthenticated):
        await elsewhere.directory.resolve(credential, organization_id)


async def test_nobody_is_let_in_while_identity_is_away_and_no_answer_is_fresh(
    identity: Identity, people: People, elsewhere: Elsewhere, callers: Callers
) -> None:
    credential = session_of((await people.person()).metadata, callers)
    await elsewhere.directory.resolve(credential, "")
    await identity.service.stop(grace_s=0)
    await elsewhere.directory.resolve(credential, "")
    elsewhere.now_s += ANSWER_AGE_MAX_S
    with pytest.raises(Unavailable):
        await elsewhere.directory.resolve(credential, "")


async def test_credential_is_not_kept_as_it_was_presented(identity: Identity, elsewhere: Elsewhere) -> None:
    created = await identity.create_key()
    credential = Credential(api_key=created.secret)
    await elsewhere.directory.resolve(credential, created.api_key.organization_id)
    assert created.secret not in repr(credential)
    assert created.secret not in repr(vars(elsewhere.directory))


async def test_wrong_credential_is_an_answer_and_no_error(identity: Identity, channel: grpc.aio.Channel) -> None:
    callers = caller_pb2_grpc.CallerServiceStub(channel)
    for request in (
        caller_pb2.ResolveCallerRequest(api_key="th_live_nonsense"),
        caller_pb2.ResolveCallerRequest(
            session=caller_pb2.SessionCredential(user_id=new_id(), session_id=new_id()), organization_id=new_id()
        ),
    ):
        assert await callers.ResolveCaller(request) == caller_pb2.ResolveCallerResponse()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await callers.ResolveCaller(caller_pb2.ResolveCallerRequest(organization_id="x", client_address="y"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
