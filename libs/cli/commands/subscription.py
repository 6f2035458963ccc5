"""`tollhouse subscription …`: who is subscribed to which plan or model, and what happened to it."""

from enum import StrEnum
from typing import Annotated, Final

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument, RequestIdOption
from libs.cli.terminal.output import Output, amount_text, as_dict, cell
from libs.cli.terminal.times import parse_future, parse_past
from libs.common.ids import new_id
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.billing.v1 import subscription_pb2_grpc as rpc

group = typer.Typer(name="subscription", help="Subscriptions to plans and models.", no_args_is_help=True)
SubscriptionArgument = Annotated[str, typer.Argument(help="The subscription's id.", metavar="SUBSCRIPTION")]
PlanArgument = Annotated[str, typer.Argument(help="The plan's code.", metavar="PLAN")]
UserOption = Annotated[str, typer.Option("--user", help="The user's id.", metavar="ID", show_default=False)]
ModelOption = Annotated[str, typer.Option("--model", help="The model.", show_default=False)]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record.", show_default=False)]
AtPeriodEndOption = Annotated[bool, typer.Option("--at-period-end", help="Wait for the end of the period.")]
_BILLING: Final = ("billing",)
_COLUMNS: Final = (
    "subscription_id",
    "user_id",
    "model",
    "plan",
    "state",
    "period_start_time",
    "period_end_time",
    "next",
)
_EVENT_COLUMNS: Final = (
    "sequence",
    "kind",
    "from_state",
    "to_state",
    "plan",
    "effective_time",
    "charge",
    "actor",
    "reason",
)
_LINE_COLUMNS: Final = ("plan", "start_time", "end_time", "days", "amount")


class State(StrEnum):
    """Where a subscription is in its life."""

    PENDING = "pending"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past-due"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@calling(group, "create", _BILLING)
async def create(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    plan: Annotated[str, typer.Argument(help="The plan's code; not needed for a model.", metavar="PLAN")] = "",
    user: UserOption = "",
    model: ModelOption = "",
    skip_trial: Annotated[bool, typer.Option("--skip-trial", help="Leave the plan's trial out.")] = False,
    begins: Annotated[str, typer.Option(help="A time, or a span from now such as 7d; now without it.")] = "",
    expires: Annotated[str, typer.Option(help="A time, or a span from now such as 30d; never without it.")] = "",
    anchor: Annotated[str, typer.Option(help="The time from which periods are counted, or a span back.")] = "",
    time_zone: Annotated[str, typer.Option(help="Where periods are counted, such as Europe/Berlin.")] = "UTC",
    reference: Annotated[str, typer.Option("--customer", help="What the platform calls the customer.")] = "",
    collect_by: Annotated[
        str, typer.Option(help="The provider that charges a saved method; the balance pays without it.")
    ] = "",
    request_id: RequestIdOption = "",
) -> None:
    """Subscribe an organization, a user in it, or a user to one model."""
    request = pb.CreateSubscriptionRequest(
        organization_id=organization,
        request_id=request_id or new_id(),
        user_id=user,
        model=model,
        plan_code=plan,
        skip_trial=skip_trial,
        start_time=parse_future(begins) if begins else None,
        expire_time=parse_future(expires) if expires else None,
        anchor_time=parse_past(anchor) if anchor else None,
        time_zone=time_zone,
        customer_reference=reference,
        collection_provider=collect_by,
    )
    output.one((await _stub(channels).CreateSubscription(request)).subscription)


@calling(group, "show", _BILLING)
async def show(
    channels: Channels, output: Output, organization: OrganizationArgument, subscription: SubscriptionArgument
) -> None:
    """Show one subscription."""
    request = pb.GetSubscriptionRequest(organization_id=organization, subscription_id=subscription)
    output.one((await _stub(channels).GetSubscription(request)).subscription)


