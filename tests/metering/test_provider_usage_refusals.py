"""Which usage objects are refused, and that the refusal names the provider, the fields and the figures."""

import pickle
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum

import pytest

from tests.metering.provider_objects import READERS, Reader
from tollhouse.metering.v1.provider_usage import (
    UsageRefused,
    anthropic_messages,
    bedrock_converse,
    gemini_generate_content,
    openai_chat,
    openai_embeddings,
    openai_images,
    openai_realtime,
    openai_responses,
    openai_transcription,
)

CHAT = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
RESPONSE = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
MESSAGE = {"input_tokens": 100, "output_tokens": 20}
CONTENT = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
CONVERSE = {"inputTokens": 100, "outputTokens": 20, "totalTokens": 120}

REQUIRED: dict[Reader, set[str]] = {
    openai_chat: set(CHAT),
    openai_responses: set(RESPONSE),
    openai_realtime: set(RESPONSE),
    openai_embeddings: {"prompt_tokens", "total_tokens"},
    openai_transcription: {"type", *RESPONSE},
    openai_images: set(RESPONSE),
    anthropic_messages: set(MESSAGE),
    gemini_generate_content: {"totalTokenCount"},
    bedrock_converse: set(CONVERSE),
}

GROWN_START = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 31490,
    "cache_creation": {"ephemeral_5m_input_tokens": 31490, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 2,
}
GROWN_DELTA = {"cache_creation_input_tokens": 184457, "output_tokens": 900}


def refusal(read: Reader, usage: object, **stated: object) -> str:
    """The text of the refusal of a usage object."""
    with pytest.raises(UsageRefused) as refused:
        read(usage, **stated)
    return str(refused.value)


def test_stream_whose_cache_writes_outgrew_their_breakdown_is_refused_with_both_figures() -> None:
    told = refusal(anthropic_messages, GROWN_START, delta=GROWN_DELTA)
    assert told.startswith("Anthropic message: usage.cache_creation_input_tokens")
    assert "184457" in told
    assert "31490" in told


@pytest.mark.parametrize(
    ("lifetime", "quantities"),
    [
        ("5m", {"cache_write_tokens": 184457}),
        ("1h", {"cache_write_tokens": 31490, "cache_write_1h_tokens": 152967}),
    ],
)
def test_rest_of_cache_writes_is_kept_as_long_as_the_caller_states(lifetime: str, quantities: dict[str, int]) -> None:
    result = anthropic_messages(GROWN_START, delta=GROWN_DELTA, cache_write_lifetime=lifetime)  # type: ignore[arg-type]
    assert result.quantities == {"input_tokens": 12, "output_tokens": 900, **quantities}


