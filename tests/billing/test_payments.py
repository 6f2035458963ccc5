"""PaymentService as operators call it: products, recorded payments, refunds by hand and lists."""

import asyncio
from typing import Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.billing.support import BillingServer, Ledger, balance_of, organization, refusal, until_answered, usd
from tollhouse.billing.v1 import payment_pb2 as pb
from tollhouse.billing.v1.plan_pb2 import ProviderReference
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

ADJUSTMENT: Final = pb.PAYMENT_TYPE_ADJUSTMENT
TOP_UP: Final = pb.PAYMENT_TYPE_TOP_UP
PACK: Final = pb.PAYMENT_TYPE_CREDIT_PACK
INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT


def credit(value: str) -> Amount:
    return Amount(currency_code="CREDIT", value=value)


def order(external_id: str, kind: str = "ORDER", provider: str = "acme") -> pb.PaymentReference:
    return pb.PaymentReference(
        provider=provider, kind=pb.ReferenceKind.Value(f"REFERENCE_KIND_{kind}"), external_id=external_id
    )


async def record(ledger: Ledger, org: str, operation_id: object = "transfer-1", **fields: object) -> pb.Payment:
    return (await recorded(ledger, org, operation_id, **fields)).payment


async def recorded(ledger: Ledger, org: str, operation_id: object, **fields: object) -> pb.RecordPaymentResponse:
    known = {"type": TOP_UP, "amount": usd("10"), "reason": "bank transfer of 1 September"}
    request = pb.RecordPaymentRequest(organization_id=org, operation_id=str(operation_id), **known | fields)  # type: ignore[arg-type]
    return await ledger.payments.RecordPayment(request, metadata=ledger.metadata, timeout=20)


async def refund(ledger: Ledger, payment: pb.Payment, request_id: str, value: str | None = None) -> pb.Payment:
    request = pb.RefundPaymentRequest(
        organization_id=payment.organization_id,
        payment_id=payment.payment_id,
        request_id=request_id,
        amount=None if value is None else usd(value),
        reason="asked for",
    )
    return (await ledger.payments.RefundPayment(request, metadata=ledger.metadata, timeout=20)).payment


async def listed(ledger: Ledger, org: str, **fields: object) -> list[pb.Payment]:
    """Return an organization's payments, read in short pages, the latest first."""
    request = pb.ListPaymentsRequest(organization_id=org, page_size=2, **fields)  # type: ignore[arg-type]
    found: list[pb.Payment] = []
    while True:
        page = await ledger.payments.ListPayments(request, metadata=ledger.metadata, timeout=20)
        found += page.payments
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def product(ledger: Ledger, **fields: object) -> pb.Product:
    known = {"product_code": f"p-{new_id()}", "name": "Pack", "price": usd("10"), "credits": credit("1000")}
    request = pb.CreateProductRequest(**known | fields)  # type: ignore[arg-type]
    return (await ledger.payments.CreateProduct(request, metadata=ledger.metadata, timeout=20)).product


async def test_a_recorded_top_up_brings_its_money_and_is_found_again(ledger: Ledger) -> None:
    org, external_id = organization(), new_id()
    await ledger.grant(org, "gift", "1")
    payment = await record(ledger, org, references=[order(external_id)], method=pb.PAYMENT_METHOD_BANK_TRANSFER)
    assert (payment.status, payment.provider, payment.awarded) == (pb.PAYMENT_STATUS_COMPLETED, "manual", True)
    assert (await balance_of(ledger, org, currency_code="USD")).posted == usd("11")
    found = await ledger.payments.FindPayment(
        pb.FindPaymentRequest(reference=order(external_id)), metadata=ledger.metadata
    )
    assert found.payment == payment
    get = pb.GetPaymentRequest(organization_id=org, payment_id=payment.payment_id)
    assert (await ledger.payments.GetPayment(get, metadata=ledger.metadata)).payment == payment
    get.organization_id = organization()
    assert (await refusal(ledger.payments.GetPayment(get, metadata=ledger.metadata)))[0] is grpc.StatusCode.NOT_FOUND


