"""Entries of LiteLLM's map with anything in them: each price is a rate, or is named."""

import re
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.metering.model.litellm_prices import read_prices
from services.metering.model.rate_checks import check_rates
from services.metering.model.units import SEEDED_UNITS
from tests.metering.test_litellm_prices import Entry

KEYS = st.sampled_from(
    [
        *("input_cost_per_token", "output_cost_per_token_batches", "input_cost_per_token_above_200k_tokens", "mode"),
        *("tiered_pricing", "search_context_cost_per_query", "off_peak_pricing", "input_cost_per_image", "alias_of"),
        *("input_cost_per_pixel", "output_cost_per_pixel", "input_dbu_cost_per_token", "search_context_size_low"),
        *("range", "input_cost_per_token_above_0k_tokens", "cost_of_living", "output_cost_per_image_4K_flex"),
        *("hours_utc", "windows", "weekdays"),
    ]
)
NUMBERS = st.sampled_from(["0", "1", "01:00-02:00", "1e-06", "2.0000000000000002e-07", "-1", "1e999", "0" * 50, "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES), st.booleans())
def test_whatever_stands_in_an_entry_is_a_rate_or_named(entry: Entry, allow_partial: bool) -> None:
    outcome = read_prices(entry, allow_partial=allow_partial)

    named = [remark.key for remark in (*outcome.left_out, *outcome.notes)]
    keys = {key for key, value in entry.items() if value is not None and re.search("cost|price|pricing", key)}
    if outcome.card is None:
        assert outcome.reason == "has no price" or outcome.left_out
        assert keys <= {key.split(".")[0].split("[")[0] for key in named} or outcome.left_out
        return
    assert check_rates(outcome.card, SEEDED_UNITS) == []
    for key in keys:
        about = [one for one in named if one == key or one.startswith((f"{key}.", f"{key}["))]
        value = entry[key]
        if not about and isinstance(value, str):
            assert any(Fraction(rate.price) / rate.per == Fraction(Decimal(value)) for rate in outcome.card.rates)
        elif not about:
            assert key in {"tiered_pricing", "search_context_cost_per_query", "off_peak_pricing"}
    assert bool(outcome.left_out) <= allow_partial
