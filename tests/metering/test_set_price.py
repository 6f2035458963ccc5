"""Prices that are set: as rate cards of any units, as prices of token classes, and as margins on other versions."""

import re
from collections.abc import Mapping
from decimal import Decimal

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from libs.cli.installation.environment import repository
from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, refused, stamp
from tests.metering.test_bad_input import faults
from tollhouse.metering.v1 import model_pb2 as pb
from tollhouse.metering.v1 import unit_pb2

pytestmark = pytest.mark.own_database

RATES = (
    pb.Rate(unit="input_tokens", price="1.25", per=1_000_000, provider_cost="1"),
    pb.Rate(unit="input_tokens", price="2.5", per=1_000_000, above=200_000, provider_cost="2"),
    pb.Rate(unit="output_tokens", price="5", per=1_000_000, service_tier="batch", provider_cost="4"),
    pb.Rate(unit="images", price="0.04", provider_cost="0.03"),
    pb.Rate(unit="web_searches", price="10", per=1_000, service_tier="any", provider_cost="8"),
)
CARD = pb.RateCard(
    rates=RATES,
    fallbacks=[pb.Fallback(unit="cache_read_tokens", priced_as="input_tokens")],
    provider_currency_code="EUR",
)


def price(**fields: object) -> pb.SetPriceRequest:
    fields = {"model_id": "gpt-4o", "currency_code": "USD"} | fields
    return pb.SetPriceRequest(**fields)  # type: ignore[arg-type]


async def set_price(metering: Metering, request: pb.SetPriceRequest) -> pb.PriceVersion:
    return (await metering.models.SetPrice(request, metadata=metering.operator)).price_version


async def listed(metering: Metering, organization_id: str = "", model_id: str = "gpt-4o") -> list[pb.PriceVersion]:
    request = pb.ListPricesRequest(model_id=model_id, organization_id=organization_id)
    return list((await metering.models.ListPrices(request, metadata=metering.operator)).price_versions)


async def estimate(
    metering: Metering, quantities: Mapping[str, str], organization_id: str = "", **fields: object
) -> pb.EstimateCostResponse:
    request = pb.EstimateCostRequest(
        model_id="gpt-4o",
        organization_id=organization_id,
        quantities=[unit_pb2.Quantity(unit=unit, value=value) for unit, value in quantities.items()],
        **fields,  # type: ignore[arg-type]
    )
    return await metering.models.EstimateCost(request, metadata=metering.operator)


async def imported(metering: Metering, **fields: object) -> pb.ImportOutcome:
    """Import another price of gpt-4o; return its outcome."""
    content = b'{"gpt-4o": {"input_cost_per_token": 7e-06, "output_cost_per_token": 9e-06}}'
    request = pb.ImportModelsRequest(litellm_json=content, **fields)  # type: ignore[arg-type]
    (outcome,) = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes
    return outcome


async def by_hand(metering: Metering) -> bool:
    request = pb.GetModelRequest(model_id="gpt-4o")
    return (await metering.models.GetModel(request, metadata=metering.operator)).model.price_set_by_hand


async def give_back(metering: Metering) -> None:
    mask = FieldMask(paths=["price_set_by_hand"])
    request = pb.UpdateModelRequest(request_id=new_id(), model_id="gpt-4o", update_mask=mask)
    await metering.models.UpdateModel(request, metadata=metering.operator)


async def test_rate_card_is_answered_listed_and_charged_as_it_was_set(metering: Metering) -> None:
    answered = await set_price(metering, price(rate_card=CARD))

    expected = pb.RateCard.FromString(CARD.SerializeToString())
    for rate in expected.rates:
        rate.per = rate.per or 1
        rate.service_tier = rate.service_tier or "standard"
    assert answered.rate_card == expected
    assert not answered.HasField("prices")
    assert (await listed(metering))[0] == answered
    answer = await estimate(metering, {"input_tokens": "200000", "cache_read_tokens": "1", "images": "3"})
    assert (answer.cost.value, answer.cost.currency_code) == ("0.6200025", "USD")
    assert (answer.provider_cost.value, answer.provider_cost.currency_code) == ("0.490002", "EUR")


async def test_prices_of_token_classes_are_answered_as_before_and_as_a_card(metering: Metering) -> None:
    request = price(prices=pb.TokenPrices(input="2.50", output="10", per_request="0.01"))
    version = await set_price(metering, request)

    assert version.prices == pb.TokenPrices(input="2.5", output="10", per_request="0.01")
    assert [(rate.unit, rate.price, rate.per, rate.service_tier) for rate in version.rate_card.rates] == [
        ("input_tokens", "2.5", 1_000_000, "standard"),
        ("output_tokens", "10", 1_000_000, "standard"),
        ("requests", "0.01", 1, "any"),
    ]
    assert (await listed(metering))[0] == version


