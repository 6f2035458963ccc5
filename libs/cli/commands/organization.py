"""`tollhouse organization …`: the tenants of the platform."""

from typing import Annotated

import typer

from libs.cli.failures import CommandFailed
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.lookups import find_user_id, user_id_of
from libs.cli.terminal.options import LIMIT, LimitOption, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc, user_pb2, user_pb2_grpc

group = typer.Typer(name="organization", help="The tenants of the platform.", no_args_is_help=True)
OrganizationArgument = Annotated[str, typer.Argument(help="The organization's id.", metavar="ORGANIZATION")]


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Argument(help="The name of the organization.")],
    owner: Annotated[str, typer.Option(help="The first owner's email address or id.", metavar="USER")],
    create_owner: Annotated[
        bool, typer.Option("--create-owner", help="Create the owner if no user has the email address.")
    ] = False,
    request_id: RequestIdOption = "",
) -> None:
    """Create an organization with its first owner."""
    request = organization_pb2.CreateOrganizationRequest(
        request_id=request_id, name=name, owner_user_id=await _owner(channels, owner, create=create_owner)
    )
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    output.one((await stub.CreateOrganization(request)).organization)


async def _owner(channels: Channels, text: str, *, create: bool) -> str:
    user_id = await find_user_id(channels, text)
    if user_id is not None:
        return user_id
    if not create:
        raise CommandFailed(f"There is no user with the email address {text}. Give --create-owner to create one.")
    stub = user_pb2_grpc.UserServiceStub(channels.identity)
    return (await stub.CreateUser(user_pb2.CreateUserRequest(email=text))).user.user_id


@calling(group, "list")
async def list_organizations(
    channels: Channels,
    output: Output,
    user: Annotated[str, typer.Option(help="Only organizations of this user.", metavar="USER")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List organizations, newest first."""
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    request = organization_pb2.ListOrganizationsRequest(user_id=await user_id_of(channels, user) if user else "")
    organizations, more = await listed(stub.ListOrganizations, request, lambda page: page.organizations, limit)
    output.many(organizations, ("organization_id", "name", "personal", "create_time"), more=more)


@calling(group, "show")
async def show(channels: Channels, output: Output, organization: OrganizationArgument) -> None:
    """Show one organization."""
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    request = organization_pb2.GetOrganizationRequest(organization_id=organization)
    output.one((await stub.GetOrganization(request)).organization)


@calling(group, "members")
async def members(
    channels: Channels, output: Output, organization: OrganizationArgument, limit: LimitOption = LIMIT
) -> None:
    """List the members of an organization."""
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    request = organization_pb2.ListMembersRequest(organization_id=organization)
    found, more = await listed(stub.ListMembers, request, lambda page: page.members, limit)
    output.many(found, ("user_id", "email", "full_name", "role", "create_time"), more=more)


@calling(group, "delete")
async def delete(
    channels: Channels, output: Output, organization: OrganizationArgument, yes: YesOption = False
) -> None:
    """Delete an organization. Its keys stop working for good; its money, usage and audit trail stay."""
    confirm(f"Delete the organization {organization}, with its projects and keys?", yes=yes)
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    output.one(await stub.DeleteOrganization(organization_pb2.DeleteOrganizationRequest(organization_id=organization)))
