"""`tollhouse usage …`: what is and was recorded, its sums, corrections and exports, and what waits for a price."""

import asyncio
from typing import Annotated, Final

import grpc
import typer
from google.protobuf.field_mask_pb2 import FieldMask

from libs.cli.commands import usage_statistics
from libs.cli.commands.usage_export import export, verify_export
from libs.cli.commands.usage_rerate import rerate
from libs.cli.failures import WrongUse
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output, amount_text, as_dict, cell
from libs.cli.terminal.times import parse_past
from libs.common.ids import new_id
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import model_pb2, unit_pb2, usage_pb2, usage_pb2_grpc

group = typer.Typer(
    name="usage",
    help="Recorded usage, its sums, corrections and exports, and usage without a price.",
    no_args_is_help=True,
)
group.add_typer(usage_statistics.group)
group.command("export")(export)
group.command("verify-export")(verify_export)
UsageArgument = Annotated[str, typer.Argument(help="The operation id of the usage.", metavar="OPERATION")]
ReasonOption = Annotated[str, typer.Option(help="Why, for people to read.")]
OperationOption = Annotated[
    str, typer.Option("--operation", help="A name for the correction, so that a repeat corrects nothing more.")
]
TrialOption = Annotated[bool, typer.Option("--validate-only", help="Only show what would be done.")]
_METERING: Final = ("metering",)
_AGAIN_AFTER_S: Final = 1.0


_COLUMNS: Final = ("operation_id", "usage_operation_id", "number", "kind", "reason", "actor", "create_time")
_PENDING_COLUMNS: Final = ("organization_id", "model", "usage_count", "cost", "first_time", "last_time")


@calling(group, "amend", _METERING)
async def amend(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    usage: UsageArgument,
    tokens: Annotated[
        list[str] | None, typer.Option("--tokens", help="CLASS=COUNT, such as input=1200; all others are zero then.")
    ] = None,
    quantity: Annotated[
        list[str] | None, typer.Option("--quantity", help="UNIT=VALUE; all others are zero then.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; all others are gone then.")] = None,
    occurred: Annotated[str, typer.Option(help="A time, or a span back such as 2h.")] = "",
    items: Annotated[int | None, typer.Option(help="How many items the work touched.", min=0)] = None,
    amount: Annotated[str, typer.Option(help="VALUE:UNIT, such as 1.50:USD, where the cost was stated.")] = "",
    reason: ReasonOption = "",
    operation: OperationOption = "",
    validate_only: TrialOption = False,
) -> None:
    """Replace quantities, labels or the time of a usage; the money, sums and limits follow."""
    request = usage_pb2.AmendUsageRequest(
        organization_id=organization,
        usage_operation_id=usage,
        operation_id=operation or new_id(),
        reason=reason,
        validate_only=validate_only,
    )
    paths: list[str] = []
    if tokens is not None:
        request.tokens.CopyFrom(_tokens(tokens))
        paths.append("tokens")
    if quantity is not None:
        request.quantities.extend(unit_pb2.Quantity(unit=unit, value=value) for unit, value in _pairs(quantity))
        paths.append("quantities")
    if label is not None:
        request.labels.update(_pairs(label))
        paths.append("labels")
    if occurred:
        request.occur_time.CopyFrom(parse_past(occurred))
        paths.append("occur_time")
    if items is not None:
        request.items = items
        paths.append("items")
    if amount:
        value, _, unit = amount.partition(":")
        request.stated_amount.CopyFrom(Amount(value=value, currency_code=unit))
        paths.append("stated_amount")
    if not paths:
        raise WrongUse("Say what to amend: --tokens, --quantity, --label, --occurred, --items or --amount.")
    request.update_mask.CopyFrom(FieldMask(paths=paths))
    _show(output, (await _stub(channels).AmendUsage(request)).correction)


def _taking_back(name: str, about: str) -> None:
    """Register a command that names a usage and nothing of it: `void` or `restore`."""

    async def command(
        channels: Channels,
        output: Output,
        organization: OrganizationArgument,
        usage: UsageArgument,
        reason: ReasonOption = "",
        operation: OperationOption = "",
        validate_only: TrialOption = False,
    ) -> None:
        request = getattr(usage_pb2, f"{name.title()}UsageRequest")(
            organization_id=organization,
            usage_operation_id=usage,
            operation_id=operation or new_id(),
            reason=reason,
            validate_only=validate_only,
        )
        _show(output, (await getattr(_stub(channels), f"{name.title()}Usage")(request)).correction)

    command.__doc__ = about
    calling(group, name, _METERING)(command)


