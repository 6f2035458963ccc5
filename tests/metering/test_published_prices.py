"""Calls priced by the providers' published list prices, each cost worked out by hand."""

from collections.abc import Mapping
from decimal import Decimal

import pytest

from services.metering.model.rate_checks import check_rates
from services.metering.model.rates import RateCard
from services.metering.model.units import SEEDED_UNITS
from tests.metering.rate_cards import card, cost, each, per_million

TEXT_FALLBACKS = {"cache_read_tokens": "input_tokens", "reasoning_tokens": "output_tokens"}
THOUSAND = 1_000
CARDS: dict[str, RateCard] = {
    "openai gpt-4o": card(
        per_million("input_tokens", "2.5"),
        per_million("cache_read_tokens", "1.25"),
        per_million("output_tokens", "10"),
        per_million("input_tokens", "1.25", "batch"),
        per_million("output_tokens", "5", "batch"),
    ),
    "openai gpt-4.1": card(
        per_million("input_tokens", "2"),
        per_million("output_tokens", "8"),
        each("code_sessions", "0.03", "any"),
    ),
    "openai gpt-5": card(
        per_million("input_tokens", "1.25"),
        per_million("cache_read_tokens", "0.125"),
        per_million("output_tokens", "10"),
        per_million("input_tokens", "0.625", "flex"),
        per_million("cache_read_tokens", "0.0625", "flex"),
        per_million("output_tokens", "5", "flex"),
        per_million("input_tokens", "2.5", "priority"),
        per_million("cache_read_tokens", "0.25", "priority"),
        per_million("output_tokens", "20", "priority"),
        each("web_searches", "10", "any", THOUSAND),
        fallbacks=TEXT_FALLBACKS,
    ),
    "openai o3": card(per_million("input_tokens", "2"), per_million("output_tokens", "8"), fallbacks=TEXT_FALLBACKS),
    "openai gpt-realtime": card(
        per_million("input_tokens", "4"),
        per_million("audio_input_tokens", "32"),
        per_million("cache_read_audio_tokens", "0.4"),
        per_million("output_tokens", "16"),
        per_million("audio_output_tokens", "64"),
    ),
    "openai gpt-image-1": card(
        per_million("input_tokens", "5"),
        per_million("image_input_tokens", "10"),
        per_million("image_output_tokens", "40"),
    ),
    "openai text-embedding-3-large": card(per_million("input_tokens", "0.13")),
    "openai whisper-1": card(each("input_seconds", "0.0001")),
    "openai tts-1-hd": card(per_million("characters", "30")),
    "openai dall-e-3": card(each("images", "0.04")),
    "openai sora-2": card(each("output_seconds", "0.1")),
    "anthropic claude-sonnet-4.5": card(
        per_million("input_tokens", "3"),
        per_million("input_tokens", "6", above=200_000),
        per_million("cache_read_tokens", "0.3"),
        per_million("cache_read_tokens", "0.6", above=200_000),
        per_million("cache_write_tokens", "3.75"),
        per_million("cache_write_tokens", "7.5", above=200_000),
        per_million("cache_write_1h_tokens", "6"),
        per_million("cache_write_1h_tokens", "12", above=200_000),
        per_million("output_tokens", "15"),
        per_million("output_tokens", "22.5", above=200_000),
        per_million("input_tokens", "1.5", "batch"),
        per_million("output_tokens", "7.5", "batch"),
        each("web_searches", "10", "any", THOUSAND),
    ),
    "anthropic claude-opus-4.1": card(per_million("input_tokens", "15"), per_million("output_tokens", "75")),
    "google gemini-2.5-pro": card(
        per_million("input_tokens", "1.25"),
        per_million("input_tokens", "2.5", above=200_000),
        per_million("output_tokens", "10"),
        per_million("output_tokens", "15", above=200_000),
        each("web_searches", "35", "any", THOUSAND),
        fallbacks=TEXT_FALLBACKS,
    ),
    "google gemini-2.5-flash": card(
        per_million("input_tokens", "0.3"),
        per_million("audio_input_tokens", "1"),
        per_million("cache_read_tokens", "0.03"),
        per_million("cache_read_audio_tokens", "0.1"),
        per_million("output_tokens", "2.5"),
        fallbacks={**TEXT_FALLBACKS, "tool_use_prompt_tokens": "input_tokens", "video_input_tokens": "input_tokens"},
    ),
    "google veo-3": card(each("output_seconds", "0.4")),
    "google imagen-4": card(each("images", "0.04")),
    "google gemini-embedding-001": card(per_million("input_tokens", "0.15")),
    "google neural2 voices": card(per_million("characters", "16")),
    "aws nova-pro": card(
        per_million("input_tokens", "0.8"), per_million("cache_read_tokens", "0.2"), per_million("output_tokens", "3.2")
    ),
    "aws transcribe": card(each("input_seconds", "0.0004")),
    "aws polly standard": card(per_million("characters", "4")),
    "aws textract": card(each("pages", "1.5", per=THOUSAND)),
    "aws rekognition": card(each("input_images", "1", per=THOUSAND)),
    "bedrock twelvelabs pegasus": card(each("input_video_seconds", "0.00049"), per_million("output_tokens", "7.5")),
    "mistral large": card(per_million("input_tokens", "2"), per_million("output_tokens", "6")),
    "mistral ocr": card(each("pages", "1", per=THOUSAND), each("annotation_pages", "3", per=THOUSAND)),
    "deepgram aura": card(each("characters", "0.015", per=THOUSAND)),
    "elevenlabs flash": card(each("characters", "0.5"), currency="CREDIT"),
    "cohere rerank-3.5": card(each("queries", "2", per=THOUSAND)),
    "perplexity sonar-deep-research": card(
        per_million("input_tokens", "2"),
        per_million("output_tokens", "8"),
        per_million("citation_tokens", "2"),
        per_million("reasoning_tokens", "3"),
        each("web_searches", "5", "any", THOUSAND),
    ),
    "deepseek-chat": card(
        per_million("input_tokens", "0.28"),
        per_million("cache_read_tokens", "0.028"),
        per_million("output_tokens", "0.42"),
    ),
    "xai grok-4": card(
        per_million("input_tokens", "3"),
        per_million("input_tokens", "6", above=128_000),
        per_million("output_tokens", "15"),
        per_million("output_tokens", "30", above=128_000),
    ),
    "groq llama-3.1-8b": card(per_million("input_tokens", "0.05"), per_million("output_tokens", "0.08")),
    "azure neural voices": card(per_million("characters", "15")),
    "alibaba qwen3-max": card(
        per_million("input_tokens", "1.2"),
        per_million("input_tokens", "2.4", above=32_000),
        per_million("input_tokens", "3", above=128_000),
        per_million("output_tokens", "6"),
        per_million("output_tokens", "12", above=32_000),
        per_million("output_tokens", "15", above=128_000),
    ),
    "deepl": card(per_million("characters", "20"), currency="EUR"),
    "assemblyai": card(each("input_seconds", "0.000075")),
    "stability sd3.5-large": card(each("credits", "0.01")),
    "tavily": card(each("queries", "0.008")),
    "products of a platform": card(each("products", "1"), currency="CREDIT"),
    "tokens of a platform": card(each("input_tokens", "1"), each("output_tokens", "1"), currency="TOKEN"),
}


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_valid(name: str) -> None:
    assert check_rates(CARDS[name], SEEDED_UNITS) == []


