"""Reads price lists: LiteLLM's public price map, and our own YAML. Numbers never pass through floating point.

Each entry is validated by itself; one that cannot be used is skipped with a reason. Whatever of a usable entry is cut
or left out is listed in its warnings, and prices that are not supported in `ignored_price_keys`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final

from libs.common.amount import format_amount
from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.document import Entry, Flawed, Unreadable, Value, shown
from services.metering.model.domain import TOKENS_PER_PRICE, Prices, is_usable_price
from services.metering.model.json_document import json_entries
from services.metering.model.yaml_document import yaml_entries
from services.metering.tables import TOKEN_CLASSES

ENTRIES_MAX: Final = 200_000
NAME_LENGTH_MAX: Final = 256
_REASON_LENGTH_MAX: Final = 256
_MODEL_ID: Final = re.compile(r"[!-~]{1,256}")
_CURRENCY_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,11}")
# The numbers of digits are bounded before anything is computed, because of numbers such as `1e999999999`.
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?")
# The precision is enough for every product of such a number with the factors used here, so nothing is rounded.
_EXACT: Final = Context(prec=100, Emax=9_999, Emin=-9_999, traps=[InvalidOperation, Overflow, Inexact])
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

# LiteLLM's name of each class's price per token.
_LITELLM_PRICES: Final = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image": "input_cost_per_image_token",
}
_LITELLM_PER_REQUEST: Final = "input_cost_per_request"
_UNDERSTOOD: Final = {*_LITELLM_PRICES.values(), _LITELLM_PER_REQUEST}
_NAMES_A_PRICE: Final = re.compile(r"cost|price|pricing")
# Modes of models without output tokens, for which a missing output price means free.
_MODES_WITHOUT_OUTPUT: Final = {"embedding", "rerank", "moderation", "moderations"}

_YAML_KEYS: Final = {
    *("model_id", "provider", "display_name", "description", "capabilities"),
    *("context_length", "max_output_tokens", "metadata", "currency_code", "prices"),
}


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
    prices: Prices
    warnings: tuple[str, ...] = ()
    """What was cut, left out or treated as unknown."""
    ignored_price_keys: tuple[str, ...] = ()
    """The keys of the entry's prices that are not supported."""


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """One entry that cannot be used."""

    model_id: str
    """The entry's name, cut, and with NUL and lone surrogates replaced."""
    reason: str


PriceList = list[ListedModel | SkippedEntry]


def read_litellm(document: bytes, wanted: Sequence[str], *, field: str = "litellm_json") -> PriceList:
    """Read LiteLLM's price map; raises InvalidArgument, naming the field, when it is not a JSON object."""
    return _read(field, lambda: json_entries(document), wanted, _litellm_model)


def read_yaml(document: bytes, wanted: Sequence[str], *, field: str = "yaml") -> PriceList:
    """Read our own YAML; raises InvalidArgument, naming the field, when it has no list of models."""
    return _read(field, lambda: yaml_entries(document), wanted, _yaml_model)


def _read(
    field: str,
    entries_of: Callable[[], Iterable[Entry]],
    wanted: Sequence[str],
    model_of: Callable[[Entry, "_Remarks"], ListedModel],
) -> PriceList:
    chosen = set(wanted)
    names: Counter[str] = Counter()
    result: PriceList = []
    count = 0
    try:
        for entry in entries_of():
            names[entry.name] += 1
            count += 1
            if count > ENTRIES_MAX:
                raise Unreadable(f"has more than {ENTRIES_MAX} entries")
            if not chosen or entry.name in chosen:
                result.append(_judge(entry, model_of))
    except Unreadable as error:
        raise InvalidArgument([FieldViolation(field, str(error))]) from None
    doubled = {name for name, count in names.items() if count > 1 and _MODEL_ID.fullmatch(name)}
    result = [_skipped(one.model_id, "stands twice in the list") if one.model_id in doubled else one for one in result]
    return result + [_skipped(name, "is not in the list") for name in dict.fromkeys(wanted) if name not in names]


def _judge(entry: Entry, model_of: Callable[[Entry, "_Remarks"], ListedModel]) -> ListedModel | SkippedEntry:
    try:
        if _MODEL_ID.fullmatch(entry.name) is None:
            raise Flawed("has a name that is not a model id: 1 to 256 visible ASCII characters")
        if entry.flaw:
            raise Flawed(entry.flaw)
        return model_of(entry, _Remarks())
    except Flawed as flaw:
        return _skipped(entry.name, str(flaw))


def _skipped(name: str, reason: str) -> SkippedEntry:
    return SkippedEntry(shown(name, NAME_LENGTH_MAX), shown(reason, _REASON_LENGTH_MAX))