_taking_back("void", "Take a usage back: it costs nothing and counts nowhere. `restore` undoes it.")
_taking_back("restore", "Make a voided usage what it was; it is charged again.")


calling(group, "rerate", _METERING)(rerate)


@calling(group, "corrections", _METERING)
async def corrections(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    usage: Annotated[str, typer.Option(help="Only those of the usage with this operation id.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List corrections, the latest first."""
    request = usage_pb2.ListUsageCorrectionsRequest(organization_id=organization, usage_operation_id=usage)
    stub = _stub(channels)
    found, more = await listed(stub.ListUsageCorrections, request, lambda page: page.corrections, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "pending", _METERING)
async def pending(
    channels: Channels,
    output: Output,
    organization: Annotated[str, typer.Option(help="Only usage of this organization.")] = "",
    model: Annotated[str, typer.Option(help="Only usage of this model.")] = "",
    price_version: Annotated[str, typer.Option(help="The price version to value it with.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """Show how much usage waits for a price, and what it would cost."""
    request = usage_pb2.ListPendingPricesRequest(
        organization_id=organization, model=model, price_version_id=price_version
    )
    stub = _stub(channels)
    found, more = await listed(stub.ListPendingPrices, request, lambda page: page.pending_prices, limit)
    output.many(found, _PENDING_COLUMNS, more=more)


@calling(group, "watch", _METERING)
async def watch(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    since: Annotated[str, typer.Option(help="Begin at a time, or a span back such as 1h; now if not given.")] = "",
) -> None:
    """Show usage and corrections as they are recorded, until Ctrl-C."""
    request = usage_pb2.WatchUsageRequest(organization_id=organization)
    if since:
        request.start_time.CopyFrom(parse_past(since))
    while True:
        try:
            async for message in _stub(channels).WatchUsage(request):
                for usage in message.usages:
                    output.row(usage, _usage_row)
                for correction in message.corrections:
                    output.row(correction, _correction_row)
                # The next stream goes on where this one ends.
                request.ClearField("start_time")
                request.position = message.position
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or not request.position:
                raise
            output.remark("Metering cannot be reached; the watch goes on when it can.")
            await asyncio.sleep(_AGAIN_AFTER_S)


def _usage_row(usage: usage_pb2.UsageRecord) -> list[str]:
    tokens = f"{usage.total_tokens:,} tokens"
    return [
        cell(usage, "create_time"),
        usage.operation_id,
        usage.model,
        tokens,
        amount_text(usage.cost) or "no price yet",
    ]


def _correction_row(correction: usage_pb2.UsageCorrection) -> list[str]:
    kind = usage_pb2.UsageCorrectionKind.Name(correction.kind).rpartition("_")[2]
    return [cell(correction, "create_time"), correction.usage_operation_id, kind, correction.reason]


def _stub(channels: Channels) -> usage_pb2_grpc.UsageServiceStub:
    return usage_pb2_grpc.UsageServiceStub(channels.metering)


def _show(output: Output, correction: usage_pb2.UsageCorrection) -> None:
    if output.as_json:
        output.json(as_dict(correction))
        return
    for name in ("operation_id", "usage_operation_id", "number", "kind"):
        output.line(f"{name:<24} {cell(correction, name)}")
    for name, state in (("cost before", correction.before), ("cost after", correction.after)):
        output.line(f"{name:<24} {amount_text(state.cost)}".rstrip())
    for charge in correction.charges:
        verb = "given back" if charge.reverses_operation_id else "debited"
        output.line(f"{verb:<24} {amount_text(charge.amount)}")


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    if not all(key and sign for key, sign, _ in pairs):
        raise WrongUse("Give NAME=VALUE.")
    return [(key, value) for key, _, value in pairs]


def _tokens(texts: list[str]) -> model_pb2.TokenCounts:
    counts = model_pb2.TokenCounts()
    for name, count in _pairs(texts):
        if name not in model_pb2.TokenCounts.DESCRIPTOR.fields_by_name or not count.isdigit() or len(count) > 12:
            raise WrongUse("--tokens takes a class of TokenCounts and a whole number, such as input=1200.")
        setattr(counts, name, int(count))
    return counts
