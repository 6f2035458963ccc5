"""`tollhouse units …`: the catalogue of what is counted and sold."""

from enum import StrEnum
from typing import Annotated

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, RequestIdOption
from libs.cli.terminal.output import Output
from tollhouse.metering.v1 import unit_pb2, unit_pb2_grpc

group = typer.Typer(name="units", help="What is counted and sold.", no_args_is_help=True)
UnitArgument = Annotated[str, typer.Argument(help="The unit's id, such as products_generated.", metavar="UNIT")]


class Kind(StrEnum):
    """What a unit measures."""

    TOKEN = "token"  # noqa: S105 -- a kind of unit and no secret.
    COUNT = "count"
    DURATION = "duration"
    SIZE = "size"


@calling(group, "create", ("metering",))
async def create(
    channels: Channels,
    output: Output,
    unit: UnitArgument,
    kind: Annotated[Kind, typer.Option(help="What it measures; never changes.")],
    name: Annotated[str, typer.Option(help="A name for people. Default: made from the id.", show_default=False)] = "",
    description: Annotated[str, typer.Option(help="A description.")] = "",
    step: Annotated[
        str, typer.Option(help="The smallest step of a quantity: 1, 0.1, 0.01 or 0.001; never changes.")
    ] = "1",
    counts_toward_context: Annotated[
        bool,
        typer.Option(
            "--counts-toward-context", help="Whether its tokens are part of the input context; never changes."
        ),
    ] = False,
    request_id: RequestIdOption = "",
) -> None:
    """Add a unit to the catalogue. It is never deleted, since usage and prices refer to it."""
    request = unit_pb2.CreateUnitRequest(
        request_id=request_id,
        unit_id=unit,
        name=name,
        description=description,
        kind=_of(kind),
        counts_toward_context=counts_toward_context,
        step=step,
    )
    output.one((await unit_pb2_grpc.UnitServiceStub(channels.metering).CreateUnit(request)).unit)


@calling(group, "list", ("metering",))
async def list_units(
    channels: Channels,
    output: Output,
    kind: Annotated[Kind | None, typer.Option(help="Only units of this kind.", show_default=False)] = None,
    active_only: Annotated[bool, typer.Option("--active-only", help="Leave out archived units.")] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """List the units in the order of their ids."""
    stub = unit_pb2_grpc.UnitServiceStub(channels.metering)
    request = unit_pb2.ListUnitsRequest(kind=_of(kind), active_only=active_only)
    units, more = await listed(stub.ListUnits, request, lambda page: page.units, limit)
    output.many(units, ("unit_id", "name", "kind", "step", "archived", "description"), more=more)


@calling(group, "archive", ("metering",))
async def archive(channels: Channels, output: Output, unit: UnitArgument) -> None:
    """Archive a unit: new usage and new prices with it are refused. What is recorded and priced stays."""
    request = unit_pb2.ArchiveUnitRequest(unit_id=unit)
    output.one((await unit_pb2_grpc.UnitServiceStub(channels.metering).ArchiveUnit(request)).unit)


def _of(kind: Kind | None) -> unit_pb2.UnitKind.ValueType:
    return unit_pb2.UNIT_KIND_UNSPECIFIED if kind is None else unit_pb2.UnitKind.Value(f"UNIT_KIND_{kind.name}")
