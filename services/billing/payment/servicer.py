"""PaymentService over gRPC."""

from collections.abc import AsyncIterator

import grpc

from services.billing.payment.webhook.servicer import WebhookServicer
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.billing.v1 import payment_pb2_grpc as rpc


class PaymentServicer(rpc.PaymentServiceServicer):
    """Renders payments; what is of webhooks is in a servicer of its own."""

    def __init__(self, webhooks: WebhookServicer) -> None:
        self._webhooks = webhooks

    async def ReceiveWebhook(
        self, request: pb.ReceiveWebhookRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReceiveWebhookResponse:
        return await self._webhooks.receive(request, context)

    async def ListWebhooks(
        self, request: pb.ListWebhooksRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListWebhooksResponse:
        return await self._webhooks.list_webhooks(request)

    async def RetryWebhook(
        self, request: pb.RetryWebhookRequest, context: grpc.aio.ServicerContext
    ) -> pb.RetryWebhookResponse:
        return await self._webhooks.retry(request)

    async def CountWebhooks(
        self, request: pb.CountWebhooksRequest, context: grpc.aio.ServicerContext
    ) -> pb.CountWebhooksResponse:
        return await self._webhooks.count(request)

    async def ReconcilePayments(
        self, request: pb.ReconcilePaymentsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ReconcilePaymentsResponse]:
        async for message in self._webhooks.reconcile(request):
            yield message