async def test_twenty_records_at_once_bring_once_and_a_changed_one_is_refused(ledger: Ledger) -> None:
    org, reference = organization(), order(new_id())
    answers = await asyncio.gather(*(recorded(ledger, org, "once", references=[reference]) for _ in range(20)))
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 19
    assert len({answer.payment.payment_id for answer in answers}) == 1
    assert (await balance_of(ledger, org, currency_code="USD")).posted == usd("10")
    code, reason, facts = await refusal(record(ledger, org, "once", amount=usd("11"), references=[reference]))
    assert (code, reason, facts["field"]) == (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED", "amount")
    code, reason, _ = await refusal(record(ledger, org, "other", references=[reference]))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "PAYMENT_REFERENCE_TAKEN")
    code, reason, _ = await refusal(record(ledger, organization(), "theirs", references=[reference]))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "PAYMENT_REFERENCE_TAKEN")


@pytest.mark.own_database
async def test_records_through_two_servers_at_once_bring_once(server: BillingServer) -> None:
    org = organization()
    async with server.start() as one, server.start() as two:
        calls = [until_answered(lambda to=to: recorded(to, org, "once")) for to in (one, two) * 10]  # type: ignore[misc]
        answers = await asyncio.gather(*calls)
        assert len({answer.payment.payment_id for answer in answers}) == 1
        payment = answers[0].payment
        refunds = [until_answered(lambda to=to: refund(to, payment, "back", "4")) for to in (one, two) * 5]  # type: ignore[misc]
        await asyncio.gather(*refunds)
        assert (await balance_of(one, org, currency_code="USD")).posted == usd("6")
        assert await two.findings() == []