async def test_card_that_says_no_more_than_prices_of_token_classes_is_answered_as_them_too(metering: Metering) -> None:
    plain = await set_price(metering, price(prices=pb.TokenPrices(input="1", output="2"), effective_time=stamp(days=1)))
    card = pb.RateCard(rates=reversed(plain.rate_card.rates), fallbacks=plain.rate_card.fallbacks)
    version = await set_price(metering, price(rate_card=card, effective_time=stamp(days=2)))
    assert version.prices == pb.TokenPrices(input="1", output="2")


@pytest.mark.parametrize("given", [{}, {"prices": pb.TokenPrices(input="1", output="1"), "rate_card": CARD}])
async def test_price_is_given_in_exactly_one_way(metering: Metering, given: dict[str, object]) -> None:
    named = await faults(metering.models.SetPrice(price(**given), metadata=metering.operator))
    assert named.keys() == ({"rate_card"} if given else {"prices"})


@pytest.mark.parametrize(
    ("rate", "field"),
    [
        ({"unit": "dreams", "price": "1"}, "rates[0].unit"),
        ({"unit": "", "price": "1"}, "rates[0].unit"),
        ({"unit": "images", "price": "-1"}, "rates[0].price"),
        ({"unit": "images", "price": ""}, "rates[0].price"),
        ({"unit": "images", "price": "0.0000000001"}, "rates[0].price"),
        ({"unit": "images", "price": "1e3"}, "rates[0].price"),
        ({"unit": "images", "price": "1", "per": 7}, "rates[0].per"),
        ({"unit": "images", "price": "1", "above": -1}, "rates[0].above"),
        ({"unit": "images", "price": "1", "above": 2 * 10**9}, "rates[0].above"),
        ({"unit": "images", "price": "1", "service_tier": "Batch"}, "rates[0].service_tier"),
        ({"unit": "images", "price": "1", "provider_cost": "-1"}, "rates[0].provider_cost"),
    ],
)
async def test_rate_that_is_wrong_is_refused_by_name(metering: Metering, rate: dict[str, object], field: str) -> None:
    card = pb.RateCard(rates=[pb.Rate(**rate)], provider_currency_code="USD")  # type: ignore[arg-type]
    named = await faults(metering.models.SetPrice(price(rate_card=card), metadata=metering.operator))
    assert named.keys() == {f"rate_card.{field}"}


async def test_all_that_is_wrong_with_a_card_as_a_whole_is_named_at_once(metering: Metering) -> None:
    card = pb.RateCard(
        rates=[
            pb.Rate(unit="images", price="1", provider_cost="1"),
            pb.Rate(unit="images", price="2"),
            pb.Rate(unit="input_tokens", price="2", above=200_000),
            pb.Rate(unit="input_tokens", price="1"),
        ],
        fallbacks=[
            pb.Fallback(unit="pages", priced_as="queries"),
            pb.Fallback(unit="queries", priced_as="pages"),
            pb.Fallback(unit="pixels", priced_as="dreams"),
            pb.Fallback(unit="pixels", priced_as="images"),
        ],
        factor="1001",
    )
    named = await faults(metering.models.SetPrice(price(rate_card=card), metadata=metering.operator))
    assert named.keys() == {
        "rate_card.rates[1]",
        "rate_card.rates[3].above",
        "rate_card.fallbacks[0]",
        "rate_card.fallbacks[1]",
        "rate_card.fallbacks[3].unit",
        "rate_card.provider_currency_code",
        "rate_card.factor",
    }
    card.fallbacks.pop()
    named = await faults(metering.models.SetPrice(price(rate_card=card), metadata=metering.operator))
    assert "rate_card.fallbacks[2]" in named


async def test_rules_of_the_contract_and_of_the_catalogue_are_named_together(metering: Metering) -> None:
    card = pb.RateCard(rates=[pb.Rate(unit="images", price="x"), pb.Rate(unit="dreams", price="1")], factor="2000")
    named = await faults(metering.models.SetPrice(price(rate_card=card), metadata=metering.operator))
    assert named.keys() == {"rate_card.rates[0].price", "rate_card.rates[1].unit", "rate_card.factor"}


