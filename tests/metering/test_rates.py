"""Rate cards against a plain reference model with fractions."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metering.model.rates import (
    Priced,
    Rate,
    RateCard,
    Unpriced,
    amount_nanos,
    cost_max_nanos,
    price,
    provider_cost_nanos,
)
from services.metering.model.units import SEEDED_UNITS, TOKEN_CLASS_UNITS, Kind, input_context, total_tokens
from tests.metering.rate_cards import card, cost, each, per_million, priced, quantities, rounded_nanos

IN_CONTEXT = ("input_tokens", "cache_read_tokens", "audio_input_tokens")
OUT = ("output_tokens", "reasoning_tokens")
OTHERS = ("input_seconds", "web_searches")
UNIT_IDS = (*IN_CONTEXT, *OUT, *OTHERS)
TIERS = ("standard", "batch", "any")
ABOVES = (0, 3, 10)
PRICE = st.sampled_from([Decimal(0), Decimal("0.0000005"), Decimal("0.000000001"), Decimal("999999999.999999999")])
PRICE |= st.decimals(min_value=0, max_value=100, places=9)
FACTOR = st.just(Decimal(1)) | st.decimals(min_value=0, max_value=3, places=6)
WHOLE = st.integers(0, 12) | st.integers(0, 10**9)


@st.composite
def rate_cards(draw: st.DrawFn) -> RateCard:
    place = st.tuples(st.sampled_from(UNIT_IDS), st.sampled_from(TIERS), st.sampled_from(ABOVES))
    # With few rates most usages have no price, with many most have one.
    places = draw(st.sets(place, max_size=6) | st.sets(place, min_size=20))
    per, costs = st.sampled_from([1, 1_000, 1_000_000]), st.none() | PRICE
    rates = tuple(
        Rate(unit_id, draw(PRICE), draw(per), tier, above, draw(costs)) for unit_id, tier, above in sorted(places)
    )
    # Each unit may fall back to one before it, so there are no cycles.
    fallbacks = {
        unit_id: draw(st.sampled_from(UNIT_IDS[:index]))
        for index, unit_id in enumerate(UNIT_IDS)
        if index and draw(st.booleans())
    }
    return RateCard("USD", rates, fallbacks, "EUR", draw(FACTOR))


AMOUNTS = st.dictionaries(st.sampled_from(UNIT_IDS), WHOLE.map(lambda whole: whole * 1_000), max_size=5)
SECONDS = st.integers(0, 10**6)


def rate_by_reference(rates: RateCard, unit_id: str, tier: str, context: Fraction) -> Rate | None:
    """The rules of a card, as docs/rates.md says them."""
    for held in (tier, "any"):
        reached = [
            rate
            for rate in rates.rates
            if (rate.unit_id, rate.service_tier) == (unit_id, held) and (rate.above == 0 or context > rate.above)
        ]
        if reached:
            return max(reached, key=lambda rate: rate.above)
    if unit_id in rates.fallbacks:
        return rate_by_reference(rates, rates.fallbacks[unit_id], tier, context)
    return None


def by_reference(rates: RateCard, used: Mapping[str, int], tier: str) -> tuple[Fraction, Fraction | None] | str:
    """Return the exact cost and provider cost, or the first unit without a rate."""
    context = sum((Fraction(used.get(unit_id, 0), 1_000) for unit_id in IN_CONTEXT), Fraction(0))
    amount, provider_cost = Fraction(0), Fraction(0)
    known = True
    for unit_id, thousandths in used.items():
        if thousandths == 0:
            continue
        rate = rate_by_reference(rates, unit_id, tier, context)
        if rate is None:
            return unit_id
        times = Fraction(thousandths, 1_000 * rate.per)
        amount += times * Fraction(rate.price)
        known = known and rate.provider_cost is not None
        provider_cost += times * Fraction(rate.provider_cost or 0)
    return amount * Fraction(rates.factor), provider_cost if known else None


@given(rate_cards(), AMOUNTS, SECONDS, st.sampled_from(["standard", "batch", "priority"]))
def test_cost_is_the_exact_sum_rounded_once_half_to_even(
    rates: RateCard, amounts: dict[str, int], seconds: int, tier: str
) -> None:
    used = amounts | {"input_seconds": seconds}
    expected = by_reference(rates, used, tier)

    result = price(rates, used, tier, SEEDED_UNITS)
    amount = amount_nanos(rates, used, tier, SEEDED_UNITS)

    if isinstance(expected, str):
        assert result == amount == Unpriced(expected, tier)
        return
    exact, exact_cost = expected
    assert isinstance(result, Priced)
    assert result.amount_nanos == amount == rounded_nanos(exact)
    assert sum((Fraction(line.amount) for line in result.lines), Fraction(0)) == exact
    assert result.provider_cost_nanos == provider_cost_nanos(rates, used, tier, SEEDED_UNITS)
    assert result.provider_cost_nanos == (None if exact_cost is None else rounded_nanos(exact_cost))
    assert {line.unit_id for line in result.lines} == {unit_id for unit_id, value in used.items() if value}


@given(rate_cards(), st.integers(0, 14), st.integers(0, 3), st.sampled_from(["standard", "batch"]), st.data())
def test_no_usage_within_the_counts_costs_more_than_the_most_they_can_cost(
    rates: RateCard, input_max: int, output_max: int, tier: str, data: st.DataObject
) -> None:
    most = cost_max_nanos(rates, input_max, output_max, tier, SEEDED_UNITS)
    read = data.draw(st.lists(st.sampled_from(IN_CONTEXT), max_size=input_max))
    made = data.draw(st.lists(st.sampled_from(OUT), max_size=output_max))
    used = {unit_id: 1_000 * (read + made).count(unit_id) for unit_id in {*read, *made}}

    amount = amount_nanos(rates, used, tier, SEEDED_UNITS)

    if not isinstance(most, Unpriced) and not isinstance(amount, Unpriced):
        assert amount <= most


@given(rate_cards(), st.integers(0, 14), st.integers(0, 3), st.sampled_from(["standard", "batch"]))
def test_the_most_that_counts_can_cost_is_the_cost_of_a_usage(
    rates: RateCard, input_max: int, output_max: int, tier: str
) -> None:
    most = cost_max_nanos(rates, input_max, output_max, tier, SEEDED_UNITS)
    sides = [unit_id for unit_id, unit in SEEDED_UNITS.items() if unit.kind is Kind.TOKEN]
    read_units = [unit_id for unit_id in sides if SEEDED_UNITS[unit_id].counts_toward_context]
    made_units = [unit_id for unit_id in sides if not SEEDED_UNITS[unit_id].counts_toward_context]
    candidates = [
        amount_nanos(rates, {read_unit: read * 1_000, made_unit: made * 1_000}, tier, SEEDED_UNITS)
        for read in range(input_max + 1)
        for made in {0, output_max}
        for read_unit in read_units
        if read_unit in UNIT_IDS
        for made_unit in made_units
        if made_unit in UNIT_IDS
    ]
    costs = [one for one in candidates if not isinstance(one, Unpriced)]

    assert isinstance(most, Unpriced) or most in costs or most == 0


def test_counts_of_a_side_without_any_rate_have_no_highest_cost() -> None:
    speech = card(each("characters", "0.000015"))

    assert cost_max_nanos(speech, 0, 0, "standard", SEEDED_UNITS) == 0
    assert cost_max_nanos(speech, 1, 0, "standard", SEEDED_UNITS) == Unpriced("input_tokens", "standard")
    assert cost_max_nanos(speech, 0, 1, "standard", SEEDED_UNITS) == Unpriced("output_tokens", "standard")


def test_the_most_that_counts_can_cost_includes_what_is_used_besides() -> None:
    rates = card(per_million("input_tokens", "3"), each("requests", "0.005"))
    besides = quantities({"requests": 1})

    assert cost_max_nanos(rates, 1_000, 0, "standard", SEEDED_UNITS, besides) == 8_000_000
    unpriced = cost_max_nanos(rates, 1_000, 0, "standard", SEEDED_UNITS, quantities({"web_searches": 1}))
    assert unpriced == Unpriced("web_searches", "standard")


def test_a_smaller_input_is_held_for_where_it_costs_more() -> None:
    falling = card(per_million("input_tokens", "10"), per_million("input_tokens", "1", above=1_000))

    assert cost_max_nanos(falling, 2_000, 0, "standard", SEEDED_UNITS) == 10_000_000


TIERED = card(
    per_million("input_tokens", "1.25"),
    per_million("input_tokens", "2.5", above=200_000),
    per_million("output_tokens", "10"),
    per_million("output_tokens", "15", above=200_000),
    per_million("cache_read_tokens", "0.125"),
    each("web_searches", "0.01", "any"),
    per_million("input_tokens", "0.5", "batch"),
    fallbacks={"cache_write_tokens": "input_tokens", "cache_write_30m_tokens": "cache_write_tokens"},
)


def test_the_threshold_itself_is_the_lower_tier_and_the_whole_call_has_one() -> None:
    assert cost(TIERED, {"input_tokens": 200_000, "output_tokens": 1_000}) == Decimal("0.26")
    assert cost(TIERED, {"input_tokens": 200_001, "output_tokens": 1_000}) == Decimal("0.5150025")


def test_what_is_read_from_the_cache_counts_towards_the_context() -> None:
    assert cost(TIERED, {"input_tokens": 10, "cache_read_tokens": 200_000}) == Decimal("0.025025")
    assert cost(TIERED, {"output_tokens": 300_000}) == 3


def test_lines_say_which_rate_holds_and_why() -> None:
    used = {"input_tokens": 1, "cache_write_30m_tokens": 2, "web_searches": 3, "output_tokens": 0}

    lines = priced(TIERED, used).lines

    assert [(line.unit_id, line.quantity, line.amount, line.applied.why) for line in lines] == [
        ("input_tokens", Decimal(1), Decimal("0.00000125"), "own rate"),
        (
            "cache_write_30m_tokens",
            Decimal(2),
            Decimal("0.0000025"),
            "falls back to cache_write_tokens and then input_tokens",
        ),
        ("web_searches", Decimal(3), Decimal("0.03"), "any tier"),
    ]
    assert [line.applied.rate.unit_id for line in lines] == ["input_tokens", "input_tokens", "web_searches"]


def test_a_tier_has_its_own_rates_and_those_of_any_tier_alone() -> None:
    assert cost(TIERED, {"input_tokens": 300_000, "web_searches": 1}, "batch") == Decimal("0.16")
    used = quantities({"web_searches": 1, "output_tokens": 1})
    assert amount_nanos(TIERED, used, "batch", SEEDED_UNITS) == Unpriced("output_tokens", "batch")
    assert amount_nanos(TIERED, quantities({"web_searches": 1}), "made-up", SEEDED_UNITS) == 10_000_000
    assert amount_nanos(TIERED, quantities({"input_tokens": 1}), "made-up", SEEDED_UNITS) == Unpriced(
        "input_tokens", "made-up"
    )


def test_a_rate_of_the_tier_wins_over_one_of_any_tier_whatever_their_thresholds() -> None:
    rates = card(
        per_million("input_tokens", "1", "batch"),
        per_million("input_tokens", "5", "any"),
        per_million("input_tokens", "9", "any", above=10),
    )

    assert cost(rates, {"input_tokens": 100}, "batch") == Decimal("0.0001")
    assert cost(rates, {"input_tokens": 100}, "flex") == Decimal("0.0009")


def test_tiers_that_callers_make_up_are_not_kept() -> None:
    rates = card(per_million("input_tokens", "1"))
    for number in range(100):
        amount_nanos(rates, quantities({"input_tokens": 1}), f"made-up-{number}", SEEDED_UNITS)

    assert len(rates.plans) == 1


def test_a_rate_from_a_threshold_on_leaves_the_fallback_below_it() -> None:
    rates = card(
        per_million("input_tokens", "1"),
        per_million("cache_write_tokens", "5", above=100),
        fallbacks={"cache_write_tokens": "input_tokens"},
    )

    assert cost(rates, {"cache_write_tokens": 100}) == Decimal("0.0001")
    assert cost(rates, {"cache_write_tokens": 101}) == Decimal("0.000505")


def test_a_quantity_without_a_rate_is_unpriced_and_a_quantity_of_zero_is_nothing() -> None:
    rates = card(per_million("input_tokens", "1"))

    assert amount_nanos(rates, quantities({"images": 1, "pages": 2}), "standard", SEEDED_UNITS) == Unpriced(
        "images", "standard"
    )
    assert amount_nanos(rates, quantities({"input_tokens": 1, "images": 0}), "standard", SEEDED_UNITS) == 1_000
    assert provider_cost_nanos(rates, quantities({"images": 1}), "standard", SEEDED_UNITS) is None


def test_a_price_of_zero_is_a_price() -> None:
    assert cost(card(per_million("input_tokens", "0")), {"input_tokens": 10**9}) == 0


@pytest.mark.parametrize(("quantity", "nanos"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_exact_halves_round_to_even(quantity: int, nanos: int) -> None:
    half = card(per_million("input_tokens", "0.0005"))

    assert amount_nanos(half, quantities({"input_tokens": quantity}), "standard", SEEDED_UNITS) == nanos


def test_the_provider_is_paid_in_its_own_currency() -> None:
    rates = RateCard("CREDIT", (Rate("products", Decimal(1), provider_cost=Decimal("0.004")),), {}, "USD")

    result = priced(rates, {"products": 10})

    assert (result.amount_nanos, result.provider_cost_nanos) == (10 * 10**9, 40_000_000)
    assert result.lines[0].provider_cost == Decimal("0.04")


def test_total_and_context_count_each_token_once() -> None:
    used = quantities(
        {"input_tokens": 7, "cache_read_tokens": 5, "reasoning_tokens": 3, "pages": 2, "input_seconds": 9}
    )

    assert total_tokens(used, SEEDED_UNITS) == 15
    assert input_context(used, SEEDED_UNITS) == 12_000


def test_seeded_units_are_whole_where_they_must_be() -> None:
    assert set(TOKEN_CLASS_UNITS.values()) <= set(SEEDED_UNITS)
    for unit_id, unit in SEEDED_UNITS.items():
        assert unit.unit_id == unit_id
        assert unit.description.endswith(".")
        assert (unit.kind is Kind.TOKEN) == unit_id.endswith("_tokens")
        assert unit.kind is Kind.TOKEN or not unit.counts_toward_context
        assert unit.step_thousandths == (1 if unit.kind is Kind.DURATION or unit_id == "credits" else 1_000)


@pytest.mark.parametrize(("units", "expected"), [(0, "0"), (1, "3"), (100, "300"), (101, "101")])
def test_steps_by_volume_have_one_rate_for_all_units_of_a_call(units: int, expected: str) -> None:
    """Acceptance case 7, by volume: 1 to 100 at 3, from 101 at 1."""
    low, high = [
        Rate("input_tokens", Decimal(price), 1, "standard", above, None) for price, above in ((3, 0), (1, 100))
    ]
    steps = card(low, high)
    assert cost(steps, {"input_tokens": units}) == Decimal(expected)
