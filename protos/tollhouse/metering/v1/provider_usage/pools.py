"""The exclusive pools that tokens are divided into, and the rules of dividing them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tollhouse.metering.v1.provider_usage.reading import Reading

# How long a cache keeps what is written to it.
CacheLifetime = Literal["5m", "30m", "1h", "12h"]
Modality = Literal["text", "audio", "image", "video", "document"]

INPUT: Final[Mapping[Modality, str]] = {
    "text": "input_tokens",
    "audio": "audio_input_tokens",
    "image": "image_input_tokens",
    "video": "video_input_tokens",
    "document": "document_tokens",
}
CACHE_READ: Final[Mapping[Modality, str]] = {
    "text": "cache_read_tokens",
    "audio": "cache_read_audio_tokens",
    "image": "cache_read_image_tokens",
    "video": "cache_read_video_tokens",
    "document": "cache_read_document_tokens",
}
OUTPUT: Final[Mapping[Modality, str]] = {
    "text": "output_tokens",
    "audio": "audio_output_tokens",
    "image": "image_output_tokens",
    "video": "video_output_tokens",
}
# Written tokens of whatever modality but audio, which has a unit of its own.
CACHE_WRITE: Final[Mapping[CacheLifetime, str]] = {
    "5m": "cache_write_tokens",
    "30m": "cache_write_30m_tokens",
    "1h": "cache_write_1h_tokens",
    "12h": "cache_write_12h_tokens",
}
CACHE_WRITE_AUDIO: Final = "cache_write_audio_tokens"


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a prompt that were read from a cache. `by_modality` is None where the provider does not divide them."""

    name: str
    tokens: int
    by_modality: Mapping[Modality, int] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens of a prompt that were written to a cache, by unit of lifetime. No provider divides them by modality."""

    name: str
    by_unit: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(self.by_unit.values())


def divide(
    reading: Reading, details: str, named: Mapping[Modality, int | None], whole: str, tokens: int
) -> dict[Modality, int]:
    """Divides tokens by modality. What a breakdown leaves over is text, unless it names text as well."""
    found = sum(number or 0 for number in named.values())
    divided = {modality: number or 0 for modality, number in named.items()}
    if named.get("text") is None and found <= tokens:
        divided["text"] = tokens - found
    elif found != tokens:
        reading.fault(details, f"adds up to {found}, but {whole} is {tokens}")
    return divided


def written_by_lifetime(
    reading: Reading,
    name: str,
    written: int | None,
    named: Mapping[CacheLifetime, int | None],
    usual: CacheLifetime,
    stated: CacheLifetime | None,
) -> dict[str, int]:
    """Divides written tokens by how long they are kept.

    Without a breakdown all of them are kept as long as the caller states, or else as long as is usual with the
    provider. What a breakdown leaves over is only divided if the caller states how long it is kept.
    """
    if stated is not None and stated not in CACHE_WRITE:
        reading.fault("cache_write_lifetime", f"must be one of {', '.join(CACHE_WRITE)}")
        return {}
    divided = {CACHE_WRITE[lifetime]: number or 0 for lifetime, number in named.items()}
    found = sum(divided.values())
    tokens = found if written is None else written
    if found < tokens and (stated is not None or all(number is None for number in named.values())):
        rest = CACHE_WRITE[stated or usual]
        divided[rest] = divided.get(rest, 0) + tokens - found
    elif found != tokens:
        advice = "" if found > tokens else " (cache_write_lifetime may state how long the rest is kept)"
        reading.fault(name, f"is {tokens}, but its parts by lifetime add up to {found}{advice}")
    return divided


def input_pools(
    reading: Reading,
    whole: str,
    by_modality: Mapping[Modality, int],
    cached: Cached,
    written: Written,
    *,
    undivided_cache_is_text: bool,
) -> dict[str, int]:
    """Divides a prompt, which includes what was read from and written to a cache, into pools.

    Cached tokens of unknown modality in a prompt of several are text if the caller says so. If not, it is a fault
    unless they are all there is, because their modality decides what they cost.
    """
    mixed = sum(tokens > 0 for tokens in by_modality.values()) > 1
    prompt = _Prompt(reading, whole, is_text=mixed and undivided_cache_is_text)
    read = cached.by_modality or prompt.modalities(cached.name, cached.tokens, by_modality)
    left = {modality: tokens - read.get(modality, 0) for modality, tokens in by_modality.items()}
    for modality, tokens in read.items():
        if tokens > by_modality.get(modality, 0):
            reading.fault(cached.name, f"has {tokens} of {modality}, but {whole} has {by_modality.get(modality, 0)}")
    write = prompt.modalities(written.name, written.tokens, left)
    for modality, tokens in write.items():
        if tokens > left.get(modality, 0):
            reading.fault(
                written.name, f"has {tokens} of {modality}, but {whole} has {left.get(modality, 0)} not read from cache"
            )
    pools = {INPUT[modality]: tokens - write.get(modality, 0) for modality, tokens in left.items()}
    pools |= {CACHE_READ[modality]: tokens for modality, tokens in read.items()}
    return pools | _write_pools(reading, written, write.get("audio", 0))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt, parts of which were read from or written to a cache without their modality being said."""

    reading: Reading
    whole: str
    is_text: bool

    def modalities(self, name: str, tokens: int, available: Mapping[Modality, int]) -> Mapping[Modality, int]:
        """Finds the modalities of a part among those that are available; notes a fault if there are several answers."""
        present: dict[Modality, int] = {modality: number for modality, number in available.items() if number > 0}
        if tokens == 0 or self.is_text:
            return {"text": tokens}
        if tokens >= sum(present.values()):
            self.reading.expect_at_most(name, tokens, f"what is left of {self.whole}", sum(present.values()))
            return present
        if len(present) == 1:
            return dict.fromkeys(present, tokens)
        mixture = ", ".join(f"{number} of {modality}" for modality, number in present.items())
        self.reading.fault(name, f"is {tokens}, and nothing says of which modality: {self.whole} has {mixture}")
        return {}


def _write_pools(reading: Reading, written: Written, audio: int) -> dict[str, int]:
    if audio == 0:
        return dict(written.by_unit)
    units = [unit for unit, tokens in written.by_unit.items() if tokens]
    if audio == written.tokens:
        return {CACHE_WRITE_AUDIO: audio}
    if len(units) > 1:
        reading.fault(written.name, f"has {audio} of audio, and nothing says how long they are kept")
    return {CACHE_WRITE_AUDIO: audio, units[0]: written.tokens - audio}