CALLS: list[tuple[str, str, Mapping[str, str | int], str]] = [
    # 0.0025 + 0.005
    ("openai gpt-4o", "standard", {"input_tokens": 1_000, "output_tokens": 500}, "0.0075"),
    # 0.000215 + 0.0024 + 0.003
    (
        "openai gpt-4o", "standard",
        {"input_tokens": 86, "cache_read_tokens": 1_920, "output_tokens": 300},
        "0.005615",
    ),
    # 1.25 + 0.5
    ("openai gpt-4o", "batch", {"input_tokens": 1_000_000, "output_tokens": 100_000}, "1.75"),
    # 0.004 + 0.008 + 0.03
    ("openai gpt-4.1", "standard", {"input_tokens": 2_000, "output_tokens": 1_000, "code_sessions": 1}, "0.042"),
    # 0.00125 + 0.005 + 0.03
    ("openai gpt-5", "standard", {"input_tokens": 1_000, "output_tokens": 500, "web_searches": 3}, "0.03625"),
    # 0.00005375 + 0.00012 + 0.0015
    ("openai gpt-5", "flex", {"input_tokens": 86, "cache_read_tokens": 1_920, "output_tokens": 300}, "0.00167375"),
    # 0.000215 + 0.00048 + 0.006 + 0.01
    (
        "openai gpt-5", "priority",
        {"input_tokens": 86, "cache_read_tokens": 1_920, "output_tokens": 100, "reasoning_tokens": 200,
         "web_searches": 1},
        "0.016695",
    ),
    # 0.00015 + 0.0024 + 0.0088
    ("openai o3", "standard", {"input_tokens": 75, "output_tokens": 300, "reasoning_tokens": 1_100}, "0.01135"),
    # 0.0004 + 0.032 + 0.00024 + 0.032 + 0.00064
    (
        "openai gpt-realtime", "standard",
        {"input_tokens": 100, "audio_input_tokens": 1_000, "cache_read_audio_tokens": 600,
         "audio_output_tokens": 500, "output_tokens": 40},
        "0.06528",
    ),
    # 0.00025 + 0.00323 + 0.1664
    (
        "openai gpt-image-1", "standard",
        {"input_tokens": 50, "image_input_tokens": 323, "image_output_tokens": 4_160},
        "0.16988",
    ),
    ("openai text-embedding-3-large", "standard", {"input_tokens": 8_191}, "0.00106483"),
    ("openai whisper-1", "standard", {"input_seconds": "61.25"}, "0.006125"),
    ("openai tts-1-hd", "standard", {"characters": 1_234}, "0.03702"),
    ("openai dall-e-3", "standard", {"images": 3}, "0.12"),
    ("openai sora-2", "standard", {"output_seconds": 12}, "1.2"),
    # 0.3 + 0.03 + 0.015, at the threshold
    (
        "anthropic claude-sonnet-4.5", "standard",
        {"input_tokens": 100_000, "cache_read_tokens": 100_000, "output_tokens": 1_000},
        "0.345",
    ),
    # 0.6 + 0.0600006 + 0.0225, one token above it
    (
        "anthropic claude-sonnet-4.5", "standard",
        {"input_tokens": 100_000, "cache_read_tokens": 100_001, "output_tokens": 1_000},
        "0.6825006",
    ),
    # 0.00015 + 0.00075 + 0.003 + 0.003 + 0.007545
    (
        "anthropic claude-sonnet-4.5", "standard",
        {"input_tokens": 50, "cache_write_tokens": 200, "cache_write_1h_tokens": 500, "cache_read_tokens": 10_000,
         "output_tokens": 503},
        "0.014445",
    ),
    # 0.015 + 0.015
    ("anthropic claude-sonnet-4.5", "batch", {"input_tokens": 10_000, "output_tokens": 2_000}, "0.03"),
    # 0.00015 + 0.007545 + 0.02
    (
        "anthropic claude-sonnet-4.5", "standard",
        {"input_tokens": 50, "output_tokens": 503, "web_searches": 2},
        "0.027695",
    ),
    # 0.01851 + 0.042525
    ("anthropic claude-opus-4.1", "standard", {"input_tokens": 1_234, "output_tokens": 567}, "0.061035"),
    # 0.75 + 0.015
    ("google gemini-2.5-pro", "standard", {"input_tokens": 300_000, "output_tokens": 1_000}, "0.765"),
    # 0.00125 + 0.002 + 0.008 + 0.175
    (
        "google gemini-2.5-pro", "standard",
        {"input_tokens": 1_000, "output_tokens": 200, "reasoning_tokens": 800, "web_searches": 5},
        "0.18625",
    ),
    # 0.00015 + 0.001 + 0.00002 + 0.00009 + 0.00025 + 0.001 + 0.00003
    (
        "google gemini-2.5-flash", "standard",
        {"input_tokens": 500, "audio_input_tokens": 1_000, "cache_read_audio_tokens": 200,
         "video_input_tokens": 300, "output_tokens": 100, "reasoning_tokens": 400, "tool_use_prompt_tokens": 100},
        "0.00254",
    ),
    ("google veo-3", "standard", {"output_seconds": 8}, "3.2"),
    ("google imagen-4", "standard", {"images": 4}, "0.16"),
    ("google gemini-embedding-001", "standard", {"input_tokens": 2_048}, "0.0003072"),
    ("google neural2 voices", "standard", {"characters": 5_000}, "0.08"),
    # 0.0008 + 0.0001 + 0.0032
    (
        "aws nova-pro", "standard",
        {"input_tokens": 1_000, "cache_read_tokens": 500, "output_tokens": 1_000},
        "0.0041",
    ),
    ("aws transcribe", "standard", {"input_seconds": "90.5"}, "0.0362"),
    ("aws polly standard", "standard", {"characters": 100_001}, "0.400004"),
    ("aws textract", "standard", {"pages": 1_001}, "1.5015"),
    ("aws rekognition", "standard", {"input_images": 12}, "0.012"),
    # 0.0294 + 0.0015
    ("bedrock twelvelabs pegasus", "standard", {"input_video_seconds": 60, "output_tokens": 200}, "0.0309"),
    # 0.003 + 0.0042
    ("mistral large", "standard", {"input_tokens": 1_500, "output_tokens": 700}, "0.0072"),
    # 1.001 + 0.03
    ("mistral ocr", "standard", {"pages": 1_001, "annotation_pages": 10}, "1.031"),
    ("deepgram aura", "standard", {"characters": 2_001}, "0.030015"),
    ("elevenlabs flash", "standard", {"characters": 1_001}, "500.5"),
    ("cohere rerank-3.5", "standard", {"queries": 7}, "0.014"),
    # 0.000014 + 0.030776 + 0.094586 + 0.580224 + 0.09
    (
        "perplexity sonar-deep-research", "standard",
        {"input_tokens": 7, "output_tokens": 3_847, "citation_tokens": 47_293, "reasoning_tokens": 193_408,
         "web_searches": 18},
        "0.7956",
    ),
    # 0.00028 + 0.000252 + 0.00021
    (
        "deepseek-chat", "standard",
        {"input_tokens": 1_000, "cache_read_tokens": 9_000, "output_tokens": 500},
        "0.000742",
    ),
    # 0.384 + 0.0015
    ("xai grok-4", "standard", {"input_tokens": 128_000, "output_tokens": 100}, "0.3855"),
    # 0.768006 + 0.003
    ("xai grok-4", "standard", {"input_tokens": 128_001, "output_tokens": 100}, "0.771006"),
    # 0.00000615 + 0.0000036
    ("groq llama-3.1-8b", "standard", {"input_tokens": 123, "output_tokens": 45}, "0.00000975"),
    ("azure neural voices", "standard", {"characters": 200}, "0.003"),
    # 0.0384 + 0.006
    ("alibaba qwen3-max", "standard", {"input_tokens": 32_000, "output_tokens": 1_000}, "0.0444"),
    # 0.096 + 0.012
    ("alibaba qwen3-max", "standard", {"input_tokens": 40_000, "output_tokens": 1_000}, "0.108"),
    # 0.6 + 0.015
    ("alibaba qwen3-max", "standard", {"input_tokens": 200_000, "output_tokens": 1_000}, "0.615"),
    ("deepl", "standard", {"characters": 123_456}, "2.46912"),
    ("assemblyai", "standard", {"input_seconds": "61.5"}, "0.0046125"),
    ("stability sd3.5-large", "standard", {"credits": "6.5"}, "0.065"),
    ("tavily", "standard", {"queries": 11}, "0.088"),
    ("products of a platform", "standard", {"products": 10}, "10"),
    ("tokens of a platform", "standard", {"input_tokens": 1_000, "output_tokens": 234}, "1234"),
]  # fmt: skip
"""The card, the service tier, what was used, and what it costs."""


@pytest.mark.parametrize(("name", "service_tier", "used", "expected"), CALLS)
def test_a_published_price_list_gives_the_cost_worked_out_by_hand(
    name: str, service_tier: str, used: Mapping[str, str | int], expected: str
) -> None:
    assert cost(CARDS[name], used, service_tier) == Decimal(expected)