async def test_payment_for_a_product_may_have_another_amount_but_no_other_currency(ledger: Ledger) -> None:
    org, pack = organization(), await product(ledger, price=Amount(currency_code="EUR", value="3"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await record(
            ledger, org, type=PACK, product_code=pack.product_code, amount=Amount(currency_code="JPY", value="1")
        )
    assert refused.value.code() is INVALID
    assert list(field_violations(refused.value)) == ["amount.currency_code"]
    euro = Amount(currency_code="EUR", value="1")
    payment = await record(ledger, org, type=PACK, product_code=pack.product_code, amount=euro)
    assert payment.awarded_credits == credit("1000")


async def test_a_product_is_sold_for_its_credits_which_expire_as_it_says(ledger: Ledger) -> None:
    org, pack = organization(), await product(ledger, expire_after_days=30, priority=7)
    payment = await record(ledger, org, type=PACK, product_code=pack.product_code, amount=usd("9"))
    (grant,) = await ledger.grants(org)
    assert (payment.awarded_credits, payment.grant_id) == (credit("1000"), grant.grant_id)
    assert (grant.amount, grant.priority, grant.source_reference) == (
        credit("1000"),
        7,
        f"payment/{payment.payment_id}",
    )
    assert grant.expire_time.seconds - payment.processed_time.seconds == 30 * 86_400
    with_credits = await record(ledger, org, "second", type=PACK, credits=credit("5"), amount=usd("1"))
    assert (await balance_of(ledger, org, currency_code="CREDIT")).posted == credit("1005")
    assert with_credits.awarded_credits == credit("5")


async def test_history_taken_over_brings_nothing_and_cannot_be_told_of_again(ledger: Ledger) -> None:
    org = organization()
    before = Timestamp(seconds=1_600_000_000)
    payment = await record(ledger, org, type=ADJUSTMENT, brings=pb.BRINGS_NOTHING, processed_time=before)
    assert (payment.awarded, payment.HasField("awarded_credits"), payment.processed_time) == (False, False, before)
    after = await refund(ledger, payment, "back", "10")
    assert (after.status, after.refunded_amount) == (pb.PAYMENT_STATUS_REFUNDED, usd("10"))


async def test_refunds_take_back_once_and_never_more_than_the_payment(ledger: Ledger) -> None:
    org = organization()
    payment = await record(ledger, org)
    assert (await refund(ledger, payment, "a", "3")).status == pb.PAYMENT_STATUS_PARTIALLY_REFUNDED
    again = await asyncio.gather(*(refund(ledger, payment, "a", "3") for _ in range(5)))
    assert {one.refunded_amount.value for one in again} == {"3"}
    code, reason, facts = await refusal(refund(ledger, payment, "b", "7.01"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REFUND_EXCEEDS_PAYMENT")
    assert facts["remaining"] == "7"
    code, reason, facts = await refusal(refund(ledger, payment, "a", "4"))
    assert (code, reason, facts["field"]) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "amount")
    twice = await asyncio.gather(*(refund(ledger, payment, name) for name in "cd"), return_exceptions=True)
    assert sum(isinstance(one, pb.Payment) for one in twice) == 1
    found = pb.GetPaymentRequest(organization_id=org, payment_id=payment.payment_id)
    after = (await ledger.payments.GetPayment(found, metadata=ledger.metadata)).payment
    assert (after.status, [one.amount.value for one in after.refunds]) == (pb.PAYMENT_STATUS_REFUNDED, ["3", "7"])
    assert after.taken_back_amount == usd("10")
    assert (await balance_of(ledger, org, currency_code="USD")).posted == usd("0")


async def test_lists_take_every_reference_status_time_user_and_subscription(ledger: Ledger) -> None:
    org, user, subscription = organization(), new_id(), new_id()
    names = [order(new_id(), kind) for kind in ("SUBSCRIPTION", "CUSTOMER", "ORDER")]
    first = await record(ledger, org, "1", references=names, user_id=user, subscription_id=subscription)
    second = await record(ledger, org, "2", references=names[:2], plan_code="pro", type=pb.PAYMENT_TYPE_SUBSCRIPTION)
    third = await record(ledger, org, "3")
    await refund(ledger, third, "back")
    ids = [one.payment_id for one in (third, second, first)]
    assert [one.payment_id for one in await listed(ledger, org)] == ids
    assert await listed(ledger, organization()) == []
    for fields, expected in (
        ({"reference": names[0]}, [second, first]),
        ({"reference": names[1]}, [second, first]),
        ({"reference": names[2]}, [first]),
        ({"reference": order("unknown")}, []),
        ({"user_id": user}, [first]),
        ({"subscription_id": subscription}, [first]),
        ({"status": pb.PAYMENT_STATUS_REFUNDED}, [third]),
        ({"status": pb.PAYMENT_STATUS_COMPLETED}, [second, first]),
        ({"type": pb.PAYMENT_TYPE_SUBSCRIPTION}, [second]),
        ({"start_time": second.create_time, "end_time": third.create_time}, [second]),
    ):
        found = await listed(ledger, org, **fields)
        assert [one.payment_id for one in found] == [one.payment_id for one in expected], fields


async def test_what_does_not_go_together_is_refused_with_every_field(ledger: Ledger) -> None:
    org = organization()
    wrong: dict[str, dict[str, object]] = {
        "amount": {"amount": usd("0")},
        "credits": {"brings": pb.BRINGS_MONEY, "credits": credit("1")},
        "product_code": {"product_code": "pack"},
        "processed_time": {"processed_time": Timestamp(seconds=4_000_000_000)},
        "reason": {"reason": " "},
        "references[1]": {"references": [order("a"), order("a")]},
        "references[0].provider": {"references": [order("a", provider="tollhouse")]},
        "receipt_url": {"receipt_url": "javascript:alert(1)"},
        "references[0].external_id": {"references": [order("x" * 256)]},
    }
    for field, fields in wrong.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await record(ledger, org, **fields)
        assert refused.value.code() is INVALID, field
        assert field in {one.removesuffix(".value") for one in field_violations(refused.value)}, field
    assert await listed(ledger, org) == []


async def test_products_are_changed_archived_and_found(ledger: Ledger) -> None:
    reference = ProviderReference(provider="acme", kind="variant", external_id=new_id())
    pack = await product(ledger, provider_references=[reference])
    code, reason, _ = await refusal(product(ledger, product_code=pack.product_code))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "PRODUCT_EXISTS")
    code, reason, _ = await refusal(product(ledger, provider_references=[reference]))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "PROVIDER_REFERENCE_TAKEN")
    for wrong in ({"price": usd("0")}, {"price": None}, {"credits": credit("0")}, {"credits": None}):
        code, _, _ = await refusal(product(ledger, **wrong))
        assert code is INVALID
    free = pb.UpdateProductRequest(product_id=pack.product_id, update_mask=FieldMask(paths=["price"]))
    code, _, _ = await refusal(ledger.payments.UpdateProduct(free, metadata=ledger.metadata))
    assert code is INVALID
    change = pb.UpdateProductRequest(
        product_id=pack.product_id, update_mask=FieldMask(paths=["price", "active"]), price=usd("12"), etag=pack.etag
    )
    changed = (await ledger.payments.UpdateProduct(change, metadata=ledger.metadata)).product
    assert (changed.price, changed.active, list(changed.provider_references)) == (usd("12"), False, [reference])
    code, reason, _ = await refusal(ledger.payments.UpdateProduct(change, metadata=ledger.metadata))
    assert reason == "STALE_ETAG"
    archive = pb.ArchiveProductRequest(product_id=pack.product_id)
    archived = (await ledger.payments.ArchiveProduct(archive, metadata=ledger.metadata)).product
    assert archived.HasField("archive_time")
    get = pb.GetProductRequest(product_code=pack.product_code)
    assert (await ledger.payments.GetProduct(get, metadata=ledger.metadata)).product == archived
    visible = await ledger.payments.ListProducts(pb.ListProductsRequest(), metadata=ledger.metadata)
    assert pack.product_id not in {one.product_id for one in visible.products}
    every = pb.ListProductsRequest(include_inactive=True)
    assert archived in (await ledger.payments.ListProducts(every, metadata=ledger.metadata)).products
    refused = record(ledger, organization(), type=PACK, product_code=pack.product_code)
    assert (await refusal(refused))[1] == "PRODUCT_ARCHIVED"


async def test_a_checkout_needs_a_provider_that_is_set_up(ledger: Ledger) -> None:
    request = pb.CreateCheckoutRequest(
        organization_id=organization(),
        request_id="buy",
        provider="manual",
        top_up_amount=usd("10"),
        success_url="https://example.com/done",
        cancel_url="https://example.com/",
    )
    assert (await refusal(ledger.payments.CreateCheckout(request, metadata=ledger.metadata)))[1] == "PROVIDER_CANNOT"
    request.provider = "acme"
    assert (await refusal(ledger.payments.CreateCheckout(request, metadata=ledger.metadata)))[1] == "PROVIDER_UNKNOWN"
    request.product_code = "pack"
    code, _, _ = await refusal(ledger.payments.CreateCheckout(request, metadata=ledger.metadata))
    assert code is INVALID


async def test_who_recorded_and_refunded_is_on_the_audit_trail(ledger: Ledger) -> None:
    org = organization()
    await refund(ledger, await record(ledger, org), "back", "1")
    trail = audit_pb2_grpc.AuditServiceStub(ledger.channel)
    request = audit_pb2.ListAuditEventsRequest(organization_id=org)
    events = (await trail.ListAuditEvents(request, metadata=ledger.metadata)).events
    assert {(one.action, one.actor) for one in events} == {
        ("RecordPayment", "operator:alice"),
        ("RefundPayment", "operator:alice"),
    }
