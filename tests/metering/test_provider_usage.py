"""What the usage objects of providers come to, and that no token is lost, doubled or guessed on the way."""

import ast
import json
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metering.provider_objects import EXAMPLES, Example
from tollhouse.metering.v1 import provider_usage
from tollhouse.metering.v1.provider_usage import (
    UsageRefused,
    anthropic_messages,
    bedrock_converse,
    gemini_generate_content,
    openai_chat,
    openai_realtime,
    openai_responses,
    openai_transcription,
)

TOKENS = st.integers(0, 10**7)
MODALITIES = {"TEXT": "input", "AUDIO": "audio_input", "IMAGE": "image_input", "VIDEO": "video_input"}

# The fields of our examples that state a total, on which every other count depends.
TOTALS = ("total_tokens", "totalTokenCount", "totalTokens", "total_token_count")


def used(quantities: Mapping[str, int | Decimal]) -> dict[str, int | Decimal]:
    """The quantities of units of which something was used."""
    return {unit: quantity for unit, quantity in quantities.items() if quantity}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_published_object_comes_to_exactly_these_quantities(example: Example) -> None:
    result = example.read(example.usage, **example.stated)
    assert result.quantities == example.quantities
    assert result.total_tokens == example.total_tokens


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_object_that_went_through_json_comes_to_the_same(example: Example) -> None:
    plain = json.loads(json.dumps(example.usage))
    exact = json.loads(json.dumps(example.usage), parse_float=Decimal)
    expected = example.read(example.usage, **example.stated)
    assert example.read(plain, **example.stated) == example.read(exact, **example.stated) == expected


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_reading_an_object_does_not_change_it(example: Example) -> None:
    before = json.dumps(example.usage)
    example.read(example.usage, **example.stated)
    assert json.dumps(example.usage) == before


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.total_tokens], ids=lambda example: example.name)
@pytest.mark.parametrize("change", [-1, 1])
def test_total_that_is_off_by_one_is_refused_with_both_figures(example: Example, change: int) -> None:
    stated = [field for field in TOTALS if field in example.usage]
    for field in stated:
        with pytest.raises(UsageRefused) as refused:
            example.read({**example.usage, field: example.total_tokens + change}, **example.stated)
        assert str(example.total_tokens + change) in str(refused.value)
        assert str(example.total_tokens) in str(refused.value)
    assert stated or example.read is anthropic_messages  # Anthropic states no total.


@given(
    plain=TOKENS,
    read=TOKENS,
    kept_30m=TOKENS,
    kept_12h=TOKENS,
    text=TOKENS,
    reasoning=TOKENS,
    searches=st.integers(0, 99),
)
def test_response_is_divided_as_it_was_put_together(
    plain: int, read: int, kept_30m: int, kept_12h: int, text: int, reasoning: int, searches: int
) -> None:
    whole = plain + read + kept_30m + kept_12h
    usage = {
        "input_tokens": whole,
        "input_tokens_details": {
            "cached_tokens": read,
            "cache_write_tokens": kept_30m + kept_12h,
            "cache_write_tokens_details": {"ttl_30m_tokens": kept_30m, "ttl_12h_tokens": kept_12h},
        },
        "output_tokens": text + reasoning,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": whole + text + reasoning,
    }
    result = openai_responses(usage, tool_usage={"web_search": {"num_requests": searches}})
    assert result.total_tokens == whole + text + reasoning
    assert result.quantities == used(
        {
            "input_tokens": plain,
            "cache_read_tokens": read,
            "cache_write_30m_tokens": kept_30m,
            "cache_write_12h_tokens": kept_12h,
            "output_tokens": text,
            "reasoning_tokens": reasoning,
            "web_searches": searches,
        }
    )


@given(
    plain=st.tuples(TOKENS, TOKENS, TOKENS),
    read=st.tuples(TOKENS, TOKENS, TOKENS),
    out=st.tuples(TOKENS, TOKENS),
    texts_named=st.booleans(),
)
def test_realtime_response_is_divided_as_it_was_put_together(
    plain: tuple[int, int, int], read: tuple[int, int, int], out: tuple[int, int], texts_named: bool
) -> None:
    text, audio, image = (a + b for a, b in zip(plain, read, strict=True))
    named = {"text_tokens": text} if texts_named else {}
    named_read = {"text_tokens": read[0]} if texts_named else {}
    usage = {
        "input_tokens": text + audio + image,
        "input_token_details": {
            **named,
            "audio_tokens": audio,
            "image_tokens": image,
            "cached_tokens": sum(read),
            "cached_tokens_details": {**named_read, "audio_tokens": read[1], "image_tokens": read[2]},
        },
        "output_tokens": sum(out),
        "output_token_details": {"text_tokens": out[0], "audio_tokens": out[1]},
        "total_tokens": text + audio + image + sum(out),
    }
    assert openai_realtime(usage).quantities == used(
        {
            "input_tokens": plain[0],
            "audio_input_tokens": plain[1],
            "image_input_tokens": plain[2],
            "cache_read_tokens": read[0],
            "cache_read_audio_tokens": read[1],
            "cache_read_image_tokens": read[2],
            "output_tokens": out[0],
            "audio_output_tokens": out[1],
        }
    )


