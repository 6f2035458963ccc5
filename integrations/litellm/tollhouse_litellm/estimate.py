"""Estimates, before the work, how much a call may use.

The estimate only decides how much money is held meanwhile; the charge is what the provider counts. So no tokenizer is
asked, which takes longer than the rest of the admission for a long prompt: three bytes of UTF-8 are taken for a token,
which is more than most text has.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from tollhouse_litellm.bodies import CHOICES_MAX, COUNTS
from tollhouse_litellm.usage import Fields, seconds_by_size, tier_of

_BYTES_PER_TOKEN: Final = 3
_TOKENS_PER_MEDIUM: Final = 1600
_TOKENS_MAX: Final = 1_000_000_000
# What providers read as text; everything else of a request is about how they should answer.
_READ: Final = ("messages", "input", "prompt", "instructions", "system", "tools", "query", "documents", "functions")
# What says how much may be written. LiteLLM drops those of other routes without a word.
_MAXIMA: Final = ("max_completion_tokens", "max_tokens")
_MAXIMA_OF_RESPONSES: Final = ("max_output_tokens",)
_RESPONSES: Final = frozenset({"aresponses", "responses"})
# Parts of messages whose data is a picture, a sound or a file, and not text.
_MEDIA: Final = ("image_url", "image", "input_image", "input_audio", "file", "input_file", "document", "source")
_DOCUMENTS_PER_QUERY: Final = 100
_OTHER_UNITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("rerank", "arerank"), "queries"),
    **dict.fromkeys(("image_generation", "aimage_generation"), "images"),
    **dict.fromkeys(("audio_speech", "aspeech"), "characters"),
    **dict.fromkeys(("transcription", "atranscription"), "input_seconds"),
}
_WITHOUT_OUTPUT: Final = frozenset({"aembedding", "embeddings", "rerank", "arerank"})


def input_tokens(request: Fields) -> int:
    """Return how many tokens the provider may read of a request: 1,600 for a picture or file, else by its length."""
    size, media = 0, 0
    waiting: list[object] = [request.get(name) for name in _READ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif isinstance(value, Mapping):
            media += sum(1 for name in _MEDIA if value.get(name) and value.get("type", name) in (*_MEDIA, "base64"))
            size += 8
            waiting += [part for name, part in value.items() if name not in _MEDIA]
        elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            waiting += value
        elif isinstance(value, (int, float)):
            size += _BYTES_PER_TOKEN
    return min(_TOKENS_MAX, -(-size // _BYTES_PER_TOKEN) + media * _TOKENS_PER_MEDIUM)


def max_output_tokens(request: Fields, call_type: str) -> int | None:
    """Return the most that the provider may write, all choices together, or None where the request does not say."""
    if call_type in _WITHOUT_OUTPUT:
        return 0
    names = _MAXIMA_OF_RESPONSES if call_type in _RESPONSES else _MAXIMA
    given = [value for name in names if (value := _whole(request.get(name))) is not None]
    return min(_TOKENS_MAX, max(given) * choices(request)) if given else None


def other_unit(request: Fields, call_type: str) -> tuple[str, int] | None:
    """Return by which other unit than tokens such work may be sold, and how much is asked for; None for other work."""
    unit = _OTHER_UNITS.get(call_type)
    if unit == "queries":
        return unit, -(-_length(request.get("documents")) // _DOCUMENTS_PER_QUERY)
    if unit == "images":
        return unit, choices(request)
    if unit == "characters":
        return unit, _length(request.get("input"))
    return (unit, seconds_by_size(request)) if unit else None


def _length(value: object) -> int:
    return max(1, len(value)) if isinstance(value, (str, list)) else 1


def choices(request: Fields) -> int:
    """Return how many answers a request asks for."""
    counts = [_whole(request.get(name)) or 1 for name in COUNTS]
    return max(1, min(CHOICES_MAX, max(counts)))


def service_tier(request: Fields) -> str:
    """Return the service tier that a request asks for; "" for the usual one."""
    tier = tier_of(request.get("service_tier"))
    return "" if tier == "standard" else tier


def written_tokens(text_bytes: int) -> int:
    """Return how many tokens a text is that a provider wrote and did not count, because its stream broke."""
    return -(-text_bytes // 4)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
