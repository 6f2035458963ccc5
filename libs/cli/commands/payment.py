"""`tollhouse payment …`: payments, refunds, automatic top-ups, and the products that are sold for credits."""

from enum import StrEnum
from typing import Annotated, Final

import grpc
import typer

from libs.cli.terminal.amounts import parse_amount
from libs.cli.terminal.calling import calling, listed
from libs.cli.terminal.confirmation import YesOption, confirm
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.options import LIMIT, LimitOption, OrganizationArgument
from libs.cli.terminal.output import Output
from libs.common.ids import new_id
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.billing.v1 import payment_pb2_grpc
from tollhouse.billing.v1.plan_pb2 import ProviderReference
from tollhouse.common.v1.amount_pb2 import Amount

group = typer.Typer(name="payment", help="Payments, refunds, and products that are sold.", no_args_is_help=True)
products = typer.Typer(name="products", help="What is sold for credits.", no_args_is_help=True)
top_up = typer.Typer(name="top-up", help="Accounts that are topped up by themselves.", no_args_is_help=True)
group.add_typer(products)
group.add_typer(top_up)
PaymentArgument = Annotated[str, typer.Argument(help="The payment's id.", metavar="PAYMENT")]
_BILLING: Final = ("billing",)
_COLUMNS: Final = (
    *("payment_id", "create_time", "type", "status", "amount", "refunded_amount", "awarded_credits"),
    *("provider", "method", "user_id", "product_code", "plan_code"),
)
_PRODUCT_COLUMNS: Final = ("product_code", "name", "price", "credits", "expire_after_days", "active", "archive_time")


class Type(StrEnum):
    """What a payment is for."""

    SUBSCRIPTION = "subscription"
    CREDIT_PACK = "credit-pack"
    TOP_UP = "top-up"
    ADJUSTMENT = "adjustment"


class Method(StrEnum):
    """How a payment was paid."""

    BANK_TRANSFER = "bank-transfer"
    CARD = "card"
    PAYPAL = "paypal"
    MANUAL = "manual"
    OTHER = "other"


class Brings(StrEnum):
    """What a payment brings to the account."""

    MONEY = "money"
    CREDITS = "credits"
    NOTHING = "nothing"


class Status(StrEnum):
    """Where a payment is in its life."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    PARTIALLY_REFUNDED = "partially-refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


@calling(group, "record", _BILLING)
async def record(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    amount: Annotated[str, typer.Argument(help="How much was paid.", metavar="VALUE")],
    currency: Annotated[str, typer.Argument(help="In which money, such as USD.", metavar="UNIT")],
    reason: Annotated[str, typer.Option(help="Why it is recorded by hand.")],
    type_: Annotated[Type, typer.Option("--type", help="What it is for.")] = Type.TOP_UP,
    method: Annotated[Method, typer.Option(help="How it was paid.")] = Method.BANK_TRANSFER,
    brings: Annotated[Brings | None, typer.Option(help="What it brings; as the type says without it.")] = None,
    product: Annotated[str, typer.Option(help="The code of the product that was bought, which says the credits.")] = "",
    credits_: Annotated[
        str, typer.Option("--credits", help="Which credits it brings, such as 1000CREDIT, in the place of --product.")
    ] = "",
    user: Annotated[str, typer.Option(help="The user who paid.")] = "",
    reference: Annotated[str, typer.Option(help="What it is called elsewhere: PROVIDER:KIND:ID.")] = "",
    operation: Annotated[str, typer.Option(help="A name for it, so that a repeat records nothing more.")] = "",
) -> None:
    """Record a payment that no provider tells of, with what it brings."""
    request = pb.RecordPaymentRequest(
        organization_id=organization,
        operation_id=operation or new_id(),
        user_id=user,
        type=pb.PaymentType.Value(f"PAYMENT_TYPE_{type_.name}"),
        amount=Amount(currency_code=currency, value=amount),
        method=pb.PaymentMethod.Value(f"PAYMENT_METHOD_{method.name}"),
        brings=pb.BRINGS_UNSPECIFIED if brings is None else pb.Brings.Value(f"BRINGS_{brings.name}"),
        product_code=product,
        credits=parse_amount(credits_) if credits_ else None,
        references=[_reference(reference)] if reference else [],
        reason=reason,
    )
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    output.one((await stub.RecordPayment(request)).payment)


@calling(group, "get", _BILLING)
async def get(channels: Channels, output: Output, organization: OrganizationArgument, payment: PaymentArgument) -> None:
    """Show a payment with its references and refunds."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    request = pb.GetPaymentRequest(organization_id=organization, payment_id=payment)
    output.one((await stub.GetPayment(request)).payment)


