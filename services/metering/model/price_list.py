"""Reads price lists: LiteLLM's public price map, and our own YAML. Numbers never pass through floating point.

Each entry is validated by itself; one that cannot be used is skipped with a reason. Whatever of a usable entry is cut
or left out is listed in its warnings, and prices that no rate holds in `ignored_price_keys`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.document import NUMBER, Entry, Flawed, Unreadable, Value, shown
from services.metering.model.json_document import json_entries
from services.metering.model.litellm_prices import ListedPrices, read_price_map
from services.metering.model.rate_checks import RATES_MAX, with_margin
from services.metering.model.rates import RateCard
from services.metering.model.units import SEEDED_UNITS, Units
from services.metering.model.yaml_document import yaml_entries
from services.metering.model.yaml_prices import PRICE_KEYS, put_margin, read_card

ENTRIES_MAX: Final = 200_000
NAME_LENGTH_MAX: Final = 256
_REASON_LENGTH_MAX: Final = 4_096
_WARNING_LENGTH_MAX: Final = 256
_MODEL_ID: Final = re.compile(r"[!-~]{1,256}")
_COUNT_MAX: Final = 10**9
_NOT_A_MODEL: Final = "sample_spec"

_PROVIDER_LENGTH_MAX: Final = 100
_DISPLAY_NAME_LENGTH_MAX: Final = 256
_DESCRIPTION_LENGTH_MAX: Final = 4096
_CAPABILITIES_MAX: Final = 64
_CAPABILITY_LENGTH_MAX: Final = 64
_METADATA_PAIRS_MAX: Final = 32
_METADATA_KEY_LENGTH_MAX: Final = 64
_METADATA_VALUE_LENGTH_MAX: Final = 512
_WARNINGS_MAX: Final = 16
_IGNORED_PRICE_KEYS_MAX: Final = 64

_YAML_KEYS: Final = {
    *("model_id", "provider", "display_name", "description", "capabilities"),
    *("context_length", "max_output_tokens", "metadata"),
    *PRICE_KEYS,
}


@dataclass(frozen=True, slots=True)
class Terms:
    """How a list is read."""

    wanted: Sequence[str] = ()
    """Only these models, where there are any."""
    allow_partial: bool = False
    """Whether entries come in without the prices that no rate holds."""
    margin: Decimal | None = None
    """What the listed prices, which are kept as provider costs, are multiplied with for customers."""
    units: Units = field(default_factory=lambda: SEEDED_UNITS)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One usable entry."""

    model_id: str
    provider: str
    display_name: str
    description: str
    capabilities: tuple[str, ...]
    context_length: int
    max_output_tokens: int
    metadata: Mapping[str, str]
    card: RateCard
    warnings: tuple[str, ...] = ()
    """What was cut, left out or treated as unknown."""
    ignored_price_keys: tuple[str, ...] = ()
    """The keys of the entry's prices that no rate holds."""


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """One entry that cannot be used."""

    model_id: str
    """The entry's name, cut, and with NUL and lone surrogates replaced."""
    reason: str


PriceList = list[ListedModel | SkippedEntry]
_T = TypeVar("_T")
_USUAL: Final = Terms()


_Draft = Callable[[RateCard, Sequence[str], tuple[str, ...]], ListedModel]
"""Makes the model of an entry from its card, remarks on its prices, and the price keys that are left out."""


def read_litellm(document: bytes, terms: Terms = _USUAL, *, field: str = "litellm_json") -> PriceList:
    """Read LiteLLM's price map; raises InvalidArgument, naming the field, when it is not a JSON object."""
    reading = _Reading(terms.wanted)
    drafts: list[tuple[str, _Draft | SkippedEntry]] = []

    def usable() -> Iterator[tuple[str, Mapping[str, Value]]]:
        # All entries are priced, since one that is wanted may be an alias of one that is not.
        for entry in reading.each(json_entries(document)):
            draft = _judge(entry, _litellm_draft) if reading.wants(entry.name) else None
            if draft is not None:
                drafts.append((entry.name, draft))
            if isinstance(entry.value, dict) and not entry.flaw and entry.name != _NOT_A_MODEL:
                yield entry.name, entry.value

    with _named(field):
        prices = read_price_map(usable(), allow_partial=terms.allow_partial)
    judged = (
        draft if isinstance(draft, SkippedEntry) else _attempt(name, partial(_priced, draft, prices[name], terms))
        for name, draft in drafts
    )
    return reading.whole(judged)


