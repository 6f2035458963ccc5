"""UserService over gRPC."""

from collections.abc import Mapping

import grpc

from libs.common import pages
from libs.common.pages import id_in_token
from libs.common.validation import Reader
from services.identity.attributes import read_attributes
from services.identity.configuration import change_of
from services.identity.email_address import require_email
from services.identity.user.configurations import UserConfigurations
from services.identity.user.deletion import Deletions
from services.identity.user.domain import IdTokenClaim, NewUser, PasswordChange, UserFilter
from services.identity.user.rendering import (
    read_change,
    read_identity,
    render_configuration,
    render_user,
)
from services.identity.user.sign_in_methods import SignInMethods
from services.identity.user.users import Users
from tollhouse.identity.v1 import user_pb2 as pb
from tollhouse.identity.v1 import user_pb2_grpc as rpc


class UserServicer(rpc.UserServiceServicer):
    """Reads requests into commands of the use cases, and renders their results."""

    def __init__(
        self,
        users: Users,
        deletions: Deletions,
        sign_in_methods: SignInMethods,
        configurations: UserConfigurations,
    ) -> None:
        self._users = users
        self._deletions = deletions
        self._sign_in_methods = sign_in_methods
        self._configurations = configurations

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "UpdateUser": read_change,
            "UpdateUserConfiguration": lambda request: change_of(request.entries, request.removed_keys),
        }

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateUserResponse:
        require_email(request.email)
        new = NewUser(
            email=request.email,
            username=request.username,
            full_name=request.full_name,
            picture_url=request.picture_url,
            attributes=read_attributes(request),
        )
        user, replayed = await self._users.create(new, request_id=request.request_id)
        return pb.CreateUserResponse(user=render_user(user), replayed=replayed)

    async def GetUser(self, request: pb.GetUserRequest, context: grpc.aio.ServicerContext) -> pb.GetUserResponse:
        user = await self._users.get(request.user_id.lower(), show_deleted=request.show_deleted)
        return pb.GetUserResponse(user=render_user(user))

    async def ListUsers(self, request: pb.ListUsersRequest, context: grpc.aio.ServicerContext) -> pb.ListUsersResponse:
        identity = read_identity(request.linked_identity) if request.HasField("linked_identity") else None
        active = request.active if request.HasField("active") else None
        fingerprint = f"users {request.email} {request.username} {request.external_id} {active} {identity}"
        users, more = await self._users.page(
            UserFilter(
                email=request.email,
                username=request.username,
                external_id=request.external_id,
                identity=identity,
                active=active,
            ),
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(users[-1].user_id, fingerprint=fingerprint) if more else ""
        return pb.ListUsersResponse(users=[render_user(user) for user in users], next_page_token=token)

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateUserResponse:
        user = await self._users.update(request.user_id.lower(), read_change(request), etag=request.etag)
        return pb.UpdateUserResponse(user=render_user(user))

    async def DeactivateUser(
        self, request: pb.DeactivateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeactivateUserResponse:
        user, revision = await self._users.set_active(request.user_id.lower(), active=False)
        return pb.DeactivateUserResponse(user=render_user(user), revision=revision)

    async def ReactivateUser(
        self, request: pb.ReactivateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReactivateUserResponse:
        user, revision = await self._users.set_active(request.user_id.lower(), active=True)
        return pb.ReactivateUserResponse(user=render_user(user), revision=revision)

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteUserResponse:
        deletion = await self._deletions.delete(request.user_id.lower(), etag=request.etag)
        return pb.DeleteUserResponse(
            user=render_user(deletion.user),
            revoked_api_key_count=deletion.revoked_api_keys,
            revision=deletion.revision,
        )

    async def LinkIdentity(
        self, request: pb.LinkIdentityRequest, context: grpc.aio.ServicerContext
    ) -> pb.LinkIdentityResponse:
        if request.WhichOneof("claim") == "id_token":
            user = await self._sign_in_methods.link(
                request.user_id.lower(), IdTokenClaim(request.id_token, request.nonce)
            )
        else:
            user = await self._sign_in_methods.link(request.user_id.lower(), read_identity(request.linked_identity))
        return pb.LinkIdentityResponse(user=render_user(user))

    async def UnlinkIdentity(
        self, request: pb.UnlinkIdentityRequest, context: grpc.aio.ServicerContext
    ) -> pb.UnlinkIdentityResponse:
        user = await self._sign_in_methods.unlink(request.user_id.lower(), read_identity(request.linked_identity))
        return pb.UnlinkIdentityResponse(user=render_user(user))

    async def SetPassword(
        self, request: pb.SetPasswordRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetPasswordResponse:
        removed = request.WhichOneof("change") == "remove"
        change = PasswordChange(
            new_password=None if removed else request.new_password, current_password=request.current_password
        )
        user, ended = await self._sign_in_methods.set_password(request.user_id.lower(), change)
        return pb.SetPasswordResponse(user=render_user(user), ended_session_count=ended)

    async def GetUserConfiguration(
        self, request: pb.GetUserConfigurationRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetUserConfigurationResponse:
        configuration = await self._configurations.get(request.user_id.lower())
        return pb.GetUserConfigurationResponse(configuration=render_configuration(configuration))

    async def UpdateUserConfiguration(
        self, request: pb.UpdateUserConfigurationRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpdateUserConfigurationResponse:
        change = change_of(request.entries, request.removed_keys)
        configuration = await self._configurations.update(request.user_id.lower(), change, etag=request.etag)
        return pb.UpdateUserConfigurationResponse(configuration=render_configuration(configuration))
