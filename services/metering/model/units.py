"""Units: what a platform counts and sells, and quantities of them.

A quantity is a decimal of at most three fraction digits. Inside, it is a whole number of thousandths, which is exact
and fast. The pools of tokens are exclusive: a token is counted in one unit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from libs.common.errors import FieldViolation

THOUSANDTHS: Final = 1_000
QUANTITY_MAX: Final = 10**9
"""The largest quantity of one unit in one usage: the limit that counts of tokens have always had."""
QUANTITIES_MAX: Final = 64
"""The most units that one usage may have."""
_THOUSANDTH: Final = Decimal("0.001")


class Kind(StrEnum):
    """What a unit measures."""

    TOKEN = "token"  # noqa: S105, a kind of unit and no secret.
    COUNT = "count"
    DURATION = "duration"
    SIZE = "size"


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is counted and sold.

    Its kind, its step and whether it counts toward the context never change: prices and usage rest on them.
    """

    unit_id: str
    name: str
    description: str
    kind: Kind
    counts_toward_context: bool
    """Whether its quantity is part of the input context, by which a rate with a threshold is chosen."""
    step_thousandths: int = THOUSANDTHS
    """The smallest step of a quantity, in thousandths: 1,000 for whole numbers, 1 for three fraction digits."""
    archived: bool = False
    """An archived unit is refused in new usage and new rates."""


Units = Mapping[str, Unit]
"""Units by their ids."""

Quantities = Mapping[str, int]
"""Quantities by unit id, in thousandths, each at least zero."""


def name_of(unit_id: str) -> str:
    """Return a name for people, made from an id."""
    return " ".join(unit_id.replace("_", " ").split()).capitalize()


_WHOLE: Final = THOUSANDTHS
_FINE: Final = 1
_IN: Final = True
"""A unit of the input side, which counts toward the input context."""
_NO: Final = False

