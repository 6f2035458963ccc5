"""Every token that LiteLLM reports is in exactly one unit, whoever's usage it was."""

from collections.abc import Mapping
from io import BytesIO
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tollhouse_litellm.streams import StreamReading
from tollhouse_litellm.usage import search_unit, tier_of, used_of_answer, used_of_anthropic, used_of_counts

OPENAI = {
    "prompt_tokens": 6000,
    "completion_tokens": 900,
    "total_tokens": 6900,
    "prompt_tokens_details": {"cached_tokens": 4096, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 320, "rejected_prediction_tokens": 50},
}
# What LiteLLM makes of an object of Anthropic's with 50 tokens of input beside 1,000 read and 300 written.
OF_ANTHROPIC = {
    "prompt_tokens": 1350,
    "completion_tokens": 40,
    "total_tokens": 1390,
    "prompt_tokens_details": {
        "cached_tokens": 1000,
        "cache_write_tokens": 300,
        "cache_creation_tokens": 300,
        "text_tokens": 50,
        "cache_creation_token_details": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
    },
    "completion_tokens_details": {"text_tokens": 40, "reasoning_tokens": 0},
    "server_tool_use": {"web_search_requests": 2},
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 1000,
}


def test_cached_tokens_of_openai_are_within_the_prompt() -> None:
    assert used_of_counts(OPENAI, {}).quantities == {
        "input_tokens": "1904",
        "cache_read_tokens": "4096",
        "output_tokens": "580",
        "reasoning_tokens": "320",
    }


def test_cached_tokens_of_anthropic_are_counted_once_and_by_lifetime() -> None:
    assert used_of_counts(OF_ANTHROPIC, {}).quantities == {
        "input_tokens": "50",
        "cache_read_tokens": "1000",
        "cache_write_tokens": "200",
        "cache_write_1h_tokens": "100",
        "output_tokens": "40",
        "web_searches": "2",
    }


def test_cached_and_reasoning_tokens_beside_the_totals_are_recognized_by_the_total() -> None:
    usage = {
        "prompt_tokens": 50,
        "completion_tokens": 30,
        "total_tokens": 190,
        "prompt_tokens_details": {"cached_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 10},
    }
    assert used_of_counts(usage, {}).quantities == {
        "input_tokens": "50",
        "cache_read_tokens": "100",
        "output_tokens": "30",
        "reasoning_tokens": "10",
    }


def test_modalities_are_divided_and_a_cache_is_text_first() -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 300,
        "total_tokens": 1300,
        "prompt_tokens_details": {"cached_tokens": 500, "audio_tokens": 600, "image_tokens": 0},
        "completion_tokens_details": {"audio_tokens": 200},
    }
    assert used_of_counts(usage, {}).quantities == {
        "cache_read_tokens": "400",
        "cache_read_audio_tokens": "100",
        "audio_input_tokens": "500",
        "output_tokens": "100",
        "audio_output_tokens": "200",
    }


@pytest.mark.parametrize(
    "details",
    [
        {"prompt_tokens_details": {"cached_tokens": 500}},
        {"completion_tokens_details": {"reasoning_tokens": 500}},
        {"prompt_tokens_details": {"audio_tokens": 90, "image_tokens": 90}},
    ],
)
def test_parts_above_their_total_are_charged_by_the_totals_and_say_so(details: Mapping[str, object]) -> None:
    used = used_of_counts({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, **details}, {})
    assert used.quantities == {"input_tokens": "100", "output_tokens": "20"}
    assert used.doubt


NUMBERS = st.one_of(st.integers(0, 10**6), st.none(), st.floats(allow_nan=True), st.text(max_size=3), st.integers())


@settings(max_examples=60)
@example({}, {}, {"reasoning_tokens": float("inf")})
@given(
    st.fixed_dictionaries(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), NUMBERS)),
    st.dictionaries(
        st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens", "video_tokens"]),
        NUMBERS,
    ),
    st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens", "text_tokens"]), NUMBERS),
)
def test_any_object_becomes_quantities_that_the_service_takes(
    totals: Mapping[str, object], given_details: Mapping[str, object], made_details: Mapping[str, object]
) -> None:
    usage = {**totals, "prompt_tokens_details": given_details, "completion_tokens_details": made_details}
    used = used_of_counts(usage, {})
    assert all(number.isdecimal() and 0 < int(number) <= 10**10 for number in used.quantities.values())


