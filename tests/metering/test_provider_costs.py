"""What calls cost whose usage objects are as providers publish them: from the object to the charge, worked out by hand.

The prices are round figures of our own, per million tokens unless said otherwise.
"""

from decimal import Decimal
from typing import Final

import pytest

from services.metering.model.rates import RateCard
from tests.metering.provider_objects import EXAMPLES, Example
from tests.metering.rate_cards import card, cost, each, per_million

OPENAI: Final = card(
    per_million("input_tokens", "2"),
    per_million("cache_read_tokens", "0.5"),
    per_million("cache_write_30m_tokens", "2.5"),
    per_million("cache_write_12h_tokens", "4"),
    per_million("output_tokens", "8"),
    per_million("audio_input_tokens", "40"),
    per_million("cache_read_audio_tokens", "2.5"),
    per_million("audio_output_tokens", "80"),
    per_million("image_input_tokens", "10"),
    per_million("cache_read_image_tokens", "1"),
    per_million("image_output_tokens", "40"),
    each("input_seconds", "0.1", per=1_000),
    each("web_searches", "10", service_tier="any", per=1_000),
    fallbacks={"reasoning_tokens": "output_tokens"},
)
ANTHROPIC: Final = card(
    per_million("input_tokens", "3"),
    per_million("input_tokens", "6", above=200_000),
    per_million("cache_read_tokens", "0.3"),
    per_million("cache_read_tokens", "0.6", above=200_000),
    per_million("cache_write_tokens", "3.75"),
    per_million("cache_write_tokens", "7.5", above=200_000),
    per_million("cache_write_1h_tokens", "6"),
    per_million("output_tokens", "15"),
    per_million("output_tokens", "22.5", above=200_000),
    each("web_searches", "10", service_tier="any", per=1_000),
    each("web_fetches", "0", service_tier="any"),
    fallbacks={"reasoning_tokens": "output_tokens"},
)
GEMINI: Final = card(
    per_million("input_tokens", "0.3"),
    per_million("audio_input_tokens", "1"),
    per_million("cache_read_tokens", "0.03"),
    per_million("cache_read_audio_tokens", "0.1"),
    per_million("output_tokens", "2.5"),
    per_million("image_output_tokens", "30"),
    per_million("audio_output_tokens", "12"),
    fallbacks={
        "reasoning_tokens": "output_tokens",
        "image_input_tokens": "input_tokens",
        "video_input_tokens": "input_tokens",
        "document_tokens": "input_tokens",
        "tool_use_prompt_tokens": "input_tokens",
        "cache_read_video_tokens": "cache_read_tokens",
    },
)

# Each product is a quantity in tokens times its price, in millionths of a dollar.
COSTS: Final = (
    ("chat with text alone", OPENAI, Decimal("0.000118")),  # 19 * 2 + 10 * 8
    ("chat as a library dumps it", OPENAI, Decimal("0.001616")),  # 128 * 2 + 2,048 * 0.5 + 42 * 8
    # 404 * 2 + 4,096 * 0.5 + 1,500 * 2.5 + (580 + 320) * 8
    ("chat with cache, reasoning", OPENAI, Decimal("0.013806")),
    ("chat whose cache writes", OPENAI, Decimal("0.01184")),  # 100 * 2 + 2,900 * 4 + 5 * 8
    ("chat with audio", OPENAI, Decimal("0.02096")),  # 40 * 2 + 110 * 40 + 60 * 8 + 200 * 80
    ("chat with an image", OPENAI, Decimal("0.009824")),  # 711 * 2 + 1,024 * 0.5 + 765 * 10 + 30 * 8
    # 610 * 2 + 2,048 * 0.5 + 4,000 * 2.5 + 3,000 * 4 + (164 + 256) * 8, and 3 searches at 0.01
    ("response with cache reads", OPENAI, Decimal("0.057604")),
    # 104 * 2 + 896 * 0.5 + 436 * 40 + 64 * 2.5 + 160 * 10 + 140 * 1 + 110 * 8 + 490 * 80
    ("realtime response", OPENAI, Decimal("0.060076")),
    ("embeddings", OPENAI, Decimal("0.016382")),  # 8,191 * 2
    ("transcription by duration", OPENAI, Decimal("0.00905")),  # 90.5 seconds at 0.1 for a thousand
    ("images, whose undivided", OPENAI, Decimal("0.16973")),  # 50 * 2 + 323 * 10 + 4,160 * 40
    ("message without cache", ANTHROPIC, Decimal("0.01383")),  # 2,095 * 3 + 503 * 15
    # 50 * 3 + 10,000 * 0.3 + 200 * 3.75 + 500 * 6 + (203 + 300) * 15, and 2 searches at 0.01
    ("message with cache writes", ANTHROPIC, Decimal("0.034445")),
    ("message whose cache writes", ANTHROPIC, Decimal("0.054399")),  # 3 * 3 + 12,304 * 3.75 + 550 * 15
    # Above 200,000 the whole call is at the higher rates: 203,000 * 6 + 40 * 0.6 + 7 * 7.5 + 4,500 * 22.5
    ("message with compaction", ANTHROPIC, Decimal("1.3193265")),
    ("content with thoughts", GEMINI, Decimal("0.0028")),  # 1,000 * 0.3 + (200 + 800) * 2.5
    # Input: (400 + 1,000 + 258 + 72) * 0.3 + 2,000 * 0.03 + 1,100 * 1 + 500 * 0.1 + 100 * 2.5
    ("content with a cache of text", GEMINI, Decimal("0.001979")),
    ("content as Google's library", GEMINI, Decimal("0.038771")),  # 120 * 0.3 + 14 * 2.5 + 1,290 * 30
    ("content with cached video", GEMINI, Decimal("0.00045504")),  # 952 * 0.3 + 2,048 * 0.03 + 9 * 12
    ("Converse without cache", ANTHROPIC, Decimal("0.00951")),  # 30 * 3 + 628 * 15
    # 50 * 3 + 10,000 * 0.3 + 200 * 3.75 + 500 * 6 + 503 * 15
    ("Converse with cache writes", ANTHROPIC, Decimal("0.014445")),
)


def _example(beginning: str) -> Example:
    (found,) = (example for example in EXAMPLES if example.name.startswith(beginning))
    return found


@pytest.mark.parametrize(("name", "rate_card", "expected"), COSTS, ids=[name for name, _, _ in COSTS])
def test_published_usage_object_costs_what_its_tokens_cost_by_hand(
    name: str, rate_card: RateCard, expected: Decimal
) -> None:
    example = _example(name)
    read = example.read(example.usage, **example.stated)
    listed = {unit: str(quantity) for unit, quantity in read.quantities.items()}
    assert cost(rate_card, listed) == expected
