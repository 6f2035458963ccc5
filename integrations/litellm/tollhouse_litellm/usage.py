"""Reads what a call has used out of LiteLLM's answers.

LiteLLM rewrites every provider's usage into OpenAI's form: what was read from a cache and written to one is within the
prompt tokens, also for Anthropic, whose own object has them beside. Some routes hand on the provider's own object
instead. Each token ends up in exactly one unit, and nothing is left out in silence: where counts contradict each other
their totals count, and the reading says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from tollhouse.metering.v1.provider_usage import (
    ProviderUsage,
    UsageRefused,
    anthropic_messages,
    openai_images,
    openai_responses,
    openai_transcription,
)

Fields = Mapping[str, object]
_COUNT_MAX: Final = 1_000_000_000
_TIERS_OF_STANDARD: Final = frozenset({"default", "standard", "standard_only", "on_demand"})


@dataclass(frozen=True, slots=True)
class Used:
    """Quantities by unit, as text for `Quantity`; the service tier that the provider names; and what was odd."""

    quantities: Mapping[str, str] = field(default_factory=dict)
    service_tier: str = ""
    # Why the counts are not those of the provider's object, or "".
    doubt: str = ""


def used_of_answer(answer: object, request: Fields) -> Used:
    """Read a whole answer of any route that this package meters. `request` is the request's body."""
    usage = fields_of(_get(answer, "usage"))
    tier = tier_of(_get(answer, "service_tier")) or tier_of(usage.get("service_tier"))
    try:
        quantities, doubt = _quantities(answer, usage, request)
    except UsageRefused as refused:
        quantities, doubt = _totals(usage), str(refused)
    return Used(_shown(quantities), tier, doubt)


def used_of_counts(usage: Fields, request: Fields, tier: str = "") -> Used:
    """Read the usage that the chunks of a chat's stream have at their end."""
    quantities, doubt = _chat(usage, request)
    return Used(_shown(quantities), tier or tier_of(usage.get("service_tier")), doubt)


def used_of_anthropic(start: Fields, delta: Fields | None, request: Fields) -> Used:
    """Read the usage of Anthropic's own events: of message_start and, when there is one, the last message_delta."""
    known = {name: value for name, value in (delta or {}).items() if name in _ANTHROPIC_FIELDS}
    first = {name: value for name, value in start.items() if name in _ANTHROPIC_FIELDS}
    tier = tier_of(start.get("service_tier")) or tier_of((delta or {}).get("service_tier"))
    try:
        return Used(_shown(anthropic_messages(first, delta=known or None).quantities), tier)
    except UsageRefused as refused:
        return Used(_shown(_totals({**first, **known})), tier, str(refused))