def test_breakdown_beyond_its_total_is_refused_whatever_the_caller_states() -> None:
    usage = {**MESSAGE, "cache_creation_input_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 7}}
    told = refusal(anthropic_messages, usage, cache_write_lifetime="5m")
    assert "is 5, but its parts by lifetime add up to 7" in told


@pytest.mark.parametrize(
    ("read", "usage", "fields", "figures"),
    [
        (openai_chat, {**CHAT, "prompt_tokens_details": {"cached_tokens": 101}}, ["cached_tokens"], (101, 100)),
        (openai_chat, {**CHAT, "prompt_tokens_details": {"audio_tokens": 140}}, ["prompt_tokens"], (140, 100)),
        (
            openai_chat,
            {**CHAT, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 70}},
            ["cache_write_tokens"],
            (70, 40),
        ),
        (
            openai_chat,
            {**CHAT, "prompt_tokens_details": {"text_tokens": 90, "audio_tokens": 5}},
            ["prompt_tokens_details"],
            (95, 100),
        ),
        (
            openai_chat,
            {**CHAT, "completion_tokens_details": {"reasoning_tokens": 15, "audio_tokens": 6}},
            ["completion_tokens"],
            (21, 20),
        ),
        (
            openai_chat,
            {**CHAT, "completion_tokens_details": {"reasoning_tokens": 15, "rejected_prediction_tokens": 6}},
            ["predictions"],
            (6, 5),
        ),
        (openai_chat, {**CHAT, "completion_tokens_details": {"text_tokens": 19}}, ["text_tokens"], (19, 20)),
        (
            openai_responses,
            {
                **RESPONSE,
                "input_tokens_details": {
                    "cache_write_tokens": 50,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 30, "ttl_12h_tokens": 10},
                },
            },
            ["cache_write_tokens"],
            (50, 40),
        ),
        (
            openai_realtime,
            {
                **RESPONSE,
                "input_token_details": {
                    "audio_tokens": 10,
                    "cached_tokens": 64,
                    "cached_tokens_details": {"audio_tokens": 32},
                },
                "output_token_details": {"text_tokens": 20},
            },
            ["cached_tokens"],
            (32, 10),
        ),
        (
            anthropic_messages,
            {**MESSAGE, "output_tokens_details": {"thinking_tokens": 21}},
            ["thinking_tokens"],
            (21, 20),
        ),
        (
            anthropic_messages,
            {**MESSAGE, "iterations": [{"type": "message", "input_tokens": 90, "output_tokens": 20}]},
            ["usage.input_tokens"],
            (100, 90),
        ),
        (gemini_generate_content, {**CONTENT, "cachedContentTokenCount": 101}, ["cachedContentTokenCount"], (101, 100)),
        (gemini_generate_content, {**CONTENT, "thoughtsTokenCount": 7}, ["totalTokenCount"], (120, 127)),
        (
            gemini_generate_content,
            {**CONTENT, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 98}]},
            ["promptTokensDetails", "promptTokenCount"],
            (98, 100),
        ),
        (
            gemini_generate_content,
            {**CONTENT, "cachedContentTokenCount": 9, "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 9}]},
            ["cachedContentTokenCount"],
            (9, 0),
        ),
        (
            bedrock_converse,
            {
                **CONVERSE,
                "totalTokens": 125,
                "cacheWriteInputTokens": 5,
                "cacheDetails": [{"ttl": "5m", "inputTokens": 3}],
            },
            ["cacheWriteInputTokens"],
            (5, 3),
        ),
        (
            bedrock_converse,
            {**CONVERSE, "cacheReadInputTokens": 50},
            ["totalTokens", "cacheReadInputTokens"],
            (120, 170),
        ),
        (
            bedrock_converse,
            {**CONVERSE, "totalTokens": 123, "cacheReadInputTokens": 3, "cacheReadInputTokenCount": 4},
            ["cacheReadInputTokens"],
            (3, 4),
        ),
    ],
)
def test_contradiction_is_refused_with_its_fields_and_both_figures(
    read: Reader, usage: Mapping[str, object], fields: list[str], figures: tuple[int, int]
) -> None:
    told = refusal(read, usage)
    assert [name for name in fields if name not in told] == []
    assert [figure for figure in figures if str(figure) not in told] == []


@pytest.mark.parametrize(
    ("read", "usage", "field"),
    [
        (openai_chat, {**CHAT, "prompt_tokens_details": {"audio_tokens": 40, "cached_tokens": 64}}, "cached_tokens"),
        (openai_chat, {**CHAT, "prompt_tokens_details": {"image_tokens": 9, "cache_write_tokens": 64}}, "cache_write"),
        (openai_realtime, RESPONSE, "input_token_details"),
        (openai_realtime, {**RESPONSE, "input_token_details": {"text_tokens": 100}}, "output_token_details"),
        (openai_realtime, {**RESPONSE, "output_token_details": {"text_tokens": 20}}, "input_token_details"),
        (openai_images, {**RESPONSE, "input_tokens_details": {}}, "input_tokens_details"),
        (openai_images, RESPONSE, "input_tokens_details"),
        (openai_transcription, {**RESPONSE, "type": "tokens"}, "input_token_details"),
        (
            openai_responses,
            {
                **RESPONSE,
                "input_tokens_details": {
                    "audio_tokens": 40,
                    "cache_write_tokens": 100,
                    "cache_write_tokens_details": {"ttl_30m_tokens": 50, "ttl_12h_tokens": 50},
                },
            },
            "cache_write_tokens has 40 of audio",
        ),
        (
            gemini_generate_content,
            {
                **CONTENT,
                "cachedContentTokenCount": 50,
                "cacheTokensDetails": [],
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 60}],
            },
            "cachedContentTokenCount",
        ),
    ],
)
def test_tokens_of_unknown_modality_are_refused_where_there_are_several(
    read: Reader, usage: Mapping[str, object], field: str
) -> None:
    assert field in refusal(read, usage)


