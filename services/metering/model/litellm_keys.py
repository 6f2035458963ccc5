"""Every price key of LiteLLM's public price map, and what becomes of it.

A key is a base, then perhaps a threshold (`_above_200k_tokens`), then perhaps a service tier (`_batches`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from services.metering.model.hours import ALL_DAY
from services.metering.model.rates import ANY_TIER, STANDARD_TIER

NAMES_A_PRICE: Final = re.compile(r"cost|price|pricing")

TIERED_PRICING: Final = "tiered_pricing"
SEARCHES: Final = "search_context_cost_per_query"
OFF_PEAK: Final = "off_peak_pricing"
ALIAS_OF: Final = "alias_of"

CONTAINER_ENTRY: Final = "{provider}/container"
CONTAINER_PRICE: Final = "code_interpreter_cost_per_session"
CONTAINER_MODES: Final = frozenset({"chat", "responses"})
"""The map has the price of a provider's code sessions once, in an entry of its own. It holds for each model of the
provider that can be talked to, as LiteLLM charges it."""

UNITS_OF_BASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_cost_per_token": "input_tokens",
        "output_cost_per_token": "output_tokens",
        "output_cost_per_reasoning_token": "reasoning_tokens",
        "citation_cost_per_token": "citation_tokens",
        "cache_read_input_token_cost": "cache_read_tokens",
        "input_cost_per_token_cache_hit": "cache_read_tokens",
        "explicit_cache_read_input_token_cost": "cache_read_explicit_tokens",
        "cache_creation_input_token_cost": "cache_write_tokens",
        "cache_creation_input_token_cost_above_1hr": "cache_write_1h_tokens",
        "cache_creation_input_token_cost_above_12hr": "cache_write_12h_tokens",
        "input_cost_per_audio_token": "audio_input_tokens",
        "output_cost_per_audio_token": "audio_output_tokens",
        "cache_read_input_audio_token_cost": "cache_read_audio_tokens",
        "cache_creation_input_audio_token_cost": "cache_write_audio_tokens",
        "input_cost_per_image_token": "image_input_tokens",
        "output_cost_per_image_token": "image_output_tokens",
        "cache_read_input_image_token_cost": "cache_read_image_tokens",
        "input_cost_per_video_token": "video_input_tokens",
        "output_cost_per_video_token": "video_output_tokens",
        "input_cost_per_character": "characters",
        "output_cost_per_character": "output_characters",
        "input_cost_per_second": "input_seconds",
        "cost_per_second": "input_seconds",
        "input_cost_per_audio_per_second": "input_seconds",
        "input_cost_per_video_per_second": "input_video_seconds",
        "output_cost_per_second": "output_seconds",
        "output_cost_per_video_per_second": "output_seconds",
        "output_cost_per_second_480p": "output_seconds_480p",
        "output_cost_per_second_720p": "output_seconds_720p",
        "output_cost_per_second_768p": "output_seconds_768p",
        "output_cost_per_second_1080p": "output_seconds_1080p",
        "output_cost_per_second_2k": "output_seconds_2k",
        "output_cost_per_second_4k": "output_seconds_4k",
        "input_cost_per_image": "input_images",
        "output_cost_per_image": "images",
        "output_cost_per_image_0.5K": "images_0_5k",
        "output_cost_per_image_512": "images_0_5k",
        "output_cost_per_image_1K": "images_1k",
        "output_cost_per_image_1024": "images_1k",
        "output_cost_per_image_1536": "images_1_5k",
        "output_cost_per_image_2K": "images_2k",
        "output_cost_per_image_4K": "images_4k",
        "input_cost_per_pixel": "input_pixels",
        "output_cost_per_pixel": "pixels",
        "ocr_cost_per_page": "pages",
        "annotation_cost_per_page": "annotation_pages",
        "ocr_cost_per_credit": "credits",
        "input_cost_per_query": "queries",
        "input_cost_per_request": "requests",
        "input_cost_per_text_message": "text_messages",
        "google_maps_grounding_cost_per_query": "map_searches",
        CONTAINER_PRICE: "code_sessions",
    }
)

SEARCH_UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "search_context_size_low": "web_searches_low",
        "search_context_size_medium": "web_searches_medium",
        "search_context_size_high": "web_searches_high",
    }
)
"""The prices within SEARCHES. Where all are the same they are one rate for `web_searches`."""

TIERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "batches": "batch",
        "flex": "flex",
        "priority": "priority",
        "ultrafast": "ultrafast",
        "decisions": "decisions",
        "balanced": "balanced",
    }
)

TOOL_UNITS: Final = frozenset({"web_searches", *SEARCH_UNITS.values(), "map_searches", "code_sessions"})
"""What a model's tools do costs the same in every service tier."""