def prompt_pools(text: int, audio: int, read: int, written: int, stated: bool) -> dict[str, int] | None:
    """What a prompt of text and audio comes to whose cache is not divided by them; None if that cannot be known."""
    left = text + audio - read - written
    if not audio:
        pools = {"input_tokens": left, "cache_read_tokens": read, "cache_write_30m_tokens": written}
    elif not text:
        pools = {"audio_input_tokens": left, "cache_read_audio_tokens": read, "cache_write_audio_tokens": written}
    elif stated or not read + written:
        pools = {"input_tokens": left - audio, "cache_read_tokens": read, "cache_write_30m_tokens": written}
        pools |= {"audio_input_tokens": audio}
    elif not left and not written:
        pools = {"cache_read_tokens": text, "cache_read_audio_tokens": audio}
    elif not left and not read:
        pools = {"cache_write_30m_tokens": text, "cache_write_audio_tokens": audio}
    else:
        return None
    return pools if min(pools.values()) >= 0 else None


@given(prompt=st.tuples(*[st.integers(0, 3) | TOKENS] * 4), out=st.tuples(TOKENS, TOKENS, TOKENS), stated=st.booleans())
def test_chat_is_divided_where_its_cache_can_be_and_refused_elsewhere(
    prompt: tuple[int, int, int, int], out: tuple[int, int, int], stated: bool
) -> None:
    text, audio, read, written = prompt
    usage = {
        "prompt_tokens": text + audio,
        "completion_tokens": sum(out),
        "total_tokens": text + audio + sum(out),
        "prompt_tokens_details": {"audio_tokens": audio, "cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": out[1], "audio_tokens": out[2]},
    }
    pools = prompt_pools(text, audio, read, written, stated)
    if pools is None:
        with pytest.raises(UsageRefused, match="cache"):
            openai_chat(usage, undivided_cache_is_text=stated)
        return
    output = {"output_tokens": out[0], "reasoning_tokens": out[1], "audio_output_tokens": out[2]}
    assert openai_chat(usage, undivided_cache_is_text=stated).quantities == used(pools | output)


