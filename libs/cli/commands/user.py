"""`tollhouse user …`: the people who own organizations and keys."""

from typing import Annotated

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.lookups import user_id_of
from libs.cli.terminal.options import LIMIT, LimitOption, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.identity.v1 import user_pb2, user_pb2_grpc

group = typer.Typer(name="user", help="People who own organizations and keys.", no_args_is_help=True)
UserArgument = Annotated[str, typer.Argument(help="The user's id or email address.", metavar="USER")]


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    email: Annotated[str, typer.Argument(help="The email address.")],
    username: Annotated[str, typer.Option(help="The username.")] = "",
    full_name: Annotated[str, typer.Option(help="The full name.")] = "",
    request_id: RequestIdOption = "",
) -> None:
    """Create a user."""
    request = user_pb2.CreateUserRequest(request_id=request_id, email=email, username=username, full_name=full_name)
    output.one((await user_pb2_grpc.UserServiceStub(channels.identity).CreateUser(request)).user)


@calling(group, "list")
async def list_users(
    channels: Channels,
    output: Output,
    email: Annotated[str, typer.Option(help="Only the user with this email address.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List users, newest first."""
    stub = user_pb2_grpc.UserServiceStub(channels.identity)
    users, more = await listed(stub.ListUsers, user_pb2.ListUsersRequest(email=email), lambda page: page.users, limit)
    output.many(users, ("user_id", "email", "username", "full_name", "active", "create_time"), more=more)


@calling(group, "deactivate")
async def deactivate(channels: Channels, output: Output, user: UserArgument) -> None:
    """Deactivate a user: their sessions and keys stop working."""
    request = user_pb2.DeactivateUserRequest(user_id=await user_id_of(channels, user))
    output.one((await user_pb2_grpc.UserServiceStub(channels.identity).DeactivateUser(request)).user)


@calling(group, "reactivate")
async def reactivate(channels: Channels, output: Output, user: UserArgument) -> None:
    """Reactivate a deactivated user."""
    request = user_pb2.ReactivateUserRequest(user_id=await user_id_of(channels, user))
    output.one((await user_pb2_grpc.UserServiceStub(channels.identity).ReactivateUser(request)).user)