MADE_BY_IMAGE_MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {"input_cost_per_image": "images", "input_cost_per_pixel": "pixels"}
)
"""The map has these keys for what a model of the mode `image_generation` makes, where nothing it makes has a price."""

NOT_SUPPORTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "guardrail_cost_per_unit": "is for units of the provider's own, which the catalogue does not have",
        "input_cost_per_video_per_second_above_8s_interval": "depends on how often the video is looked at",
        "input_cost_per_video_per_second_above_15s_interval": "depends on how often the video is looked at",
    }
)

RESTATED: Final[Mapping[str, str]] = MappingProxyType(
    {"input_dbu_cost_per_token": "input_cost_per_token", "output_dbu_cost_per_token": "output_cost_per_token"}
)
"""Prices in Databricks units, a unit of money; the entry has the same price in USD under the other key."""

CONDITIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fedramp_uplift_multiplier": "multiplies the prices of calls to FedRAMP endpoints",
        "regional_endpoint_uplift_multiplier": "multiplies the prices of calls to regional endpoints",
        "regional_processing_uplift_multiplier_eu": "multiplies the prices of calls that are processed in the EU",
        "regional_processing_uplift_multiplier_us": "multiplies the prices of calls that are processed in the US",
        "search_free_requests": "makes a number of searches free",
        "provider_specific_entry.us": "multiplies the prices of calls that are processed in the US",
        "provider_specific_entry.fast": "multiplies the prices of calls in fast mode",
        "provider_specific_entry.minimax_free_input_images": "makes a number of input images free",
    }
)
"""Keys that are no prices, but change what some calls cost. The listed prices hold for all other calls."""

FALLBACKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cache_read_tokens": "input_tokens",
        "cache_read_explicit_tokens": "cache_read_tokens",
        "cache_write_tokens": "input_tokens",
        "cache_write_30m_tokens": "cache_write_tokens",
        "reasoning_tokens": "output_tokens",
        "audio_input_tokens": "input_tokens",
        "audio_output_tokens": "output_tokens",
        "cache_read_audio_tokens": "audio_input_tokens",
        "cache_write_audio_tokens": "audio_input_tokens",
        "image_input_tokens": "input_tokens",
        "cache_read_image_tokens": "cache_read_tokens",
        "video_input_tokens": "input_tokens",
        "cache_read_video_tokens": "cache_read_tokens",
        "document_tokens": "input_tokens",
        "cache_read_document_tokens": "cache_read_tokens",
        "tool_use_prompt_tokens": "input_tokens",
        "input_seconds": "input_video_seconds",
    }
)
"""What units without a rate are priced as. A card has those that lead to a unit with a rate."""

SIZED_UNITS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "web_searches": tuple(SEARCH_UNITS.values()),
        "images": ("images_0_5k", "images_1k", "images_1_5k", "images_2k", "images_4k"),
        "output_seconds": tuple(f"output_seconds_{size}" for size in ("480p", "720p", "768p", "1080p", "2k", "4k")),
    }
)
"""A unit, and those that tell its sizes apart. In cards without sizes they fall back to it."""

_KEY: Final = re.compile(
    rf"(?P<base>.+?)(?:_above_(?P<thousands>[1-9][0-9]{{0,5}})k_tokens)?(?:_(?P<tier>{'|'.join(TIERS)}))?"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a price belongs in a card."""

    unit_id: str
    service_tier: str
    above: int
    hours: str = ALL_DAY


def place_of(key: str, made: Mapping[str, str], above: int = 0, hours: str = ALL_DAY) -> Place | None:
    """Return where the price of a key belongs; None where the key is not known.

    `made` are the units of bases that have another one in this entry, `above` and `hours` those of the list it is in.
    """
    parts = _KEY.fullmatch(key)
    if parts is None or (above and parts["thousands"]):
        return None
    unit_id = made.get(parts["base"]) or UNITS_OF_BASES.get(parts["base"])
    if unit_id is None:
        return None
    tier = TIERS[parts["tier"]] if parts["tier"] else ANY_TIER if unit_id in TOOL_UNITS else STANDARD_TIER
    return Place(unit_id, tier, int(parts["thousands"]) * 1_000 if parts["thousands"] else above, hours)
