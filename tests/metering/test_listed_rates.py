"""Rates of any units, margins and fall-backs in price lists: what is wrong with one entry never fails another."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from services.metering.model.price_list import SkippedEntry, Terms, read_litellm, read_yaml
from services.metering.model.rate_checks import check_rates
from services.metering.model.rates import Rate, RateCard
from services.metering.model.units import SEEDED_UNITS
from tests.metering.test_price_lists import GOOD_JSON, GOOD_YAML, listed, only_skipped, yaml
from tests.support.odd_requests import SURROGATE, TEXTS


@pytest.mark.parametrize("margin", ["1.2", "0", "1"])
def test_margin_makes_listed_prices_the_provider_costs(margin: str) -> None:
    terms = Terms(margin=Decimal(margin))
    for entries in (
        read_litellm(("{" + GOOD_JSON + "}").encode(), terms),
        read_yaml(f"models:\n{GOOD_YAML}".encode(), terms),
    ):
        card = listed(entries, "good").card
        assert [(rate.price, rate.provider_cost) for rate in card.rates] == [
            (Decimal(1), Decimal(1)),
            (Decimal(2), Decimal(2)),
        ]
        assert (card.factor, card.currency_code, card.provider_currency_code) == (Decimal(margin), "USD", "USD")


def test_margin_on_our_own_list_is_put_on_the_provider_costs_it_names() -> None:
    entry = (
        "  - {model_id: odd, currency_code: CREDIT, provider_currency_code: EUR, factor: 3, "
        "rates: [{unit: images, price: 9, provider_cost: '0.03'}]}\n"
    )
    card = listed(read_yaml(f"models:\n{entry}".encode(), Terms(margin=Decimal("1.5"))), "odd").card
    assert card == RateCard(
        "EUR",
        (Rate("images", Decimal("0.03"), provider_cost=Decimal("0.03")),),
        {},
        "EUR",
        Decimal("1.5"),
    )


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("rates: [{unit: images, price: 1}, {unit: pages, price: 1, provider_cost: 1}], provider_currency_code: USD",
         "rates[0] has no provider cost"),
        ("prices: {input: 1, output: 1}, factor: 2", "has a factor of its own"),
    ],
)  # fmt: skip
def test_margin_that_has_no_provider_costs_to_stand_on_skips_the_entry(entry: str, reason: str) -> None:
    content = f"models:\n  - {{model_id: odd, currency_code: USD, {entry}}}\n"
    (skipped,) = read_yaml(content.encode(), Terms(margin=Decimal(2)))
    assert isinstance(skipped, SkippedEntry)
    assert reason in skipped.reason


def test_rates_of_any_units_are_read_beside_prices_of_token_classes() -> None:
    entry = """
  - model_id: odd
    currency_code: CREDIT
    provider_currency_code: USD
    factor: 1.25
    prices: {input: 1, output: 2, per_request: 0.5}
    rates:
      - {unit: input_tokens, price: 1.5, per: 1000000, above: 200000, provider_cost: 0.000000001}
      - {unit: output_tokens, price: "1", per: 1000, service_tier: batch}
      - {unit: products, price: 10}
    fallbacks: {input_images: products, cache_write_tokens: cache_read_tokens}