_SEEDED: Final = (
    ("input_tokens", Kind.TOKEN, _IN, _WHOLE, "Text the model reads, neither read from nor written to a cache."),
    ("output_tokens", Kind.TOKEN, _NO, _WHOLE, "Text the model writes, without its reasoning."),
    ("cache_read_tokens", Kind.TOKEN, _IN, _WHOLE, "Input read from the provider's prompt cache."),
    ("cache_read_explicit_tokens", Kind.TOKEN, _IN, _WHOLE, "Input read from a cache that the caller made by itself."),
    ("cache_write_tokens", Kind.TOKEN, _IN, _WHOLE, "Input written to the cache for the usual time, often 5 minutes."),
    ("cache_write_30m_tokens", Kind.TOKEN, _IN, _WHOLE, "Input written to the cache for 30 minutes."),
    ("cache_write_1h_tokens", Kind.TOKEN, _IN, _WHOLE, "Input written to the cache for one hour."),
    ("cache_write_12h_tokens", Kind.TOKEN, _IN, _WHOLE, "Input written to the cache for 12 hours."),
    ("reasoning_tokens", Kind.TOKEN, _NO, _WHOLE, "Output spent on reasoning."),
    ("audio_input_tokens", Kind.TOKEN, _IN, _WHOLE, "Audio the model hears."),
    ("audio_output_tokens", Kind.TOKEN, _NO, _WHOLE, "Audio the model speaks."),
    ("cache_read_audio_tokens", Kind.TOKEN, _IN, _WHOLE, "Audio read from the cache."),
    ("cache_write_audio_tokens", Kind.TOKEN, _IN, _WHOLE, "Audio written to the cache."),
    ("image_input_tokens", Kind.TOKEN, _IN, _WHOLE, "Images the model sees."),
    ("image_output_tokens", Kind.TOKEN, _NO, _WHOLE, "Images the model makes."),
    ("cache_read_image_tokens", Kind.TOKEN, _IN, _WHOLE, "Images read from the cache."),
    ("video_input_tokens", Kind.TOKEN, _IN, _WHOLE, "Video the model sees."),
    ("video_output_tokens", Kind.TOKEN, _NO, _WHOLE, "Video the model makes."),
    ("cache_read_video_tokens", Kind.TOKEN, _IN, _WHOLE, "Video read from the cache."),
    ("document_tokens", Kind.TOKEN, _IN, _WHOLE, "Documents the model reads."),
    ("cache_read_document_tokens", Kind.TOKEN, _IN, _WHOLE, "Documents read from the cache."),
    ("tool_use_prompt_tokens", Kind.TOKEN, _IN, _WHOLE, "Input that the provider's tools added."),
    ("citation_tokens", Kind.TOKEN, _NO, _WHOLE, "Text of cited sources, where a provider charges for it by itself."),
    ("images", Kind.COUNT, _NO, _WHOLE, "Images made."),
    ("images_0_5k", Kind.COUNT, _NO, _WHOLE, "Images made in the resolution 0.5K, 512 on a side."),
    ("images_1k", Kind.COUNT, _NO, _WHOLE, "Images made in the resolution 1K, 1,024 on a side."),
    ("images_1_5k", Kind.COUNT, _NO, _WHOLE, "Images made in the resolution 1.5K, 1,536 on a side."),
    ("images_2k", Kind.COUNT, _NO, _WHOLE, "Images made in the resolution 2K."),
    ("images_4k", Kind.COUNT, _NO, _WHOLE, "Images made in the resolution 4K."),
    ("input_images", Kind.COUNT, _NO, _WHOLE, "Images given."),
    ("pixels", Kind.SIZE, _NO, _WHOLE, "Pixels of images made."),
    ("input_pixels", Kind.SIZE, _NO, _WHOLE, "Pixels of images given."),
    ("input_seconds", Kind.DURATION, _NO, _FINE, "Seconds of audio given, or of a reserved model's time."),
    ("input_video_seconds", Kind.DURATION, _NO, _FINE, "Seconds of video given."),
    ("output_seconds", Kind.DURATION, _NO, _FINE, "Seconds of audio or video made."),
    ("output_seconds_480p", Kind.DURATION, _NO, _FINE, "Seconds of video made in 480p."),
    ("output_seconds_720p", Kind.DURATION, _NO, _FINE, "Seconds of video made in 720p."),
    ("output_seconds_768p", Kind.DURATION, _NO, _FINE, "Seconds of video made in 768p."),
    ("output_seconds_1080p", Kind.DURATION, _NO, _FINE, "Seconds of video made in 1080p."),
    ("output_seconds_2k", Kind.DURATION, _NO, _FINE, "Seconds of video made in 2K."),
    ("output_seconds_4k", Kind.DURATION, _NO, _FINE, "Seconds of video made in 4K."),
    ("characters", Kind.SIZE, _NO, _WHOLE, "Characters of text given."),
    ("output_characters", Kind.SIZE, _NO, _WHOLE, "Characters of text made."),
    ("pages", Kind.COUNT, _NO, _WHOLE, "Pages read."),
    ("annotation_pages", Kind.COUNT, _NO, _WHOLE, "Pages annotated."),
    ("queries", Kind.COUNT, _NO, _WHOLE, "Queries of a search or rerank model."),
    ("web_searches", Kind.COUNT, _NO, _WHOLE, "Searches of the web that a model made."),
    ("web_searches_low", Kind.COUNT, _NO, _WHOLE, "Searches of the web with little search context."),
    ("web_searches_medium", Kind.COUNT, _NO, _WHOLE, "Searches of the web with medium search context."),
    ("web_searches_high", Kind.COUNT, _NO, _WHOLE, "Searches of the web with much search context."),
    ("map_searches", Kind.COUNT, _NO, _WHOLE, "Searches of maps that a model made."),
    ("web_fetches", Kind.COUNT, _NO, _WHOLE, "Web pages that a model fetched."),
    ("code_sessions", Kind.COUNT, _NO, _WHOLE, "Sessions in which a model ran code."),
    ("text_messages", Kind.COUNT, _NO, _WHOLE, "Text messages given within a session of speech."),
    ("requests", Kind.COUNT, _NO, _WHOLE, "Calls, each counted once."),
    ("products", Kind.COUNT, _NO, _WHOLE, "Whatever the platform makes and sells by the piece."),
    ("credits", Kind.COUNT, _NO, _FINE, "Credits in which a provider or platform counts; they come in parts, too."),
)

SEEDED_UNITS: Final[Units] = MappingProxyType(
    {
        unit_id: Unit(unit_id, name_of(unit_id), description, kind, in_context, step)
        for unit_id, kind, in_context, step, description in _SEEDED
    }
)

