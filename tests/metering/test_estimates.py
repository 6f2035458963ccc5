"""What a call would cost, over the API: published list prices, golden costs, and bad input named field by field."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from decimal import Decimal
from typing import Final

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import reason_of
from services.metering.model.rates import RateCard
from services.metering.model.rendering import render_card
from tests.metering.rate_cards import card, each, per_million
from tests.metering.support import Metering, Platform, refused, stamp
from tests.metering.test_bad_input import faults
from tests.metering.test_litellm_prices import MADE, PUBLIC_PRICE_MAP, golden_cases
from tests.metering.test_published_prices import CALLS, CARDS
from tests.metering.test_set_price import give_back
from tests.support.odd_requests import TEXTS
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import unit_pb2, usage_pb2


def quantities(used: Mapping[str, object]) -> list[unit_pb2.Quantity]:
    return [unit_pb2.Quantity(unit=unit_id, value=str(value)) for unit_id, value in used.items()]


async def estimate(metering: Metering, **fields: object) -> pb.EstimateCostResponse:
    fields = {"model_id": "gpt-4o"} | fields
    request = pb.EstimateCostRequest(**fields)  # type: ignore[arg-type]
    return await metering.models.EstimateCost(request, metadata=metering.gateway)


async def recorded(
    metering: Metering, model: str, service_tier: str, used: Mapping[str, object]
) -> usage_pb2.UsageRecord:
    request = usage_pb2.RecordUsageRequest(
        organization_id=new_id(),
        operation_id=new_id(),
        model=model,
        service_tier=service_tier,
        quantities=quantities(used),
    )
    return (await metering.record(request)).usage


async def add(metering: Metering, name: str, card: RateCard) -> None:
    """Add a model with a price that has held for a day."""
    await metering.add_model(name)
    request = pb.SetPriceRequest(
        model_id=name,
        currency_code=card.currency_code,
        rate_card=render_card(card),
        effective_time=stamp(days=-1),
    )
    await metering.models.SetPrice(request, metadata=metering.operator)


async def test_published_price_lists_give_the_costs_worked_out_by_hand(metering: Metering) -> None:
    names = {name: name.replace(" ", "/") for name in CARDS}
    for name, published in CARDS.items():
        await add(metering, names[name], published)

    assert len(CALLS) >= 30
    for name, service_tier, used, expected in CALLS:
        answer = await estimate(metering, model_id=names[name], service_tier=service_tier, quantities=quantities(used))
        assert answer.cost.value == expected, name
        assert answer.cost.currency_code == CARDS[name].currency_code
        assert answer.provider_cost.value == expected, name
        assert sum(Decimal(line.amount) for line in answer.lines) == Decimal(expected), name
        assert {line.unit: Decimal(line.quantity_value) for line in answer.lines} == {
            unit_id: Decimal(value) for unit_id, value in used.items()
        }
        record = await recorded(metering, names[name], service_tier, used)
        assert (record.cost.value, record.cost.currency_code) == (expected, answer.cost.currency_code), name


async def test_golden_costs_come_out_to_the_last_digit_after_an_import(metering: Metering) -> None:
    """The public map and its golden costs where they are at hand, beside a map that is made here."""
    content = PUBLIC_PRICE_MAP.read_bytes() if PUBLIC_PRICE_MAP.exists() else b"{}"
    entries = json.loads(content) | json.loads(MADE)
    wanted = sorted({str(case["model"]) for case in golden_cases()})
    request = pb.ImportModelsRequest(
        litellm_json=json.dumps({name: entries[name] for name in wanted}).encode(),
        effective_time=stamp(days=-1),
    )
    await give_back(metering)
    answer = await metering.models.ImportModels(request, metadata=metering.operator)
    assert [one.reason for one in answer.outcomes if one.result != pb.IMPORT_RESULT_IMPORTED] == []

    for case in golden_cases():
        used, rates = case["quantities"], case["rates"]
        assert isinstance(used, dict)
        assert isinstance(rates, dict)
        model, tier = str(case["model"]), str(case["service_tier"])
        found = await estimate(metering, model_id=model, service_tier=tier, quantities=quantities(used))
        exact = Decimal(str(case["cost"]))
        assert sum(Decimal(line.amount) for line in found.lines) == exact, case
        assert Decimal(found.cost.value) == round(exact, 9), case
        assert found.provider_cost == found.cost, case
        assert {line.unit: Decimal(line.unit_price) / line.per for line in found.lines} == {
            unit_id: Decimal(rate) for unit_id, rate in rates.items()
        }, case
        assert (await recorded(metering, model, tier, used)).cost == found.cost, case


TIERED: Final = card(
    per_million("input_tokens", "1.25"),
    per_million("input_tokens", "2.5", above=200_000),
    per_million("output_tokens", "10"),
    each("web_searches", "0.01", "any"),
    each("input_tokens", "0.5", "batch", 1_000),
    each("input_seconds", "0.0001"),
    fallbacks={"cache_read_tokens": "input_tokens", "cache_write_30m_tokens": "cache_read_tokens"},
)


async def test_lines_say_which_rate_holds_and_why(metering: Metering) -> None:
    await add(metering, "tiered", TIERED)
    used = {"cache_write_30m_tokens": "1", "web_searches": "2", "input_seconds": "0.125", "output_tokens": "0"}
    answer = await estimate(
        metering, model_id="tiered", tokens=pb.TokenCounts(input=200_000), quantities=quantities(used)
    )

    shown = [
        (line.unit, line.quantity, line.quantity_value, line.unit_price, line.per, line.service_tier, line.above)
        for line in answer.lines
    ]
    assert shown == [
        ("input_tokens", 200_000, "200000", "2.5", 1_000_000, "standard", 200_000),
        ("cache_write_30m_tokens", 1, "1", "2.5", 1_000_000, "standard", 200_000),
        ("web_searches", 2, "2", "0.01", 1, "any", 0),
        ("input_seconds", 0, "0.125", "0.0001", 1, "standard", 0),
    ]
    assert [line.reason for line in answer.lines] == [
        "own rate",
        "falls back to cache_read_tokens and then input_tokens",
        "any tier",
        "own rate",
    ]
    assert [line.amount for line in answer.lines] == ["0.5", "0.0000025", "0.02", "0.0000125"]
    assert [line.provider_cost for line in answer.lines] == [line.amount for line in answer.lines]
    assert [line.token_class for line in answer.lines] == ["input", "", "", ""]
    assert (answer.cost.value, answer.total_tokens) == ("0.520015", 200_001)


@pytest.mark.own_database
async def test_threshold_itself_is_the_lower_rate_and_a_tier_has_its_own(metering: Metering) -> None:
    await add(metering, "tiered", TIERED)
    for tokens, service_tier, cost in (
        (200_000, "", "0.25"),
        (200_001, "standard", "0.5000025"),
        (4, "batch", "0.002"),
    ):
        counts = pb.TokenCounts(input=tokens)
        answer = await estimate(metering, model_id="tiered", tokens=counts, service_tier=service_tier)
        assert answer.cost.value == cost


@pytest.mark.own_database
@pytest.mark.parametrize(
    ("used", "service_tier", "unit", "tier"),
    [
        ({"images": "1"}, "", "images", "standard"),
        ({"input_tokens": "1", "output_tokens": "1"}, "batch", "output_tokens", "batch"),
        ({"input_tokens": "1"}, "fast-lane", "input_tokens", "fast-lane"),
        ({"web_searches": "1", "cache_write_tokens": "0.000", "pages": "1"}, "flex", "pages", "flex"),
    ],
)
async def test_unit_without_a_rate_in_the_tier_is_named_and_never_free(
    metering: Metering, used: dict[str, str], service_tier: str, unit: str, tier: str
) -> None:
    await add(metering, "tiered", TIERED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await estimate(metering, model_id="tiered", quantities=quantities(used), service_tier=service_tier)
    assert (caught.value.code(), reason_of(caught.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_UNKNOWN")
    assert f"no rate for {unit} in the service tier {tier} " in str(caught.value.details())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quantities": quantities({"dreams": 1})}, "quantities[0].unit"),
        ({"quantities": quantities({"": 1})}, "quantities[0].unit"),
        ({"quantities": quantities({"images": 1}) * 2}, "quantities[1].unit"),
        ({"quantities": quantities({"images": "-1"})}, "quantities[0].value"),
        ({"quantities": quantities({"images": "0.5"})}, "quantities[0].value"),
        ({"quantities": quantities({"input_tokens": "1.001"})}, "quantities[0].value"),
        ({"quantities": quantities({"input_seconds": "0.0001"})}, "quantities[0].value"),
        ({"quantities": quantities({"images": "1000000001"})}, "quantities[0].value"),
        ({"quantities": quantities({"images": "1e9"})}, "quantities[0].value"),
        ({"quantities": quantities({"images": "NaN"})}, "quantities[0].value"),
        ({"quantities": quantities({"images": ""})}, "quantities[0].value"),
        ({"quantities": quantities({"images": 1}) * 65}, "quantities"),
        ({"quantities": quantities({"input_tokens": 1}), "tokens": pb.TokenCounts(input=1)}, "quantities[0].unit"),
        ({"quantities": quantities({"input_tokens": 1}), "total_tokens": 2}, "total_tokens"),
        ({"tokens": pb.TokenCounts(input=5, reasoning=2), "total_tokens": 6}, "total_tokens"),
        ({"tokens": pb.TokenCounts(input=5), "total_tokens": 0}, "total_tokens"),
        ({"total_tokens": -1}, "total_tokens"),
        ({"tokens": pb.TokenCounts(output=-1)}, "tokens.output"),
        ({"service_tier": "Batch"}, "service_tier"),
        ({"service_tier": "x" * 33}, "service_tier"),
    ],
)
async def test_what_is_wrong_with_a_call_is_refused_by_name(
    metering: Metering, fields: dict[str, object], named: str
) -> None:
    assert (await faults(estimate(metering, **fields))).keys() == {named}


async def test_everything_wrong_with_a_call_is_named_at_once(metering: Metering) -> None:
    used = quantities({"dreams": 1, "images": "x", "input_tokens": 1})
    call = estimate(metering, quantities=used, tokens=pb.TokenCounts(input=1), service_tier="!")
    assert (await faults(call)).keys() == {
        "quantities[0].unit",
        "quantities[1].value",
        "quantities[2].unit",
        "service_tier",
    }


@pytest.mark.own_database
async def test_archived_unit_is_refused_by_name(platform: Platform, metering: Metering) -> None:
    await platform.execute("UPDATE metering.catalogue_state SET revision = revision + 1")
    await platform.execute(
        "UPDATE metering.units SET archived = true, revision = (SELECT revision FROM metering.catalogue_state)"
        " WHERE unit_id = 'pages'"
    )
    await asyncio.sleep(0.3)
    call = estimate(metering, quantities=quantities({"pages": 1}))
    assert await faults(call) == {"quantities[0].unit": "is an archived unit"}


async def test_unit_in_tokens_and_quantities_is_named(metering: Metering) -> None:
    call = estimate(
        metering,
        tokens=pb.TokenCounts(image=1, output=1),
        quantities=quantities({"images": 1, "image_input_tokens": 1}),
    )
    assert await faults(call) == {"quantities[1].unit": "image_input_tokens is counted in tokens.image already"}


async def test_total_is_checked_against_tokens_of_all_units(metering: Metering) -> None:
    answer = await estimate(
        metering,
        tokens=pb.TokenCounts(input=1, reasoning=2),
        quantities=quantities({"cache_read_tokens": 4, "output_tokens": 0}),
        total_tokens=7,
    )
    assert answer.total_tokens == 7


async def test_odd_text_in_any_part_of_a_price_or_call_is_answered_or_refused(metering: Metering) -> None:
    for text in TEXTS:
        calls: list[Awaitable[object]] = [
            estimate(metering, quantities=[unit_pb2.Quantity(unit=text, value="1")]),
            estimate(metering, quantities=[unit_pb2.Quantity(unit="images", value=text)]),
            estimate(metering, service_tier=text),
        ]
        rate = pb.Rate(unit="images", price="1")
        for listed in (
            pb.RateCard(rates=[pb.Rate(unit=text, price="1")]),
            pb.RateCard(rates=[pb.Rate(unit="images", price=text)]),
            pb.RateCard(rates=[pb.Rate(unit="images", price="1", service_tier=text)]),
            pb.RateCard(rates=[pb.Rate(unit="images", price="1", provider_cost=text)], provider_currency_code="USD"),
            pb.RateCard(rates=[rate], provider_currency_code=text),
            pb.RateCard(rates=[rate], factor=text),
            pb.RateCard(rates=[rate], fallbacks=[pb.Fallback(unit=text, priced_as="images")]),
            pb.RateCard(rates=[rate], fallbacks=[pb.Fallback(unit="pages", priced_as=text)]),
        ):
            request = pb.SetPriceRequest(model_id="gpt-4o", currency_code="USD", rate_card=listed, validate_only=True)
            calls.append(metering.models.SetPrice(request, metadata=metering.operator))
        for margin in (
            pb.Margin(price_version_id=text, factor="1"),
            pb.Margin(price_version_id=new_id(), percent=text),
        ):
            request = pb.SetPriceRequest(model_id="gpt-4o", currency_code="USD", margin=margin, validate_only=True)
            calls.append(metering.models.SetPrice(request, metadata=metering.operator))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            refusal = answer.code() if isinstance(answer, grpc.aio.AioRpcError) else None
            assert refusal in {
                None,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.FAILED_PRECONDITION,
            }, (text, answer)


@pytest.mark.own_database
async def test_unit_that_another_process_has_just_made_is_known(platform: Platform, metering: Metering) -> None:
    await estimate(metering, tokens=pb.TokenCounts(input=1))
    await platform.execute("UPDATE metering.catalogue_state SET revision = revision + 1")
    await platform.execute(
        "INSERT INTO metering.units SELECT 'dreams', name, description, kind, counts_toward_context, step_thousandths,"
        " archived, (SELECT revision FROM metering.catalogue_state), create_time, update_time"
        " FROM metering.units WHERE unit_id = 'images'"
    )
    await asyncio.sleep(0.3)
    call = estimate(metering, quantities=quantities({"dreams": 1}))
    assert await refused(call) == (grpc.StatusCode.FAILED_PRECONDITION, "PRICE_UNKNOWN")
