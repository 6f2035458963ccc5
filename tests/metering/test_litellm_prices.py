"""LiteLLM's price map as rate cards: no price key is lost, and calls cost what their entries say.

Where the public map is at hand, its entries are walked beside those that are made here.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from libs.cli.installation.environment import repository
from services.metering.model.document import Value
from services.metering.model.json_document import json_entries
from services.metering.model.litellm_keys import FALLBACKS, SIZED_UNITS
from services.metering.model.litellm_prices import ListedPrices, read_price_map, read_prices
from services.metering.model.rate_checks import check_rates
from services.metering.model.rates import Rate, RateCard, Unpriced, amount_nanos
from services.metering.model.units import SEEDED_UNITS, Kind
from tests.metering.rate_cards import cost, priced, quantities

DATA: Final = repository().parent / "shared" / "data"
PUBLIC_PRICE_MAP: Final = DATA / "litellm_model_prices.json"
GOLDEN_COSTS: Final = DATA / "golden_costs.json"
NOT_A_MODEL: Final = "sample_spec"

Entry = dict[str, Value]

MADE: Final = b"""{
 "text": {"input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 1.25e-07,
  "input_cost_per_token_above_200k_tokens": 2.5e-06, "output_cost_per_token_above_200k_tokens": 1.5e-05,
  "input_cost_per_token_batches": 6.25e-07, "output_cost_per_token_batches": 5e-06,
  "input_cost_per_token_above_200k_tokens_priority": 4.5e-06, "input_cost_per_token_ultrafast": 0.00006,
  "cache_creation_input_token_cost_above_1hr": 6e-06, "cache_creation_input_token_cost_above_12hr_flex": 9e-06,
  "search_context_cost_per_query": {"search_context_size_low": 0.035, "search_context_size_medium": 0.035,
  "search_context_size_high": 0.035}, "google_maps_grounding_cost_per_query": 0.025, "mode": "chat"},
 "searches-by-size": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "search_context_cost_per_query":
  {"search_context_size_low": 0.005, "search_context_size_medium": 0.008, "search_context_size_high": 0.012}},
 "ranges": {"tiered_pricing": [{"range": [0, 32000.0], "input_cost_per_token": 1.2e-06, "output_cost_per_token": 6e-06},
  {"range": [32000.0, 128000], "input_cost_per_token": 2.4e-06, "output_cost_per_token": 1.2e-05}]},
 "ranges-twice": {"input_cost_per_token": 2e-06, "tiered_pricing": [{"range": [0, 200000],
  "input_cost_per_token": 2e-06}, {"range": [200000, 500000], "input_cost_per_token": 4e-06}]},
 "databricks": {"input_cost_per_token": 1.0003e-07, "input_dbu_cost_per_token": 1.429e-06, "mode": "embedding"},
 "cache-hit": {"input_cost_per_token": 2.8e-07, "output_cost_per_token": 4.2e-07,
  "cache_read_input_token_cost": 2.8e-08, "input_cost_per_token_cache_hit": 2.8e-08},
 "image": {"input_cost_per_image": 0.167, "input_cost_per_pixel": 1.59263611e-07, "output_cost_per_pixel": 0.0,
  "mode": "image_generation"},
 "image-edit": {"input_cost_per_image": 0.06, "output_cost_per_image_1K": 0.04, "output_cost_per_image_2K": 0.06,
  "mode": "image_generation"},
 "video": {"output_cost_per_second": 0.05, "output_cost_per_second_480p": 0.05, "output_cost_per_second_720p": 0.07,
  "input_cost_per_image": 0.002, "mode": "video_generation"},
 "plain-video": {"output_cost_per_video_per_second": 0.1, "mode": "video_generation"},
 "video-reader": {"input_cost_per_video_per_second": 0.00049, "output_cost_per_token": 7.5e-06},
 "speech": {"input_cost_per_second": 0.0001, "output_cost_per_second": 0.0, "mode": "audio_transcription"},
 "rerank": {"input_cost_per_query": 0.002, "mode": "rerank"},
 "ocr": {"ocr_cost_per_page": 0.004, "ocr_cost_per_page_batches": 0.002, "annotation_cost_per_page": 0.005},
 "uplifted": {"input_cost_per_token": 3e-06, "fedramp_uplift_multiplier": 1.1,
  "provider_specific_entry": {"us": 1.1, "fast": 2.0}},
 "alias": {"alias_of": "alias-of-text"}, "alias-of-text": {"alias_of": "text"}, "lost-alias": {"alias_of": "nothing"},
 "circle": {"alias_of": "circle-2"}, "circle-2": {"alias_of": "circle"}, "unpriced": {"mode": "chat"},
 "too-fine": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2.0000000000000002e-07},
 "too-fine-above": {"input_cost_per_token": 1e-06, "input_cost_per_token_above_200k_tokens": 1.0000000000000002e-07,
  "output_cost_per_token": 1e-06, "cache_read_input_token_cost": 1.0000000000000002e-07},
 "too-fine-cache": {"input_cost_per_token": 1e-06, "cache_read_input_token_cost": 1.0000000000000002e-07},
 "unknown": {"input_cost_per_token": 1e-06, "input_cost_per_thought": 1, "image_pricing": {"hd": 2}},
 "negative": {"input_cost_per_token": -1e-06}, "text-price": {"input_cost_per_token": "abc"},
 "huge": {"input_cost_per_token": 1e999999999}, "list-price": {"input_cost_per_token": [1]},
 "contradiction": {"cache_read_input_token_cost": 1e-07, "input_cost_per_token_cache_hit": 2e-07},
 "only-dbu": {"input_dbu_cost_per_token": 1.429e-06},
 "off-peak": {"input_cost_per_token": 3e-07, "off_peak_pricing": {"input_cost_per_token": 1.5e-07}},
 "off-peak-nights": {"input_cost_per_token": 3e-07, "output_cost_per_token": 1e-06,
  "output_cost_per_token_above_128k_tokens": 2e-06, "off_peak_pricing":
  {"hours_utc": "16:30-00:30", "input_cost_per_token": 1.5e-07, "output_cost_per_token": 5e-07}},
 "off-peak-weekends": {"input_cost_per_token": 3e-07, "output_cost_per_token": 1.2e-06, "off_peak_pricing": {
  "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "weekday_timezone": "Asia/Shanghai", "windows": [
  {"hours_utc": ["00:00-01:00", "04:00-06:00", "10:00-00:00"], "weekdays": [1, 2, 3, 4, 5]},
  {"hours_utc": "00:00-00:00", "weekdays": [6, 7]}]}}, "off-peak-alias": {"alias_of": "off-peak-weekends"},
 "off-peak-tiers": {"input_cost_per_token": 3e-07, "input_cost_per_token_batches": 2e-07,
  "off_peak_pricing": {"hours_utc": "16:30-00:30", "input_cost_per_token": 1.5e-07}},
 "off-peak-too-fine": {"input_cost_per_token": 3e-07, "output_cost_per_token": 1e-06, "off_peak_pricing":
  {"hours_utc": "16:30-00:30", "input_cost_per_token": 1.0000000000000002e-07, "output_cost_per_token": 5e-07}},
 "off-peak-alone": {"input_cost_per_token": 3e-07, "off_peak_pricing": {"hours_utc": "16:30-00:30",
  "output_cost_per_token": 5e-07}},
 "off-peak-berlin": {"input_cost_per_token": 3e-07, "off_peak_pricing": {"input_cost_per_token": 1e-07,
  "weekday_timezone": "Europe/Berlin", "windows": [{"hours_utc": "00:00-00:00", "weekdays": [6, 7]}]}},
 "off-peak-unknown": {"input_cost_per_token": 3e-07, "off_peak_pricing": {"hours_utc": "16:30-00:30",
  "input_cost_per_token": 1e-07, "season": "winter"}},
 "off-peak-list": {"input_cost_per_token": 3e-07, "off_peak_pricing": []},
 "results": {"tiered_pricing": [{"input_cost_per_query": 0.005, "max_results_range": [0, 25]}]},
 "ranges-with-a-gap": {"input_cost_per_token": 1, "output_cost_per_token": 1, "tiered_pricing": [
  {"range": [0, 10], "input_cost_per_token": 1}, {"range": [11, 20], "input_cost_per_token": 2}]},
 "no-ranges": {"tiered_pricing": [1]},
 "null": {"input_cost_per_token": 1e-06, "output_cost_per_token": null}
}"""


def entries_of(document: bytes) -> dict[str, Entry]:
    return {one.name: one.value for one in json_entries(document) if isinstance(one.value, dict)}


@cache
def listed() -> dict[str, Entry]:
    public = PUBLIC_PRICE_MAP.read_bytes() if PUBLIC_PRICE_MAP.exists() else b"{}"
    return {**entries_of(public), **entries_of(MADE)}


@cache
def read(allow_partial: bool = False) -> dict[str, ListedPrices]:
    return read_price_map(listed().items(), allow_partial=allow_partial)


def card_of(name: str, *, allow_partial: bool = False) -> RateCard:
    found = read(allow_partial)[name].card
    assert found is not None, read(allow_partial)[name].reason
    return found


@dataclass(frozen=True)
class Leaf:
    """One price in an entry: where it stands, its key, its number, and the range of the input context it is for."""

    path: str
    key: str
    value: Value
    above: int
    hours: str = ""


def leaves(entry: Entry) -> Iterator[Leaf]:
    """Every price of an entry, found without what the code under test knows."""
    for key, value in entry.items():
        if value is None or not re.search("cost|price|pricing", key):
            continue
        if key == "tiered_pricing" and isinstance(value, list):
            for index, tier in enumerate(value):
                limits = tier.get("range", ["0"]) if isinstance(tier, dict) else None
                if not isinstance(tier, dict) or not isinstance(limits, list):
                    yield Leaf(key, key, value, 0)
                    continue
                for name, one in tier.items():
                    if "cost" in name:
                        yield Leaf(f"{key}[{index}].{name}", name, one, int(float(str(limits[0]))))
        elif key == "search_context_cost_per_query" and isinstance(value, dict):
            for name, one in value.items():
                yield Leaf(f"{key}.{name}", key, one, 0)
        elif key == "off_peak_pricing" and isinstance(value, dict):
            prices = {name: one for name, one in value.items() if "cost" in name}
            yield from (Leaf(f"{key}.{name}", name, one, 0, "off_peak") for name, one in prices.items())
        else:
            yield Leaf(key, key, value, 0)


def is_named(leaf: Leaf, outcome: ListedPrices) -> bool:
    keys = {remark.key for remark in (*outcome.left_out, *outcome.notes)}
    return bool({leaf.path, leaf.path.split(".")[0], leaf.path.split("[")[0]} & keys)


def holds(rate: Rate, leaf: Leaf) -> bool:
    """Whether a rate holds a price exactly, in the tier and from the threshold that its key says."""
    if Fraction(rate.price) / rate.per != Fraction(Decimal(str(leaf.value))) or rate.provider_cost != rate.price:
        return False
    if rate.hours != leaf.hours:
        return False
    unit = SEEDED_UNITS[rate.unit_id]
    thousands = re.search(r"_above_(\d+)k_tokens", leaf.key)
    tier = re.search(r"_(batches|flex|priority|ultrafast|decisions|balanced)$", leaf.key)
    tool = re.search("search_context|google_maps|code_interpreter", leaf.key)
    words = {
        "token": unit.kind is Kind.TOKEN,
        "second": unit.kind is Kind.DURATION,
        "pixel|character": unit.kind is Kind.SIZE,
        "audio.*token": "audio" in rate.unit_id and unit.kind is Kind.TOKEN,
        "image.*token|per_image": "image" in rate.unit_id,
        "video.*token|^input.*video": "video" in rate.unit_id,
        "cache_read|cache_hit": "cache_read" in rate.unit_id,
        "cache_creation": "cache_write" in rate.unit_id,
        "above_1hr": "1h" in rate.unit_id,
        "above_12hr": "12h" in rate.unit_id,
        "reasoning": "reasoning" in rate.unit_id,
        "search_context": "web_searches" in rate.unit_id,
        "page": "pages" in rate.unit_id,
        "480p": "480p" in rate.unit_id,
        "1080p": "1080p" in rate.unit_id,
    }
    key = re.sub(r"_above_\d+k_tokens", "", leaf.key)
    about_the_same = all(said == bool(re.search(word, key)) for word, said in words.items() if word != "cache_creation")
    about_the_same &= ("cache_creation" in key) == ("cache_write" in rate.unit_id)
    if re.match("input_cost_per_token|cache_", key):
        about_the_same &= unit.counts_toward_context
    if re.match("output_cost_per_.*token", key):
        about_the_same &= not unit.counts_toward_context
    above = int(thousands[1]) * 1_000 if thousands else leaf.above
    tiers = {"batches": "batch"}
    expected_tier = "any" if tool else tiers.get(tier[1], tier[1]) if tier else "standard"
    return about_the_same and (rate.service_tier, rate.above) == (expected_tier, above)


def test_no_price_key_of_the_map_is_lost_and_no_rate_is_made_up() -> None:
    lost, made_up = [], []
    for allow_partial in (False, True):
        for name, entry in listed().items():
            outcome, prices = read(allow_partial)[name], list(leaves(entry))
            rates = outcome.card.rates if outcome.card else ()
            if prices:
                held = {
                    leaf: [rate for rate in rates if holds(rate, leaf)]
                    for leaf in prices
                    if not is_named(leaf, outcome)
                }
                lost += [(name, leaf.path) for leaf, found in held.items() if not found and outcome.card]
                # What its provider takes for a container stands in an entry of its own.
                lent = list(leaves(listed().get(f"{entry.get('litellm_provider')}/container", {})))
                made_up += [
                    (name, rate)
                    for rate in rates
                    if not any(rate in found for found in held.values()) and not any(holds(rate, leaf) for leaf in lent)
                ]
    assert lost == []
    assert made_up == []


def test_a_skipped_entry_names_every_key_for_which_it_is_skipped() -> None:
    for name, entry in listed().items():
        outcome = read()[name]
        if outcome.card is None:
            assert outcome.reason
            assert outcome.left_out or not any(leaves(entry)) or name == NOT_A_MODEL
            assert all(remark.key in outcome.reason for remark in outcome.left_out)


def test_an_entry_comes_in_whole_or_not_at_all_unless_parts_are_allowed() -> None:
    assert [name for name, one in read().items() if one.card and one.left_out] == []
    partial = {name for name, one in read(allow_partial=True).items() if one.card and one.left_out}
    assert {"too-fine", "unknown", "off-peak", "too-fine-above"} <= partial


def test_every_card_is_valid() -> None:
    for allow_partial in (False, True):
        cards = {name: one.card for name, one in read(allow_partial).items() if one.card}
        assert {name: flaws for name, card in cards.items() if (flaws := check_rates(card, SEEDED_UNITS))} == {}
        assert all(card.currency_code == card.provider_currency_code == "USD" for card in cards.values())


def test_almost_every_entry_of_the_public_map_comes_in_whole() -> None:
    whole = {name for name, one in read().items() if one.card and not one.left_out}

    assert whole.intersection(entries_of(MADE)) == {
        *("text", "alias", "alias-of-text", "searches-by-size", "ranges", "ranges-twice", "databricks", "cache-hit"),
        *(
            "off-peak-nights",
            "off-peak-weekends",
            "off-peak-alias",
            "image",
            "image-edit",
            "video",
            "plain-video",
            "video-reader",
            "speech",
            "rerank",
            "ocr",
            "uplifted",
            "null",
        ),
    }
    if PUBLIC_PRICE_MAP.exists():
        assert len(whole.difference(entries_of(MADE))) >= 4_600
        with_hours = {name for name in whole.difference(entries_of(MADE)) if card_of(name).schedule is not None}
        assert {name for name, entry in listed().items() if "off_peak_pricing" in entry} - {
            *entries_of(MADE)
        } <= with_hours
        assert len(with_hours) >= 10


def golden_cases() -> list[dict[str, object]]:
    made = [
        {"model": "text", "service_tier": "standard", "quantities": {"input_tokens": "300000", "output_tokens": "1000"},
         "rates": {"input_tokens": "0.0000025", "output_tokens": "0.000015"}, "cost": "0.765"},
        {"model": "text", "service_tier": "batch", "quantities": {"input_tokens": "86", "web_searches": "2"},
         "rates": {"input_tokens": "0.000000625", "web_searches": "0.035"}, "cost": "0.07005375"},
        {"model": "image", "service_tier": "standard", "quantities": {"pixels": "1048576"},
         "rates": {"pixels": "0.000000159263611"}, "cost": "0.167000000167936"},
        {"model": "speech", "service_tier": "standard", "quantities": {"input_seconds": "90.5"},
         "rates": {"input_seconds": "0.0001"}, "cost": "0.00905"},
    ]  # fmt: skip
    return made + (json.loads(GOLDEN_COSTS.read_text(encoding="utf-8")) if GOLDEN_COSTS.exists() else [])


def test_calls_of_models_of_the_map_cost_what_was_worked_out_by_hand() -> None:
    for case in golden_cases():
        model, tier = str(case["model"]), str(case["service_tier"])
        used, rates = case["quantities"], case["rates"]
        assert isinstance(used, dict)
        assert isinstance(rates, dict)

        result = priced(card_of(model), used, tier)

        exact = Decimal(str(case["cost"]))
        assert sum(line.amount for line in result.lines) == exact, case
        assert result.amount_nanos == result.provider_cost_nanos == round(exact.scaleb(9)), case
        assert {line.unit_id: line.applied.rate.price / line.applied.rate.per for line in result.lines} == {
            unit_id: Decimal(rate) for unit_id, rate in rates.items()
        }, case


def unpriced_unit(card: RateCard, used: dict[str, str | int], tier: str = "standard") -> str:
    result = amount_nanos(card, quantities(used), tier, SEEDED_UNITS)
    assert isinstance(result, Unpriced)
    return result.unit_id


def test_a_missing_price_is_never_zero() -> None:
    assert cost(card_of("rerank"), {"queries": 3}) == Decimal("0.006")
    assert unpriced_unit(card_of("rerank"), {"input_tokens": 1}) == "input_tokens"
    assert unpriced_unit(card_of("databricks"), {"input_tokens": 1, "output_tokens": 1}) == "output_tokens"
    assert unpriced_unit(card_of("text"), {"cache_write_1h_tokens": 1}, "batch") == "cache_write_1h_tokens"
    assert unpriced_unit(card_of("null"), {"output_tokens": 1}) == "output_tokens"


def test_searches_whose_price_depends_on_their_size_are_units_of_their_own() -> None:
    by_size = card_of("searches-by-size")

    assert cost(by_size, {"web_searches_low": 1, "web_searches_high": 2}) == Decimal("0.029")
    assert unpriced_unit(by_size, {"web_searches": 1}) == "web_searches"
    assert cost(card_of("text"), {"web_searches_high": 1}, "priority") == Decimal("0.035")


def test_resolutions_are_units_of_their_own_and_all_the_same_where_none_has_a_price() -> None:
    assert cost(card_of("video"), {"output_seconds_720p": 10}) == Decimal("0.7")
    assert unpriced_unit(card_of("video"), {"output_seconds_1080p": 1}) == "output_seconds_1080p"
    assert cost(card_of("plain-video"), {"output_seconds_1080p": 10}) == 1
    assert cost(card_of("video-reader"), {"input_seconds": 60}) == Decimal("0.0294")
    assert cost(card_of("image-edit"), {"images_2k": 1, "input_images": 1}) == Decimal("0.12")


def test_what_an_image_model_makes_is_priced_by_the_image_or_the_pixel() -> None:
    assert cost(card_of("image"), {"images": 2}) == Decimal("0.334")
    assert [(note.key, "adds nothing" in note.text) for note in read()["image"].notes] == [
        ("output_cost_per_pixel", True)
    ]


def test_an_alias_has_the_prices_of_the_entry_it_names() -> None:
    assert card_of("alias") == card_of("text")
    assert read()["alias"].notes[:-1] == read()["text"].notes
    assert read()["alias"].notes[-1].key == "alias_of"
    assert read()["lost-alias"].reason == "is an alias of nothing, which is not in the list"
    assert "back to itself" in read()["circle"].reason


def test_keys_that_change_what_some_calls_cost_are_named() -> None:
    assert [note.key for note in read()["uplifted"].notes] == [
        *("fedramp_uplift_multiplier", "provider_specific_entry.us", "provider_specific_entry.fast"),
    ]
    assert unpriced_unit(card_of("uplifted"), {"input_tokens": 1}, "fast") == "input_tokens"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("too-fine", ["output_cost_per_token"]),
        (
            "too-fine-above",
            ["input_cost_per_token", "input_cost_per_token_above_200k_tokens", "cache_read_input_token_cost"],
        ),
        ("unknown", ["input_cost_per_thought", "image_pricing"]),
        ("negative", ["input_cost_per_token"]),
        ("text-price", ["input_cost_per_token"]),
        ("huge", ["input_cost_per_token"]),
        ("list-price", ["input_cost_per_token"]),
        ("contradiction", ["cache_read_input_token_cost", "input_cost_per_token_cache_hit"]),
        ("only-dbu", ["input_dbu_cost_per_token"]),
        ("off-peak", ["off_peak_pricing"]),
        ("off-peak-tiers", ["off_peak_pricing"]),
        ("off-peak-too-fine", ["off_peak_pricing.input_cost_per_token", "off_peak_pricing"]),
        ("off-peak-alone", ["off_peak_pricing.output_cost_per_token"]),
        ("off-peak-berlin", ["off_peak_pricing"]),
        ("off-peak-unknown", ["off_peak_pricing.season", "off_peak_pricing"]),
        ("off-peak-list", ["off_peak_pricing"]),
        ("results", ["tiered_pricing[0].input_cost_per_query"]),
        ("no-ranges", ["tiered_pricing"]),
        (
            "ranges-with-a-gap",
            ["input_cost_per_token", *(f"tiered_pricing[{index}].input_cost_per_token" for index in (0, 1))],
        ),
    ],
)  # fmt: skip
def test_what_is_not_understood_or_too_fine_is_named(name: str, keys: list[str]) -> None:
    assert [remark.key for remark in read()[name].left_out] == keys
    assert read()[name].card is None


def test_a_price_that_is_left_out_leaves_no_other_in_its_place() -> None:
    partial = card_of("too-fine-above", allow_partial=True)

    assert unpriced_unit(partial, {"input_tokens": 1}) == "input_tokens"
    assert unpriced_unit(partial, {"cache_read_tokens": 1}) == "cache_read_tokens"
    cached = card_of("too-fine-cache", allow_partial=True)
    assert unpriced_unit(cached, {"input_tokens": 1, "cache_read_tokens": 1}) == "cache_read_tokens"
    assert cost(partial, {"output_tokens": 1_000}) == Decimal("0.001")
    for name in ("", "-tiers", "-too-fine", "-alone", "-berlin", "-unknown", "-list"):
        usual = card_of(f"off-peak{name}", allow_partial=True)
        assert (usual.schedule, cost(usual, {"input_tokens": 1_000_000})) == (None, Decimal("0.3"))


def test_a_name_that_stands_twice_is_skipped() -> None:
    twice: list[tuple[str, Entry]] = [("a", {"input_cost_per_token": "1"}), ("a", {"input_cost_per_token": "2"})]

    alias: list[tuple[str, Entry]] = [("a", {"alias_of": "b"}), *twice[1:], ("b", {"input_cost_per_token": "1"})]

    for entries in (twice, alias):
        assert read_price_map(entries)["a"] == ListedPrices(None, "stands twice in the list")


def test_an_entry_without_any_price_is_skipped() -> None:
    assert read_prices({"mode": "chat"}).reason == "has no price"
    assert read()["unpriced"].card is None


def test_the_page_of_rate_cards_lists_every_fallback_of_an_imported_card() -> None:
    page = (repository() / "docs" / "rates.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", page, re.MULTILINE))
    sized = {size: unit_id for unit_id, sizes in SIZED_UNITS.items() for size in sizes}

    assert rows == {**FALLBACKS, **sized}


def test_the_data_of_this_test_is_not_part_of_the_repository() -> None:
    assert not Path(DATA).is_relative_to(repository())


def test_units_that_a_tier_prices_as_others_are_named() -> None:
    notes = {note.key: note.text for note in read()["text"].notes}
    assert notes["tier batch"] == "has no price for some units and prices cache_read_tokens as input_tokens"
    assert not any(note.key.startswith("tier") for note in read()["cache-hit"].notes)
