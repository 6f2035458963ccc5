"""OpenAI's usage objects.

All of them follow one rule: the count of a whole includes every count of its details. Two breakdowns of the same
prompt, by modality and by cache, overlap; only realtime and image objects say how.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tollhouse.metering.v1.provider_usage.pools import (
    OUTPUT,
    Cached,
    CacheLifetime,
    Modality,
    Written,
    divide,
    input_pools,
    written_by_lifetime,
)
from tollhouse.metering.v1.provider_usage.reading import Fields, ProviderUsage, Reading

_USUAL_LIFETIME: Final[CacheLifetime] = "30m"
_MODALITIES: Final[tuple[Modality, ...]] = ("text", "audio", "image")


@dataclass(frozen=True, slots=True)
class _Shape:
    """What sets one kind of object of input_tokens and output_tokens apart from another."""

    input_details: str = "input_tokens_details"
    output_details: str = "output_tokens_details"
    input_needs_modalities: bool = False
    output_needs_modalities: bool = False
    undivided_output: Modality = "text"
    # Whether cached tokens stand beside the details of the input instead of within them.
    cached_beside: bool = False


_PLAIN: Final = _Shape()
_REALTIME: Final = _Shape("input_token_details", "output_token_details", True, True)
_TRANSCRIPTION: Final = _Shape("input_token_details", "output_token_details", input_needs_modalities=True)
_IMAGES: Final = _Shape(input_needs_modalities=True, undivided_output="image", cached_beside=True)
_SPELLINGS_OF_IMAGES: Final = {"cached_text_tokens": "text_tokens", "cached_image_tokens": "image_tokens"}


def openai_chat(
    usage: Mapping[str, object],
    *,
    cache_write_lifetime: CacheLifetime | None = None,
    undivided_cache_is_text: bool = False,
    ignored_fields: Collection[str] = (),
) -> ProviderUsage:
    """Reads `usage` of a chat completion.

    Cache writes are taken to be kept for 30 minutes, which is usual with OpenAI, unless `cache_write_lifetime` states
    the `ttl` that was asked for. `undivided_cache_is_text` states that no audio and no images were read from or written
    to the cache, which a prompt of mixed modalities does not say. `ignored_fields` are full names of fields, as a
    refusal gives them, whose numbers are not counts. Raises `UsageRefused`.
    """
    reading = Reading("OpenAI chat completion", ignored_fields)
    fields = reading.fields_of(usage)
    prompt = fields.required_count("prompt_tokens")
    completion = fields.required_count("completion_tokens")
    total = fields.required_count("total_tokens")
    prompt_details = fields.part("prompt_tokens_details")
    incoming = _input(
        reading,
        "prompt_tokens",
        prompt,
        prompt_details,
        _cached(reading, prompt_details),
        cache_write_lifetime,
        undivided_cache_is_text=undivided_cache_is_text,
    )
    outgoing = _output(reading, "completion_tokens", completion, fields.part("completion_tokens_details"))
    reading.refuse_faults()
    reading.expect_equal("usage.total_tokens", total, "prompt_tokens + completion_tokens", prompt + completion)
    return reading.conclude(incoming, outgoing)


def openai_responses(
    usage: Mapping[str, object],
    *,
    tool_usage: Mapping[str, object] | None = None,
    cache_write_lifetime: CacheLifetime | None = None,
    ignored_fields: Collection[str] = (),
) -> ProviderUsage:
    """Reads `usage` of a response, and `tool_usage` beside it, which counts the web searches.

    Tokens of tool_usage's image_gen are another model's: read them with `openai_images` and record them under that
    model. They are refused here. `cache_write_lifetime` and `ignored_fields` are as for `openai_chat`. Raises
    `UsageRefused`.
    """
    reading = Reading("OpenAI response", ignored_fields)
    fields = reading.fields_of(usage)
    tools = reading.fields_of(tool_usage, "tool_usage")
    searches = tools.part("web_search").count("num_requests")
    tokens = _input_and_output(reading, fields, _PLAIN, cache_write_lifetime)
    return reading.conclude(*tokens, {"web_searches": searches})


def openai_realtime(usage: Mapping[str, object], *, ignored_fields: Collection[str] = ()) -> ProviderUsage:
    """Reads `usage` of a `response.done` event of the realtime API. `ignored_fields` is as for `openai_chat`.

    Raises `UsageRefused`, also if input or output is not divided by modality, on which its price depends.
    """
    reading = Reading("OpenAI realtime response", ignored_fields)
    fields = reading.fields_of(usage)
    return reading.conclude(*_input_and_output(reading, fields, _REALTIME))


def openai_embeddings(usage: Mapping[str, object], *, ignored_fields: Collection[str] = ()) -> ProviderUsage:
    """Reads `usage` of embeddings, all of which is input.

    `ignored_fields` is as for `openai_chat`. Raises `UsageRefused`.
    """
    reading = Reading("OpenAI embeddings", ignored_fields)
    fields = reading.fields_of(usage)
    prompt = fields.required_count("prompt_tokens")
    total = fields.required_count("total_tokens")
    reading.refuse_faults()
    reading.expect_equal("usage.total_tokens", total, "prompt_tokens", prompt)
    return reading.conclude({"input_tokens": prompt})


def openai_transcription(usage: Mapping[str, object], *, ignored_fields: Collection[str] = ()) -> ProviderUsage:
    """Reads `usage` of a transcription: tokens, or seconds of audio, by its `type`.

    Seconds finer than thousandths are refused, not rounded. `ignored_fields` is as for `openai_chat`. Raises
    `UsageRefused`, also if input tokens are not divided into audio and text.
    """
    reading = Reading("OpenAI transcription", ignored_fields)
    fields = reading.fields_of(usage)
    kind = fields.text("type")
    if kind == "duration":
        return reading.conclude({"input_seconds": fields.seconds("seconds")})
    if kind != "tokens":
        reading.fault("usage.type", "must be `tokens` or `duration`")
    return reading.conclude(*_input_and_output(reading, fields, _TRANSCRIPTION))


def openai_images(usage: Mapping[str, object], *, ignored_fields: Collection[str] = ()) -> ProviderUsage:
    """Reads `usage` of generated or edited images, and `image_gen` of a response's tool_usage.

    Output that is not divided consists of image tokens. `ignored_fields` is as for `openai_chat`. Raises
    `UsageRefused`, also if input is not divided into images and text.
    """
    reading = Reading("OpenAI images", ignored_fields)
    fields = reading.fields_of(usage, spellings=_SPELLINGS_OF_IMAGES)
    return reading.conclude(*_input_and_output(reading, fields, _IMAGES))


def _input_and_output(
    reading: Reading, fields: Fields, shape: _Shape, cache_write_lifetime: CacheLifetime | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """Reads an object of input_tokens, output_tokens, their details and total_tokens."""
    incoming = fields.required_count("input_tokens")
    outgoing = fields.required_count("output_tokens")
    total = fields.required_count("total_tokens")
    details = fields.part(shape.input_details)
    cached = _cached(reading, fields if shape.cached_beside else details)
    pools = _input(reading, "input_tokens", incoming, details, cached, cache_write_lifetime, shape=shape)
    pools_out = _output(reading, "output_tokens", outgoing, fields.part(shape.output_details), shape)
    reading.refuse_faults()
    reading.expect_equal("usage.total_tokens", total, "input_tokens + output_tokens", incoming + outgoing)
    return pools, pools_out


def _input(
    reading: Reading,
    whole: str,
    tokens: int,
    details: Fields,
    cached: Cached,
    cache_write_lifetime: CacheLifetime | None,
    *,
    undivided_cache_is_text: bool = False,
    shape: _Shape = _PLAIN,
) -> dict[str, int]:
    named_modalities = _named(details)
    if shape.input_needs_modalities:
        _expect_modalities(reading, details, named_modalities, whole, tokens)
    by_modality = divide(reading, details.path, named_modalities, whole, tokens)
    written = details.optional_count("cache_write_tokens")
    lifetimes = details.part("cache_write_tokens_details")
    named: dict[CacheLifetime, int | None] = {
        "30m": lifetimes.optional_count("ttl_30m_tokens"),
        "12h": lifetimes.optional_count("ttl_12h_tokens"),
    }
    name = details.name("cache_write_tokens")
    by_lifetime = written_by_lifetime(reading, name, written, named, _USUAL_LIFETIME, cache_write_lifetime)
    return input_pools(
        reading,
        whole,
        by_modality,
        cached,
        Written(name, by_lifetime),
        undivided_cache_is_text=undivided_cache_is_text,
    )


def _cached(reading: Reading, fields: Fields) -> Cached:
    tokens = fields.count("cached_tokens")
    name = fields.name("cached_tokens")
    details = fields.part("cached_tokens_details")
    named = _named(details)
    if all(number is None for number in named.values()):
        return Cached(name, tokens)
    return Cached(name, tokens, divide(reading, details.path, named, "cached_tokens", tokens))


def _named(details: Fields) -> dict[Modality, int | None]:
    return {modality: details.optional_count(f"{modality}_tokens") for modality in _MODALITIES}


def _expect_modalities(
    reading: Reading, details: Fields, named: Mapping[Modality, int | None], whole: str, tokens: int
) -> None:
    if tokens and all(number is None for number in named.values()):
        reading.fault(details.path, f"does not divide {tokens} {whole} by modality, on which their price depends")


def _output(reading: Reading, whole: str, tokens: int, details: Fields, shape: _Shape = _PLAIN) -> dict[str, int]:
    """Divides the output: audio, images, reasoning, and text, which predicted tokens are whether accepted or not.

    Text tokens, where they are given, may or may not include the reasoning and the rejected predictions.
    """
    named = _named(details)
    if shape.output_needs_modalities:
        _expect_modalities(reading, details, named, whole, tokens)
    text, audio, image = named["text"], named["audio"] or 0, named["image"] or 0
    reasoning = details.count("reasoning_tokens")
    rejected = details.count("rejected_prediction_tokens")
    predicted = details.count("accepted_prediction_tokens") + rejected
    rest = tokens - audio - image - reasoning
    if rest < 0:
        reading.fault(details.path, f"adds up to {audio + image + reasoning}, but {whole} is {tokens}")
    reading.expect_at_most(details.path + " of predictions", predicted, f"{whole} less its other parts", rest)
    if text is not None and text not in (rest, rest + reasoning, rest - rejected, rest + reasoning - rejected):
        reading.fault(details.name("text_tokens"), f"is {text}, but the other parts leave {rest} of {whole} ({tokens})")
    pools = {OUTPUT["text"]: 0, OUTPUT["audio"]: audio, OUTPUT["image"]: image, "reasoning_tokens": reasoning}
    undivided = all(number is None for number in named.values())
    pools[OUTPUT[shape.undivided_output if undivided else "text"]] += rest
    return pools
