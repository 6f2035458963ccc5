"""What is refused in rate cards, margins and quantities, with the field at fault."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.rate_checks import check_rates, factor_of_percent, with_margin
from services.metering.model.rates import Rate, RateCard, amount_nanos
from services.metering.model.units import QUANTITIES_MAX, SEEDED_UNITS, read_quantities
from tests.metering.rate_cards import card, cost, each, per_million, priced, quantities, rounded_nanos

INPUT = per_million("input_tokens", "3")
GOOD = card(INPUT, per_million("output_tokens", "15"))
RETIRED = {"old_tokens": replace(SEEDED_UNITS["input_tokens"], unit_id="old_tokens", archived=True)}
UNITS = {**SEEDED_UNITS, **RETIRED}


def fields(violations: list[FieldViolation]) -> list[str]:
    return [violation.field for violation in violations]


def test_a_good_card_has_no_violation() -> None:
    rates = (*GOOD.rates, per_million("input_tokens", "6", above=200_000), per_million("input_tokens", "1", "batch"))

    assert check_rates(replace(GOOD, rates=rates, fallbacks={"reasoning_tokens": "output_tokens"}), UNITS) == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Rate("bananas", Decimal(1)), "rates[1].unit"),
        (Rate("old_tokens", Decimal(1)), "rates[1].unit"),
        (Rate("images", Decimal(-1)), "rates[1].price"),
        (Rate("images", Decimal("0.0000000001")), "rates[1].price"),
        (Rate("images", Decimal("1.0000000001")), "rates[1].price"),
        (Rate("images", Decimal(10**9)), "rates[1].price"),
        (Rate("images", Decimal("NaN")), "rates[1].price"),
        (Rate("images", Decimal("sNaN")), "rates[1].price"),
        (Rate("images", Decimal("Infinity")), "rates[1].price"),
        (Rate("images", Decimal("1E+999999")), "rates[1].price"),
        (Rate("images", Decimal("1E-999999")), "rates[1].price"),
        (Rate("images", Decimal(1), provider_cost=Decimal(-1)), "rates[1].provider_cost"),
        (Rate("images", Decimal(1), per=0), "rates[1].per"),
        (Rate("images", Decimal(1), per=10), "rates[1].per"),
        (Rate("images", Decimal(1), service_tier=""), "rates[1].service_tier"),
        (Rate("images", Decimal(1), service_tier="Batch"), "rates[1].service_tier"),
        (Rate("images", Decimal(1), service_tier="t" * 33), "rates[1].service_tier"),
        (Rate("images", Decimal(1), above=-1), "rates[1].above"),
        (Rate("images", Decimal(1), above=10**9 + 1), "rates[1].above"),
        (INPUT, "rates[1]"),
    ],
)
def test_a_wrong_rate_is_refused_by_its_field(wrong: Rate, field: str) -> None:
    assert fields(check_rates(card(INPUT, wrong), UNITS)) == [field]


def test_thresholds_increase_within_a_unit_and_tier() -> None:
    high, low = per_million("input_tokens", "6", above=200_000), per_million("input_tokens", "3", above=100_000)
    batch = per_million("input_tokens", "1", "batch", above=5)

    assert fields(check_rates(card(INPUT, low, batch, high), UNITS)) == []
    assert fields(check_rates(card(INPUT, high, batch, low), UNITS)) == ["rates[3].above"]
    assert fields(check_rates(card(INPUT, high, high), UNITS)) == ["rates[2]"]


@pytest.mark.parametrize(
    ("fallbacks", "at_fault"),
    [
        ({"reasoning_tokens": "bananas"}, ["fallbacks[reasoning_tokens]"]),
        ({"bananas": "input_tokens"}, ["fallbacks[bananas]"]),
        ({"reasoning_tokens": "old_tokens"}, ["fallbacks[reasoning_tokens]"]),
        ({"pages": "pages"}, ["fallbacks[pages]"]),
        (
            {"pages": "images", "images": "queries", "queries": "pages", "products": "pages"},
            ["fallbacks[pages]", "fallbacks[images]", "fallbacks[queries]"],
        ),
    ],
)
def test_fallbacks_lead_to_known_units_and_never_in_a_circle(fallbacks: dict[str, str], at_fault: list[str]) -> None:
    assert fields(check_rates(card(INPUT, fallbacks=fallbacks), UNITS)) == at_fault


def test_the_rest_of_a_card_is_checked_too() -> None:
    assert fields(check_rates(card(), UNITS)) == ["rates"]
    assert fields(check_rates(replace(GOOD, currency_code="usd"), UNITS)) == ["currency_code"]
    assert fields(check_rates(replace(GOOD, provider_currency_code="$"), UNITS)) == ["provider_currency_code"]
    assert fields(check_rates(replace(GOOD, provider_currency_code=None), UNITS)) == ["provider_currency_code"]
    assert fields(check_rates(replace(GOOD, factor=Decimal(-1)), UNITS)) == ["factor"]
    assert fields(check_rates(RateCard("usd", (Rate("x", Decimal(-1)),)), UNITS)) == [
        *("currency_code", "rates[0].unit", "rates[0].price"),
    ]


@given(st.decimals(min_value=0, max_value=1000, places=6), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_margin_is_rounded_once_at_the_charge(factor: Decimal, read: int, made: int) -> None:
    rates = card(per_million("input_tokens", "0.075"), per_million("output_tokens", "0.300000001"))
    used = quantities({"input_tokens": read, "output_tokens": made})
    exact = (Fraction("0.075") * read + Fraction("0.300000001") * made) / 10**6

    marked_up = with_margin(rates, factor)

    assert amount_nanos(marked_up, used, "standard", UNITS) == rounded_nanos(exact * Fraction(factor))
    assert check_rates(marked_up, UNITS) == []


def test_a_margin_is_put_on_the_provider_cost_whatever_the_price_was() -> None:
    sold = RateCard("CREDIT", (Rate("images", Decimal(7), provider_cost=Decimal("0.04")),), {}, "USD")

    once = with_margin(sold, factor_of_percent(Decimal("12.5")))

    assert (once.currency_code, cost(once, {"images": 2})) == ("USD", Decimal("0.09"))
    assert priced(once, {"images": 2}).provider_cost_nanos == 80_000_000
    assert priced(once, {"images": 2}).lines[0].amount == Decimal("0.09")
    assert cost(with_margin(once, Decimal(2)), {"images": 1}) == Decimal("0.08")


@pytest.mark.parametrize("factor", ["-0.000001", "1000.1", "1.0000001", "NaN", "Infinity"])
def test_a_margin_that_makes_prices_negative_or_is_too_large_or_fine_is_refused(factor: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        with_margin(GOOD, Decimal(factor))

    assert fields(list(refused.value.violations)) == ["margin"]


@pytest.mark.parametrize("percent", ["-100.0001", "99901", "1.00001", "NaN", "0." + "0" * 60 + "1"])
def test_a_percentage_below_minus_one_hundred_or_too_fine_is_refused(percent: str) -> None:
    with pytest.raises(InvalidArgument):
        factor_of_percent(Decimal(percent))


def test_percentages_are_factors() -> None:
    assert [factor_of_percent(Decimal(percent)) for percent in ("-100", "0", "20", "12.3456")] == [
        *(Decimal(0), Decimal(1), Decimal("1.2"), Decimal("1.123456")),
    ]


def test_a_margin_needs_the_provider_cost_of_every_rate() -> None:
    with pytest.raises(InvalidArgument) as refused:
        with_margin(card(INPUT, Rate("images", Decimal(1))), Decimal(2))
    assert fields(list(refused.value.violations)) == ["rates[1]"]

    with pytest.raises(InvalidArgument) as refused:
        with_margin(RateCard("USD", (Rate("images", Decimal(1)),)), Decimal(2))
    assert fields(list(refused.value.violations)) == ["rates[0]", "provider_currency_code"]


@pytest.mark.parametrize(
    ("unit_id", "value", "field"),
    [
        ("bananas", "1", "used[0].unit"),
        ("old_tokens", "1", "used[0].unit"),
        ("input_tokens", "-1", "used[0].value"),
        ("input_tokens", "0.5", "used[0].value"),
        ("input_seconds", "0.0001", "used[0].value"),
        ("input_seconds", "1." + "0" * 40 + "1", "used[0].value"),
        ("input_tokens", "1000000001", "used[0].value"),
        ("input_seconds", "1000000000.001", "used[0].value"),
        ("input_tokens", "1e999999", "used[0].value"),
        ("input_tokens", "1e-999999", "used[0].value"),
        ("input_tokens", "NaN", "used[0].value"),
        ("input_tokens", "sNaN", "used[0].value"),
        ("input_tokens", "-Infinity", "used[0].value"),
    ],
)
def test_a_wrong_quantity_is_refused_by_its_field(unit_id: str, value: str, field: str) -> None:
    violations: list[FieldViolation] = []

    read = read_quantities("used", [(unit_id, Decimal(value)), ("pages", Decimal(2))], UNITS, violations)

    assert fields(violations) == [field]
    assert read == {"pages": 2_000}


def test_quantities_up_to_the_largest_and_down_to_the_step_are_read() -> None:
    violations: list[FieldViolation] = []
    listed = [("input_tokens", Decimal(10**9)), ("input_seconds", Decimal("0.001")), ("credits", Decimal("6.50"))]

    assert read_quantities("used", [*listed, ("pages", Decimal("1.000"))], UNITS, violations) == {
        "input_tokens": 10**12, "input_seconds": 1, "credits": 6_500, "pages": 1_000,
    }  # fmt: skip
    assert violations == []


def test_a_unit_twice_and_too_many_units_are_refused() -> None:
    violations: list[FieldViolation] = []
    own = {f"u{number}": replace(SEEDED_UNITS["images"], unit_id=f"u{number}") for number in range(QUANTITIES_MAX + 1)}

    read_quantities("used", [("u1", Decimal(1)), ("u1", Decimal(1))], own, violations)
    read_quantities("used", [(unit_id, Decimal(1)) for unit_id in own], own, violations)

    assert fields(violations) == ["used[1].unit", "used"]


def test_each_is_the_price_of_one() -> None:
    assert cost(card(each("products", "1"), currency="CREDIT"), {"products": 10}) == 10
