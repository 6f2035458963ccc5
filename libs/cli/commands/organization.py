"""`tollhouse organization …`: the tenants of the platform."""

from enum import StrEnum
from typing import Annotated

import typer

from libs.cli.failures import CommandFailed
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.lookups import find_user_id, user_id_of
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc, user_pb2, user_pb2_grpc
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc

group = typer.Typer(name="organization", help="The tenants of the platform.", no_args_is_help=True)


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


class OutputHold(StrEnum):
    """What is held for a call that gives no maximum of output tokens."""

    MODEL_MAX = "model-max"
    CAP = "cap"
    FIXED = "fixed"


class LapseCharge(StrEnum):
    """What is charged for an authorized call that is never settled."""

    RELEASE = "release"
    INPUT = "input"


@calling(group, "policy")
async def policy(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    output_hold: Annotated[
        OutputHold | None, typer.Option(help="What is held for a call that gives no maximum of output tokens.")
    ] = None,
    cap: Annotated[int, typer.Option(min=0, help="With cap: for how many output tokens.", show_default=False)] = 0,
    amount: Annotated[
        tuple[str, str] | None, typer.Option(help="With fixed: how much.", metavar="VALUE CURRENCY")
    ] = None,
    lapse_charge: Annotated[
        LapseCharge | None, typer.Option(help="What is charged for an authorized call that is never settled.")
    ] = None,
    lapse_after: Annotated[
        int | None, typer.Option(min=0, help="How long after the end of its hold that is decided.", metavar="SECONDS")
    ] = None,
) -> None:
    """Show how an organization's calls are admitted, or change it. What is not given stays as it is."""
    stub = admission_pb2_grpc.AdmissionServiceStub(channels.metering)
    request = admission_pb2.UpdateAdmissionPolicyRequest(organization_id=organization, output_tokens_cap=cap)
    if output_hold is not None or cap or amount is not None:
        # They belong together: a new hold takes the place of the one before with all that belongs to it.
        request.update_mask.paths.extend(("output_hold", "output_tokens_cap", "fixed_amount"))
        hold = output_hold or (OutputHold.CAP if cap else OutputHold.FIXED)
        request.output_hold = admission_pb2.OutputHold.Value(f"OUTPUT_HOLD_{hold.name}")
    if amount is not None:
        request.fixed_amount.value, request.fixed_amount.currency_code = amount
    if lapse_charge is not None:
        request.update_mask.paths.append("lapse_charge")
        request.lapse_charge = admission_pb2.LapseCharge.Value(f"LAPSE_CHARGE_{lapse_charge.name}")
    if lapse_after is not None:
        request.update_mask.paths.append("lapse_after")
        request.lapse_after.seconds = lapse_after
    if request.update_mask.paths:
        output.one((await stub.UpdateAdmissionPolicy(request)).policy)
    else:
        question = admission_pb2.GetAdmissionPolicyRequest(organization_id=organization)
        output.one((await stub.GetAdmissionPolicy(question)).policy)


@calling(group, "delete")
async def delete(
    channels: Channels, output: Output, organization: OrganizationArgument, yes: YesOption = False
) -> None:
    """Delete an organization. Its keys stop working for good; its money, usage and audit trail stay."""
    confirm(f"Delete the organization {organization}, with its projects and keys?", yes=yes)
    stub = organization_pb2_grpc.OrganizationServiceStub(channels.identity)
    output.one(await stub.DeleteOrganization(organization_pb2.DeleteOrganizationRequest(organization_id=organization)))
