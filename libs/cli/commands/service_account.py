"""`tollhouse service-account …`: owners of keys that outlive people."""

from enum import StrEnum
from typing import Annotated

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationOption, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.identity.v1 import organization_pb2, service_account_pb2, service_account_pb2_grpc

group = typer.Typer(name="service-account", help="Owners of keys that outlive people.", no_args_is_help=True)


class Role(StrEnum):
    """The role of a service account in its organization."""

    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    VIEWER = "viewer"


@calling(group, "create")
async def create(
    channels: Channels,
    output: Output,
    name: Annotated[str, typer.Argument(help="The name of the service account, unique in its organization.")],
    organization: OrganizationOption,
    role: Annotated[Role, typer.Option(help="Its role in the organization.")] = Role.MEMBER,
    description: Annotated[str, typer.Option(help="A description.")] = "",
    request_id: RequestIdOption = "",
) -> None:
    """Create a service account."""
    request = service_account_pb2.CreateServiceAccountRequest(
        request_id=request_id,
        organization_id=organization,
        name=name,
        description=description,
        role=organization_pb2.MemberRole.Value(f"MEMBER_ROLE_{role.name}"),
    )
    stub = service_account_pb2_grpc.ServiceAccountServiceStub(channels.identity)
    output.one((await stub.CreateServiceAccount(request)).service_account)


@calling(group, "list")
async def list_service_accounts(
    channels: Channels, output: Output, organization: OrganizationOption, limit: LimitOption = LIMIT
) -> None:
    """List an organization's service accounts, newest first."""
    stub = service_account_pb2_grpc.ServiceAccountServiceStub(channels.identity)
    request = service_account_pb2.ListServiceAccountsRequest(organization_id=organization)
    accounts, more = await listed(stub.ListServiceAccounts, request, lambda page: page.service_accounts, limit)
    output.many(accounts, ("service_account_id", "name", "role", "description", "create_time"), more=more)


@calling(group, "delete")
async def delete(
    channels: Channels,
    output: Output,
    service_account: Annotated[str, typer.Argument(help="The service account's id.", metavar="SERVICE_ACCOUNT")],
    organization: OrganizationOption,
    yes: YesOption = False,
) -> None:
    """Delete a service account and revoke its keys for good."""
    confirm(f"Delete the service account {service_account} and revoke its keys?", yes=yes)
    stub = service_account_pb2_grpc.ServiceAccountServiceStub(channels.identity)
    output.one(
        await stub.DeleteServiceAccount(
            service_account_pb2.DeleteServiceAccountRequest(
                organization_id=organization, service_account_id=service_account
            )
        )
    )