class _Remarks:
    """Collects the warnings of one entry."""

    def __init__(self) -> None:
        self._warnings: list[str] = []

    def add(self, text: str) -> None:
        self._warnings.append(shown(text, _REASON_LENGTH_MAX))

    def all(self) -> tuple[str, ...]:
        more = len(self._warnings) - _WARNINGS_MAX
        return (*self._warnings[:_WARNINGS_MAX], *([f"and {more} more warnings"] if more > 0 else []))


def _litellm_model(entry: Entry, remarks: _Remarks) -> ListedModel:
    listed = entry.value
    if entry.name == _NOT_A_MODEL or not isinstance(listed, dict):
        raise Flawed("is not a model")
    by_class = {name: _price(key, listed.get(key), TOKENS_PER_PRICE) for name, key in _LITELLM_PRICES.items()}
    mode = _text("mode", listed.get("mode"), _METADATA_VALUE_LENGTH_MAX, remarks)
    if by_class["input"] is None:
        raise Flawed("has no price per input token")
    if by_class["output"] is None:
        if mode not in _MODES_WITHOUT_OUTPUT:
            raise Flawed("has no price per output token")
        by_class["output"] = Decimal(0)
    per_request = _price(_LITELLM_PER_REQUEST, listed.get(_LITELLM_PER_REQUEST))
    supported = [k.removeprefix("supports_") for k, v in listed.items() if k.startswith("supports_") and v is True]
    return ListedModel(
        model_id=entry.name,
        provider=_text("litellm_provider", listed.get("litellm_provider"), _PROVIDER_LENGTH_MAX, remarks),
        display_name="",
        description="",
        capabilities=_capabilities(supported, remarks),
        context_length=_count(listed, ("max_input_tokens", "max_tokens"), remarks),
        max_output_tokens=_count(listed, ("max_output_tokens", "max_tokens"), remarks),
        metadata={"mode": mode} if mode else {},
        prices=Prices("USD", tuple(by_class[name] for name in TOKEN_CLASSES), per_request),
        ignored_price_keys=_ignored_price_keys(listed),
        warnings=remarks.all(),
    )


def _ignored_price_keys(listed: Mapping[str, Value]) -> tuple[str, ...]:
    ignored = sorted(
        shown(key) for key, value in listed.items()
        if value is not None and key not in _UNDERSTOOD and _NAMES_A_PRICE.search(key)
    )  # fmt: skip
    more = len(ignored) - _IGNORED_PRICE_KEYS_MAX
    return (*ignored[:_IGNORED_PRICE_KEYS_MAX], *([f"and {more} more"] if more > 0 else []))


def _yaml_model(entry: Entry, remarks: _Remarks) -> ListedModel:
    listed = entry.value
    if not isinstance(listed, dict):
        raise Flawed("is not a model")
    currency_code, prices = listed.get("currency_code"), listed.get("prices")
    if not isinstance(currency_code, str) or _CURRENCY_CODE.fullmatch(currency_code) is None:
        raise Flawed("has no currency_code")
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
        prices=_yaml_prices(currency_code, prices),
        warnings=remarks.all(),
    )


def _yaml_prices(currency_code: str, listed: Value) -> Prices:
    if not isinstance(listed, dict):
        raise Flawed("has no prices")
    unknown = sorted(set(listed) - {*TOKEN_CLASSES, "per_request"})
    if unknown:
        raise Flawed(f"has prices of unknown classes: {', '.join(unknown)}")
    by_class = tuple(_price(token_class, listed.get(token_class)) for token_class in TOKEN_CLASSES)
    if by_class[0] is None or by_class[1] is None:
        raise Flawed("has no price of input or output")
    return Prices(currency_code, by_class, _price("per_request", listed.get("per_request")))


def _price(key: str, value: Value, factor: int = 1) -> Decimal | None:
    """Return a listed price times the factor; None where the entry has none."""
    if value is None:
        return None
    if not isinstance(value, str) or _NUMBER.fullmatch(value) is None:
        raise Flawed(f"has a price that is not a number of at most 80 digits: {key}")
    price = _EXACT.multiply(Decimal(value), Decimal(factor))
    if not is_usable_price(price):
        raise Flawed(f"has a price that is negative, 1,000,000,000 or more, or finer than a billionth: {key}")
    return Decimal(format_amount(price))


def _count(listed: Mapping[str, Value], keys: Sequence[str], remarks: _Remarks) -> int:
    """Return a count of tokens from the first of the keys that has one; zero where it is not known."""
    key, value = next(((key, listed[key]) for key in keys if listed.get(key) is not None), ("", None))
    if value is None:
        return 0
    if isinstance(value, str) and _NUMBER.fullmatch(value):
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
