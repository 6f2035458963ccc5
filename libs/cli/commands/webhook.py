"""`tollhouse webhook …`: what payment providers told, and asking them for what was lost."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption
from libs.cli.terminal.output import Output, as_dict
from libs.cli.terminal.times import parse_past
from tollhouse.billing.v1 import payment_pb2, payment_pb2_grpc

group = typer.Typer(name="webhook", help="What payment providers told.", no_args_is_help=True)
ProviderOption = Annotated[
    str, typer.Option("--provider", help="Only this provider: stripe or lemon_squeezy.", show_default=False)
]
_BILLING: Final = ("billing",)
_TIMEOUT_S: Final = 3_600.0
_COLUMNS: Final = ("webhook_id", "provider", "kind", "state", "attempt_count", "receive_time", "reason")
_COUNTS: Final = ("applied", "known", "unknown", "refused", "out_of_place", "failed")


class State(StrEnum):
    """Where a webhook is in its life."""

    WAITING = "waiting"
    PARKED = "parked"
    APPLIED = "applied"
    REFUSED = "refused"
    SET_ASIDE = "set-aside"


@calling(group, "list", _BILLING)
async def list_webhooks(
    channels: Channels,
    output: Output,
    state: Annotated[State | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    provider: ProviderOption = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List webhooks that were kept, the latest first."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    request = payment_pb2.ListWebhooksRequest(provider=provider)
    if state is not None:
        request.state = payment_pb2.WebhookState.Value(f"WEBHOOK_STATE_{state.name}")
    webhooks, more = await listed(stub.ListWebhooks, request, lambda page: page.webhooks, limit)
    output.many(webhooks, _COLUMNS, more=more)


@calling(group, "retry", _BILLING)
async def retry(
    channels: Channels,
    output: Output,
    webhook: Annotated[str, typer.Argument(help="The webhook's id.", metavar="WEBHOOK")],
) -> None:
    """Let a webhook be tried again that was refused or set aside."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    output.one((await stub.RetryWebhook(payment_pb2.RetryWebhookRequest(webhook_id=webhook))).webhook)


@calling(group, "reconcile", _BILLING)
async def reconcile(
    channels: Channels,
    output: Output,
    provider: ProviderOption = "",
    since: Annotated[
        str,
        typer.Option(
            help="Ask for what changed since this time: 2026-12-31T23:59:00Z, or 7d for a week ago. Default: 72 hours.",
            metavar="TIME",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Ask providers what changed, and apply it; exit status 1 if one could not be asked or some was not applied."""
    request = payment_pb2.ReconcilePaymentsRequest(provider=provider)
    if since:
        request.since_time.CopyFrom(parse_past(since))
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    reports = [one async for one in stub.ReconcilePayments(request, timeout=_TIMEOUT_S) if one.ended]
    if output.as_json:
        output.json([as_dict(one) for one in reports])
    else:
        rows = [[one.provider, *(f"{getattr(one, f'{name}_count'):,}" for name in _COUNTS)] for one in reports]
        output.table(("provider", *_COUNTS), rows)
        if not reports:
            output.remark("No provider was asked: none has a key for its API.")
        for one in reports:
            if one.failure:
                output.remark(f"{one.provider} could not be asked: {one.failure}")
    raise typer.Exit(1 if any(one.failure or one.failed_count for one in reports) else 0)