@calling(group, "list", _BILLING)
async def list_subscriptions(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    user: UserOption = "",
    model: ModelOption = "",
    plan: Annotated[str, typer.Option("--plan", help="The plan's code.", show_default=False)] = "",
    state: Annotated[State | None, typer.Option(help="The state.", show_default=False)] = None,
    expires_before: Annotated[str, typer.Option(help="A time, or a span from now such as 30d.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List an organization's subscriptions, the latest first; with --expires-before the first to expire first."""
    request = pb.ListSubscriptionsRequest(
        organization_id=organization,
        user_id=user,
        model=model,
        plan_code=plan,
        state=pb.SubscriptionState.Value(f"SUBSCRIPTION_STATE_{state.name if state else 'UNSPECIFIED'}"),
        expire_before_time=parse_future(expires_before) if expires_before else None,
    )
    found, more = await listed(_stub(channels).ListSubscriptions, request, lambda page: page.subscriptions, limit)
    output.many_as(found, _COLUMNS, _row, more=more)


@calling(group, "due", _BILLING)
async def due(
    channels: Channels,
    output: Output,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Those that were set aside instead.")] = False,
    before: Annotated[str, typer.Option(help="Due before a time, or a span from now; now without it.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List the subscriptions of all organizations that something is due for, or that were set aside."""
    request = pb.ListDueSubscriptionsRequest(
        set_aside=set_aside, due_before_time=parse_future(before) if before else None
    )
    found, more = await listed(_stub(channels).ListDueSubscriptions, request, lambda page: page.subscriptions, limit)
    columns = ("organization_id", *_COLUMNS, "set_aside_reason")
    output.many_as(found, columns, lambda one: [one.organization_id, *_row(one), one.set_aside_reason], more=more)


@calling(group, "events", _BILLING)
async def events(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    limit: LimitOption = LIMIT,
) -> None:
    """List what happened to a subscription, in order."""
    request = pb.ListSubscriptionEventsRequest(organization_id=organization, subscription_id=subscription)
    found, more = await listed(_stub(channels).ListSubscriptionEvents, request, lambda page: page.events, limit)
    output.many_as(found, _EVENT_COLUMNS, _event_row, more=more)


@calling(group, "change-plan", _BILLING)
async def change_plan(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    plan: PlanArgument,
    at_period_end: AtPeriodEndOption = False,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what it would cost.")] = False,
    reason: ReasonOption = "",
    request_id: RequestIdOption = "",
    yes: YesOption = False,
) -> None:
    """Change the plan of a subscription. What it costs is shown first."""
    request = pb.ChangePlanRequest(
        organization_id=organization,
        subscription_id=subscription,
        plan_code=plan,
        timing=_timing(at_period_end),
        validate_only=True,
        reason=reason,
    )
    looked = await _stub(channels).ChangePlan(request)
    if preview:
        _print_change(output, looked)
        return
    when = "at the end of the period" if at_period_end else "now"
    cost = amount_text(looked.net_amount) if looked.HasField("net_amount") else "nothing"
    confirm(f"Change to {plan} {when}, for {cost}?", yes=yes)
    request.validate_only = False
    request.etag = looked.subscription.etag
    request.request_id = request_id or new_id()
    _print_change(output, await _stub(channels).ChangePlan(request))


@calling(group, "withdraw-change", _BILLING)
async def withdraw_change(
    channels: Channels, output: Output, organization: OrganizationArgument, subscription: SubscriptionArgument
) -> None:
    """Take back a change of plan that waits for the end of the period."""
    request = pb.WithdrawPlanChangeRequest(organization_id=organization, subscription_id=subscription)
    _print(output, (await _stub(channels).WithdrawPlanChange(request)).subscription)


@calling(group, "pause", _BILLING)
async def pause(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    reason: ReasonOption = "",
) -> None:
    """Let a subscription rest, free of charge, until it is resumed."""
    request = pb.PauseSubscriptionRequest(organization_id=organization, subscription_id=subscription, reason=reason)
    _print(output, (await _stub(channels).PauseSubscription(request)).subscription)


@calling(group, "resume", _BILLING)
async def resume(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    reason: ReasonOption = "",
) -> None:
    """Resume a subscription that is paused, suspended, or was set aside."""
    request = pb.ResumeSubscriptionRequest(organization_id=organization, subscription_id=subscription, reason=reason)
    _print(output, (await _stub(channels).ResumeSubscription(request)).subscription)


@calling(group, "suspend", _BILLING)
async def suspend(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
) -> None:
    """Stop a subscription; its holder cannot end it then."""
    request = pb.SuspendSubscriptionRequest(organization_id=organization, subscription_id=subscription, reason=reason)
    _print(output, (await _stub(channels).SuspendSubscription(request)).subscription)


@calling(group, "approve", _BILLING)
async def approve(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    reason: ReasonOption = "",
) -> None:
    """Approve a subscription to a model."""
    request = pb.ApproveSubscriptionRequest(organization_id=organization, subscription_id=subscription, reason=reason)
    _print(output, (await _stub(channels).ApproveSubscription(request)).subscription)


@calling(group, "reject", _BILLING)
async def reject(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
) -> None:
    """Reject a subscription to a model, which ends."""
    request = pb.RejectSubscriptionRequest(organization_id=organization, subscription_id=subscription, reason=reason)
    _print(output, (await _stub(channels).RejectSubscription(request)).subscription)


@calling(group, "retry-payment", _BILLING)
async def retry_payment(
    channels: Channels, output: Output, organization: OrganizationArgument, subscription: SubscriptionArgument
) -> None:
    """Try now to take what a subscription owes."""
    request = pb.RetryPaymentRequest(organization_id=organization, subscription_id=subscription)
    _print(output, (await _stub(channels).RetryPayment(request)).subscription)


@calling(group, "cancel", _BILLING)
async def cancel(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    at_period_end: AtPeriodEndOption = False,
    reason: ReasonOption = "",
    yes: YesOption = False,
) -> None:
    """Cancel a subscription; nothing is given back."""
    when = "at the end of the period" if at_period_end else "now"
    confirm(f"Cancel the subscription {subscription} {when}?", yes=yes)
    request = pb.CancelSubscriptionRequest(
        organization_id=organization, subscription_id=subscription, timing=_timing(at_period_end), reason=reason
    )
    _print(output, (await _stub(channels).CancelSubscription(request)).subscription)


@calling(group, "withdraw-cancellation", _BILLING)
async def withdraw_cancellation(
    channels: Channels, output: Output, organization: OrganizationArgument, subscription: SubscriptionArgument
) -> None:
    """Take back a cancellation that waits for the end of the period."""
    request = pb.WithdrawCancellationRequest(organization_id=organization, subscription_id=subscription)
    _print(output, (await _stub(channels).WithdrawCancellation(request)).subscription)


@calling(group, "update", _BILLING)
async def update(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    subscription: SubscriptionArgument,
    expires: Annotated[
        str, typer.Option(help="A time, a span from now such as 30d, or `never`.", show_default=False)
    ] = "",
    customer: Annotated[
        str | None, typer.Option("--customer", help="What the platform calls the customer.", show_default=False)
    ] = None,
    collect_by: Annotated[
        str, typer.Option(help="The provider that charges a saved method, or `balance`.", show_default=False)
    ] = "",
) -> None:
    """Change when a subscription expires, what the platform calls the customer, or who is charged."""
    request = pb.UpdateSubscriptionRequest(
        organization_id=organization,
        subscription_id=subscription,
        expire_time=parse_future(expires) if expires not in ("", "never") else None,
        customer_reference=customer or "",
        collection_provider="" if collect_by == "balance" else collect_by,
    )
    given = {"expire_time": bool(expires), "customer_reference": customer is not None}
    paths = [name for name, is_given in (given | {"collection_provider": bool(collect_by)}).items() if is_given]
    if not paths:
        raise WrongUse("Give --expires, --customer or --collect-by.")
    request.update_mask.CopyFrom(FieldMask(paths=paths))
    _print(output, (await _stub(channels).UpdateSubscription(request)).subscription)


def _stub(channels: Channels) -> rpc.SubscriptionServiceStub:
    stub: rpc.SubscriptionServiceStub = rpc.SubscriptionServiceStub(channels.billing)
    return stub


def _timing(at_period_end: bool) -> pb.ChangeTiming.ValueType:
    return pb.CHANGE_TIMING_PERIOD_END if at_period_end else pb.CHANGE_TIMING_NOW


def _print(output: Output, subscription: pb.Subscription) -> None:
    if output.as_json:
        output.json(as_dict(subscription))
    else:
        output.table(_COLUMNS, [_row(subscription)])


def _print_change(output: Output, answer: pb.ChangePlanResponse) -> None:
    if output.as_json:
        output.json(as_dict(answer))
        return
    _print(output, answer.subscription)
    if answer.lines:
        rows = [
            [
                _plan(line.plan_code, line.plan_version),
                cell(line, "start_time"),
                cell(line, "end_time"),
                f"{line.days} of {line.period_days}",
                amount_text(line.amount),
            ]
            for line in answer.lines
        ]
        output.line("")
        output.table(_LINE_COLUMNS, rows)
        output.line(f"{'net amount':<24} {amount_text(answer.net_amount)}")
    if answer.HasField("effective_time"):
        output.line(f"{'effective time':<24} {cell(answer, 'effective_time')}")


def _row(one: pb.Subscription) -> list[str]:
    return [
        one.subscription_id,
        one.user_id,
        one.model,
        _plan(one.plan_code, one.plan_version),
        cell(one, "state").replace("_", " "),
        cell(one, "period_start_time"),
        cell(one, "period_end_time"),
        _next(one),
    ]


def _next(one: pb.Subscription) -> str:
    """Say what waits for the subscription."""
    if one.set_aside_reason:
        return "set aside"
    if one.HasField("owed_amount"):
        return f"owes {amount_text(one.owed_amount)}"
    if one.cancel_at_period_end:
        return "cancelled at the period's end"
    return f"then {_plan(one.next_plan_code, one.next_plan_version)}" if one.next_plan_code else ""


def _event_row(event: pb.SubscriptionEvent) -> list[str]:
    return [
        str(event.sequence),
        cell(event, "kind").replace("_", " "),
        cell(event, "from_state").replace("_", " "),
        cell(event, "to_state").replace("_", " "),
        _plan(event.plan_code, event.plan_version),
        cell(event, "effective_time"),
        ", ".join(amount_text(line.amount) for line in event.lines),
        event.actor,
        event.reason,
    ]


def _plan(plan_code: str, version: int) -> str:
    return f"{plan_code} v{version}" if plan_code else ""
