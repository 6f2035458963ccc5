"""The RPCs of PaymentService on webhooks and on what providers are asked."""

from collections.abc import AsyncIterator, Mapping

import grpc

from libs.common.timestamps import parse_optional_time, render_time
from services.billing.payment.provider import Result
from services.billing.payment.webhook.domain import State
from services.billing.payment.webhook.inbox import Inbox
from services.billing.payment.webhook.reconciliation import Found, Reconciliation
from services.billing.payment.webhook.store import Webhook
from services.billing.payment.webhook.webhooks import Filter, Webhooks
from tollhouse.billing.v1 import payment_pb2 as pb

_PREFIX = "WEBHOOK_STATE_"


class WebhookServicer:
    """Turns messages into calls of the inbox, and back."""

    def __init__(self, inbox: Inbox, webhooks: Webhooks, reconciliation: Reconciliation) -> None:
        self._inbox = inbox
        self._webhooks = webhooks
        self._reconciliation = reconciliation

    async def receive(
        self, request: pb.ReceiveWebhookRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReceiveWebhookResponse:
        """Answer ReceiveWebhook."""
        received = await self._inbox.receive(request.provider, headers_of(request, context), request.body.data)
        return pb.ReceiveWebhookResponse(webhook_id=received.webhook_id, replayed=received.replayed)

    async def list_webhooks(self, request: pb.ListWebhooksRequest) -> pb.ListWebhooksResponse:
        """Answer ListWebhooks."""
        state = State(pb.WebhookState.Name(request.state).removeprefix(_PREFIX)) if request.state else None
        page, token = await self._webhooks.page(Filter(state, request.provider), request.page_size, request.page_token)
        return pb.ListWebhooksResponse(webhooks=map(render_webhook, page), next_page_token=token)

    async def retry(self, request: pb.RetryWebhookRequest) -> pb.RetryWebhookResponse:
        """Answer RetryWebhook."""
        return pb.RetryWebhookResponse(webhook=render_webhook(await self._webhooks.retry(request.webhook_id.lower())))

    async def count(self, request: pb.CountWebhooksRequest) -> pb.CountWebhooksResponse:
        """Answer CountWebhooks."""
        counts = await self._webhooks.counts(request.provider, request.days)
        return pb.CountWebhooksResponse(
            counts=[pb.WebhookCount(outcome=outcome, kind=kind, count=count) for outcome, kind, count in counts]
        )

    async def reconcile(self, request: pb.ReconcilePaymentsRequest) -> AsyncIterator[pb.ReconcilePaymentsResponse]:
        """Answer ReconcilePayments."""
        since = parse_optional_time("since_time", request.since_time, present=request.HasField("since_time"))
        async for found in self._reconciliation.ask(request.provider, since):
            yield _render_found(found)


def headers_of(request: pb.ReceiveWebhookRequest, context: grpc.aio.ServicerContext) -> Mapping[str, str]:
    """Return the headers by their names in lower case: those of the call's metadata, and over them the request's."""
    sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return sent | {key.lower(): value for key, value in request.headers.items()}


def render_webhook(webhook: Webhook) -> pb.Webhook:
    """Return a webhook as its message."""
    message = pb.Webhook(
        webhook_id=webhook.webhook_id,
        provider=webhook.provider,
        event_id=webhook.event_id,
        kind=webhook.kind,
        state=pb.WebhookState.Value(_PREFIX + webhook.state.value),
        reason=webhook.reason,
        attempt_count=webhook.attempt_count,
        receive_time=render_time(webhook.receive_time),
        organization_id=webhook.organization_id or "",
    )
    if webhook.next_attempt_time is not None:
        message.next_attempt_time.CopyFrom(render_time(webhook.next_attempt_time))
    if webhook.finish_time is not None:
        message.finish_time.CopyFrom(render_time(webhook.finish_time))
    return message


def _render_found(found: Found) -> pb.ReconcilePaymentsResponse:
    counts = found.counts
    return pb.ReconcilePaymentsResponse(
        provider=found.provider,
        applied_count=counts[Result.APPLIED],
        known_count=counts[Result.REPEATED] + counts[Result.LATE],
        unknown_count=counts[Result.PARKED],
        refused_count=counts[Result.REFUSED],
        out_of_place_count=found.out_of_place,
        failed_count=found.failed,
        failure=found.failure,
        ended=found.ended,
    )
