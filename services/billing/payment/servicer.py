"""The gRPC service of payments: requests are parsed, use cases called, responses rendered."""

from collections.abc import AsyncIterator, Mapping

import grpc

from libs.common.clock import Clock
from libs.common.pages import encode_page_token, page_size
from libs.common.repeats.parsing import repeatable
from libs.common.validation import Reader
from services.billing.payment.checkouts import Checkouts
from services.billing.payment.listings import Listings
from services.billing.payment.parsing import (
    check_product_name,
    read_filter,
    read_new_product,
    read_policy,
    read_product_changes,
    read_product_place,
    read_purchase,
    read_record,
    read_refund,
    read_wanted_reference,
)
from services.billing.payment.portals import Portals
from services.billing.payment.products import Products
from services.billing.payment.records import Records
from services.billing.payment.refunds import Refunds
from services.billing.payment.rendering import render_payment, render_policy, render_product, render_refund
from services.billing.payment.top_ups import TopUps
from services.billing.payment.webhook.servicer import WebhookServicer
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.billing.v1 import payment_pb2_grpc as rpc

_Context = grpc.aio.ServicerContext


class PaymentServicer(rpc.PaymentServiceServicer):
    """Implements PaymentService."""

    def __init__(
        self,
        products: Products,
        records: Records,
        refunds: Refunds,
        checkouts: Checkouts,
        portals: Portals,
        top_ups: TopUps,
        listings: Listings,
        webhooks: WebhookServicer,
        clock: Clock,
    ) -> None:
        self._top_ups = top_ups
        self._products = products
        self._records = records
        self._refunds = refunds
        self._checkouts = checkouts
        self._portals = portals
        self._listings = listings
        self._webhooks = webhooks
        self._clock = clock

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What checks requests beyond their annotations, by the names of the RPCs."""
        return {
            "CreateProduct": read_new_product,
            "GetProduct": check_product_name,
            "UpdateProduct": read_product_changes,
            "RecordPayment": lambda request: read_record(request, self._clock),
            "ListPayments": read_filter,
            "FindPayment": read_wanted_reference,
            "RefundPayment": read_refund,
            "CreateCheckout": read_purchase,
            "SetTopUpPolicy": lambda request: read_policy(request, self._clock),
        }

    async def CreateProduct(self, request: pb.CreateProductRequest, context: _Context) -> pb.CreateProductResponse:
        answer, replayed = await self._products.create(
            read_new_product(request),
            repeatable(request.request_id, "CreateProduct", request),
            lambda product: pb.CreateProductResponse(product=render_product(product)).SerializeToString(),
        )
        response = pb.CreateProductResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def GetProduct(self, request: pb.GetProductRequest, context: _Context) -> pb.GetProductResponse:
        check_product_name(request)
        product = await self._products.get(request.product_id.lower(), request.product_code)
        return pb.GetProductResponse(product=render_product(product))

    async def ListProducts(self, request: pb.ListProductsRequest, context: _Context) -> pb.ListProductsResponse:
        fingerprint = f"products/{request.include_inactive}"
        page, more = await self._products.page(
            read_product_place(request.page_token, fingerprint),
            page_size(request.page_size),
            include_inactive=request.include_inactive,
        )
        token = ""
        if more:
            token = encode_page_token(str(page[-1].sort_order), page[-1].product_code, fingerprint=fingerprint)
        return pb.ListProductsResponse(products=map(render_product, page), next_page_token=token)

    async def UpdateProduct(self, request: pb.UpdateProductRequest, context: _Context) -> pb.UpdateProductResponse:
        answer, replayed = await self._products.update(
            request.product_id.lower(),
            read_product_changes(request),
            request.etag,
            repeatable(request.request_id, "UpdateProduct", request),
            lambda product: pb.UpdateProductResponse(product=render_product(product)).SerializeToString(),
        )
        response = pb.UpdateProductResponse.FromString(answer)
        response.replayed = replayed
        return response

    async def ArchiveProduct(self, request: pb.ArchiveProductRequest, context: _Context) -> pb.ArchiveProductResponse:
        product = await self._products.archive(request.product_id.lower())
        return pb.ArchiveProductResponse(product=render_product(product))

    async def RecordPayment(self, request: pb.RecordPaymentRequest, context: _Context) -> pb.RecordPaymentResponse:
        payment, replayed = await self._records.record(read_record(request, self._clock))
        shown = await self._listings.get(payment.organization_id, payment.payment_id)
        return pb.RecordPaymentResponse(payment=render_payment(shown), replayed=replayed)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: _Context) -> pb.GetPaymentResponse:
        shown = await self._listings.get(request.organization_id.lower(), request.payment_id.lower())
        return pb.GetPaymentResponse(payment=render_payment(shown))

    async def ListPayments(self, request: pb.ListPaymentsRequest, context: _Context) -> pb.ListPaymentsResponse:
        wanted, reference = read_filter(request)
        page, token = await self._listings.page(
            request.organization_id.lower(), wanted, reference, request.page_size, request.page_token
        )
        return pb.ListPaymentsResponse(payments=map(render_payment, page), next_page_token=token)

    async def FindPayment(self, request: pb.FindPaymentRequest, context: _Context) -> pb.FindPaymentResponse:
        shown = await self._listings.find(read_wanted_reference(request))
        return pb.FindPaymentResponse(payment=render_payment(shown))

    async def RefundPayment(self, request: pb.RefundPaymentRequest, context: _Context) -> pb.RefundPaymentResponse:
        refund_id, replayed = await self._refunds.refund(read_refund(request))
        shown = await self._listings.get(request.organization_id.lower(), request.payment_id.lower())
        refund = next(one for one in shown.refunds if one.refund_id == refund_id)
        return pb.RefundPaymentResponse(
            payment=render_payment(shown), refund=render_refund(shown.payment, refund), replayed=replayed
        )

    async def CreateCheckout(self, request: pb.CreateCheckoutRequest, context: _Context) -> pb.CreateCheckoutResponse:
        payment, replayed = await self._checkouts.open(read_purchase(request))
        shown = await self._listings.get(payment.organization_id, payment.payment_id)
        return pb.CreateCheckoutResponse(payment=render_payment(shown), replayed=replayed)

    async def GetCustomerPortal(
        self, request: pb.GetCustomerPortalRequest, context: _Context
    ) -> pb.GetCustomerPortalResponse:
        user_id = request.user_id.lower() or None
        url = await self._portals.open(request.organization_id.lower(), request.provider, user_id)
        return pb.GetCustomerPortalResponse(url=url)

    async def ReceiveWebhook(self, request: pb.ReceiveWebhookRequest, context: _Context) -> pb.ReceiveWebhookResponse:
        return await self._webhooks.receive(request, context)

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: _Context) -> pb.ListWebhooksResponse:
        return await self._webhooks.list_webhooks(request)

    async def RetryWebhook(self, request: pb.RetryWebhookRequest, context: _Context) -> pb.RetryWebhookResponse:
        return await self._webhooks.retry(request)

    async def CountWebhooks(self, request: pb.CountWebhooksRequest, context: _Context) -> pb.CountWebhooksResponse:
        return await self._webhooks.count(request)

    async def ReconcilePayments(
        self, request: pb.ReconcilePaymentsRequest, context: _Context
    ) -> AsyncIterator[pb.ReconcilePaymentsResponse]:
        async for message in self._webhooks.reconcile(request):
            yield message

    async def SetTopUpPolicy(self, request: pb.SetTopUpPolicyRequest, context: _Context) -> pb.SetTopUpPolicyResponse:
        policy = await self._top_ups.set(read_policy(request, self._clock))
        return pb.SetTopUpPolicyResponse(policy=render_policy(policy))

    async def GetTopUpPolicy(self, request: pb.GetTopUpPolicyRequest, context: _Context) -> pb.GetTopUpPolicyResponse:
        policy = await self._top_ups.get(request.organization_id.lower())
        return pb.GetTopUpPolicyResponse(policy=render_policy(policy))
