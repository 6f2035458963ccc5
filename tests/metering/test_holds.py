"""What is held before the work covers whatever the work turns out to cost."""

from datetime import UTC, datetime
from decimal import Decimal

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.status import error_info
from services.metering.admission.domain import held_nanos
from services.metering.model.domain import (
    INPUT_CLASSES,
    OUTPUT_CLASSES,
    Prices,
    PriceVersion,
    Rated,
    Tokens,
    card_of,
    input_tokens_of,
    output_tokens_of,
    rate,
)
from services.metering.model.units import SEEDED_UNITS
from services.metering.tables import TOKEN_CLASSES
from tests.metering.support import Metering, Platform, settlement
from tests.metering.test_admission import ask
from tollhouse.metering.v1 import admission_pb2, model_pb2

NOW = datetime(2026, 3, 1, tzinfo=UTC)
_COUNT_MAX = 10**9
_SMALLEST, _LARGEST = Decimal("0.000000001"), Decimal("999999999.999999999")
PRICE = (
    st.sampled_from([Decimal(0), _SMALLEST, Decimal("0.0005"), _LARGEST])
    | st.decimals(min_value=0, max_value=_LARGEST, places=9, allow_nan=False)
    | st.decimals(min_value=0, max_value=Decimal("0.01"), places=9, allow_nan=False)
)


def version_of(prices: Prices) -> PriceVersion:
    return PriceVersion("v", "m", None, card_of(prices), NOW, NOW, "")


VERSION = st.builds(
    lambda by_class, per_request: PriceVersion(
        "v", "m", None, card_of(Prices("USD", by_class, per_request)), NOW, NOW, ""
    ),
    st.tuples(PRICE, PRICE, *[st.none() | PRICE] * (len(TOKEN_CLASSES) - 2)),
    st.none() | PRICE,
)
COUNT = st.sampled_from([0, 1, _COUNT_MAX]) | st.integers(0, 2_000) | st.integers(0, _COUNT_MAX)
TOKENS = st.tuples(*[COUNT] * len(TOKEN_CLASSES))


def cost(version: PriceVersion, tokens: Tokens) -> Decimal:
    rated = rate(version, tokens, {}, "standard", SEEDED_UNITS, NOW)
    assert isinstance(rated, Rated)
    return Decimal(rated.amount_nanos).scaleb(-9)


def held_amount(version: PriceVersion, input_tokens: int, output_tokens: int, estimate: Tokens | None) -> Decimal:
    held = held_nanos(version, input_tokens, output_tokens, estimate, {}, "standard", SEEDED_UNITS)
    assert isinstance(held, int)
    return Decimal(held).scaleb(-9)


def test_every_token_class_is_on_one_side() -> None:
    assert sorted(INPUT_CLASSES + OUTPUT_CLASSES) == sorted(TOKEN_CLASSES)


@given(VERSION, TOKENS, st.data())
def test_no_settlement_within_the_authorized_sums_costs_more_than_the_hold(
    version: PriceVersion, tokens: Tokens, data: st.DataObject
) -> None:
    input_tokens = input_tokens_of(tokens) + data.draw(COUNT)
    output_tokens = output_tokens_of(tokens) + data.draw(COUNT)

    assert cost(version, tokens) <= held_amount(version, input_tokens, output_tokens, None)


@given(VERSION, TOKENS, st.data())
def test_no_settlement_within_the_estimate_costs_more_than_the_hold(
    version: PriceVersion, estimate: Tokens, data: st.DataObject
) -> None:
    tokens = tuple(data.draw(st.integers(0, count)) for count in estimate)

    assert cost(version, tokens) <= held_amount(version, 0, 0, estimate)


@given(PRICE, PRICE, st.none() | PRICE, COUNT, COUNT)
def test_model_whose_classes_cost_the_same_holds_the_cost_of_plain_tokens(
    price_in: Decimal, price_out: Decimal, per_request: Decimal | None, input_tokens: int, output_tokens: int
) -> None:
    by_class = (price_in, price_out, *(None,) * (len(TOKEN_CLASSES) - 2))
    version = PriceVersion("v", "m", None, card_of(Prices("USD", by_class, per_request)), NOW, NOW, "")
    plain = (input_tokens, output_tokens, *(0,) * (len(TOKEN_CLASSES) - 2))

    assert held_amount(version, input_tokens, output_tokens, None) == cost(version, plain)


async def add_realtime(metering: Metering) -> None:
    await metering.add_model("gpt-realtime")
    await metering.set_price("gpt-realtime", price_in="4", price_out="16", audio_input="32", audio_output="64")


async def test_authorize_is_denied_where_the_most_expensive_classes_are_not_covered(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await add_realtime(metering)
    await platform.fund(organization_id, "3")
    request = ask(organization_id, "call-1", model="gpt-realtime", input_tokens=100_000, max_output_tokens=100_000)

    denied = await metering.authorize(request)
    await platform.fund(organization_id, "6.6")
    request.operation_id = "call-2"
    allowed = await metering.authorize(request)
    tokens = model_pb2.TokenCounts(audio_input=100_000, audio_output=100_000)
    settled = await metering.settle(
        admission_pb2.SettleRequest(
            organization_id=organization_id, operation_id="call-2", model="gpt-realtime", tokens=tokens
        )
    )

    assert (denied.denial.reason, denied.denial.facts["needed"]) == (
        admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE,
        "9.6",
    )
    assert (allowed.decision, allowed.held_amount.value) == (admission_pb2.DECISION_ALLOWED, "9.6")
    assert (settled.usage.cost.value, settled.overrun_amount.value) == ("9.6", "0")
    assert await platform.posted(organization_id) == 0


@pytest.mark.own_database
async def test_estimate_by_class_holds_what_exactly_these_tokens_cost(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await add_realtime(metering)
    await platform.fund(organization_id, "3")
    request = admission_pb2.AuthorizeRequest(
        operation_id="call-1",
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-realtime",
        estimate=model_pb2.TokenCounts(input=100_000, output=90_000, reasoning=10_000),
    )

    allowed = await metering.authorize(request)
    again = await metering.authorize(request)
    request.estimate.reasoning, request.estimate.output = 90_000, 10_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.authorize(request)

    info = error_info(caught.value)
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("OPERATION_ID_REUSED", "estimate")
    assert (allowed.held_amount.value, allowed.max_output_tokens) == ("2", 100_000)
    assert (again.replayed, again.held_amount.value, again.max_output_tokens) == (True, "2", 100_000)
    settled = await metering.settle(
        settlement(organization_id, "call-1", model="gpt-realtime", tokens={"input": 99_000, "output": 89_900})
    )
    assert settled.overrun_amount.value == "0"


async def test_estimate_beside_sums_is_refused_naming_each_field(metering: Metering, organization_id: str) -> None:
    request = ask(organization_id, "call-1", estimate=model_pb2.TokenCounts(input=1))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.authorize(request)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "input_tokens" in str(caught.value.details())
    assert "max_output_tokens" in str(caught.value.details())
