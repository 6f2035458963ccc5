"""Odd contents in any field of any request are answered or refused, and never fail the call or another caller's."""

from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.billing.subscription_calls import Subscriptions
from tests.billing.support import Ledger, usd
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import TEXTS, filled, methods_of, variants
from tollhouse.billing.v1 import account_pb2, charge_pb2, ledger_pb2, plan_pb2, subscription_pb2
from tollhouse.common.v1 import audit_pb2, integrity_pb2

pytestmark = pytest.mark.shards

_METHODS: Final = methods_of((ledger_pb2, account_pb2, charge_pb2, integrity_pb2, audit_pb2))
_OF_SUBSCRIPTIONS: Final = tuple(method for method in methods_of((subscription_pb2,)) if not method.server_streaming)
_BATCH_TEXTS: Final = tuple(text for text in TEXTS if len(text) < 50)


async def test_odd_requests_are_answered_or_refused_and_fail_no_neighbours_call(ledger: Ledger) -> None:
    organization_id, neighbour = new_id(), new_id()
    opened = await ledger.credit(organization_id, "top-up", "1000")
    await ledger.credit(neighbour, "top-up", "100000")
    charged = await ledger.debit(organization_id, "to-reverse", "100")
    known = {
        "organization_id": organization_id,
        "account_id": opened.transaction.account_id,
        "transaction_id": charged.transaction.transaction_id,
        "destination_project_id": new_id(),
        "operation_id": "odd",
        "amount": usd("0.01"),
        "ttl": Duration(seconds=60),
        "currency_code": "USD",
        "account": account_pb2.Account(account_id=opened.transaction.account_id, metadata={"a": "b"}),
        "update_mask": FieldMask(paths=["metadata"]),
    }
    hostile = HostileCalls(ledger.channel, ledger.metadata)

    async def send_all() -> None:
        for method in _METHODS:
            # Each method names work of its own, but for those that go on with a hold.
            with_hold = "Hold" in method.name and not method.name.startswith(("Create", "Batch"))
            operation_id = "odd-hold" if with_hold or method.name == "CreateHold" else f"odd-{method.name}"
            own = {"organization_ids": [organization_id]} if method.name == "DigestCharges" else {}
            names = {"operation_id": operation_id, "bucket_count": len(own)}
            request = filled(method.input_type, {**known, **own, **names})
            texts = _BATCH_TEXTS if method.name.startswith("Batch") else TEXTS
            await hostile.send(method, [request, *variants(request, texts)])

    made = await hostile.beside(lambda number: ledger.debit(neighbour, f"call-{number}", "0.01"), send_all())

    assert "\n".join(hostile.failures) == ""
    # The account has money in it, and the hold has ended by then.
    assert {method.name for method in _METHODS} - hostile.answered == {"CloseAccount", "ExtendHold"}
    assert made > 1
    assert await ledger.findings() == []


async def test_odd_requests_on_subscriptions_are_answered_or_refused(ledger: Ledger) -> None:
    organization_id, neighbour = new_id(), new_id()
    await ledger.credit(organization_id, "top-up", "1000")
    await ledger.credit(neighbour, "top-up", "100000")
    made = await Subscriptions(ledger).create(organization_id)
    known = {
        "organization_id": organization_id,
        "subscription_id": made.subscription_id,
        "plan_code": "basic",
        "timing": subscription_pb2.CHANGE_TIMING_PERIOD_END,
        "reason": "odd",
        "validate_only": True,
        "entitlement_code": "odd",
        "update_mask": FieldMask(paths=["metadata"]),
    }
    hostile = HostileCalls(ledger.channel, ledger.metadata)

    async def send_all() -> None:
        for method in _OF_SUBSCRIPTIONS:
            own: dict[str, object] = {"references": [], "limits": []}
            if method.name == "CreateSubscription":
                own |= {"user_id": new_id()}
            if method.name == "SetEntitlementOverride":
                own |= {"entitlement": plan_pb2.Entitlement(entitlement_code="odd", enabled=True)}
            request = filled(method.input_type, {**known, **own})
            await hostile.send(method, [request, *variants(request, TEXTS)])

    await hostile.beside(lambda number: ledger.debit(neighbour, f"call-{number}", "0.01"), send_all())

    assert "\n".join(hostile.failures) == ""
    # The subscription waits for no approval.
    unanswered = {method.name for method in _OF_SUBSCRIPTIONS} - hostile.answered
    assert unanswered == {"ApproveSubscription", "RejectSubscription"}
    assert await ledger.findings() == []
