"""What costs more than an amount can be is refused by name, before anything is recorded or held."""

from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage
from tests.metering.test_admission import ask
from tests.metering.test_quantities import of
from tests.metering.test_rated_usage import rate
from tollhouse.metering.v1 import model_pb2, unit_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = pytest.mark.own_database

TOO_LARGE: Final = (grpc.StatusCode.FAILED_PRECONDITION, "COST_TOO_LARGE")
MOST: Final = "1000000000"


async def price(metering: Metering, model_id: str, amount: str, minutes: float = 0, **fields: object) -> None:
    """Set the price of one credit, in force from so many minutes ago."""
    card = model_pb2.RateCard(rates=[rate("credits", amount, 1, **fields)])
    if fields:
        card.provider_currency_code = "EUR"
    request = model_pb2.SetPriceRequest(model_id=model_id, currency_code="USD", rate_card=card)
    request.effective_time.CopyFrom(stamp(minutes=-minutes))
    if not minutes:
        request.effective_time.seconds = 1
    await metering.models.SetPrice(request, metadata=metering.operator)


def used(organization_id: str, model_id: str, quantity: str = MOST, operation_id: str = "") -> pb.RecordUsageRequest:
    request = usage(organization_id, operation_id, model=model_id, quantities=of(credits=quantity))
    request.ClearField("tokens")
    return request


async def test_call_that_costs_too_much_is_refused_everywhere_and_leaves_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("gold")
    await price(metering, "gold", "1000000")
    await metering.add_model("provided")
    await price(metering, "provided", "1", provider_cost="999999999")
    estimate = model_pb2.EstimateCostRequest(model_id="gold", quantities=of(credits=MOST))
    held = ask(organization_id, "held", model="gold", max_output_tokens=0, quantities=of(credits=MOST))
    held.ClearField("input_tokens")

    assert await refused(metering.models.EstimateCost(estimate, metadata=metering.operator)) == TOO_LARGE
    assert await refused(metering.authorize(held)) == TOO_LARGE
    assert await refused(metering.record(used(organization_id, "gold", operation_id="call"))) == TOO_LARGE
    assert await refused(metering.record(used(organization_id, "provided"))) == TOO_LARGE
    assert (await refused(metering.get(organization_id, "call")))[0] is grpc.StatusCode.NOT_FOUND
    outcomes = await metering.record_batch([used(new_id(), "gold"), usage(organization_id), used(new_id(), "gold")])
    assert [one.WhichOneof("outcome") for one in outcomes] == ["refused", "recorded", "refused"]
    assert "cost 1000000000000000 USD" in outcomes[0].refused.message
    # The operation id is free, and what costs just less is charged.
    await metering.record(used(organization_id, "gold", "1", operation_id="call"))
    await metering.add_model("silver")
    await price(metering, "silver", "999999.999999999")
    answer = await metering.record(used(new_id(), "silver"))
    assert answer.usage.cost.value == "999999999999999"
    await platform.settled()
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_repeat_is_answered_although_the_price_has_become_too_large(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("gold")
    await price(metering, "gold", "1", minutes=60)
    request = used(organization_id, "gold", "1000000000", operation_id="call")
    request.occur_time.CopyFrom(stamp(minutes=-5))
    first = await metering.record(request)
    await price(metering, "gold", "1000000", minutes=30)

    repeated, *others = await metering.record_batch(
        [request, request, used(organization_id, "gold", operation_id="new")]
    )
    assert repeated.recorded.replayed
    assert repeated.recorded.usage.usage_id == first.usage.usage_id
    assert [one.WhichOneof("outcome") for one in others] == ["recorded", "refused"]
    request.quantities[0].CopyFrom(unit_pb2.Quantity(unit="credits", value="999999999"))
    assert (await refused(metering.record(request)))[1] == "OPERATION_ID_REUSED"
    await platform.settled()
    assert await metering.findings() == []


async def test_waiting_usage_is_not_charged_too_much_and_waits_for_the_right_price(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("gold")
    await metering.record(used(organization_id, "gold", operation_id="call"))
    await price(metering, "gold", "1000000", minutes=60)
    neighbour = await metering.record(used(organization_id, "gold", "1"))
    assert neighbour.usage.settlement != pb.SETTLEMENT_PENDING_PRICE
    assert (await metering.get(organization_id, "call")).settlement == pb.SETTLEMENT_PENDING_PRICE

    await price(metering, "gold", "0.5", minutes=30)
    settled = await eventually(
        lambda: metering.get(organization_id, "call"), lambda one: one.settlement == pb.SETTLEMENT_SETTLED
    )
    assert settled.cost.value == "500000000"
    await platform.settled()
    assert await metering.findings() == []
