"""Odd contents in any field of a request on payments are answered or refused, and never fail another caller's call."""

from typing import Final

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.billing.support import Ledger, usd
from tests.billing.test_payments import order, product, record
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import TEXTS, filled, methods_of, variants
from tollhouse.billing.v1 import payment_pb2 as pb

pytestmark = pytest.mark.shards

_METHODS: Final = methods_of((pb,))


async def test_odd_requests_on_payments_are_answered_or_refused(ledger: Ledger) -> None:
    organization_id, neighbour = new_id(), new_id()
    await ledger.credit(neighbour, "top-up", "100000")
    reference = order(new_id())
    payment = await record(ledger, organization_id, amount=usd("1000"), references=[reference])
    pack = await product(ledger)
    known: dict[str, object] = {
        "organization_id": organization_id,
        "payment_id": payment.payment_id,
        "product_id": pack.product_id,
        "amount": usd("0.01"),
        "price": usd("1"),
        "credits": usd("1"),
        "type": pb.PAYMENT_TYPE_ADJUSTMENT,
        "reference": reference,
        "references": [],
        "provider_references": [],
        "reason": "odd",
        "name": "odd",
        "update_mask": FieldMask(paths=["description"]),
        "success_url": "https://example.com/",
        "cancel_url": "https://example.com/",
        "threshold": usd("1"),
    }
    own: dict[str, dict[str, object]] = {
        "CreateProduct": {"product_code": "odd"},
        "GetProduct": {"product_id": ""},
        "RecordPayment": {"credits": None, "product_code": "", "brings": pb.BRINGS_MONEY},
    }
    hostile = HostileCalls(ledger.channel, ledger.metadata)

    async def send_all() -> None:
        for method in _METHODS:
            fields = {name: value for name, value in {**known, **own.get(method.name, {})}.items() if value is not None}
            if method.name in ("RecordPayment", "GetProduct"):
                fields.pop("credits", None)
            request = filled(method.input_type, fields)
            await hostile.send(method, [request, *variants(request, TEXTS)])

    await hostile.beside(lambda number: ledger.debit(neighbour, f"call-{number}", "0.01"), send_all())
    assert "\n".join(hostile.failures) == ""
    assert {"RecordPayment", "GetPayment", "ListPayments", "FindPayment", "RefundPayment"} <= hostile.answered
    assert await ledger.findings() == []
