"""What usage in any unit costs when it is recorded, and that the check in SQL computes the same as the service."""

from decimal import Decimal
from typing import Final

import pytest

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.metering.test_admission import ask
from tests.metering.test_quantities import of, usd
from tollhouse.metering.v1 import admission_pb2, model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = pytest.mark.own_database

MODEL: Final = "everything"


def rate(unit: str, price: str, per: int = 1_000_000, **fields: object) -> model_pb2.Rate:
    return model_pb2.Rate(unit=unit, price=price, per=per, **fields)  # type: ignore[arg-type]


CARD: Final = model_pb2.RateCard(
    rates=[
        rate("input_tokens", "2.5", provider_cost="2"),
        rate("input_tokens", "5", above=200_000, provider_cost="4"),
        rate("input_tokens", "1.25", service_tier="batch"),
        rate("output_tokens", "10", provider_cost="8"),
        rate("output_tokens", "15", above=200_000, provider_cost="12"),
        rate("output_tokens", "5", service_tier="batch"),
        rate("images", "0.04", 1),
        rate("input_seconds", "0.36", 1000),
        rate("web_searches", "10", 1000, service_tier="any"),
        rate("requests", "0.000000003", 1, service_tier="any", provider_cost="0"),
    ],
    fallbacks=[
        model_pb2.Fallback(unit="cache_read_tokens", priced_as="input_tokens"),
        model_pb2.Fallback(unit="cache_write_tokens", priced_as="cache_read_tokens"),
        model_pb2.Fallback(unit="reasoning_tokens", priced_as="output_tokens"),
        model_pb2.Fallback(unit="audio_input_tokens", priced_as="input_tokens"),
        model_pb2.Fallback(unit="audio_output_tokens", priced_as="output_tokens"),
        model_pb2.Fallback(unit="image_input_tokens", priced_as="input_tokens"),
    ],
    provider_currency_code="USD",
)

# Tokens, other quantities, tier, what it costs, and what the provider takes.
CASES: Final[tuple[tuple[dict[str, int], dict[str, str], str, str, str | None], ...]] = (
    ({"input": 1_000, "output": 100}, {}, "", "0.003500003", "0.0028"),
    ({"input": 150_000, "cache_read": 50_000}, {}, "", "0.500000003", "0.4"),
    ({"input": 150_000, "cache_read": 50_001}, {}, "", "1.000005003", "0.800004"),
    ({"cache_write": 7, "reasoning": 3}, {}, "", "0.000047503", "0.000038"),
    ({"input": 1_000, "output": 100}, {}, "batch", "0.001750003", None),
    ({}, {"images": "3", "web_searches": "2"}, "", "0.140000003", None),
    ({}, {"web_searches": "2"}, "batch", "0.020000003", None),
    ({}, {"input_seconds": "12.345"}, "", "0.004444203", None),
    ({}, {"images": "1", "requests": "4"}, "", "0.040000012", None),
    ({"input": 250_000}, {"images": "1"}, "standard", "1.290000003", None),
)


async def price_everything(metering: Metering, **fields: object) -> model_pb2.PriceVersion:
    await metering.add_model(MODEL, provider="acme")
    request = model_pb2.SetPriceRequest(model_id=MODEL, currency_code="USD", rate_card=CARD, **fields)  # type: ignore[arg-type]
    request.effective_time.seconds = 1
    return (await metering.models.SetPrice(request, metadata=metering.operator)).price_version


