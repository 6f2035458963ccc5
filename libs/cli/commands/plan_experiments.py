"""`tollhouse plans experiment …`: experiments on plans."""

import re
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.output import Output, amount_text, as_dict, cell
from tollhouse.billing.v1 import plan_pb2, plan_pb2_grpc

group = typer.Typer(name="experiment", help="Experiments on plans.", no_args_is_help=True)
PlanCodeArgument = Annotated[str, typer.Argument(help="The code of the plan the experiment is on.", metavar="PLAN")]
_BILLING: Final = ("billing",)
_COLUMNS: Final = ("variant", "weight", "saw", "tried", "subscribed", "stayed", "brought")
_VARIANT: Final = re.compile(r"([^=]+)=([0-9]{1,4})", re.ASCII)


@calling(group, "set", _BILLING)
async def set_experiment(
    channels: Channels,
    output: Output,
    plan: PlanCodeArgument,
    variants: Annotated[
        list[str] | None,
        typer.Argument(help="The code of a variant's plan, and its weight; 2 to 8 of them.", metavar="CODE=WEIGHT"),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End the experiment instead.")] = False,
    yes: YesOption = False,
) -> None:
    """Begin an experiment, give the one that runs other weights, or end it."""
    if end == bool(variants):
        raise WrongUse("Give variants such as `pro=50 pro-cheap=50`, or --end.")
    if end:
        confirm(f"End the experiment on {plan}? Its variants will not be offered any more.", yes=yes)
    request = plan_pb2.SetPlanExperimentRequest(plan_code=plan, variants=map(_variant, variants or ()))
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    experiment = (await stub.SetPlanExperiment(request)).experiment
    if output.as_json:
        output.json(as_dict(experiment))
        return
    _print_times(output, experiment)
    output.table(_COLUMNS[:2], [[one.plan_code, str(one.weight)] for one in experiment.variants])


@calling(group, "show", _BILLING)
async def show(
    channels: Channels,
    output: Output,
    plan: PlanCodeArgument,
    experiment_id: Annotated[
        str, typer.Option("--experiment-id", help="An earlier experiment on the plan. Default: the latest.")
    ] = "",
) -> None:
    """Show an experiment, and what became of the subjects of each variant."""
    request = plan_pb2.GetPlanExperimentRequest(plan_code=plan, experiment_id=experiment_id)
    answer = await plan_pb2_grpc.PlanServiceStub(channels.billing).GetPlanExperiment(request)
    if output.as_json:
        output.json(as_dict(answer))
        return
    _print_times(output, answer.experiment)
    output.table(_COLUMNS, list(_rows(answer)))


def _variant(text: str) -> plan_pb2.PlanVariant:
    found = _VARIANT.fullmatch(text)
    if found is None:
        raise WrongUse(f"`{text}` is no variant; it must be a plan's code and a weight, such as `pro=50`.")
    return plan_pb2.PlanVariant(plan_code=found[1], weight=int(found[2]))


def _print_times(output: Output, experiment: plan_pb2.PlanExperiment) -> None:
    for name in ("experiment_id", "plan_code", "start_time", "end_time"):
        if value := cell(experiment, name):
            output.line(f"{name.replace('_', ' '):<24} {value}")


def _rows(answer: plan_pb2.GetPlanExperimentResponse) -> Iterable[list[str]]:
    for variant, result in zip(answer.experiment.variants, answer.results, strict=True):
        counts = (result.saw_count, result.tried_count, result.subscribed_count, result.stayed_count)
        brought = ", ".join(map(amount_text, result.brought))
        yield [variant.plan_code, str(variant.weight), *map(str, counts), brought]
