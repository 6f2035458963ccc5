"""Metered calls use the credits that are for their user and model, however the charge reaches billing."""

from decimal import Decimal

import pytest

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.metering.test_admission import ask
from tollhouse.metering.v1 import admission_pb2

pytestmark = pytest.mark.own_database

COST = Decimal("0.0035")


async def left(platform: Platform, organization_id: str) -> dict[str, Decimal]:
    return {g.operation_id: Decimal(g.remaining_amount.value) for g in await platform.ledger.grants(organization_id)}


async def test_debits_holds_captures_parts_and_late_charges_use_the_users_credits(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    anna, bert = new_id(), new_id()
    await platform.ledger.grant(organization_id, "annas", "1", user_id=anna, model="gpt-4o")
    await platform.ledger.grant(organization_id, "berts", "1", user_id=bert)
    await platform.fund(organization_id, "1")
    expected = {"annas": Decimal(1), "berts": Decimal(1)}

    await metering.record(usage(organization_id, "debit", user_id=anna))
    expected["annas"] -= COST
    assert await left(platform, organization_id) == expected

    principal = admission_pb2.Principal(organization_id=organization_id, user_id=bert)
    for name in ("call", "call-in-parts"):
        allowed = await metering.authorize(ask(organization_id, name, principal=principal))
        assert allowed.decision == admission_pb2.DECISION_ALLOWED
    await metering.settle(settlement(organization_id, "call"))
    part = settlement(organization_id, "call-in-parts")
    part.final = False
    await metering.settle(part)
    expected["berts"] -= 2 * COST
    assert await left(platform, organization_id) == expected
    await metering.settle(settlement(organization_id, "call-in-parts"))

    await platform.stop_billing()
    await metering.record(usage(organization_id, "late", user_id=anna))
    await metering.record(usage(organization_id, "nobodys"))
    await metering.record(usage(organization_id, "not-priced", user_id=anna, model="gpt-5"))
    await platform.start_billing()
    await platform.settled()
    await metering.add_model("gpt-5")
    await metering.set_price("gpt-5")
    expected["annas"] -= COST
    posted = 1 - 2 * COST + sum(expected.values())
    await eventually(lambda: platform.posted(organization_id), lambda found: found == posted)
    await platform.settled()
    assert await left(platform, organization_id) == expected
    theirs = await platform.billing_charges()
    assert await metering.charges() == {key: amount for key, amount in theirs.items() if amount}
    assert await metering.findings() == await platform.ledger.findings() == []


async def test_a_call_that_only_others_have_credits_for_is_denied_with_the_reason(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.ledger.grant(organization_id, "annas", "1", user_id=new_id())
    principal = admission_pb2.Principal(organization_id=organization_id, user_id=new_id())
    denied = await metering.authorize(ask(organization_id, "call", principal=principal))
    assert denied.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
    assert (denied.denial.facts["available"], denied.denial.facts["scoped_to_others"]) == ("0", "1")