@calling(group, "find", _BILLING)
async def find(
    channels: Channels,
    output: Output,
    reference: Annotated[str, typer.Argument(help="PROVIDER:KIND:ID, such as stripe:PAYMENT:pi_1.", metavar="NAME")],
) -> None:
    """Show the payment that an object of a provider belongs to, whatever its organization."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    output.one((await stub.FindPayment(pb.FindPaymentRequest(reference=_reference(reference)))).payment)


@calling(group, "list", _BILLING)
async def list_payments(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    status: Annotated[Status | None, typer.Option(help="Only payments in this status.")] = None,
    user: Annotated[str, typer.Option(help="Only payments of this user.")] = "",
    reference: Annotated[str, typer.Option(help="Only payments with this object: PROVIDER:KIND:ID.")] = "",
    limit: LimitOption = LIMIT,
) -> None:
    """List the payments of an organization, newest first."""
    request = pb.ListPaymentsRequest(
        organization_id=organization,
        user_id=user,
        status=pb.PAYMENT_STATUS_UNSPECIFIED
        if status is None
        else pb.PaymentStatus.Value(f"PAYMENT_STATUS_{status.name}"),
        reference=_reference(reference) if reference else None,
    )
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    found, more = await listed(stub.ListPayments, request, lambda page: page.payments, limit)
    output.many(found, _COLUMNS, more=more)


@calling(group, "refund", _BILLING)
async def refund(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    payment: PaymentArgument,
    request_id: Annotated[str, typer.Option("--request", help="A name for the refund, so that a repeat refunds once.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    amount: Annotated[str, typer.Option(help="How much, such as 3USD; all that is left without it.")] = "",
    yes: YesOption = False,
) -> None:
    """Refund a payment or a part of it, and take back what it brought."""
    confirm(f"Refund {amount or 'all that is left'} of the payment {payment}?", yes=yes)
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    money = None
    if amount:
        get_request = pb.GetPaymentRequest(organization_id=organization, payment_id=payment)
        found = (await stub.GetPayment(get_request)).payment
        money = parse_amount(amount)
        money.currency_code = money.currency_code or found.amount.currency_code
    request = pb.RefundPaymentRequest(
        organization_id=organization, payment_id=payment, request_id=request_id, amount=money, reason=reason
    )
    output.one((await stub.RefundPayment(request)).payment)


@calling(top_up, "set", _BILLING)
async def set_top_up(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    below: Annotated[str, typer.Option(help="Below which available balance, such as 5USD.")] = "",
    amount: Annotated[str, typer.Option(help="By how much, such as 20USD.")] = "",
    up_to: Annotated[str, typer.Option(help="Up to what balance, such as 50USD, in the place of --amount.")] = "",
    provider: Annotated[str, typer.Option(help="Whose saved method is charged: stripe.")] = "",
    per_day: Annotated[int, typer.Option(help="How many in a day of UTC at most; 1 at first.", min=0, max=24)] = 0,
    per_month: Annotated[int, typer.Option(help="How many in a month at most; 10 at first.", min=0, max=200)] = 0,
    off: Annotated[bool, typer.Option("--off", help="Switch it off; without it, it is switched on.")] = False,
) -> None:
    """Have an organization's account topped up by itself; what is not given stays as it is."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    known = await _policy(stub, organization)
    request = pb.SetTopUpPolicyRequest(
        organization_id=organization,
        enabled=not off,
        threshold=parse_amount(below) if below else known.threshold,
        provider=provider or known.provider,
        max_per_day=per_day or known.max_per_day,
        max_per_month=per_month or known.max_per_month,
    )
    if amount or (known.HasField("top_up_amount") and not up_to):
        request.top_up_amount.CopyFrom(parse_amount(amount) if amount else known.top_up_amount)
    if up_to or (known.HasField("target_balance") and not amount):
        request.target_balance.CopyFrom(parse_amount(up_to) if up_to else known.target_balance)
    output.one((await stub.SetTopUpPolicy(request)).policy)


