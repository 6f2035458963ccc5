"""What a call has used, from a provider's usage object or from quantities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal, Protocol, TypeAlias, cast, runtime_checkable

from tollhouse.metering.v1 import provider_usage
from tollhouse.metering.v1.provider_usage import ProviderUsage
from tollhouse.metering.v1.unit_pb2 import Quantity

Kind: TypeAlias = Literal[
    "anthropic_messages",
    "bedrock_converse",
    "gemini_generate_content",
    "openai_chat",
    "openai_embeddings",
    "openai_images",
    "openai_realtime",
    "openai_responses",
    "openai_transcription",
]
"""The kinds of usage objects, named as the functions of `tollhouse.metering.v1.provider_usage` that read them."""

_READERS: Final[Mapping[str, Callable[[Mapping[str, object]], ProviderUsage]]] = {
    "anthropic_messages": provider_usage.anthropic_messages,
    "bedrock_converse": provider_usage.bedrock_converse,
    "gemini_generate_content": provider_usage.gemini_generate_content,
    "openai_chat": provider_usage.openai_chat,
    "openai_embeddings": provider_usage.openai_embeddings,
    "openai_images": provider_usage.openai_images,
    "openai_realtime": provider_usage.openai_realtime,
    "openai_responses": provider_usage.openai_responses,
    "openai_transcription": provider_usage.openai_transcription,
}
_QUANTITIES_MAX: Final = 64


@runtime_checkable
class Dumped(Protocol):
    """A usage object of a provider's library, which pydantic makes."""

    def model_dump(self) -> dict[str, object]: ...


UsageObject: TypeAlias = ProviderUsage | Mapping[str, object] | Dumped


@dataclass(frozen=True, slots=True)
class Used:
    """Quantities of units, and the number of tokens in all where the provider says it."""

    quantities: Mapping[str, int | Decimal]
    total_tokens: int | None = None

    def messages(self) -> list[Quantity]:
        """Return the quantities as a request has them."""
        return [
            Quantity(unit=unit, value=str(value) if isinstance(value, int) else format(value, "f"))
            for unit, value in self.quantities.items()
        ]


def used_of(usage: UsageObject | None, kind: Kind | None, quantities: Mapping[str, int | Decimal] | None) -> Used:
    """Read a usage object, or take quantities.

    Raises:
        UsageRefused: the object does not add up, or has what this version does not know.
        ValueError: neither or both are given, the kind of the object cannot be told, or a quantity is no quantity.
    """
    if (usage is None) == (quantities is None):
        raise ValueError("Give either a usage object or quantities.")
    if quantities is not None:
        return Used(_checked(quantities))
    read = read_usage(cast(UsageObject, usage), kind)
    return Used(read.quantities, read.total_tokens)


def read_usage(usage: UsageObject, kind: Kind | None = None) -> ProviderUsage:
    """Turn a provider's usage object into quantities; see `used_of` for what is raised."""
    if isinstance(usage, ProviderUsage):
        return usage
    if isinstance(usage, Mapping):
        fields = usage
    elif isinstance(usage, Dumped):
        fields = usage.model_dump()
    else:
        raise ValueError(f"A usage object is a mapping or has model_dump(), not {type(usage).__name__}.")
    reader = _READERS.get(kind or _kind_of(fields))
    if reader is None:
        raise ValueError(f"The kind of this usage object cannot be told: give kind, one of {', '.join(_READERS)}.")
    return reader(fields)


def _kind_of(fields: Mapping[str, object]) -> str:
    """Tell the kind of an object by the names of its fields; empty where several kinds have these."""
    names = {name for name, value in fields.items() if value is not None}
    if "prompt_tokens" in names:
        return "openai_chat" if "completion_tokens" in names else "openai_embeddings"
    if names & {"promptTokenCount", "prompt_token_count", "totalTokenCount", "total_token_count"}:
        return "gemini_generate_content"
    if "inputTokens" in names:
        return "bedrock_converse"
    if "input_tokens" in names and "total_tokens" not in names and not names & {"input_token_details", "type"}:
        return "anthropic_messages"
    details = fields.get("input_tokens_details")
    if {"input_tokens", "output_tokens", "total_tokens"} <= names and isinstance(details, Mapping):
        return "openai_responses" if "cached_tokens" in details else ""
    return ""


def _checked(quantities: Mapping[str, int | Decimal]) -> dict[str, int | Decimal]:
    if not 0 < len(quantities) <= _QUANTITIES_MAX:
        raise ValueError(f"There must be 1 to {_QUANTITIES_MAX} quantities, not {len(quantities)}.")
    for unit, value in quantities.items():
        # A float is refused: 0.1 is none, and money depends on it.
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or isinstance(value, Decimal)) or not Decimal(value).is_finite() or value < 0:
            raise ValueError(
                f"The quantity of {unit} must be a whole number or a Decimal of at least 0, not {value!r}."
            )
    return dict(quantities)
