"""`tollhouse credits …`: credits with terms, and what is left of them."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument, ProjectOption
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_future
from libs.common.ids import new_id
from tollhouse.billing.v1 import credit_pb2, credit_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

group = typer.Typer(name="credits", help="Credits with terms, and what is left of them.", no_args_is_help=True)
_BILLING: Final = ("billing",)
_COLUMNS: Final = (
    *("grant_id", "operation_id", "kind", "priority", "state", "user_id", "model"),
    *("amount", "remaining_amount", "effective_time", "expire_time"),
)


class Kind(StrEnum):
    """Where credits come from."""

    PROMOTIONAL = "promotional"
    INCLUDED = "included"
    PURCHASED = "purchased"


@calling(group, "grant", _BILLING)
async def grant(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    amount: Annotated[str, typer.Argument(help="How much.", metavar="VALUE")],
    currency: Annotated[str, typer.Argument(help="In which unit, such as CREDIT or USD.", metavar="UNIT")],
    project: ProjectOption = "",
    user: Annotated[str, typer.Option(help="The user who alone may use them; everybody without it.")] = "",
    model: Annotated[str, typer.Option(help="The model for which alone they may be used; all without it.")] = "",
    kind: Annotated[Kind, typer.Option(help="Where the credits come from.")] = Kind.PROMOTIONAL,
    priority: Annotated[int, typer.Option(help="The lowest is used up first.", min=0, max=1000)] = 0,
    begins: Annotated[str, typer.Option(help="A time, or a span from now such as 7d; now without it.")] = "",
    expires: Annotated[str, typer.Option(help="A time, or a span from now such as 30d; never without it.")] = "",
    reference: Annotated[str, typer.Option(help="What the platform calls the cause, such as an order.")] = "",
    operation: Annotated[str, typer.Option(help="A name for the grant, so that a repeat grants nothing more.")] = "",
) -> None:
    """Grant credits to an organization or a project."""
    request = credit_pb2.GrantCreditsRequest(
        organization_id=organization,
        project_id=project,
        operation_id=operation or new_id(),
        amount=Amount(currency_code=currency, value=amount),
        kind=credit_pb2.GrantKind.Value(f"GRANT_KIND_{kind.name}"),
        priority=priority,
        effective_time=parse_future(begins) if begins else None,
        expire_time=parse_future(expires) if expires else None,
        source_reference=reference,
        user_id=user,
        model=model,
    )
    stub = credit_pb2_grpc.CreditServiceStub(channels.billing)
    output.one((await stub.GrantCredits(request)).grant)


@calling(group, "list", _BILLING)
async def list_grants(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    project: ProjectOption = "",
    user: Annotated[str, typer.Option(help="Only grants for this user.")] = "",
    model: Annotated[str, typer.Option(help="Only grants for this model.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List the grants of an organization, newest first, with what is left of each."""
    stub = credit_pb2_grpc.CreditServiceStub(channels.billing)
    request = credit_pb2.ListGrantsRequest(organization_id=organization, project_id=project, user_id=user, model=model)
    found, more = await listed(stub.ListGrants, request, lambda page: page.grants, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "show", _BILLING)
async def show(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    currency: Annotated[str, typer.Argument(help="The unit; needed where there are several.", metavar="UNIT")] = "",
    project: ProjectOption = "",
    user: Annotated[str, typer.Option(help="Only the credits for this user, and what is available to the user.")] = "",
    model: Annotated[str, typer.Option(help="Only the credits for this model.")] = "",
) -> None:
    """Show what an account was given, has used, has lost and has left; or a user's part of it."""
    stub = credit_pb2_grpc.CreditServiceStub(channels.billing)
    request = credit_pb2.GetCreditSummaryRequest(
        organization_id=organization, project_id=project, currency_code=currency, user_id=user, model=model
    )
    summary = await stub.GetCreditSummary(request)
    if output.as_json:
        output.json(as_dict(summary))
        return
    for name in ("available", "posted", "held", "scoped"):
        output.line(f"{name:<24} {cell(summary.balance, name)}")
    for one in summary.granted:
        left = cell(one, "remaining_amount")
        output.line(f"{cell(one, 'kind'):<24} {cell(one, 'amount')}, of which {left} is left")
    names = ("other_amount", "used_amount", "expired_amount", "next_expire_time", "next_expire_amount")
    refills = ("next_effective_time", "last_refill_time", "used_since_refill_amount", "next_refill_time")
    for name in (*names, *refills, "period_start_time", "period_end_time", "subscription_id"):
        output.line(f"{name.replace('_', ' '):<24} {cell(summary, name)}")


@calling(group, "void", _BILLING)
async def void(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    grant_id: Annotated[str, typer.Argument(help="The grant's id.", metavar="GRANT")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    yes: YesOption = False,
) -> None:
    """Take back what is left of a grant."""
    confirm(f"Take back what is left of the grant {grant_id}?", yes=yes)
    stub = credit_pb2_grpc.CreditServiceStub(channels.billing)
    request = credit_pb2.VoidGrantRequest(organization_id=organization, grant_id=grant_id, reason=reason)
    answer = await stub.VoidGrant(request)
    output.one(answer.grant, voided_amount=cell(answer, "voided_amount"))