async def test_any_usage_is_charged_by_its_card_and_the_check_computes_the_same(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await price_everything(metering)
    for number, (tokens, quantities, tier, cost, provider_cost) in enumerate(CASES):
        answer = await metering.record(
            pb.RecordUsageRequest(
                organization_id=organization_id,
                operation_id=f"call-{number}",
                model=MODEL,
                tokens=model_pb2.TokenCounts(**tokens),
                quantities=of(**quantities),
                service_tier=tier,
            )
        )
        assert answer.usage.cost == usd(cost), (tokens, quantities, tier)
        taken = answer.usage.provider_cost.value if answer.usage.HasField("provider_cost") else None
        assert taken == provider_cost, (tokens, quantities, tier)
        assert answer.usage.provider == "acme"
    await platform.settled()
    charges = await metering.charges()
    assert sum(charges.values()) == sum(Decimal(case[3]) for case in CASES)
    assert await metering.findings() == []
    # A billionth more or less of any of them is found.
    for change in ("+ 0.000000001", "- 0.000000002"):
        await platform.execute(f"UPDATE metering.usage_records SET cost = cost {change}")  # noqa: S608
        off = {one for one in await metering.findings() if one.startswith("costs_derive_from_prices")}
        assert len(off) == len(CASES)


@pytest.mark.parametrize(
    ("fields", "unit"),
    [
        ({"quantities": of(images="1"), "service_tier": "batch"}, "images"),
        ({"quantities": of(pages="1")}, "pages"),
        ({"service_tier": "flex"}, "input_tokens"),
    ],
    ids=["tier", "unit", "tier of tokens"],
)
async def test_quantity_without_a_rate_is_refused_before_the_work_and_waits_after_it(
    platform: Platform, metering: Metering, organization_id: str, fields: dict[str, object], unit: str
) -> None:
    await price_everything(metering)
    denied = await metering.authorize(ask(organization_id, new_id(), model=MODEL, **fields))
    assert denied.denial.reason == admission_pb2.DENIAL_REASON_PRICE_UNKNOWN
    assert denied.denial.facts["unit"] == unit
    recorded = await metering.record(usage(organization_id, model=MODEL, **fields))  # type: ignore[arg-type]
    assert recorded.usage.settlement == pb.SETTLEMENT_PENDING_PRICE

    card = model_pb2.RateCard()
    card.CopyFrom(CARD)
    for tier in ("batch", "flex", "standard"):
        card.rates.append(rate("pages", "1", 1, service_tier=tier))
        if tier != "standard":
            card.rates.append(rate("images", "0.02", 1, service_tier=tier))
    card.rates.append(rate("input_tokens", "1", service_tier="flex"))
    card.rates.append(rate("output_tokens", "2", service_tier="flex"))
    request = model_pb2.SetPriceRequest(model_id=MODEL, currency_code="USD", rate_card=card)
    request.effective_time.seconds = 2
    await metering.models.SetPrice(request, metadata=metering.operator)
    operation_id = recorded.usage.operation_id
    await eventually(lambda: metering.get(organization_id, operation_id), lambda one: one.HasField("cost"))
    await platform.settled()
    assert await metering.findings() == []


async def test_hold_of_quantities_covers_their_cost_and_the_settlement_takes_the_tier_of_the_authorization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await price_everything(metering)
    await platform.fund(organization_id, "10")
    request = ask(organization_id, "call", model=MODEL, quantities=of(web_searches="2"), service_tier="batch")
    request.ClearField("input_tokens")
    request.ClearField("max_output_tokens")
    request.estimate.input = 1_000
    request.estimate.output = 100
    allowed = await metering.authorize(request)
    assert allowed.held_amount == usd("0.021750003")
    settled = await metering.settle(settlement(organization_id, "call", model=MODEL, quantities=of(web_searches="1")))
    assert (settled.usage.service_tier, settled.usage.cost) == ("batch", usd("0.011750003"))
    assert settled.released_amount == usd("0.01")
    repeated = await metering.authorize(request)
    assert repeated.denial.reason == admission_pb2.DENIAL_REASON_AUTHORIZATION_ENDED
    request.service_tier = ""
    with pytest.raises(Exception, match="differs in service_tier"):
        await metering.authorize(request)
    await platform.settled()
    assert await metering.findings() == []


async def test_version_with_a_margin_is_charged_by_its_factor_and_checked(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    card = model_pb2.RateCard()
    card.CopyFrom(CARD)
    del card.rates[:]
    card.rates.extend(one for one in CARD.rates if one.provider_cost)
    await metering.add_model(MODEL)
    request = model_pb2.SetPriceRequest(model_id=MODEL, currency_code="USD", rate_card=card)
    request.effective_time.seconds = 1
    version = (await metering.models.SetPrice(request, metadata=metering.operator)).price_version
    other = new_id()
    margin = model_pb2.SetPriceRequest(model_id=MODEL, organization_id=other, currency_code="USD")
    margin.margin.price_version_id = version.price_version_id
    margin.margin.percent = "12.5"
    margin.effective_time.seconds = 1
    await metering.models.SetPrice(margin, metadata=metering.operator)
    for number, (tokens, cost) in enumerate(
        (({"input": 1_000, "output": 100}, "0.00315"), ({"input": 1}, "0.00000225"), ({"input": 300_001}, "1.3500045"))
    ):
        tokens_used = model_pb2.TokenCounts(**tokens)
        answer = await metering.record(
            pb.RecordUsageRequest(organization_id=other, operation_id=f"call-{number}", model=MODEL, tokens=tokens_used)
        )
        assert answer.usage.cost == usd(cost)
    await platform.settled()
    assert await metering.findings() == []