@given(*(st.integers(0, 1000) for _ in range(6)))
def test_no_token_is_lost_and_none_counted_twice(
    text: int, read: int, written: int, audio: int, reasoning: int, spoken: int
) -> None:
    given_tokens, made = text + read + written + audio, 7 + reasoning + spoken
    usage = {
        "prompt_tokens": given_tokens,
        "completion_tokens": made,
        "total_tokens": given_tokens + made,
        "prompt_tokens_details": {"cached_tokens": read, "audio_tokens": audio, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": spoken},
    }
    used = used_of_counts(usage, {})
    assert sum(map(int, used.quantities.values())) == given_tokens + made
    assert not used.doubt


@pytest.mark.parametrize(
    ("request_body", "unit"),
    [
        ({}, "web_searches"),
        ({"web_search_options": {}}, "web_searches_medium"),
        ({"web_search_options": {"search_context_size": "high"}}, "web_searches_high"),
        ({"tools": [{"type": "web_search_preview", "search_context_size": "low"}]}, "web_searches_low"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_searches"),
        ({"tools": "web_search"}, "web_searches"),
    ],
)
def test_search_is_counted_by_the_size_that_openai_prices(request_body: Mapping[str, object], unit: str) -> None:
    assert search_unit(request_body) == unit


@pytest.mark.parametrize(
    ("name", "tier"),
    [("default", "standard"), ("flex", "flex"), ("priority", "priority"), ("batch", "batch"), ("auto", ""), (None, "")],
)
def test_service_tiers_are_passed_on(name: object, tier: str) -> None:
    assert tier_of(name) == tier


def test_stream_of_anthropic_is_read_from_its_first_and_last_counts() -> None:
    start = {"input_tokens": 12, "cache_read_input_tokens": 100, "output_tokens": 1, "service_tier": "priority"}
    used = used_of_anthropic(start, {"output_tokens": 90}, {})
    assert used.quantities == {"input_tokens": "12", "cache_read_tokens": "100", "output_tokens": "90"}
    assert used.service_tier == "priority"


@pytest.mark.parametrize(
    ("answer", "request_body", "counted"),
    [
        ({"created": 1, "data": [{"url": "a"}, {"url": "b"}], "usage": {"input_tokens": 0}}, {}, {"images": "2"}),
        ({"results": [], "meta": {"billed_units": {"search_units": 3}}}, {}, {"queries": "3"}),
        ({"results": [], "meta": {"billed_units": {"total_tokens": 30}}}, {}, {"input_tokens": "30"}),
        ({"text": "hi", "usage": {"type": "duration", "seconds": 7}}, {}, {"input_seconds": "7.000"}),
        ({"text": "hi", "duration": 3.25}, {}, {"input_seconds": "3.250"}),
        (SimpleNamespace(content=b""), {"voice": "alloy", "input": "hello"}, {"characters": "5"}),
    ],
)
def test_other_work_has_its_own_units(
    answer: object, request_body: Mapping[str, object], counted: Mapping[str, str]
) -> None:
    assert used_of_answer(answer, request_body).quantities == counted


USAGE_OF_RESPONSE = {
    "input_tokens": 120,
    "input_tokens_details": {"cached_tokens": 20},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 150,
}
# As OpenAI answers: `text` says how the text is to be written.
RESPONSE = {
    "object": "response",
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "output": [
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "fox"}},
        {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
        {"type": "code_interpreter_call", "id": "ci_2", "container_id": "cntr_1"},
        {"type": "code_interpreter_call", "id": "ci_3", "container_id": "cntr_2"},
        {"type": "message", "content": [{"type": "output_text", "text": "The fox."}]},
    ],
    "usage": USAGE_OF_RESPONSE,
}
TOOLS_OF_RESPONSE = {"web_searches": "1", "code_sessions": "2"}


@pytest.mark.parametrize("left_out", ["", "object", "output"])
def test_response_with_a_text_is_no_transcription(left_out: str) -> None:
    answer = {name: value for name, value in RESPONSE.items() if name != left_out}
    tokens = {"input_tokens": "100", "cache_read_tokens": "20", "output_tokens": "20", "reasoning_tokens": "10"}
    used = used_of_answer(answer, {})
    assert used.quantities == {**tokens, **(TOOLS_OF_RESPONSE if left_out != "output" else {})}
    assert not used.doubt


def test_response_whose_parts_are_above_its_totals_keeps_the_count_of_its_tools() -> None:
    usage = {**USAGE_OF_RESPONSE, "input_tokens_details": {"cached_tokens": 500}}
    used = used_of_answer({**RESPONSE, "usage": usage}, {})
    assert used.quantities == {"input_tokens": "120", "output_tokens": "30", **TOOLS_OF_RESPONSE}
    assert used.doubt


def test_searches_that_the_provider_says_it_charges_go_before_its_calls() -> None:
    opened = {"type": "web_search_call", "id": "ws_2", "action": {"type": "open_page"}}
    answer = {"object": "response", "output": [opened, opened], "usage": USAGE_OF_RESPONSE}
    assert used_of_answer(answer, {}).quantities["web_searches"] == "2"
    used = used_of_answer({**answer, "tool_usage": {"web_search": {"num_requests": 1}}}, {})
    assert used.quantities["web_searches"] == "1"


def test_stream_of_a_response_is_read_from_its_last_event() -> None:
    reading = StreamReading({"tools": [{"type": "web_search"}]})
    answer = SimpleNamespace(**RESPONSE)
    reading.read(SimpleNamespace(type="response.completed", response=answer))
    assert reading.used == used_of_answer(RESPONSE, {"tools": [{"type": "web_search"}]})
    assert reading.used.quantities["web_searches_medium"] == "1"


def test_recording_of_an_unknown_length_is_charged_by_its_size_and_says_so() -> None:
    used = used_of_answer({"text": "hi"}, {"file": BytesIO(b"x" * 50_000)})
    assert (used.quantities, bool(used.doubt)) == ({"input_seconds": "3"}, True)
    assert used_of_answer({"text": "hi"}, {}).quantities == {"input_seconds": "1"}


def test_answer_without_usage_says_so() -> None:
    used = used_of_answer({"choices": []}, {})
    assert (used.quantities, bool(used.doubt)) == ({}, True)