def read_yaml(document: bytes, terms: Terms = _USUAL, *, field: str = "yaml") -> PriceList:
    """Read our own YAML; raises InvalidArgument, naming the field, when it has no list of models."""
    reading = _Reading(terms.wanted)
    with _named(field):
        return reading.whole(
            _judge(entry, partial(_yaml_model, terms))
            for entry in reading.each(yaml_entries(document))
            if reading.wants(entry.name)
        )


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Name the field of a document that cannot be read."""
    try:
        yield
    except Unreadable as error:
        raise InvalidArgument([FieldViolation(field, str(error))]) from None


class _Reading:
    """Counts the entries of a document, and finds those that are wanted or stand twice."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._wanted = dict.fromkeys(wanted)
        self._names: Counter[str] = Counter()

    def wants(self, name: str) -> bool:
        return not self._wanted or name in self._wanted

    def each(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries; raises Unreadable for too many."""
        for count, entry in enumerate(entries):
            if count == ENTRIES_MAX:
                raise Unreadable(f"has more than {ENTRIES_MAX} entries")
            self._names[entry.name] += 1
            yield entry

    def whole(self, judged: Iterable[ListedModel | SkippedEntry]) -> PriceList:
        """Return what became of all entries; of those that stand twice, none is used."""
        result = list(judged)
        doubled = {name for name, count in self._names.items() if count > 1 and _MODEL_ID.fullmatch(name)}
        result = [
            _skipped(one.model_id, "stands twice in the list") if one.model_id in doubled else one for one in result
        ]
        return result + [_skipped(name, "is not in the list") for name in self._wanted if name not in self._names]


def _judge(entry: Entry, read: Callable[[Entry, "_Remarks"], _T]) -> _T | SkippedEntry:
    def judge() -> _T:
        if _MODEL_ID.fullmatch(entry.name) is None:
            raise Flawed("has a name that is not a model id: 1 to 256 visible ASCII characters")
        if entry.flaw:
            raise Flawed(entry.flaw)
        return read(entry, _Remarks())

    return _attempt(entry.name, judge)


def _attempt(name: str, judge: Callable[[], _T]) -> _T | SkippedEntry:
    try:
        return judge()
    except Flawed as flaw:
        return _skipped(name, str(flaw))


def _skipped(name: str, reason: str) -> SkippedEntry:
    return SkippedEntry(shown(name, NAME_LENGTH_MAX), shown(reason, _REASON_LENGTH_MAX))


class _Remarks:
    """Collects the warnings of one entry."""

    def __init__(self) -> None:
        self._warnings: list[str] = []

    def add(self, text: str) -> None:
        self._warnings.append(shown(text, _WARNING_LENGTH_MAX))

    def all(self) -> tuple[str, ...]:
        more = len(self._warnings) - _WARNINGS_MAX
        return (*self._warnings[:_WARNINGS_MAX], *([f"and {more} more warnings"] if more > 0 else []))


def _litellm_draft(entry: Entry, remarks: _Remarks) -> _Draft:
    listed = entry.value
    if entry.name == _NOT_A_MODEL or not isinstance(listed, dict):
        raise Flawed("is not a model")
    mode = _text("mode", listed.get("mode"), _METADATA_VALUE_LENGTH_MAX, remarks)
    supported = [k.removeprefix("supports_") for k, v in listed.items() if k.startswith("supports_") and v is True]
    provider = _text("litellm_provider", listed.get("litellm_provider"), _PROVIDER_LENGTH_MAX, remarks)
    capabilities = _capabilities(supported, remarks)
    context_length = _count(listed, ("max_input_tokens", "max_tokens"), remarks)
    max_output_tokens = _count(listed, ("max_output_tokens", "max_tokens"), remarks)

    def model(card: RateCard, notes: Sequence[str], left_out: tuple[str, ...]) -> ListedModel:
        for note in notes:
            remarks.add(note)
        return ListedModel(
            model_id=entry_name,
            provider=provider,
            display_name="",
            description="",
            capabilities=capabilities,
            context_length=context_length,
            max_output_tokens=max_output_tokens,
            metadata={"mode": mode} if mode else {},
            card=card,
            warnings=remarks.all(),
            ignored_price_keys=left_out,
        )

    entry_name = entry.name  # The draft must not keep the parsed entry in memory.
    return model


def _priced(draft: _Draft, prices: ListedPrices, terms: Terms) -> ListedModel:
    if prices.card is None:
        raise Flawed(prices.reason)
    if len(prices.card.rates) > RATES_MAX:
        raise Flawed(f"has more than {RATES_MAX:,} prices")
    archived = {rate.unit_id for rate in prices.card.rates if terms.units[rate.unit_id].archived}
    if archived:
        raise Flawed(f"has prices of archived units: {', '.join(sorted(archived))}")
    card = prices.card if terms.margin is None else with_margin(prices.card, terms.margin)
    notes = [f"{note.key} {note.text}" for note in prices.notes]
    return draft(card, notes, _ignored([remark.key for remark in prices.left_out]))


def _ignored(keys: Sequence[str]) -> tuple[str, ...]:
    ignored = sorted(dict.fromkeys(keys))
    more = len(ignored) - _IGNORED_PRICE_KEYS_MAX
    return (*ignored[:_IGNORED_PRICE_KEYS_MAX], *([f"and {more} more"] if more > 0 else []))


def _yaml_model(terms: Terms, entry: Entry, remarks: _Remarks) -> ListedModel:
    listed = entry.value
    if not isinstance(listed, dict):
        raise Flawed("is not a model")
    card = read_card(listed, terms.units)
    unknown = sorted(set(listed) - _YAML_KEYS)
    if unknown:
        remarks.add(f"unknown keys are left out: {', '.join(unknown)}")
    return ListedModel(
        model_id=entry.name,
        provider=_text("provider", listed.get("provider"), _PROVIDER_LENGTH_MAX, remarks),
        display_name=_text("display_name", listed.get("display_name"), _DISPLAY_NAME_LENGTH_MAX, remarks),
        description=_text("description", listed.get("description"), _DESCRIPTION_LENGTH_MAX, remarks),
        capabilities=_capabilities(listed.get("capabilities"), remarks),
        context_length=_count(listed, ("context_length",), remarks),
        max_output_tokens=_count(listed, ("max_output_tokens",), remarks),
        metadata=_metadata(listed.get("metadata"), remarks),
        card=card if terms.margin is None else put_margin(card, terms.margin),
        warnings=remarks.all(),
    )


def _count(listed: Mapping[str, Value], keys: Sequence[str], remarks: _Remarks) -> int:
    """Return a count of tokens from the first of the keys that has one; zero where it is not known."""
    key, value = next(((key, listed[key]) for key in keys if listed.get(key) is not None), ("", None))
    if value is None:
        return 0
    if isinstance(value, str) and NUMBER.fullmatch(value):
        count = Decimal(value)
        if 0 <= count <= _COUNT_MAX and count == count.to_integral_value():
            return int(count)
    remarks.add(f"{key} is not a whole number from 0 to {_COUNT_MAX:,} and is treated as unknown")
    return 0


def _text(key: str, value: Value, length_max: int, remarks: _Remarks) -> str:
    """Return a descriptive text, cut if it is too long. A value that is not a text is left out with a warning."""
    if value is None:
        return ""
    if not isinstance(value, str):
        remarks.add(f"{key} is not a text and is left out")
        return ""
    if len(value) <= length_max:
        return value
    remarks.add(f"{key} is cut to {length_max} characters")
    return value[: length_max - 1] + "…"


def _capabilities(listed: Value | list[str], remarks: _Remarks) -> tuple[str, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list):
        remarks.add("capabilities are not a list and are left out")
        return ()
    texts = {_text("a capability", one, _CAPABILITY_LENGTH_MAX, remarks) for one in listed} - {""}
    if len(texts) > _CAPABILITIES_MAX:
        remarks.add(f"capabilities beyond the first {_CAPABILITIES_MAX} are left out")
    return tuple(sorted(texts)[:_CAPABILITIES_MAX])


def _metadata(listed: Value, remarks: _Remarks) -> dict[str, str]:
    if listed is None:
        return {}
    if not isinstance(listed, dict):
        remarks.add("metadata is not a mapping and is left out")
        return {}
    kept: dict[str, str] = {}
    for key, value in listed.items():
        if not 1 <= len(key) <= _METADATA_KEY_LENGTH_MAX or len(kept) == _METADATA_PAIRS_MAX:
            remarks.add(f"metadata is left out: {key}")
            continue
        kept[key] = _text(f"metadata {key}", value, _METADATA_VALUE_LENGTH_MAX, remarks)
    return kept
