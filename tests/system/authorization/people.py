"""Users who sign in, and the keys they get, all made by an operator through the RPCs."""

import itertools
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.field_mask_pb2 import FieldMask

from libs.cli.terminal.connection import Channels
from tests.support.secrecy import WATCH
from tests.system.authorization.callers import EVERYWHERE
from tollhouse.common.v1 import access_pb2
from tollhouse.identity.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Person:
    """A user with a session; the token is empty if the user has not signed in."""

    user_id: str
    token: str = field(default="", repr=False)


def scope_names() -> list[str]:
    """The scopes that Tollhouse itself interprets, in the form that keys carry."""
    values = access_pb2.Scope.DESCRIPTOR.values
    return [value.GetOptions().Extensions[access_pb2.holders].name for value in values if value.number]


def scopes_of(role: str, project_roles: Iterable[str] = ()) -> frozenset[str]:
    """All of those scopes that the roles hold, for the whole organization or for a part of it."""
    all_holders = [value.GetOptions().Extensions[access_pb2.holders] for value in access_pb2.Scope.DESCRIPTOR.values]
    return frozenset(
        holders.name
        for holders in all_holders
        if role in (*holders.organization_roles, *holders.own_roles) or {*project_roles} & {*holders.project_roles}
    )


class People:
    """Makes users, sessions, memberships and keys."""

    def __init__(self, operator: Channels) -> None:
        identity = operator.identity
        self._users: user_pb2_grpc.UserServiceStub = user_pb2_grpc.UserServiceStub(identity)
        self._sessions: session_pb2_grpc.SessionServiceStub = session_pb2_grpc.SessionServiceStub(identity)
        self._members: organization_pb2_grpc.OrganizationServiceStub = organization_pb2_grpc.OrganizationServiceStub(
            identity
        )
        self._projects: project_pb2_grpc.ProjectServiceStub = project_pb2_grpc.ProjectServiceStub(identity)
        self._keys: api_key_pb2_grpc.ApiKeyServiceStub = api_key_pb2_grpc.ApiKeyServiceStub(identity)

    async def user(self) -> str:
        """Create a user; return the id."""
        email = f"person-{next(_numbers)}@people.example"
        return (await self._users.CreateUser(user_pb2.CreateUserRequest(email=email))).user.user_id

    async def sign_in(self, user_id: str) -> Person:
        """Give a user a password, and sign in with it."""
        password = secrets.token_urlsafe(18)
        WATCH.note(password)
        user = await self._users.SetPassword(user_pb2.SetPasswordRequest(user_id=user_id, new_password=password))
        answer = await self._sessions.SignInWithPassword(
            session_pb2.SignInWithPasswordRequest(login=user.user.email, password=password)
        )
        return Person(user_id, answer.tokens.access_token)

    async def person(self, organization_id: str = "", role: str = "", platform_role: str = "") -> Person:
        """Create a user who signs in, and who may have a role in an organization or on the whole platform."""
        user_id = await self.user()
        if organization_id:
            await self.join(organization_id, user_id, role)
        if platform_role:
            await self._users.UpdateUser(
                user_pb2.UpdateUserRequest(
                    user_id=user_id,
                    update_mask=FieldMask(paths=["platform_role"]),
                    platform_role=user_pb2.PlatformRole.Value(f"PLATFORM_ROLE_{platform_role.upper()}"),
                )
            )
        return await self.sign_in(user_id)

    async def sign_out(self, person: Person) -> None:
        await self._sessions.SignOut(session_pb2.SignOutRequest(user_id=person.user_id, all_sessions=True))

    async def deactivate(self, user_id: str) -> None:
        await self._users.DeactivateUser(user_pb2.DeactivateUserRequest(user_id=user_id))

    async def organization(self, owner_id: str) -> str:
        """Create an organization; return the id."""
        name = f"Organization {next(_numbers)}"
        request = organization_pb2.CreateOrganizationRequest(name=name, owner_user_id=owner_id)
        return (await self._members.CreateOrganization(request)).organization.organization_id

    async def join(self, organization_id: str, user_id: str, role: str) -> None:
        await self._members.AddMember(
            organization_pb2.AddMemberRequest(
                organization_id=organization_id, user_id=user_id, role=organization_pb2.MemberRole.Value(_member(role))
            )
        )

    async def change_role(self, organization_id: str, user_id: str, role: str) -> None:
        await self._members.UpdateMember(
            organization_pb2.UpdateMemberRequest(
                organization_id=organization_id, user_id=user_id, role=organization_pb2.MemberRole.Value(_member(role))
            )
        )

    async def leave(self, organization_id: str, user_id: str) -> None:
        await self._members.RemoveMember(
            organization_pb2.RemoveMemberRequest(organization_id=organization_id, user_id=user_id)
        )

    async def join_project(self, organization_id: str, project_id: str, user_id: str, role: str) -> None:
        await self._projects.AddProjectMember(
            project_pb2.AddProjectMemberRequest(
                organization_id=organization_id,
                project_id=project_id,
                user_id=user_id,
                role=project_pb2.ProjectMemberRole.Value(f"PROJECT_MEMBER_ROLE_{role.upper()}"),
            )
        )

    async def key(
        self,
        organization_id: str,
        *,
        scopes: Iterable[str] = (),
        project_id: str = "",
        user_id: str = "",
        service_account_id: str = "",
        expire_in: timedelta | None = None,
        reaches: str = "",
    ) -> tuple[str, str]:
        """Create a key of a user or a service account; return its id and its secret.

        The scopes of gateways hold in the organization that it `reaches`, `*` for all.
        """
        request = api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id,
            project_id=project_id,
            user_id=user_id,
            scopes=sorted(scopes),
            name="matrix",
            all_organizations=reaches == EVERYWHERE,
            gateway_organization_id="" if reaches == EVERYWHERE else reaches,
        )
        if service_account_id:
            request.service_account_id = service_account_id
        if expire_in is not None:
            request.expire_time.FromDatetime(datetime.now(UTC) + expire_in)
        answer = await self._keys.CreateApiKey(request)
        return answer.api_key.api_key_id, answer.secret

    async def disable_key(self, organization_id: str, api_key_id: str) -> None:
        request = api_key_pb2.DisableApiKeyRequest(organization_id=organization_id, api_key_id=api_key_id)
        await self._keys.DisableApiKey(request)

    async def revoke_key(self, organization_id: str, api_key_id: str) -> None:
        request = api_key_pb2.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=api_key_id)
        await self._keys.RevokeApiKey(request)


def _member(role: str) -> str:
    return f"MEMBER_ROLE_{role.upper()}"
