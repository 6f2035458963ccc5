"""Reads price lists: LiteLLM's public price map, and our own YAML. Numbers never pass through floating point."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

import yaml

from libs.common.amount import format_amount
from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.model.domain import TOKENS_PER_PRICE, Prices, is_usable_price
from services.metering.tables import TOKEN_CLASSES

ENTRIES_MAX: Final = 20_000
_MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_CURRENCY_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{1,11}")
_COUNT_MAX: Final = 10**9
_NOT_A_MODEL: Final = "sample_spec"

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
# Kinds of models that give no tokens back, so that a missing output price means free.
_MODES_WITHOUT_OUTPUT: Final = {"embedding", "rerank", "moderation", "moderations"}


class Unusable(Exception):
    """An entry cannot be imported; the text says why."""


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


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """One entry that cannot be used."""

    model_id: str
    reason: str


PriceList = list[ListedModel | SkippedEntry]


def read_litellm(document: bytes, wanted: Sequence[str]) -> PriceList:
    """Read LiteLLM's price map; raises InvalidArgument when it is no JSON object."""
    try:
        entries = json.loads(document, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise _unreadable("litellm_json", "is not JSON") from None
    if not isinstance(entries, dict):
        raise _unreadable("litellm_json", "is not an object of models")
    return _read("litellm_json", [(str(name), entry) for name, entry in entries.items()], wanted, _litellm_model)


def read_yaml(document: bytes, wanted: Sequence[str]) -> PriceList:
    """Read our own YAML; raises InvalidArgument when it has no list of models."""
    try:
        content = yaml.load(document, Loader=_TextLoader)  # noqa: S506 -- derives from SafeLoader.
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _unreadable("yaml", "is not YAML") from None
    entries = content.get("models") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise _unreadable("yaml", "has no list `models`")
    named = [(str(entry.get("model_id", "")) if isinstance(entry, dict) else "", entry) for entry in entries]
    return _read("yaml", named, wanted, _yaml_model)


class _TextLoader(yaml.SafeLoader):
    """The safe loader, which leaves every number as the text it was written as."""


def _construct_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _tag in ("float", "int", "timestamp"):
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_text)


def _read(
    field: str,
    named: Sequence[tuple[str, object]],
    wanted: Sequence[str],
    model_of: Callable[[str, object], ListedModel],
) -> PriceList:
    if len(named) > ENTRIES_MAX:
        raise _unreadable(field, f"has more than {ENTRIES_MAX} entries")
    chosen = set(wanted)
    result: PriceList = []
    seen: set[str] = set()
    for name, entry in named:
        if chosen and name not in chosen:
            continue
        try:
            if name in seen:
                raise Unusable("the name stands twice in the list")
            seen.add(name)
            result.append(model_of(name, entry))
        except Unusable as unusable:
            result.append(SkippedEntry(name[:128], str(unusable)))
    return result


def _unreadable(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field, description)])


def _litellm_model(name: str, entry: object) -> ListedModel:
    if name == _NOT_A_MODEL or not isinstance(entry, dict):
        raise Unusable("is no model")
    _check_id(name)
    by_class = {token_class: _per_million(entry.get(key)) for token_class, key in _LITELLM_PRICES.items()}
    mode = str(entry.get("mode", ""))
    if by_class["input"] is None:
        raise Unusable("has no price per input token")
    if by_class["output"] is None:
        if mode not in _MODES_WITHOUT_OUTPUT:
            raise Unusable("has no price per output token")
        by_class["output"] = Decimal(0)
    prices = Prices("USD", tuple(by_class[c] for c in TOKEN_CLASSES), _price(entry.get("input_cost_per_request")))
    return ListedModel(
        model_id=name,
        provider=str(entry.get("litellm_provider", ""))[:64],
        display_name="",
        description="",
        capabilities=_supported(entry),
        context_length=_count(entry.get("max_input_tokens", entry.get("max_tokens"))),
        max_output_tokens=_count(entry.get("max_output_tokens", entry.get("max_tokens"))),
        metadata={"mode": mode[:512]} if mode else {},
        prices=prices,
    )


def _supported(entry: Mapping[str, object]) -> tuple[str, ...]:
    prefix = "supports_"
    return tuple(sorted(k.removeprefix(prefix) for k, v in entry.items() if k.startswith(prefix) and v is True))[:64]


def _yaml_model(name: str, entry: object) -> ListedModel:
    if not isinstance(entry, dict):
        raise Unusable("is no model")
    _check_id(name)
    currency_code, listed = str(entry.get("currency_code", "")), entry.get("prices")
    if _CURRENCY_CODE.fullmatch(currency_code) is None:
        raise Unusable("has no currency_code")
    if not isinstance(listed, dict):
        raise Unusable("has no prices")
    unknown = sorted(set(map(str, listed)) - {*TOKEN_CLASSES, "per_request"})
    if unknown:
        raise Unusable(f"has prices of unknown classes: {', '.join(unknown)}"[:256])
    by_class = tuple(_price(listed.get(token_class)) for token_class in TOKEN_CLASSES)
    if by_class[0] is None or by_class[1] is None:
        raise Unusable("has no price of input or output")
    capabilities, metadata = entry.get("capabilities") or [], entry.get("metadata") or {}
    if not isinstance(capabilities, list) or not isinstance(metadata, dict):
        raise Unusable("has capabilities or metadata of the wrong shape")
    return ListedModel(
        model_id=name,
        provider=str(entry.get("provider", ""))[:64],
        display_name=str(entry.get("display_name", ""))[:256],
        description=str(entry.get("description", ""))[:4096],
        capabilities=tuple(sorted({str(capability)[:64] for capability in capabilities[:64]})),
        context_length=_count(entry.get("context_length")),
        max_output_tokens=_count(entry.get("max_output_tokens")),
        metadata={str(key)[:64]: str(value)[:512] for key, value in list(metadata.items())[:32]},
        prices=Prices(currency_code, by_class, _price(listed.get("per_request"))),
    )


def _check_id(name: str) -> None:
    if _MODEL_ID.fullmatch(name) is None:
        raise Unusable("has a name that is no model id")


def _per_million(value: object) -> Decimal | None:
    return _price(value, TOKENS_PER_PRICE)


def _price(value: object, factor: int = 1) -> Decimal | None:
    """Return a listed price times the factor; None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise Unusable("has a price that is no number")
    try:
        price = Decimal(value) * factor
        usable = is_usable_price(price)
    except InvalidOperation:
        raise Unusable("has a price that is no number") from None
    if not usable:
        raise Unusable("has a price that is negative, out of bounds or too fine")
    return Decimal(format_amount(price))


def _count(value: object) -> int:
    """Return a listed count of tokens; zero where it is not known or makes no sense."""
    try:
        count = int(str(value))
    except ValueError:
        return 0
    return count if 0 <= count <= _COUNT_MAX else 0