@pytest.mark.parametrize(
    ("read", "usage", "stated", "field"),
    [
        (
            openai_chat,
            {**CHAT, "prompt_tokens_details": {"video_tokens": 3}},
            {},
            "usage.prompt_tokens_details.video_tokens",
        ),
        (openai_responses, {**RESPONSE, "cached_tokens": 9}, {}, "usage.cached_tokens"),
        (openai_chat, {**CHAT, "num_search_queries": 2}, {}, "usage.num_search_queries"),
        (openai_chat, {**CHAT, "extra": {"deep": [{"tokens": 0.5}]}}, {}, "usage.extra"),
        (openai_chat, {**CHAT, "citation_tokens": "12"}, {}, "usage.citation_tokens"),
        (openai_responses, RESPONSE, {"tool_usage": {"image_gen": {"input_tokens": 5}}}, "tool_usage.image_gen"),
        (anthropic_messages, {**MESSAGE, "server_tool_use": {"code_runs": 1}}, {}, "usage.server_tool_use.code_runs"),
        (
            anthropic_messages,
            {**MESSAGE, "cache_creation": {"ephemeral_24h_input_tokens": 8}},
            {},
            "usage.cache_creation.ephemeral_24h_input_tokens",
        ),
        (anthropic_messages, MESSAGE, {"delta": {"output_tokens": 20, "thoughts": 4}}, "delta.thoughts"),
        (gemini_generate_content, {**CONTENT, "imageCount": 1}, {}, "usage.imageCount"),
        (
            gemini_generate_content,
            {**CONTENT, "promptTokensDetails": [{"modality": "SMELL", "tokenCount": 1}]},
            {},
            "usage.promptTokensDetails[0].modality",
        ),
        (
            bedrock_converse,
            {**CONVERSE, "cacheDetails": [{"ttl": "2h", "inputTokens": 1}]},
            {},
            "usage.cacheDetails[0].ttl",
        ),
    ],
)
def test_count_that_is_not_known_is_refused_by_its_full_name(
    read: Reader, usage: Mapping[str, object], stated: Mapping[str, object], field: str
) -> None:
    assert field in refusal(read, usage, **stated)


def test_number_that_is_no_count_is_passed_over_if_the_caller_names_it() -> None:
    usage = {**CHAT, "queue_time": 0.02, "cost": Decimal("0.5")}
    assert "usage.cost" in refusal(openai_chat, usage, ignored_fields=["usage.queue_time"])
    assert openai_chat(usage, ignored_fields=["usage.queue_time", "usage.cost"]) == openai_chat(CHAT)


def test_unknown_fields_without_numbers_are_passed_over() -> None:
    usage = {**CHAT, "tier": "flex", "cached": True, "speeds": [0, 0.0, None, {"a": "12"}], "tokens": "000"}
    assert openai_chat(usage) == openai_chat(CHAT)


def test_tokens_of_another_model_are_not_mixed_in() -> None:
    own = {"type": "message", **MESSAGE}
    advisor = {"type": "advisor_message", "model": "other", "input_tokens": 823, "output_tokens": 77}
    told = refusal(anthropic_messages, {**MESSAGE, "iterations": [own, advisor]})
    assert "usage.iterations[1]" in told
    assert "900" in told


