"""Cards with rates for hours of the day, against a plain reference with fractions."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from services.metering.model.card_json import card_json, card_of_json
from services.metering.model.domain import (
    PriceVersion,
    Rated,
    cost_in_dearest_hours,
    cost_max,
    part_at,
    price_changes,
    prices_of,
    rate,
)
from services.metering.model.hours import ALL_DAY
from services.metering.model.rate_changes import RateChange, rate_changes, same_prices
from services.metering.model.rate_checks import check_rates, with_margin
from services.metering.model.rates import Rate, RateCard, Unpriced
from services.metering.model.units import SEEDED_UNITS
from tests.metering.rate_cards import card, in_hours, per_million, quantities, rounded_nanos
from tests.metering.test_hours import (
    CARD,
    IN,
    MOMENTS,
    NIGHT,
    NOW,
    OFF,
    OUT_RATE,
    UNHURRIED,
    hours,
    reference,
    schedule,
    schedules,
)
from tests.metering.test_rates import IN_CONTEXT, PRICE, UNIT_IDS

PLACES: Final = st.tuples(
    st.sampled_from(UNIT_IDS), st.sampled_from(["standard", "batch", "any"]), st.sampled_from([0, 3])
)
RATES: Final = st.tuples(PRICE, st.sampled_from([1, 1_000, 1_000_000]), st.none() | PRICE)


@st.composite
def cards(draw: st.DrawFn) -> RateCard:
    """Cards with rates for hours beside those for all day, each for a unit and tier that has one for all day."""
    usual = draw(st.dictionaries(PLACES, RATES, min_size=1, max_size=8))
    rates = [
        Rate(unit_id, price, per, tier, above, provider_cost)
        for (unit_id, tier, above), (price, per, provider_cost) in sorted(usual.items())
    ]
    times = draw(schedules())
    for one in times.hours:
        likes = draw(st.lists(st.sampled_from(sorted(usual)), min_size=1, max_size=3))
        for unit_id, tier, above in sorted({(*one[:2], one[2] + draw(st.sampled_from([0, 0, 7]))) for one in likes}):
            price, per, provider_cost = draw(RATES)
            rates.append(Rate(unit_id, price, per, tier, above, provider_cost, one.name))
    fallbacks = draw(st.sampled_from([{}, {"reasoning_tokens": "output_tokens", "cache_read_tokens": "input_tokens"}]))
    factor = draw(st.sampled_from([Decimal(1), Decimal("1.25")]))
    made = RateCard("USD", tuple(rates), fallbacks, "EUR", factor, times)
    assert check_rates(made, SEEDED_UNITS) == []
    return made


def rate_by_reference(rates: RateCard, unit_id: str, tier: str, context: Fraction, name: str) -> Rate | None:
    """The rules of a card with hours, as docs/rates.md says them."""
    for held in (tier, "any"):
        for of in (name, ALL_DAY):
            reached = [
                one
                for one in rates.rates
                if (one.unit_id, one.service_tier, one.hours) == (unit_id, held, of)
                and (one.above == 0 or context > one.above)
            ]
            if reached:
                return max(reached, key=lambda one: one.above)
    if unit_id in rates.fallbacks:
        return rate_by_reference(rates, rates.fallbacks[unit_id], tier, context, name)
    return None


def by_reference(
    rates: RateCard, used: dict[str, int], tier: str, moment: datetime
) -> tuple[Fraction, Fraction | None] | str:
    """Return the exact cost and provider cost at a moment, or the first unit without a rate."""
    assert rates.schedule is not None
    name = reference(rates.schedule, moment)
    context = sum((Fraction(used.get(unit_id, 0), 1_000) for unit_id in IN_CONTEXT), Fraction(0))
    amount, provider_cost, known = Fraction(0), Fraction(0), True
    for unit_id, thousandths in used.items():
        if thousandths:
            found = rate_by_reference(rates, unit_id, tier, context, name)
            if found is None:
                return unit_id
            times = Fraction(thousandths, 1_000 * found.per)
            amount += times * Fraction(found.price)
            known = known and found.provider_cost is not None
            provider_cost += times * Fraction(found.provider_cost or 0)
    return amount * Fraction(rates.factor), provider_cost if known else None


def version_of(rates: RateCard) -> PriceVersion:
    return PriceVersion("v", "m", None, rates, NOW, NOW, "SetPrice")


WHOLE = st.integers(0, 12) | st.integers(0, 10**9)
AMOUNTS = st.dictionaries(st.sampled_from(UNIT_IDS), WHOLE.map(lambda whole: whole * 1_000), max_size=5)
TIERS = st.sampled_from(["standard", "batch", "priority"])


@UNHURRIED
@given(cards(), AMOUNTS, TIERS, MOMENTS)
def test_usage_costs_what_the_rates_of_its_hours_say(
    rates: RateCard, used: dict[str, int], tier: str, moment: datetime
) -> None:
    expected = by_reference(rates, used, tier, moment)

    found = rate(version_of(rates), (0,) * 8, used, tier, SEEDED_UNITS, moment)

    if isinstance(expected, str):
        assert found == Unpriced(expected, tier)
        return
    exact, exact_cost = expected
    assert rates.schedule is not None
    cost_nanos = None if exact_cost is None else rounded_nanos(exact_cost)
    assert found == Rated(rounded_nanos(exact), cost_nanos, reference(rates.schedule, moment))


@UNHURRIED
@given(cards(), st.tuples(*[st.integers(0, 14)] * 8), st.sampled_from(["standard", "batch"]), MOMENTS)
def test_no_usage_within_what_is_authorized_costs_more_whenever_it_occurs(
    rates: RateCard, tokens: tuple[int, ...], tier: str, moment: datetime
) -> None:
    version = version_of(rates)
    found = rate(version, tokens, {}, tier, SEEDED_UNITS, moment)
    inputs = tokens[0] + tokens[2] + tokens[3] + tokens[5] + tokens[7]
    held = cost_max(version, inputs, sum(tokens) - inputs, tier, SEEDED_UNITS, {})
    estimated = cost_in_dearest_hours(version, tokens, {}, tier, SEEDED_UNITS)

    assert isinstance(found, Unpriced) == isinstance(estimated, Unpriced)
    if isinstance(found, Rated) and isinstance(estimated, int):
        assert isinstance(held, Unpriced) or found.amount_nanos <= held
        assert found.amount_nanos <= estimated
    if isinstance(estimated, int) and rates.schedule is not None:
        costs = [rate(part, tokens, {}, tier, SEEDED_UNITS, moment) for part in version.parts.values()]
        assert estimated in [one.amount_nanos for one in costs if isinstance(one, Rated)]


@UNHURRIED
@given(cards())
def test_a_card_with_hours_is_stored_and_read_again_unchanged(rates: RateCard) -> None:
    stored = json.loads(json.dumps(card_json(rates)))

    assert same_prices(card_of_json("USD", stored), rates)
    assert card_of_json("USD", card_json(card_of_json("USD", stored))) == card_of_json("USD", stored)
    # What a version that knows no hours takes for the card are its rates for all day.
    usual = card_of_json("USD", {name: value for name, value in stored.items() if name != "schedule"})  # type: ignore[arg-type]
    assert usual == replace(rates, rates=tuple(one for one in rates.rates if one.hours == ALL_DAY), schedule=None)


def test_a_card_without_hours_is_stored_as_it_always_was() -> None:
    assert card_json(card(IN, currency="EUR")) == {
        "rates": [{"unit": "input_tokens", "price": "3", "per": 1_000_000, "provider_cost": "3"}],
        "fallbacks": {},
        "provider_currency_code": "EUR",
    }


TOKENS: Final = (1_000_000, 1_000_000, 0, 0, 0, 0, 0, 0)


def test_tokens_of_a_card_with_hours_are_priced_the_quick_way_in_each_of_them() -> None:
    whole = replace(CARD, fallbacks={"cache_read_tokens": "input_tokens"} | dict.fromkeys(
        ("cache_write_tokens", "audio_input_tokens", "image_input_tokens"), "input_tokens"
    ) | dict.fromkeys(("reasoning_tokens", "audio_output_tokens"), "output_tokens"))  # fmt: skip
    version = version_of(whole)

    night, day = (datetime(2026, 11, 26, hour, tzinfo=UTC) for hour in (21, 12))
    assert rate(version, TOKENS, {}, "standard", SEEDED_UNITS, night) == Rated(10 * 10**9, 10 * 10**9, "night")
    assert rate(version, TOKENS, {}, "standard", SEEDED_UNITS, day) == Rated(12 * 10**9, 12 * 10**9, ALL_DAY)
    assert version.plain is None
    assert all(part.plain is not None for part in version.parts.values())
    assert prices_of(whole) is None


def test_a_rate_for_hours_holds_whatever_the_thresholds_of_those_for_all_day() -> None:
    version = version_of(card(IN, per_million("input_tokens", "6", above=10), OFF, schedule=NIGHT))
    found = part_at(version, datetime(2026, 11, 26, 23, tzinfo=UTC))
    assert found is not None
    assert cost_max(found[1], 1_000_000, 0, "standard", SEEDED_UNITS, {}) == 10**9
    assert cost_max(version, 1_000_000, 0, "standard", SEEDED_UNITS, {}) == 6 * 10**9


def test_a_rate_of_the_tier_for_all_day_goes_before_one_of_any_tier_for_hours() -> None:
    version = version_of(
        card(
            per_million("input_tokens", "2", "batch"),
            per_million("input_tokens", "5", "any"),
            in_hours(per_million("input_tokens", "1", "any"), "night"),
            schedule=NIGHT,
        )
    )
    night = datetime(2026, 11, 26, 23, tzinfo=UTC)
    used = quantities({"input_tokens": 1_000_000})
    costs = [rate(version, (0,) * 8, used, tier, SEEDED_UNITS, night) for tier in ("batch", "flex")]
    assert costs == [Rated(nanos * 10**9, nanos * 10**9, "night") for nanos in (2, 1)]


def test_a_margin_is_put_on_the_costs_of_all_hours() -> None:
    made = with_margin(CARD, Decimal("1.5"))

    assert (made.schedule, [one.hours for one in made.rates]) == (NIGHT, [ALL_DAY, ALL_DAY, "night"])
    night = rate(version_of(made), TOKENS, {}, "standard", SEEDED_UNITS, datetime(2026, 11, 26, 23, tzinfo=UTC))
    assert night == Rated(15 * 10**9, 10 * 10**9, "night")


def test_usage_waits_for_a_price_where_the_time_zone_is_not_known() -> None:
    """A process with older time zone data than that which set the price."""
    version = version_of(replace(CARD, schedule=schedule("Mars/Olympus", *NIGHT.hours)))

    assert rate(version, TOKENS, {}, "standard", SEEDED_UNITS, NOW) == Unpriced("input_tokens", "standard")
    # What is held does not rest on the hour.
    assert cost_max(version, 1_000_000, 0, "standard", SEEDED_UNITS, {}) == 3 * 10**9


def test_changes_name_the_hours_of_rates_and_hours_whose_times_change() -> None:
    later = replace(
        CARD,
        rates=(IN, OUT_RATE, replace(OFF, price=Decimal(2))),
        schedule=schedule(
            "Asia/Tokyo", hours("night", ("22:00", "06:00", (1, 2, 3, 4, 5, 7)), ("07:00", "08:00", (6,)))
        ),
    )

    assert rate_changes(CARD, later) == [
        RateChange("input_tokens", "standard", 0, "night", "1/1000000, cost 1", "2/1000000, cost 1"),
        RateChange("", "", 0, "night", "22:00-06:00 Europe/Berlin",
                   "mon-fri/sun 22:00-06:00, sat 07:00-08:00 Asia/Tokyo"),
    ]  # fmt: skip
    assert len(rate_changes(None, CARD)) == 4
    assert not same_prices(CARD, replace(CARD, schedule=later.schedule))
    turned = schedule("UTC", hours("night", ("01:00", "02:00"), ("03:00", "04:00")))
    other = schedule("UTC", hours("night", ("03:00", "04:00"), ("01:00", "02:00")))
    assert same_prices(replace(CARD, schedule=turned), replace(CARD, schedule=other))
    names = {change.field: change.after for change in price_changes(version_of(CARD))}
    assert names["rates.input_tokens/standard/0/night"] == "1/1000000"
    assert names["hours.night"] == "22:00-06:00 Europe/Berlin"