"""
    model = listed(yaml(entry), "odd")
    assert model.warnings == ()
    assert model.card.rates == (
        Rate("input_tokens", Decimal(1), 10**6),
        Rate("output_tokens", Decimal(2), 10**6),
        Rate("requests", Decimal("0.5"), service_tier="any"),
        Rate("input_tokens", Decimal("1.5"), 10**6, "standard", 200_000, Decimal("0.000000001")),
        Rate("output_tokens", Decimal(1), 1_000, "batch"),
        Rate("products", Decimal(10)),
    )
    assert (model.card.currency_code, model.card.provider_currency_code) == ("CREDIT", "USD")
    assert model.card.factor == Decimal("1.25")
    assert model.card.fallbacks["input_images"] == "products"
    assert model.card.fallbacks["cache_write_tokens"] == "cache_read_tokens"
    assert model.card.fallbacks["cache_read_tokens"] == "input_tokens"


@pytest.mark.parametrize("text", [text for text in TEXTS if text != SURROGATE])
@pytest.mark.parametrize(
    "entry",
    [
        "rates: [{{unit: {0}, price: 1}}]",
        "rates: [{{unit: images, price: {0}}}]",
        "rates: [{{unit: images, price: 1, per: {0}}}]",
        "rates: [{{unit: images, price: 1, above: {0}}}]",
        "rates: [{{unit: images, price: 1, service_tier: {0}}}]",
        "rates: [{{unit: images, price: 1, provider_cost: {0}}}]",
        "rates: [{{unit: images, price: 1, ? {0} : 1}}]",
        "rates: {0}",
        "rates: [{{unit: images, price: 1}}], fallbacks: {{? {0} : images}}",
        "rates: [{{unit: images, price: 1}}], fallbacks: {{pages: {0}}}",
        "rates: [{{unit: images, price: 1}}], factor: {0}",
        "rates: [{{unit: images, price: 1}}], provider_currency_code: {0}",
    ],
)
def test_odd_text_in_any_part_of_a_price_is_read_or_skipped_alone(entry: str, text: str) -> None:
    content = f"  - {{model_id: odd, currency_code: USD, {entry.format(json.dumps(text))}}}\n"
    entries = yaml(content)
    assert listed(entries, "good").model_id == "good"
    (odd,) = (one for one in entries if one.model_id == "odd")
    if isinstance(odd, SkippedEntry):
        odd.reason.encode()
        assert "\0" not in odd.reason
    else:
        assert check_rates(odd.card, SEEDED_UNITS) == []


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("provider: x", "has no prices"),
        ("rates: []", "rates must be from 1 to 512"),
        ("rates: {unit: images}", "has rates that are not a list"),
        ("rates: [images]", "has a rate that is not a mapping: rates[0]"),
        ("rates: [{unit: images}]", "has a rate without a unit or price: rates[0]"),
        ("rates: [{unit: images, price: 1, prise: 2}]", "has a rate with unknown keys: rates[0].prise"),
        ("rates: [{unit: images, price: -1}]", "is negative, 1,000,000,000 or more"),
        ("rates: [{unit: images, price: 1e999999999}]", "is not a number"),
        ("rates: [{unit: images, price: 1e-10}]", "finer than a billionth: rates[0].price"),
        ("rates: [{unit: images, price: 1, provider_cost: .nan}]", "is not a number"),
        ("rates: [{unit: images, price: 1, provider_cost: 1}]", "provider_currency_code must be given"),
        ("rates: [{unit: images, price: 1, per: 7}]", "rates[0].per must be one of 1, 1,000, 1,000,000"),
        ("rates: [{unit: images, price: 1, per: ten}]", "is not a whole number: rates[0].per"),
        ("rates: [{unit: images, price: 1, above: -1}]", "is not a whole number: rates[0].above"),
        ("rates: [{unit: images, price: 1, above: 2000000000}]", "rates[0].above must be from 0 to 1,000,000,000"),
        ("rates: [{unit: images, price: 1, service_tier: Batch!}]", "rates[0].service_tier must be"),
        ("rates: [{unit: images, price: 1, service_tier: [a]}]", "has a service tier that is not a text"),
        ("rates: [{unit: dreams, price: 1}]", "rates[0].unit is not a unit of the catalogue"),
        ("rates: [{unit: pages, price: 1}]", "rates[0].unit is an archived unit"),
        ("rates: [{unit: images, price: 1}, {unit: images, price: 2}]", "rates[1] has the unit, service tier and"),
        ("prices: {input: 1, output: 1}, rates: [{unit: input_tokens, price: 1}]",
         "rates[0] has the unit, service tier and threshold of the price of input_tokens"),
        ("rates: [{unit: images, price: 1}], fallbacks: [a]", "has fallbacks that are not a mapping"),
        ("rates: [{unit: images, price: 1}], fallbacks: {pixels: [a]}", "has fallbacks that are not units"),
        ("rates: [{unit: images, price: 1}], fallbacks: {pixels: dreams}", "is not a unit of the catalogue"),
        ("rates: [{unit: images, price: 1}], fallbacks: {pixels: pixels}", "leads back to itself"),
        ("rates: [{unit: images, price: 1}], factor: 1.2345678", "factor must be from 0 to 1,000"),
        ("rates: [{unit: images, price: 1}], factor: -1", "factor must be from 0"),
        ("rates: [{unit: images, price: 1}], factor: much", "has a factor that is not a number"),
        ("rates: [{unit: images, price: 1}], provider_currency_code: usd", "provider_currency_code must be a code"),
        ("rates: [{unit: images, price: 1}], provider_currency_code: [USD]", "that is not a text"),
    ],
)  # fmt: skip
def test_card_of_our_own_list_that_is_wrong_skips_its_entry_alone_with_the_reason(entry: str, reason: str) -> None:
    units = {**SEEDED_UNITS, "pages": replace(SEEDED_UNITS["pages"], archived=True)}
    content = f"models:\n  - {{model_id: odd, currency_code: USD, {entry}}}\n{GOOD_YAML}"
    skipped = only_skipped(read_yaml(content.encode(), Terms(units=units)))
    assert reason in skipped.reason