TOKEN_CLASS_UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input": "input_tokens",
        "output": "output_tokens",
        "cache_read": "cache_read_tokens",
        "cache_write": "cache_write_tokens",
        "reasoning": "reasoning_tokens",
        "audio_input": "audio_input_tokens",
        "audio_output": "audio_output_tokens",
        "image": "image_input_tokens",
    }
)
"""The unit of each class of TokenCounts, the short way to state quantities."""

CLASS_OF_UNIT: Final[Mapping[str, str]] = MappingProxyType({unit: name for name, unit in TOKEN_CLASS_UNITS.items()})
"""The class of TokenCounts that each of those units is."""


def read_quantities(
    field: str,
    listed: Iterable[tuple[str, Decimal]],
    units: Units,
    violations: list[FieldViolation],
    *,
    archived: bool = False,
) -> dict[str, int]:
    """Return the listed quantities by unit, in thousandths. What is wrong is added to `violations`, and left out.

    Wrong are: a unit that does not exist, is archived (unless `archived` allows it) or is listed
    twice; a quantity below zero, above QUANTITY_MAX or finer than the unit's step; more than QUANTITIES_MAX units.
    """
    quantities: dict[str, int] = {}
    for index, (unit_id, value) in enumerate(listed):
        if index == QUANTITIES_MAX:
            violations.append(FieldViolation(field, f"must have at most {QUANTITIES_MAX} units"))
            break
        unit = units.get(unit_id)
        flaw = _flaw_of_unit(unit, archived=archived) or ("is listed twice" if unit_id in quantities else "")
        if flaw or unit is None:
            violations.append(FieldViolation(f"{field}[{index}].unit", flaw))
            continue
        flaw = _flaw_of_value(value, unit)
        if flaw:
            violations.append(FieldViolation(f"{field}[{index}].value", flaw))
            continue
        quantities[unit_id] = thousandths_of(value)
    return quantities


def _flaw_of_unit(unit: Unit | None, *, archived: bool = False) -> str:
    if unit is None:
        return "is not a unit of the catalogue"
    return "is an archived unit" if unit.archived and not archived else ""


def check_unit(field: str, unit_id: str, units: Units) -> list[FieldViolation]:
    """Return what is wrong with naming a unit: it does not exist, or it is archived."""
    flaw = _flaw_of_unit(units.get(unit_id))
    return [FieldViolation(field, flaw)] if flaw else []


def _flaw_of_value(value: Decimal, unit: Unit) -> str:
    # The size is checked first, so that nothing is computed with a number such as 1e999999.
    if not value.is_finite() or not 0 <= value <= QUANTITY_MAX:
        return f"must be from 0 to {QUANTITY_MAX:,}"
    if value != value.quantize(_THOUSANDTH) or thousandths_of(value) % unit.step_thousandths:
        step = Decimal(unit.step_thousandths) / THOUSANDTHS
        return f"must be a multiple of {step.normalize():f}, the step of {unit.unit_id}"
    return ""


def thousandths_of(value: Decimal) -> int:
    """Return a quantity of at most three fraction digits in thousandths."""
    return int(value.scaleb(3))


def quantity_of(thousandths: int) -> Decimal:
    """Return thousandths as a plain decimal."""
    return Decimal(f"{thousandths}e-3")


def quantity_text(thousandths: int) -> str:
    """Return thousandths as a plain decimal without trailing zeros."""
    whole, rest = divmod(thousandths, THOUSANDTHS)
    return f"{whole}.{rest:03d}".rstrip("0") if rest else str(whole)


def input_context(quantities: Quantities, units: Units) -> int:
    """Return the input context, in thousandths of tokens: all that the model reads, from a cache or not."""
    context = 0
    for unit_id, value in quantities.items():
        if units[unit_id].counts_toward_context:
            context += value
    return context


def total_tokens(quantities: Quantities, units: Units) -> int:
    """Return how many tokens there are, whatever their unit."""
    return sum(value for unit_id, value in quantities.items() if units[unit_id].kind is Kind.TOKEN) // THOUSANDTHS


def token_units(units: Units) -> list[str]:
    """Return the units that tokens are counted in."""
    return [unit_id for unit_id, unit in units.items() if unit.kind is Kind.TOKEN]