@given(
    counts=st.fixed_dictionaries(dict.fromkeys(("plain", "read", "kept_5m", "kept_1h", "out", "thinking"), TOKENS)),
    started=st.integers(0, 100),
    tools=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    compactions=st.lists(st.tuples(TOKENS, TOKENS, TOKENS), max_size=3),
)
def test_streamed_message_is_divided_as_it_was_put_together(
    counts: dict[str, int], started: int, tools: tuple[int, int], compactions: list[tuple[int, int, int]]
) -> None:
    final = {
        "input_tokens": counts["plain"],
        "cache_read_input_tokens": counts["read"],
        "cache_creation_input_tokens": counts["kept_5m"] + counts["kept_1h"],
        "output_tokens": counts["out"] + counts["thinking"],
    }
    start = {field: number * started // 100 for field, number in final.items()}
    start["cache_creation_input_tokens"] = final["cache_creation_input_tokens"]
    creation = {"ephemeral_5m_input_tokens": counts["kept_5m"], "ephemeral_1h_input_tokens": counts["kept_1h"]}
    compacted = [
        {"type": "compaction", "input_tokens": plain, "cache_read_input_tokens": read, "output_tokens": out}
        for plain, read, out in compactions
    ]
    delta = {
        **final,
        "output_tokens_details": {"thinking_tokens": counts["thinking"]},
        "server_tool_use": {"web_search_requests": tools[0], "web_fetch_requests": tools[1]},
        "iterations": [*compacted, {"type": "message", **final, "cache_creation": creation}],
    }
    result = anthropic_messages({**start, "cache_creation": creation}, delta=delta)
    assert result.quantities == used(
        {
            "input_tokens": counts["plain"] + sum(plain for plain, _, _ in compactions),
            "cache_read_tokens": counts["read"] + sum(read for _, read, _ in compactions),
            "cache_write_tokens": counts["kept_5m"],
            "cache_write_1h_tokens": counts["kept_1h"],
            "output_tokens": counts["out"] + sum(out for _, _, out in compactions),
            "reasoning_tokens": counts["thinking"],
            "web_searches": tools[0],
            "web_fetches": tools[1],
        }
    )
    assert result.total_tokens == sum(counts.values()) + sum(map(sum, compactions))


@given(
    plain=st.fixed_dictionaries(dict.fromkeys(MODALITIES, TOKENS)),
    read=st.fixed_dictionaries(dict.fromkeys(MODALITIES, TOKENS)),
    out=st.fixed_dictionaries(dict.fromkeys(MODALITIES, TOKENS)),
    results=st.fixed_dictionaries(dict.fromkeys(MODALITIES, TOKENS)),
    thoughts=TOKENS,
)
def test_content_is_divided_as_it_was_put_together(
    plain: dict[str, int], read: dict[str, int], out: dict[str, int], results: dict[str, int], thoughts: int
) -> None:
    def details(tokens: Mapping[str, int]) -> list[dict[str, object]]:
        return [{"modality": modality, "tokenCount": number} for modality, number in tokens.items()]

    prompt = {modality: plain[modality] + read[modality] for modality in MODALITIES}
    total = sum(prompt.values()) + sum(out.values()) + sum(results.values()) + thoughts
    usage = {
        "promptTokenCount": sum(prompt.values()),
        "promptTokensDetails": details(prompt),
        "cachedContentTokenCount": sum(read.values()),
        "cacheTokensDetails": details(read),
        "candidatesTokenCount": sum(out.values()),
        "candidatesTokensDetails": details(out),
        "toolUsePromptTokenCount": sum(results.values()),
        "toolUsePromptTokensDetails": details(results),
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": total,
    }
    expected = {"reasoning_tokens": thoughts, "tool_use_prompt_tokens": results["TEXT"], "input_tokens": plain["TEXT"]}
    for modality, unit in MODALITIES.items():
        if modality != "TEXT":
            expected[f"{unit}_tokens"] = plain[modality] + results[modality]
        of_unit = "" if modality == "TEXT" else f"{modality.lower()}_"
        expected[f"cache_read_{of_unit}tokens"] = read[modality]
        expected[f"{of_unit}output_tokens"] = out[modality]
    result = gemini_generate_content(usage)
    assert result.quantities == used(expected)
    assert result.total_tokens == total


@given(plain=TOKENS, read=TOKENS, kept_5m=TOKENS, kept_1h=TOKENS, out=TOKENS)
def test_converse_is_divided_as_it_was_put_together(
    plain: int, read: int, kept_5m: int, kept_1h: int, out: int
) -> None:
    usage = {
        "inputTokens": plain,
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": kept_5m + kept_1h,
        "cacheDetails": [{"ttl": "1h", "inputTokens": kept_1h}, {"ttl": "5m", "inputTokens": kept_5m}],
        "outputTokens": out,
        "totalTokens": plain + read + kept_5m + kept_1h + out,
    }
    assert bedrock_converse(usage).quantities == used(
        {
            "input_tokens": plain,
            "cache_read_tokens": read,
            "cache_write_tokens": kept_5m,
            "cache_write_1h_tokens": kept_1h,
            "output_tokens": out,
        }
    )


@pytest.mark.parametrize("text", [80, 110, 75, 105])
def test_text_of_a_completion_may_include_reasoning_and_rejected_predictions_or_not(text: int) -> None:
    details = {"text_tokens": text, "audio_tokens": 20, "reasoning_tokens": 30, "rejected_prediction_tokens": 5}
    usage = {"prompt_tokens": 0, "completion_tokens": 130, "total_tokens": 130, "completion_tokens_details": details}
    quantities = openai_chat(usage).quantities
    assert quantities == {"output_tokens": 80, "audio_output_tokens": 20, "reasoning_tokens": 30}


def test_transcription_of_nothing_uses_nothing() -> None:
    result = openai_transcription({"type": "duration", "seconds": 0.0})
    assert (result.quantities, result.total_tokens) == ({}, 0)


def test_readers_import_the_standard_library_alone() -> None:
    folder = Path(provider_usage.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    imported = {
        name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."])
    }
    foreign = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("tollhouse.metering.v1.provider_usage")} == set()