def test_count_that_shrinks_in_a_stream_is_refused_with_both_figures() -> None:
    told = refusal(
        anthropic_messages, {"input_tokens": 3602, "output_tokens": 1}, delta={"input_tokens": 0, "output_tokens": 5}
    )
    assert "delta.input_tokens is 0" in told
    assert "3602" in told


NO_COUNTS: tuple[object, ...] = (True, False, 1.0, "12", -1, 10**9 + 1, 10**5000, [], {}, b"1", object(), Decimal(1))
NO_SECONDS: tuple[object, ...] = (
    None,
    True,
    "9",
    -0.5,
    float("nan"),
    float("inf"),
    10**5000,
    8.4701,
    Decimal("1e-400"),
    Decimal("sNaN"),
)


@pytest.mark.parametrize("number", range(len(NO_COUNTS)))
def test_value_that_is_no_count_is_refused(number: int) -> None:
    assert "usage.prompt_tokens must be" in refusal(openai_chat, {**CHAT, "prompt_tokens": NO_COUNTS[number]})


@pytest.mark.parametrize("number", range(len(NO_SECONDS)))
def test_seconds_that_are_none_or_too_fine_are_refused(number: int) -> None:
    usage = {"type": "duration", "seconds": NO_SECONDS[number]}
    assert "usage.seconds" in refusal(openai_transcription, usage)


@pytest.mark.parametrize("value", [9, 90.5, 0.001, Decimal("8.470"), Decimal("12.5000000"), 10**9])
def test_seconds_are_exact(value: float | Decimal) -> None:
    seconds = openai_transcription({"type": "duration", "seconds": value}).quantities["input_seconds"]
    assert seconds == Decimal(str(value))
    assert isinstance(seconds, Decimal)
    assert seconds.as_tuple().exponent == -3


@pytest.mark.parametrize("read", READERS)
def test_every_missing_field_is_named_at_once(read: Reader) -> None:
    with pytest.raises(UsageRefused) as refused:
        read({})
    assert {fault.field.removeprefix("usage.") for fault in refused.value.faults} == REQUIRED[read]


def test_missing_count_of_a_detail_is_named() -> None:
    assert "usage.cacheDetails[0].inputTokens is missing" in refusal(
        bedrock_converse, {**CONVERSE, "cacheDetails": [{"ttl": "5m"}]}
    )
    assert "usage.seconds is missing" in refusal(openai_transcription, {"type": "duration"})


@pytest.mark.parametrize("usage", [None, 5, "usage", [], object()])
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_object_is_refused(read: Reader, usage: object) -> None:
    assert "usage" in refusal(read, usage)


def test_object_with_thousands_of_faults_gets_a_message_of_readable_length() -> None:
    told = refusal(openai_chat, {**CHAT, **{f"tokens_{number}" * 50: number for number in range(1, 5000)}})
    assert "has 4979 more faults" in told
    assert len(told) < 5000


def test_object_within_itself_is_refused() -> None:
    loop: list[object] = []
    loop += [loop, loop]
    assert "usage.loop" in refusal(openai_chat, {**CHAT, "loop": loop})


def test_refusal_survives_being_pickled() -> None:
    with pytest.raises(UsageRefused) as refused:
        openai_chat({**CHAT, "total_tokens": 121})
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301 - our own bytes
    assert (again.provider, again.faults, str(again)) == (
        refused.value.provider,
        refused.value.faults,
        str(refused.value),
    )


class Modality(str, Enum):  # noqa: UP042 - Google's are not StrEnums, whose members print otherwise
    """An enumeration as Google's library has one."""

    AUDIO = "AUDIO"


def test_modalities_may_be_members_of_an_enumeration() -> None:
    usage = {**CONTENT, "promptTokensDetails": [{"modality": Modality.AUDIO, "tokenCount": 100}]}
    assert gemini_generate_content(usage).quantities == {"audio_input_tokens": 100, "output_tokens": 20}