async def test_card_without_a_rate_or_with_too_many_is_refused(metering: Metering) -> None:
    for rates in ([], [pb.Rate(unit="images", price="1", above=number) for number in range(513)]):
        request = price(rate_card=pb.RateCard(rates=rates))
        named = await faults(metering.models.SetPrice(request, metadata=metering.operator))
        assert named.keys() == {"rate_card.rates"}


async def test_archived_unit_is_refused_in_new_prices_and_old_ones_stay(platform: Platform, metering: Metering) -> None:
    first = await set_price(metering, price(request_id="first", rate_card=CARD, effective_time=stamp(hours=1)))
    await platform.execute("UPDATE metering.units SET archived = true WHERE unit_id = 'images'")

    again = price(rate_card=CARD, effective_time=stamp(hours=2))
    assert (await faults(metering.models.SetPrice(again, metadata=metering.operator))).keys() == {
        "rate_card.rates[3].unit"
    }
    margin = pb.Margin(price_version_id=first.price_version_id, factor="2")
    named = await faults(
        metering.models.SetPrice(price(margin=margin, currency_code="EUR"), metadata=metering.operator)
    )
    assert "rates[3].unit" in named["margin.price_version_id"]
    assert (await listed(metering))[0] == first


async def test_request_that_is_repeated_after_its_unit_was_archived_has_its_first_answer(
    platform: Platform, metering: Metering
) -> None:
    request = price(request_id="once", rate_card=CARD)
    first = await set_price(metering, request)
    await platform.execute("UPDATE metering.units SET archived = true WHERE unit_id = 'images'")

    again = await metering.models.SetPrice(request, metadata=metering.operator)

    assert (again.replayed, again.price_version) == (True, first)


@pytest.mark.parametrize(("margin", "cost"), [({"percent": "20"}, "0.036"), ({"factor": "1.333333"}, "0.03999999")])
async def test_margin_multiplies_the_provider_costs_and_is_rounded_once(
    metering: Metering, margin: dict[str, str], cost: str
) -> None:
    base = await set_price(metering, price(rate_card=CARD, effective_time=stamp(hours=-2)))
    request = price(
        currency_code="EUR",
        margin=pb.Margin(price_version_id=base.price_version_id, **margin),
        effective_time=stamp(hours=-1),
    )
    preview = pb.SetPriceRequest.FromString(request.SerializeToString())
    preview.validate_only = True
    previewed = await set_price(metering, preview)
    version = await set_price(metering, request)

    assert previewed.rate_card == version.rate_card
    assert (previewed.price_version_id, previewed.currency_code) == ("", "EUR")
    assert [rate.price for rate in version.rate_card.rates] == ["1", "2", "4", "0.03", "8"]
    assert version.rate_card.factor in ("1.2", "1.333333")
    answer = await estimate(metering, {"images": "1"})
    assert (answer.cost.value, answer.cost.currency_code) == (cost, "EUR")
    # A thousandth of a billionth in each of three lines: the sum is rounded, not the lines.
    tiny = await estimate(metering, {"input_tokens": "1", "cache_read_tokens": "1"})
    exact = Decimal("0.000002") * Decimal(version.rate_card.factor)
    assert Decimal(tiny.cost.value) == exact.quantize(Decimal("1e-9"))
    assert sum(Decimal(line.amount) for line in tiny.lines) == exact


async def test_margin_is_refused_by_name(metering: Metering) -> None:
    base = await set_price(metering, price(rate_card=CARD, effective_time=stamp(hours=1)))
    bad: list[tuple[dict[str, str], str, str]] = [
        ({"percent": "-100.5"}, "EUR", "margin.percent"),
        ({"percent": "100000"}, "EUR", "margin.percent"),
        ({"percent": "1.23456"}, "EUR", "margin.percent"),
        ({"factor": "-0.1"}, "EUR", "margin.factor"),
        ({"factor": "1001"}, "EUR", "margin.factor"),
        ({"factor": "two"}, "EUR", "margin.factor"),
        ({}, "EUR", "margin.margin"),
        ({"factor": "2"}, "USD", "currency_code"),
    ]
    for margin, currency_code, field in bad:
        request = price(
            currency_code=currency_code,
            margin=pb.Margin(price_version_id=base.price_version_id, **margin),
        )
        named = await faults(metering.models.SetPrice(request, metadata=metering.operator))
        assert named.keys() == {field}, margin


