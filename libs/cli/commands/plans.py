"""`tollhouse plans …`: the plans that can be subscribed to."""

from collections.abc import Iterator
from typing import Annotated, Final

import typer

from libs.cli.commands import plan_experiments
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.entitled import entitlement_text
from libs.cli.terminal.lookups import is_id
from libs.cli.terminal.options import LIMIT, LimitOption
from libs.cli.terminal.output import Output, amount_text, as_dict, cell
from tollhouse.billing.v1 import plan_pb2, plan_pb2_grpc

group = typer.Typer(name="plans", help="The plans that can be subscribed to.", no_args_is_help=True)
group.add_typer(plan_experiments.group)
PlanArgument = Annotated[str, typer.Argument(help="The plan's code or id.", metavar="PLAN")]
_BILLING: Final = ("billing",)
_COLUMNS: Final = ("plan_code", "name", "version", "price", "every", "credits", "draft", "active", "archived")


@calling(group, "list", _BILLING)
async def list_plans(
    channels: Channels,
    output: Output,
    include_inactive: Annotated[
        bool, typer.Option("--all", help="Also plans that are not active or are archived.")
    ] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """List the plans in their order."""
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    request = plan_pb2.ListPlansRequest(include_inactive=include_inactive)
    plans, more = await listed(stub.ListPlans, request, lambda page: page.plans, limit)
    output.many_as(plans, _COLUMNS, _row, more=more)


@calling(group, "show", _BILLING)
async def show(
    channels: Channels,
    output: Output,
    plan: PlanArgument,
    version: Annotated[
        int, typer.Option("--version", help="Also show this version, if it is an earlier one.", min=0)
    ] = 0,
) -> None:
    """Show one plan with its published version and its draft."""
    found = await _get(channels, plan, version)
    if output.as_json:
        output.json(as_dict(found))
        return
    for name in ("plan_id", "plan_code", "name", "description", "active", "sort_order", "provider_references"):
        _line(output, name, cell(found, name))
    for name in ("create_time", "update_time", "archive_time"):
        _line(output, name, cell(found, name))
    for one in (found.asked_version, found.published_version, found.draft_version):
        if one.version:
            _print_version(output, one)


@calling(group, "publish", _BILLING)
async def publish(
    channels: Channels,
    output: Output,
    plan: PlanArgument,
    version: Annotated[int, typer.Argument(help="The number of the draft.", metavar="VERSION", min=1)],
    yes: YesOption = False,
) -> None:
    """Publish the draft of a plan: new subscriptions get it. What is published cannot be changed any more."""
    found = await _get(channels, plan)
    if found.draft_version.version == version:
        confirm(f"Publish version {version} of {found.plan_code}, at {_price(found.draft_version)}?", yes=yes)
    request = plan_pb2.PublishPlanVersionRequest(plan_id=found.plan_id, version=version, etag=found.etag)
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    _print_changed(output, (await stub.PublishPlanVersion(request)).plan)


@calling(group, "archive", _BILLING)
async def archive(channels: Channels, output: Output, plan: PlanArgument, yes: YesOption = False) -> None:
    """Archive a plan, for good: nobody can subscribe to it any more. Its subscribers keep it."""
    found = await _get(channels, plan)
    confirm(f"Archive the plan {found.plan_code}, so that nobody can subscribe to it any more?", yes=yes)
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    answer = await stub.ArchivePlan(plan_pb2.ArchivePlanRequest(plan_id=found.plan_id))
    _print_changed(output, answer.plan)


async def _get(channels: Channels, text: str, version: int = 0) -> plan_pb2.Plan:
    request = plan_pb2.GetPlanRequest(version=version)
    if is_id(text):
        request.plan_id = text
    else:
        request.plan_code = text
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    return (await stub.GetPlan(request)).plan


def _print_changed(output: Output, plan: plan_pb2.Plan) -> None:
    if output.as_json:
        output.json(as_dict(plan))
    else:
        output.table(_COLUMNS, [_row(plan)])


def _row(plan: plan_pb2.Plan) -> list[str]:
    shown = plan.published_version if plan.HasField("published_version") else plan.draft_version
    return [
        plan.plan_code,
        plan.name,
        str(plan.published_version.version or ""),
        amount_text(shown.terms.price),
        _interval(shown.terms.billing_interval),
        ", ".join(amount_text(one.amount) for one in shown.terms.credits),
        str(plan.draft_version.version or ""),
        cell(plan, "active"),
        "yes" if plan.HasField("archive_time") else "no",
    ]


def _print_version(output: Output, version: plan_pb2.PlanVersion) -> None:
    output.line("")
    output.line(f"Version {version.version}, {cell(version, 'state')}")
    terms = version.terms
    _line(output, "price", _price(version))
    if terms.HasField("minimum"):
        _line(output, "minimum spend", amount_text(terms.minimum))
    for charge in terms.usage_charges:
        _line(output, f"usage of {charge.unit}"[:24], _usage_charge(charge, terms.price.currency_code))
    if terms.HasField("trial"):
        _line(output, "trial", _interval(terms.trial))
    for one in terms.credits:
        _line(output, "credits", _credits(one))
    for one_allowed in terms.entitlements:
        _line(output, one_allowed.entitlement_code, entitlement_text(one_allowed))
    _line(output, "past due", ", ".join(_past_due(terms.past_due)))
    _line(output, "metadata", cell(terms, "metadata"))
    for name in ("create_time", "publish_time", "archive_time"):
        _line(output, name, cell(version, name))


def _line(output: Output, name: str, value: str) -> None:
    if value:
        output.line(f"{name.replace('_', ' '):<24} {value}")


def _usage_charge(charge: plan_pb2.UsageCharge, currency_code: str) -> str:
    mode = plan_pb2.UsageChargeMode.Name(charge.mode).removeprefix("USAGE_CHARGE_MODE_").lower()
    steps, lower = [], ""
    for step in charge.steps:
        reach = f"above {lower}" if lower else "from 0"
        upper = f" to {step.up_to}" if step.up_to else ""
        flat = f" and {step.flat}" if step.flat else ""
        steps.append(f"{reach}{upper} at {step.price}{flat}")
        lower = step.up_to
    if charge.flat_fee:
        steps.append(f"flat fee {charge.flat_fee}{' also without usage' if charge.flat_fee_without_usage else ''}")
    models = f" of {', '.join(charge.models)}" if charge.models else ""
    return f"{charge.usage_charge_code}{models}, {mode} in {currency_code}: {'; '.join(steps)}"


def _price(version: plan_pb2.PlanVersion) -> str:
    return f"{amount_text(version.terms.price)} every {_interval(version.terms.billing_interval)}"


def _interval(interval: plan_pb2.Interval) -> str:
    unit = cell(interval, "unit")
    return unit if interval.count == 1 else f"{interval.count} {unit}s"


def _credits(one: plan_pb2.IncludedCredits) -> str:
    rollover = cell(one, "rollover").replace("_", " ")
    rollover_max = f" {amount_text(one.rollover_max)}" if one.HasField("rollover_max") else ""
    return f"{amount_text(one.amount)}, rollover {rollover}{rollover_max}, priority {one.priority}"


def _past_due(past_due: plan_pb2.PastDuePolicy) -> Iterator[str]:
    for after in past_due.retry_after:
        days, seconds = divmod(after.seconds, 86_400)
        yield f"retry after {f'{days} d' if not seconds else f'{after.seconds} s'}"
    yield f"{cell(past_due, 'end').replace('_', ' ')} {past_due.fallback_plan_code}".rstrip()