def seconds_by_size(request: Fields) -> int:
    """Return about how long the recording of a request is."""
    file = request.get("file")
    size = len(file.getbuffer()) if isinstance(file, BytesIO) and not file.closed else 0
    return max(1, size // _RECORDED_BYTES_A_SECOND)


def tier_of(name: object) -> str:
    """Return the service tier as Tollhouse names it, or "" where nothing is said, as by `auto`."""
    if not isinstance(name, str) or name == "auto":
        return ""
    return "standard" if name in _TIERS_OF_STANDARD else name.lower()


def fields_of(value: object) -> Fields:
    """Return an object of LiteLLM or of a provider as a mapping, without what it leaves empty."""
    dump = getattr(value, "model_dump", None)
    document: object = dump(exclude_none=True) if callable(dump) else value
    if not isinstance(document, Mapping):
        return {}
    return {name: value for name, value in document.items() if value is not None}


# An MP3 of 128 kbit/s.
_RECORDED_BYTES_A_SECOND: Final = 16_000
_ANTHROPIC_FIELDS: Final = frozenset(
    {
        *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
        *("server_tool_use", "output_tokens_details", "iterations"),
    }
)
_RESPONSE_FIELDS: Final = frozenset(
    {"input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"}
)


def _quantities(answer: object, usage: Fields, request: Fields) -> tuple[Mapping[str, object], str]:
    if _get(answer, "results") is not None and _get(answer, "meta") is not None:
        return _rerank(fields_of(_get(answer, "meta"))), ""
    made = _get(answer, "data")
    if isinstance(made, list) and (_get(answer, "object") != "list"):
        return _images(usage, made), ""
    if "input_tokens" in usage and _is_response(answer):
        return _response(answer, usage, request)
    document = fields_of(answer)
    # Responses have a `text`, too, which is an object: how the text is to be written.
    if isinstance(document.get("text"), str) and "choices" not in document:
        return _transcription(answer, usage, request)
    if "prompt_tokens" in usage:
        return _chat(usage, request)
    if "input_tokens" in usage and "total_tokens" in usage:
        return _response(answer, usage, request)
    if "input_tokens" in usage:
        known = {name: value for name, value in usage.items() if name in _ANTHROPIC_FIELDS}
        return anthropic_messages(known).quantities, ""
    spoken = request.get("input")
    if "voice" in request and isinstance(spoken, str):
        return {"characters": len(spoken)}, ""
    return {}, "The answer does not say what was used."


def _chat(usage: Fields, request: Fields) -> tuple[Mapping[str, int], str]:
    """Divide LiteLLM's own object, in which everything is within prompt_tokens and completion_tokens.

    Some providers imitate the object and leave the cached or the reasoning tokens beside: their total tells.
    """
    given, made = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    details, output = fields_of(usage.get("prompt_tokens_details")), fields_of(usage.get("completion_tokens_details"))
    read, written = _count(details, "cached_tokens"), _written(usage, details)
    inputs = {f"{kind}_input_tokens": _count(details, f"{kind}_tokens") for kind in ("audio", "image", "video")}
    outputs = {f"{kind}_output_tokens": _count(output, f"{kind}_tokens") for kind in ("audio", "image", "video")}
    outputs["reasoning_tokens"] = _count(output, "reasoning_tokens")
    beside_in, beside_out = read + sum(written.values()), outputs["reasoning_tokens"]
    whole = given + made
    if total in (whole + beside_in, whole + beside_in + beside_out) and total != whole and beside_in:
        given += beside_in
    if total in (whole + beside_out, whole + beside_in + beside_out) and total != whole and beside_out:
        made += beside_out
    searches = _searches(usage, details, request)
    # What was read from the cache is text as far as there is text: prompts begin with it.
    text = given - sum(inputs.values()) - sum(written.values())
    rest, cached = max(0, read - max(0, text)), {"cache_read_tokens": min(read, max(0, text))}
    for kind in ("audio", "image", "video"):
        part = min(rest, inputs[f"{kind}_input_tokens"])
        cached[f"cache_read_{kind}_tokens"], rest = part, rest - part
        inputs[f"{kind}_input_tokens"] -= part
    plain_in, plain_out = text - cached["cache_read_tokens"], made - sum(outputs.values())
    if plain_in < 0 or plain_out < 0 or rest:
        return {**_totals(usage), **searches}, "The parts of the usage are more than its totals."
    units = {"input_tokens": plain_in, **cached, **written, **inputs, "output_tokens": plain_out, **outputs}
    return {**units, **searches}, ""


def _written(usage: Fields, details: Fields) -> Mapping[str, int]:
    """Return what was written to a cache, by how long it is kept; 5 minutes where nothing is said, as is usual."""
    whole = _count(details, "cache_write_tokens") or _count(details, "cache_creation_tokens")
    whole = whole or _count(usage, "cache_creation_input_tokens")
    kept = fields_of(details.get("cache_creation_token_details"))
    long, short = _count(kept, "ephemeral_1h_input_tokens"), _count(kept, "ephemeral_5m_input_tokens")
    return {"cache_write_tokens": max(short, whole - long), "cache_write_1h_tokens": long}


def _searches(usage: Fields, details: Fields, request: Fields) -> Mapping[str, int]:
    """Return the requests of the provider's tools. LiteLLM has them in one of two places, or in both."""
    tools = fields_of(usage.get("server_tool_use"))
    searches = max(_count(tools, "web_search_requests"), _count(details, "web_search_requests"))
    return {
        search_unit(request): searches,
        "web_fetches": _count(tools, "web_fetch_requests"),
        "map_searches": _count(details, "google_maps_grounding_requests"),
    }


def search_unit(request: Fields) -> str:
    """Return the unit of a web search: by size where the request has OpenAI's options, whose usual size is medium."""
    tools = request.get("tools")
    offered = [fields_of(tool) for tool in tools] if isinstance(tools, Sequence) else []
    kinds = [tool for tool in offered if tool.get("type") in ("web_search", "web_search_preview")]
    options = request.get("web_search_options")
    if options is None and not kinds:
        return "web_searches"
    size = (fields_of(options) if options is not None else kinds[0]).get("search_context_size", "medium")
    return f"web_searches_{size}" if size in ("low", "medium", "high") else "web_searches"


def _is_response(answer: object) -> bool:
    return _get(answer, "object") == "response" or isinstance(_get(answer, "output"), list)


def _response(answer: object, usage: Fields, request: Fields) -> tuple[Mapping[str, object], str]:
    known = {name: value for name, value in usage.items() if name in _RESPONSE_FIELDS}
    details = fields_of(known.get("input_tokens_details"))
    # LiteLLM counts text beside what was cached here, OpenAI with it. Without it, what is left over is text.
    known["input_tokens_details"] = {name: value for name, value in details.items() if name != "text_tokens"}
    tools = _tools_of_response(answer, request)
    try:
        return {**openai_responses(known).quantities, **tools}, ""
    except UsageRefused as refused:
        return {**_totals(usage), **tools}, str(refused)


def _tools_of_response(answer: object, request: Fields) -> Mapping[str, int]:
    """Count what the provider's tools did: each search, and each container in which code ran, however often it did.

    Some providers say how many searches they charge, which pages that were only opened are not among.
    """
    output = _get(answer, "output")
    items = [fields_of(item) for item in output] if isinstance(output, list) else []
    charged = fields_of(fields_of(_get(answer, "tool_usage")).get("web_search"))
    made = sum(1 for item in items if item.get("type") == "web_search_call")
    searches = _count(charged, "num_requests") if "num_requests" in charged else made
    containers = {str(item.get("container_id")) for item in items if item.get("type") == "code_interpreter_call"}
    return {search_unit(request): searches, "code_sessions": len(containers)}


def _images(usage: Fields, made: Sequence[object]) -> Mapping[str, object]:
    if not _count(usage, "input_tokens") and not _count(usage, "output_tokens"):
        return {"images": len(made)}
    return openai_images({name: value for name, value in usage.items() if name in _RESPONSE_FIELDS}).quantities


def _rerank(meta: Fields) -> Mapping[str, int]:
    units, tokens = fields_of(meta.get("billed_units")), fields_of(meta.get("tokens"))
    searches = _count(units, "search_units")
    if searches:
        return {"queries": searches}
    read = _count(tokens, "input_tokens") or _count(units, "total_tokens")
    return {"input_tokens": read, "output_tokens": _count(tokens, "output_tokens")}


def _transcription(answer: object, usage: Fields, request: Fields) -> tuple[Mapping[str, object], str]:
    if "type" in usage:
        read: ProviderUsage = openai_transcription(usage)
        return read.quantities, ""
    hidden = fields_of(_get(answer, "_hidden_params"))
    seconds = hidden.get("audio_transcription_duration", _get(answer, "duration"))
    if isinstance(seconds, (int, float)) and 0 < seconds < _COUNT_MAX:
        return {"input_seconds": f"{seconds:.3f}"}, ""
    # LiteLLM cannot read every kind of recording, and not every answer says how long it is.
    return {"input_seconds": seconds_by_size(request)}, "The answer does not say how long the recording is."


def _totals(usage: Fields) -> Mapping[str, int]:
    """Return the totals of an object whose parts contradict each other: no token is lost, and none counts twice."""
    given = _count(usage, "prompt_tokens") or _count(usage, "input_tokens")
    made = _count(usage, "completion_tokens") or _count(usage, "output_tokens")
    return {"input_tokens": given, "output_tokens": made}


def _count(fields: Fields, name: str) -> int:
    number = fields.get(name)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number < 0:
        return 0
    return min(int(number), _COUNT_MAX)


def _shown(quantities: Mapping[str, object]) -> Mapping[str, str]:
    return {unit: str(number) for unit, number in quantities.items() if number}


def _get(answer: object, name: str) -> object:
    if isinstance(answer, Mapping):
        return answer.get(name)
    return getattr(answer, name, None)
