"""UserService over gRPC."""

import grpc

from libs.common import pages
from libs.common.pages import id_in_token
from libs.common.timestamps import render_optional_time, render_time
from services.identity.user.model import NewUser, User
from services.identity.user.users import Users
from tollhouse.identity.v1 import user_pb2 as pb
from tollhouse.identity.v1 import user_pb2_grpc as rpc


class UserServicer(rpc.UserServiceServicer):
    """Reads requests into what `Users` takes, and renders what it gives."""

    def __init__(self, users: Users) -> None:
        self._users = users

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateUserResponse:
        new = NewUser(
            email=request.email,
            username=request.username,
            full_name=request.full_name,
            picture_url=request.picture_url,
        )
        user, replayed = await self._users.create(new, request_id=request.request_id)
        return pb.CreateUserResponse(user=_render(user), replayed=replayed)

    async def GetUser(self, request: pb.GetUserRequest, context: grpc.aio.ServicerContext) -> pb.GetUserResponse:
        return pb.GetUserResponse(user=_render(await self._users.get(request.user_id)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: grpc.aio.ServicerContext) -> pb.ListUsersResponse:
        fingerprint = f"users {request.email}"
        users, more = await self._users.page(
            email=request.email,
            before=id_in_token(request.page_token, fingerprint),
            size=pages.page_size(request.page_size),
        )
        token = pages.encode_page_token(users[-1].user_id, fingerprint=fingerprint) if more else ""
        return pb.ListUsersResponse(users=[_render(user) for user in users], next_page_token=token)

    async def DeactivateUser(
        self, request: pb.DeactivateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeactivateUserResponse:
        user, revision = await self._users.set_active(request.user_id, active=False)
        return pb.DeactivateUserResponse(user=_render(user), revision=revision)

    async def ReactivateUser(
        self, request: pb.ReactivateUserRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReactivateUserResponse:
        user, revision = await self._users.set_active(request.user_id, active=True)
        return pb.ReactivateUserResponse(user=_render(user), revision=revision)


def _render(user: User) -> pb.User:
    return pb.User(
        user_id=user.user_id,
        email=user.email,
        username=user.username,
        full_name=user.full_name,
        picture_url=user.picture_url,
        active=user.deactivate_time is None,
        create_time=render_time(user.create_time),
        update_time=render_time(user.update_time),
        deactivate_time=render_optional_time(user.deactivate_time),
    )