@calling(top_up, "get", _BILLING)
async def get_top_up(channels: Channels, output: Output, organization: OrganizationArgument) -> None:
    """Show when and by how much an organization's account is topped up, and why it is not."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    output.one((await stub.GetTopUpPolicy(pb.GetTopUpPolicyRequest(organization_id=organization))).policy)


async def _policy(stub: payment_pb2_grpc.PaymentServiceStub, organization: str) -> pb.TopUpPolicy:
    """Return an organization's policy; an empty one where it has none."""
    try:
        return (await stub.GetTopUpPolicy(pb.GetTopUpPolicyRequest(organization_id=organization))).policy
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return pb.TopUpPolicy()


@calling(group, "portal", _BILLING)
async def portal(
    channels: Channels,
    output: Output,
    organization: OrganizationArgument,
    user: Annotated[str, typer.Option(help="The user who has paid; whoever paid last without it.")] = "",
    provider: Annotated[str, typer.Option(help="The provider, where several are set up.")] = "",
) -> None:
    """Print the address of a provider's customer portal. Whoever has it is let in."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    request = pb.GetCustomerPortalRequest(organization_id=organization, user_id=user, provider=provider)
    output.one(await stub.GetCustomerPortal(request))


@calling(products, "list", _BILLING)
async def list_products(
    channels: Channels,
    output: Output,
    include_inactive: Annotated[
        bool, typer.Option("--all", help="Also those that are not active or archived.")
    ] = False,
    limit: LimitOption = LIMIT,
) -> None:
    """List the products in their order."""
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    request = pb.ListProductsRequest(include_inactive=include_inactive)
    found, more = await listed(stub.ListProducts, request, lambda page: page.products, limit)
    output.many(found, _PRODUCT_COLUMNS, more=more)


@calling(products, "create", _BILLING)
async def create_product(
    channels: Channels,
    output: Output,
    code: Annotated[str, typer.Argument(help="The stable name, such as pack-1000.", metavar="CODE")],
    name: Annotated[str, typer.Argument(help="A name for people.", metavar="NAME")],
    price: Annotated[str, typer.Option(help="What it costs, such as 10USD.")],
    credits_: Annotated[str, typer.Option("--credits", help="What it brings, such as 1000CREDIT.")],
    expire_after_days: Annotated[int, typer.Option(help="After how many days the credits expire; 0 for never.")] = 0,
    sold_as: Annotated[str, typer.Option(help="Where it is sold: PROVIDER:KIND:ID.")] = "",
) -> None:
    """Add a product to the catalogue."""
    request = pb.CreateProductRequest(
        request_id=new_id(),
        product_code=code,
        name=name,
        price=parse_amount(price),
        credits=parse_amount(credits_),
        expire_after_days=expire_after_days,
        provider_references=[ProviderReference(**_parts(sold_as))] if sold_as else [],
    )
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    output.one((await stub.CreateProduct(request)).product)


@calling(products, "archive", _BILLING)
async def archive_product(
    channels: Channels,
    output: Output,
    code: Annotated[str, typer.Argument(help="The product's code.", metavar="CODE")],
    yes: YesOption = False,
) -> None:
    """Archive a product, for good: it is not sold any more."""
    confirm(f"Archive the product {code}?", yes=yes)
    stub = payment_pb2_grpc.PaymentServiceStub(channels.billing)
    found = (await stub.GetProduct(pb.GetProductRequest(product_code=code))).product
    output.one((await stub.ArchiveProduct(pb.ArchiveProductRequest(product_id=found.product_id))).product)


def _parts(text: str) -> dict[str, str]:
    provider, kind, external_id = text.split(":", 2) if text.count(":") > 1 else ("", "", "")
    if not external_id:
        raise typer.BadParameter(f"{text!r} is not PROVIDER:KIND:ID")
    return {"provider": provider, "kind": kind, "external_id": external_id}


def _reference(text: str) -> pb.PaymentReference:
    parts = _parts(text)
    name = f"REFERENCE_KIND_{parts['kind'].upper()}"
    if name not in pb.ReferenceKind.keys():
        raise typer.BadParameter(f"{parts['kind']!r} is not a kind such as ORDER or PAYMENT")
    return pb.PaymentReference(
        provider=parts["provider"], kind=pb.ReferenceKind.Value(name), external_id=parts["external_id"]
    )
