from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import libs.cli.traces
from libs.common.errors import InvalidArgument
from services.metering.model.domain import (
    Prices,
    PriceVersion,
    Rated,
    all_quantities,
    card_of,
    format_nanos,
    prices_of,
    rate,
)
from services.metering.model.price_list import ListedModel, SkippedEntry, read_litellm, read_yaml
from services.metering.model.rates import Rate, amount_nanos
from services.metering.model.units import SEEDED_UNITS
from services.metering.tables import TOKEN_CLASSES

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NO_TOKENS = (0,) * len(TOKEN_CLASSES)
PRICE = st.decimals(min_value=0, max_value=10**6, places=9, allow_nan=False)


def version(*by_class: Decimal | None, per_request: Decimal | None = None) -> PriceVersion:
    filled = (*by_class, *(None,) * (len(TOKEN_CLASSES) - len(by_class)))
    return PriceVersion("v", "m", None, card_of(Prices("USD", filled, per_request)), NOW, NOW, "SetPrice")


def cost_nanos(priced: PriceVersion, tokens: tuple[int, ...]) -> int:
    rated = rate(priced, tokens, {}, "standard", SEEDED_UNITS, NOW)
    assert isinstance(rated, Rated)
    return rated.amount_nanos


@given(
    st.tuples(PRICE, PRICE, *[st.none() | PRICE] * 6),
    st.tuples(*[st.integers(0, 10**9)] * 8),
    st.none() | PRICE,
)
def test_cost_is_the_exact_sum_rounded_once_half_to_even(
    by_class: tuple[Decimal | None, ...], tokens: tuple[int, ...], per_request: Decimal | None
) -> None:
    priced = version(*by_class, per_request=per_request)
    prices_in, prices_out = by_class[0] or Decimal(0), by_class[1] or Decimal(0)
    filled = [
        (prices_out if name in ("reasoning", "audio_output") else prices_in) if price is None else price
        for name, price in zip(TOKEN_CLASSES, by_class, strict=True)
    ]
    exact = sum((count * price for count, price in zip(tokens, filled, strict=True)), Decimal(0))
    expected = (exact.scaleb(-6) + (per_request or 0)).quantize(Decimal("1E-9"), ROUND_HALF_EVEN)

    assert Decimal(format_nanos(cost_nanos(priced, tokens))) == expected
    # The quick way gives the same as the card.
    assert priced.plain is not None
    used = all_quantities(priced.card, tokens, {})
    assert amount_nanos(priced.card, used, "standard", SEEDED_UNITS) == cost_nanos(priced, tokens)


def test_exact_halves_round_to_even() -> None:
    half = version(Decimal("0.0005"), Decimal(0))

    assert [cost_nanos(half, (count, *NO_TOKENS[1:])) for count in (1, 3, 5)] == [0, 2, 2]


def test_classes_without_a_price_fall_back() -> None:
    priced = version(Decimal(1), Decimal(2))

    assert priced.plain is not None
    assert [weight // 10**9 for weight in priced.plain.weights] == [1, 2, 1, 1, 2, 1, 2, 1]


@given(st.tuples(PRICE, PRICE, *[st.none() | PRICE] * 6), st.none() | PRICE)
def test_card_of_prices_says_the_same_prices_again(
    by_class: tuple[Decimal | None, ...], per_request: Decimal | None
) -> None:
    prices = Prices("USD", by_class, per_request)
    assert prices_of(card_of(prices)) == prices


LITELLM = b"""{
 "sample_spec": {"input_cost_per_token": 0.0},
 "gpt-4o": {"input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-06,
  "max_input_tokens": 128000, "max_output_tokens": 16384, "litellm_provider": "openai", "mode": "chat",
  "supports_vision": true, "supports_audio_input": false},
 "tiny": {"input_cost_per_token": 1e-15, "output_cost_per_token": 1.1e-07, "mode": "chat"},
 "too-fine": {"input_cost_per_token": 1e-16, "output_cost_per_token": 0, "mode": "chat"},
 "text-embedding-3-small": {"input_cost_per_token": 2e-08, "mode": "embedding"},
 "dall-e-3": {"output_cost_per_image": 0.04, "mode": "image_generation"},
 "chat-without-output": {"input_cost_per_token": 1e-06, "mode": "chat"},
 "negative": {"input_cost_per_token": -1e-06, "output_cost_per_token": 0},
 "1024 x 1024": {"input_cost_per_token": 1e-06, "output_cost_per_token": 0},
 "text-price": {"input_cost_per_token": "abc", "output_cost_per_token": 0}
}"""


def per_million(entry: ListedModel | SkippedEntry) -> dict[str, Decimal]:
    """The prices of an entry, whose rates are all per million in the standard tier."""
    assert isinstance(entry, ListedModel), entry
    assert {(rate.per, rate.service_tier, rate.above) for rate in entry.card.rates} == {(10**6, "standard", 0)}
    assert all(rate.provider_cost == rate.price for rate in entry.card.rates)
    return {rate.unit_id: rate.price for rate in entry.card.rates}


def test_litellm_prices_are_read_exactly_and_the_rest_is_skipped_with_a_reason() -> None:
    entries = {entry.model_id: entry for entry in read_litellm(LITELLM)}

    gpt, image = entries["gpt-4o"], entries["dall-e-3"]
    assert isinstance(gpt, ListedModel)
    assert isinstance(image, ListedModel)
    assert per_million(gpt) == {
        "input_tokens": Decimal("2.5"),
        "output_tokens": Decimal(10),
        "cache_read_tokens": Decimal("1.25"),
    }
    assert (gpt.provider, gpt.capabilities, gpt.context_length) == ("openai", ("vision",), 128000)
    assert per_million(entries["tiny"]) == {"input_tokens": Decimal("1E-9"), "output_tokens": Decimal("0.11")}
    assert per_million(entries["text-embedding-3-small"]) == {"input_tokens": Decimal("0.02")}
    assert per_million(entries["chat-without-output"]) == {"input_tokens": Decimal(1)}
    assert image.card.rates == (Rate("images", Decimal("0.04"), provider_cost=Decimal("0.04")),)
    skipped = {name for name, entry in entries.items() if isinstance(entry, SkippedEntry) and entry.reason}
    assert skipped == {"sample_spec", "too-fine", "negative", "1024 x 1024", "text-price"}


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_price_map_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read_litellm(document)


@pytest.mark.parametrize("document", [b"", b"- a", b"models: 3", b"a: [", b"!!python/object:os.system {}"])
def test_what_is_no_yaml_list_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read_yaml(document)


def test_yaml_numbers_never_become_floats() -> None:
    (entry,) = read_yaml(
        b"models: [{model_id: m, currency_code: CREDIT, prices: {input: 0.1, output: 1, image: '0.000000003'}}]"
    )

    assert isinstance(entry, ListedModel)
    assert prices_of(entry.card) == Prices(
        "CREDIT", (Decimal("0.1"), Decimal(1), *(None,) * 5, Decimal("3E-9")), per_request=None
    )


def test_every_model_of_the_shipped_catalogue_can_be_imported() -> None:
    document = (Path(libs.cli.traces.__file__).parent / "data" / "models.yaml").read_bytes()

    entries = read_yaml(document)

    assert len(entries) > 5
    assert [entry for entry in entries if isinstance(entry, SkippedEntry)] == []
