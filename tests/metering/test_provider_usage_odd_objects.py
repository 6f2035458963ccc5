"""Whatever an object holds, it comes to quantities that add up, or it is refused; nothing else is raised."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from tests.metering.provider_objects import EXAMPLES, READERS, Example, Reader
from tollhouse.metering.v1.provider_usage import ProviderUsage, UsageRefused, anthropic_messages, openai_responses

KNOWN_NAMES = sorted(
    {name for example in EXAMPLES for name in example.usage}
    | {
        "cached_tokens",
        "audio_tokens",
        "text_tokens",
        "cached_tokens_details",
        "ephemeral_1h_input_tokens",
        "tokenCount",
    }
    | {
        "modality",
        "ttl",
        "inputTokens",
        "type",
        "iterations",
        "thinking_tokens",
        "web_search_requests",
        "\ud800",
        "\x00",
    }
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(0, 3)
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.decimals()
    | st.sampled_from(["TEXT", "AUDIO", "5m", "tokens", "duration", "compaction", "message", "\ud800"])
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.builds(object)
)
NAMES = st.sampled_from(KNOWN_NAMES) | st.text(max_size=5) | st.integers() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)


@given(
    read=st.sampled_from(READERS),
    usage=st.dictionaries(NAMES, VALUES, max_size=12) | VALUES,
    beside=st.none() | st.dictionaries(NAMES, VALUES, max_size=5),
)
def test_any_object_gives_quantities_or_a_refusal(read: Reader, usage: object, beside: object) -> None:
    stated = (
        {"delta": beside} if read is anthropic_messages else {"tool_usage": beside} if read is openai_responses else {}
    )
    _check_any(read, usage, stated)


@given(example=st.sampled_from(EXAMPLES), changes=st.dictionaries(st.sampled_from(KNOWN_NAMES), VALUES, max_size=3))
def test_any_change_of_an_object_gives_quantities_or_a_refusal(example: Example, changes: dict[str, object]) -> None:
    _check_any(example.read, {**example.usage, **changes}, example.stated)


def _check_any(read: Reader, usage: object, stated: Mapping[str, object]) -> None:
    try:
        result = read(usage, **stated)
    except UsageRefused as refused:
        faults, told = refused.faults, str(refused)
    else:
        _check_result(result)
        return
    assert faults
    assert all(fault.field in told and fault.reason in told for fault in faults)


def _check_result(result: ProviderUsage) -> None:
    assert all(0 < quantity <= 10**9 for quantity in result.quantities.values())
    tokens = [quantity for unit, quantity in result.quantities.items() if unit.endswith("_tokens")]
    assert sum(tokens) == result.total_tokens
    assert all(type(quantity) is int for unit, quantity in result.quantities.items() if unit != "input_seconds")
