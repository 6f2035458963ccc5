"""`tollhouse entitlements …`: what may be used, and which rule says so."""

from typing import Annotated, Final

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.entitled import entitlement_text, read_entitlement
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output, as_dict, cell
from libs.cli.terminal.times import parse_future
from tollhouse.billing.v1 import subscription_pb2, subscription_pb2_grpc

group = typer.Typer(name="entitlements", help="What may be used, and which rule says so.", no_args_is_help=True)
CodeArgument = Annotated[str, typer.Argument(help="The code, such as requests_per_minute.", metavar="CODE")]
UserOption = Annotated[str, typer.Option("--user", help="The user; all of the organization without it.")]
ModelOption = Annotated[str, typer.Option("--model", help="The model; all of them without it.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for the record.")]
_BILLING: Final = ("billing",)
_EFFECTIVE: Final = ("code", "value", "source", "subscription", "until")
_OVERRIDES: Final = ("code", "value", "user", "model", "expires", "reason", "actor")


@calling(group, "get", _BILLING)
async def get(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    user: UserOption = "",
    model: ModelOption = "",
) -> None:
    """Show what an organization, a user in it, or a user with a model may use now."""
    request = subscription_pb2.GetEntitlementsRequest(organization_id=organization, user_id=user, model=model)
    answer = await _stub(channels).GetEntitlements(request)
    if output.as_json:
        output.json(as_dict(answer))
        return
    rows = [
        [
            one.entitlement.entitlement_code,
            entitlement_text(one.entitlement),
            cell(one, "source"),
            one.subscription_id,
            cell(one, "until_time"),
        ]
        for one in answer.entitlements
    ]
    output.table(_EFFECTIVE, rows)


@calling(group, "override", _BILLING)
async def override(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    code: CodeArgument,
    value: Annotated[
        str, typer.Argument(help="Such as yes, 3, '\"eu\"' or '50 requests per minute'.", metavar="VALUE")
    ],
    reason: ReasonOption,
    user: UserOption = "",
    model: ModelOption = "",
    expires: Annotated[str, typer.Option(help="A time, or a span from now such as 30d; never without it.")] = "",
) -> None:
    """Give a subject another value than its plan does."""
    request = subscription_pb2.SetEntitlementOverrideRequest(
        organization_id=organization,
        user_id=user,
        model=model,
        entitlement_code=code,
        entitlement=read_entitlement(code, value),
        expire_time=parse_future(expires) if expires else None,
        reason=reason,
    )
    answer = await _stub(channels).SetEntitlementOverride(request)
    _print_overrides(output, [answer.entitlement_override], more=False)


@calling(group, "clear", _BILLING)
async def clear(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    code: CodeArgument,
    reason: ReasonOption,
    user: UserOption = "",
    model: ModelOption = "",
) -> None:
    """Take an override back, if there is one."""
    request = subscription_pb2.SetEntitlementOverrideRequest(
        organization_id=organization, user_id=user, model=model, entitlement_code=code, clear=True, reason=reason
    )
    answer = await _stub(channels).SetEntitlementOverride(request)
    if output.as_json:
        output.json(as_dict(answer))
    else:
        output.line("There is no override now.")


@calling(group, "list", _BILLING)
async def list_overrides(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    user: UserOption = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List the overrides of an organization, or of a user in it, that have not expired."""
    request = subscription_pb2.ListEntitlementOverridesRequest(organization_id=organization, user_id=user)
    stub = _stub(channels)
    found, more = await listed(stub.ListEntitlementOverrides, request, lambda page: page.entitlement_overrides, limit)
    _print_overrides(output, found, more=more)


def _print_overrides(output: Output, found: list[subscription_pb2.EntitlementOverride], *, more: bool) -> None:
    output.many_as(found, _OVERRIDES, _override_row, more=more)


def _override_row(one: subscription_pb2.EntitlementOverride) -> list[str]:
    return [
        one.entitlement.entitlement_code,
        entitlement_text(one.entitlement),
        one.user_id,
        one.model,
        cell(one, "expire_time"),
        one.reason,
        one.actor,
    ]


def _stub(channels: Channels) -> subscription_pb2_grpc.SubscriptionServiceStub:
    stub: subscription_pb2_grpc.SubscriptionServiceStub = subscription_pb2_grpc.SubscriptionServiceStub(
        channels.billing
    )
    return stub
