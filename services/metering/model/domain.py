"""Models, prices and costs, and the one place where a cost is rounded.

Prices and costs are computed as whole numbers of billionths of the currency ("nanos"), which is exact and fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from operator import mul
from typing import Final

from libs.common.audit.chain import Changed, differences
from services.metering.tables import TOKEN_CLASSES

NANOS: Final = 10**9
TOKENS_PER_PRICE: Final = 10**6
PRICE_MAX: Final = Decimal(10**9)

# The class whose price is used for a class without its own price.
FALLBACKS: Final = {
    "cache_read": "input",
    "cache_write": "input",
    "audio_input": "input",
    "image": "input",
    "reasoning": "output",
    "audio_output": "output",
}

Tokens = tuple[int, ...]
"""One count for each of TOKEN_CLASSES, in their order."""

NO_TOKENS: Final[Tokens] = (0,) * len(TOKEN_CLASSES)


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue."""

    model_id: str
    provider: str
    display_name: str
    description: str
    capabilities: tuple[str, ...]
    context_length: int
    max_output_tokens: int
    active: bool
    metadata: Mapping[str, str]
    revision: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in one currency, per million tokens of each class; None where a class has no price of its own."""

    currency_code: str
    by_class: tuple[Decimal | None, ...]
    per_request: Decimal | None

    def of(self, token_class: str) -> Decimal:
        """Return the price of a class, or that of the class it falls back to."""
        own = self.by_class[TOKEN_CLASSES.index(token_class)]
        if own is not None:
            return own
        return self.of(FALLBACKS[token_class])


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """The price of a model from a moment on, for everybody or for one organization."""

    price_version_id: str
    model_id: str
    organization_id: str | None
    prices: Prices
    effective_time: datetime
    create_time: datetime
    source: str
    rates_nanos: tuple[int, ...] = field(init=False, repr=False, compare=False)
    request_nanos: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rates = tuple(nanos_of(self.prices.of(token_class)) for token_class in TOKEN_CLASSES)
        object.__setattr__(self, "rates_nanos", rates)
        object.__setattr__(self, "request_nanos", nanos_of(self.prices.per_request or Decimal(0)))


@dataclass(frozen=True, slots=True)
class CostLine:
    """The part of a cost that one token class causes."""

    token_class: str
    quantity: int
    unit_price: Decimal


def nanos_of(value: Decimal) -> int:
    """Return a decimal of at most nine fraction digits as a whole number of nanos."""
    return int(value.scaleb(9))


def cost_nanos(version: PriceVersion, tokens: Tokens) -> int:
    """Return what the tokens cost, rounded half to even, once, at nine fraction digits."""
    total: int = sum(map(mul, tokens, version.rates_nanos))
    whole, rest = divmod(total, TOKENS_PER_PRICE)
    half = TOKENS_PER_PRICE // 2
    if rest > half or (rest == half and whole & 1):
        whole += 1
    return whole + version.request_nanos


def format_nanos(nanos: int) -> str:
    """Return a number of nanos as a plain decimal without trailing zeros."""
    whole, rest = divmod(nanos, NANOS)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else str(whole)


def cost_lines(version: PriceVersion, tokens: Tokens) -> list[CostLine]:
    """Return a line for each class with tokens, and one for the price per request."""
    lines = [
        CostLine(token_class, count, version.prices.of(token_class))
        for token_class, count in zip(TOKEN_CLASSES, tokens, strict=True)
        if count
    ]
    if version.prices.per_request:
        lines.append(CostLine("request", 1, version.prices.per_request))
    return lines


def model_changes(before: Model | None, after: Model) -> tuple[Changed, ...]:
    """Return the changed fields of a model for the audit trail. Of description and metadata only the names are kept."""
    changes = differences({} if before is None else _plain_fields(before), _plain_fields(after))
    written = {
        "description": (before.description if before else "") != after.description,
        "metadata": (before.metadata if before else {}) != after.metadata,
    }
    return changes + tuple(Changed(name) for name, differs in written.items() if differs)


def _plain_fields(model: Model) -> dict[str, str | None]:
    return {
        "provider": model.provider,
        "display_name": model.display_name,
        "capabilities": ",".join(model.capabilities),
        "context_length": str(model.context_length),
        "max_output_tokens": str(model.max_output_tokens),
        "active": str(model.active).lower(),
    }


def price_changes(version: PriceVersion) -> tuple[Changed, ...]:
    """Return the fields of a new price version for the audit trail."""
    own = zip(TOKEN_CLASSES, version.prices.by_class, strict=True)
    values = {
        "model_id": version.model_id,
        "effective_time": version.effective_time.isoformat(),
        "currency_code": version.prices.currency_code,
        **{f"prices.{name}": format(price, "f") for name, price in own if price is not None},
    }
    if version.prices.per_request is not None:
        values["prices.per_request"] = format(version.prices.per_request, "f")
    return differences({}, values)


def is_usable_price(value: Decimal) -> bool:
    """Return whether a price is from 0 to below 1,000,000,000 and has at most nine fraction digits."""
    if not value.is_finite() or not 0 <= value < PRICE_MAX:
        return False
    return value == value.quantize(Decimal(1).scaleb(-9))