async def test_margin_needs_a_version_with_all_provider_costs(metering: Metering) -> None:
    for version_id, expected in (
        (new_id(), (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")),
        (
            (await listed(metering))[0].price_version_id,
            (grpc.StatusCode.FAILED_PRECONDITION, "PROVIDER_COST_UNKNOWN"),
        ),
    ):
        for validate_only in (True, False):
            request = price(margin=pb.Margin(price_version_id=version_id, percent="20"), validate_only=validate_only)
            assert await refused(metering.models.SetPrice(request, metadata=metering.operator)) == expected


async def test_preview_shows_the_whole_version_and_changes_nothing(metering: Metering) -> None:
    before = await listed(metering)
    previewed = await set_price(metering, price(rate_card=CARD, validate_only=True))

    assert len(previewed.rate_card.rates) == len(RATES)
    assert (previewed.price_version_id, previewed.source) == ("", "SetPrice")
    assert await listed(metering) == before
    for bad in (price(rate_card=CARD, validate_only=True, model_id="nobody"),):
        assert (await refused(metering.models.SetPrice(bad, metadata=metering.operator)))[0] == (
            grpc.StatusCode.NOT_FOUND
        )


async def test_two_organizations_have_cards_of_their_own_units(metering: Metering) -> None:
    first, second = new_id(), new_id()
    for organization_id, rates, currency in (
        (first, [pb.Rate(unit="products", price="1")], "CREDIT"),
        (second, [pb.Rate(unit="products", price="0.5"), pb.Rate(unit="pages", price="3", per=1_000)], "USD"),
    ):
        request = price(rate_card=pb.RateCard(rates=rates), organization_id=organization_id, currency_code=currency)
        await set_price(metering, request)

    one = await estimate(metering, {"products": "10"}, first)
    other = await estimate(metering, {"products": "10", "pages": "500"}, second)

    assert (one.cost.value, one.cost.currency_code) == ("10", "CREDIT")
    assert (other.cost.value, other.cost.currency_code) == ("6.5", "USD")
    assert not one.HasField("provider_cost")
    for organization_id in (first, ""):
        assert await refused(estimate(metering, {"pages": "1"}, organization_id)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRICE_UNKNOWN",
        )
    assert not await listed(metering, new_id())


async def test_pages_of_large_cards_fit_into_answers_and_have_every_version(metering: Metering) -> None:
    """Each card is about 40 KB, and an answer may have 4 MB."""
    units = ("input_tokens", "output_tokens", "images", "pixels")
    rates = [
        pb.Rate(unit=unit, price="123456789.123456789", service_tier=f"tier-{'x' * 20}-{tier}", above=10**8 + step)
        for unit in units
        for tier in range(16)
        for step in range(8)
    ]
    made = [
        await set_price(metering, price(rate_card=pb.RateCard(rates=rates), effective_time=stamp(minutes=number)))
        for number in range(70)
    ]

    found: list[pb.PriceVersion] = []
    request = pb.ListPricesRequest(model_id="gpt-4o", page_size=1_000)
    while True:
        page = await metering.models.ListPrices(request, metadata=metering.operator)
        found += page.price_versions
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break

    assert found[:-1] == made[::-1]
    assert sum(version.ByteSize() for version in found) > 2_000_000


async def test_price_set_by_hand_survives_imports_until_it_is_given_back(metering: Metering) -> None:
    (before,) = await listed(metering)
    assert await by_hand(metering)

    for validate_only in (True, False, False):
        outcome = await imported(metering, validate_only=validate_only)
        assert outcome.result == pb.IMPORT_RESULT_KEPT
        assert outcome.price_version_id == ("" if validate_only else before.price_version_id)
        assert not outcome.changes
    assert await listed(metering) == [before]

    await give_back(metering)
    assert not await by_hand(metering)
    assert (await imported(metering)).result == pb.IMPORT_RESULT_IMPORTED
    assert [rate.price for rate in (await listed(metering))[0].rate_card.rates] == ["7", "9"]
    assert (await imported(metering)).result == pb.IMPORT_RESULT_UNCHANGED

    await set_price(metering, price(rate_card=CARD))
    assert await by_hand(metering)
    assert (await imported(metering)).result == pb.IMPORT_RESULT_KEPT


async def test_prices_of_organizations_and_of_the_past_leave_imports_free(metering: Metering) -> None:
    await give_back(metering)
    await imported(metering)

    await set_price(metering, price(rate_card=CARD, organization_id=new_id()))
    await set_price(metering, price(rate_card=CARD, effective_time=stamp(days=-1)))
    await set_price(metering, price(rate_card=CARD, validate_only=True))
    assert not await by_hand(metering)

    await set_price(metering, price(rate_card=CARD, effective_time=stamp(days=1)))
    assert await by_hand(metering)


async def test_only_false_can_be_given_for_a_price_set_by_hand(metering: Metering) -> None:
    request = pb.UpdateModelRequest(
        model_id="gpt-4o", price_set_by_hand=True, update_mask=FieldMask(paths=["price_set_by_hand"])
    )
    named = await faults(metering.models.UpdateModel(request, metadata=metering.operator))
    assert named.keys() == {"price_set_by_hand"}
    request.update_mask.paths[:] = ["provider"]
    await metering.models.UpdateModel(request, metadata=metering.operator)
    assert await by_hand(metering)


async def test_dry_run_shows_old_and_new_rates(metering: Metering) -> None:
    await give_back(metering)
    outcome = await imported(metering, validate_only=True, margin_percent="50")

    shown = {
        (change.unit, change.service_tier, change.above): (change.before, change.after) for change in outcome.changes
    }
    assert shown["input_tokens", "standard", 0] == ("2.5/1000000", "10.5/1000000, cost 7")
    assert shown["output_tokens", "standard", 0] == ("10/1000000", "13.5/1000000, cost 9")
    assert shown["document_tokens", "", 0] == ("", "as input_tokens")
    assert not (await imported(metering)).changes


async def test_dry_run_names_currencies_and_rates_that_would_go(metering: Metering) -> None:
    await set_price(metering, price(rate_card=CARD))
    await give_back(metering)
    content = "models: [{model_id: gpt-4o, currency_code: CREDIT, rates: [{unit: images, price: 4}]}]"
    request = pb.ImportModelsRequest(yaml=content.encode(), validate_only=True)
    (outcome,) = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes

    shown = [(change.unit, change.above, change.before, change.after) for change in outcome.changes]
    assert ("images", 0, "0.04 USD, cost 0.03 EUR", "4 CREDIT") in shown
    assert ("input_tokens", 200_000, "2.5/1000000 USD, cost 2 EUR", "") in shown
    assert ("cache_read_tokens", 0, "as input_tokens", "") in shown
    assert len(shown) == len(RATES) + 1


async def test_changes_beyond_sixty_four_are_counted(metering: Metering) -> None:
    await give_back(metering)
    rates = ", ".join(f"{{unit: images, price: 1, service_tier: t{number}}}" for number in range(100))
    content = f"models: [{{model_id: new, currency_code: USD, rates: [{rates}]}}]"
    request = pb.ImportModelsRequest(yaml=content.encode(), validate_only=True)
    (outcome,) = (await metering.models.ImportModels(request, metadata=metering.operator)).outcomes
    assert len(outcome.changes) == 65
    assert (outcome.changes[-1].unit, outcome.changes[-1].after) == ("", "and 36 more")


@pytest.mark.parametrize("margin", ["-100.5", "1.23456", "x", "20%", "100000"])
async def test_margin_of_an_import_is_refused_by_name(metering: Metering, margin: str) -> None:
    request = pb.ImportModelsRequest(yaml=b"models: []", margin_percent=margin)
    named = await faults(metering.models.ImportModels(request, metadata=metering.operator))
    assert named.keys() == {"margin_percent"}


async def test_examples_of_the_page_of_rate_cards_give_what_it_says(metering: Metering) -> None:
    page = (repository() / "docs" / "rates.md").read_text(encoding="utf-8")
    (card, call) = re.findall(r"ModelService/(?:SetPrice|EstimateCost) '(.*?)'\n#", page, re.DOTALL)
    (content,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (margin,) = re.findall(r'ModelService/SetPrice "(.*?)"\n```', page, re.DOTALL)
    await metering.add_model("swift-1")

    version = await set_price(metering, json_format.Parse(card, pb.SetPriceRequest()))
    answer = await metering.models.EstimateCost(
        json_format.Parse(call, pb.EstimateCostRequest()), metadata=metering.operator
    )
    organization_id = new_id()
    filled = margin.replace("\\", "").replace("$ORG", organization_id).replace("$VERSION", version.price_version_id)
    own = await set_price(metering, json_format.Parse(filled, pb.SetPriceRequest()))
    request = pb.ImportModelsRequest(yaml=content.encode(), validate_only=True)
    imported = await metering.models.ImportModels(request, metadata=metering.operator)

    for value in (answer.cost.value, answer.provider_cost.value, *(line.amount for line in answer.lines)):
        assert f'"{value}"' in page
    assert (own.organization_id, own.rate_card.factor, own.currency_code) == (organization_id, "1.2", "EUR")
    assert [one.result for one in imported.outcomes] == [pb.IMPORT_RESULT_KEPT, pb.IMPORT_RESULT_IMPORTED], imported
