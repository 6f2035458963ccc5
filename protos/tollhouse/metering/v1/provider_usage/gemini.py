"""Gemini's usageMetadata of generateContent, of the Gemini API and of Vertex AI.

promptTokenCount includes what was read from the cache. Candidates, thoughts and the results of tools are beside it and
beside each other: totalTokenCount is the sum of the four.
"""

from collections.abc import Collection, Mapping
from typing import Final

from tollhouse.metering.v1.provider_usage.pools import INPUT, OUTPUT, Cached, Modality, Written, divide, input_pools
from tollhouse.metering.v1.provider_usage.reading import Fields, ProviderUsage, Reading, shown

_MODALITIES: Final[Mapping[str, Modality]] = {
    "": "text",
    "MODALITY_UNSPECIFIED": "text",
    "TEXT": "text",
    "AUDIO": "audio",
    "IMAGE": "image",
    "VIDEO": "video",
    "DOCUMENT": "document",
}

# The names of Google's Python library, and those of the live API for what are candidates elsewhere.
_SPELLINGS: Final[Mapping[str, str]] = {
    "prompt_token_count": "promptTokenCount",
    "prompt_tokens_details": "promptTokensDetails",
    "cached_content_token_count": "cachedContentTokenCount",
    "cache_tokens_details": "cacheTokensDetails",
    "candidates_token_count": "candidatesTokenCount",
    "candidates_tokens_details": "candidatesTokensDetails",
    "response_token_count": "candidatesTokenCount",
    "response_tokens_details": "candidatesTokensDetails",
    "responseTokenCount": "candidatesTokenCount",
    "responseTokensDetails": "candidatesTokensDetails",
    "thoughts_token_count": "thoughtsTokenCount",
    "tool_use_prompt_token_count": "toolUsePromptTokenCount",
    "tool_use_prompt_tokens_details": "toolUsePromptTokensDetails",
    "total_token_count": "totalTokenCount",
    "token_count": "tokenCount",
}


def gemini_generate_content(
    usage: Mapping[str, object],
    *,
    undivided_cache_is_text: bool = False,
    ignored_fields: Collection[str] = (),
) -> ProviderUsage:
    """Reads `usageMetadata` of a generated content; of a stream, that of its last chunk.

    What a breakdown by modality leaves over is text, unless it names text as well. `undivided_cache_is_text` states
    that nothing but text was read from the cache, where the prompt is of several modalities and cacheTokensDetails is
    missing. `ignored_fields` are full names of fields, as a refusal gives them, whose numbers are not counts. Raises
    `UsageRefused`.
    """
    reading = Reading("Gemini content", ignored_fields)
    fields = reading.fields_of(usage, spellings=_SPELLINGS)
    prompt = fields.count("promptTokenCount")
    candidates = fields.count("candidatesTokenCount")
    thoughts = fields.count("thoughtsTokenCount")
    tools = fields.count("toolUsePromptTokenCount")
    total = fields.required_count("totalTokenCount")
    by_modality = _divided(reading, fields, "promptTokensDetails", "promptTokenCount", prompt)
    cached = fields.count("cachedContentTokenCount")
    of_cached = _named(reading, fields, "cacheTokensDetails")
    details = fields.name("cacheTokensDetails")
    cached_by_modality = divide(reading, details, of_cached, "cachedContentTokenCount", cached) if of_cached else None
    incoming = input_pools(
        reading,
        "promptTokenCount",
        by_modality,
        Cached(fields.name("cachedContentTokenCount"), cached, cached_by_modality),
        Written("", {}),
        undivided_cache_is_text=undivided_cache_is_text,
    )
    outgoing = _divided(reading, fields, "candidatesTokensDetails", "candidatesTokenCount", candidates)
    if outgoing.pop("document", 0):
        reading.fault("usage.candidatesTokensDetails", "has documents, which no model makes")
    results = _divided(reading, fields, "toolUsePromptTokensDetails", "toolUsePromptTokenCount", tools)
    reading.refuse_faults()
    parts = "promptTokenCount + candidatesTokenCount + thoughtsTokenCount + toolUsePromptTokenCount"
    reading.expect_equal("usage.totalTokenCount", total, parts, prompt + candidates + thoughts + tools)
    return reading.conclude(
        incoming,
        {"tool_use_prompt_tokens": results.pop("text", 0), "reasoning_tokens": thoughts},
        {INPUT[modality]: tokens for modality, tokens in results.items()},
        {OUTPUT[modality]: tokens for modality, tokens in outgoing.items()},
    )


def _divided(reading: Reading, fields: Fields, details: str, whole: str, tokens: int) -> dict[Modality, int]:
    return divide(reading, fields.name(details), _named(reading, fields, details), whole, tokens)


def _named(reading: Reading, fields: Fields, details: str) -> dict[Modality, int | None]:
    """The tokens that a breakdown has of each modality. One that is listed twice is added up."""
    named: dict[Modality, int | None] = {}
    for entry in fields.parts(details):
        name, number = entry.text("modality"), entry.count("tokenCount")
        modality = _MODALITIES.get(name.upper())
        if modality is not None:
            named[modality] = (named.get(modality) or 0) + number
        elif number:
            reading.fault(
                entry.name("modality"), f"is {shown(name)}, which is not known, and its tokenCount is {number}"
            )
    return named
