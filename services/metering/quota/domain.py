"""Limits: what each counts, and which are in force for a call."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from libs.common.ids import is_id
from services.metering.model.units import Kind, Quantities, Units

REQUESTS: Final = "requests"
TOTAL_TOKENS: Final = "total_tokens"
SPEND: Final = "spend"
ITEMS: Final = "items"
CONCURRENT_CALLS: Final = "concurrent_calls"
METRICS: Final = (REQUESTS, TOTAL_TOKENS, SPEND, ITEMS, CONCURRENT_CALLS)
"""The metrics that are no units."""
_ONE: Final = Decimal(1)
_ZERO: Final = Decimal(0)
_THOUSANDTHS_EXPONENT: Final = -3


class Window(StrEnum):
    """In what time something is counted."""

    NONE = "NONE"
    """For concurrent calls: what is going on at a moment."""
    CALL = "CALL"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    PERIOD = "PERIOD"
    """The billing period of a subscription."""
    LIFETIME = "LIFETIME"


class Scope(StrEnum):
    """Which calls are counted; from the narrowest to the widest."""

    API_KEY = "API_KEY"
    SERVICE_ACCOUNT = "SERVICE_ACCOUNT"
    USER = "USER"
    SUBSCRIPTION = "SUBSCRIPTION"
    PROJECT = "PROJECT"
    LABEL = "LABEL"
    MODEL = "MODEL"
    PROVIDER = "PROVIDER"
    ORGANIZATION = "ORGANIZATION"


_WITH_IDS: Final = (Scope.API_KEY, Scope.SERVICE_ACCOUNT, Scope.USER, Scope.SUBSCRIPTION, Scope.PROJECT)
_WIDTH: Final = {scope: width for width, scope in enumerate(Scope)}


class Enforcement(StrEnum):
    """What happens to calls that would use more than a limit allows."""

    HARD = "HARD"
    SOFT = "SOFT"
    SHADOW = "SHADOW"


class Shape(NamedTuple):
    """What a limit counts. It never changes, since its counters rest on it."""

    metric: str
    currency_code: str
    """For SPEND: the unit of money. Empty for the others."""
    window: Window
    sliding: bool
    time_zone: str
    """The zone of days, weeks and months; empty for other windows."""
    week_start: int
    """The day on which weeks begin, 1 for Monday to 7; zero for other windows."""
    scope: Scope
    scope_value: str
    """Whose calls; empty where each one has the limit for itself."""
    label: str


class Terms(NamedTuple):
    """What a limit allows. This can be changed."""

    maximum: Decimal | None
    """None where any amount may be used."""
    enforcement: Enforcement = Enforcement.HARD
    burst: Decimal = _ZERO
    """How much more may be used in a window, as far as less than `maximum` was used in the one before."""
    replaces: bool = False
    """Whether limits with the same metric and window and a wider scope do not hold beside this one."""
    thresholds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something may be used in a window of time."""

    limit_id: str
    name: str
    shape: Shape
    terms: Terms
    period: tuple[datetime, datetime] | None = None
    """For PERIOD: the present period."""
    is_entitled: bool = False
    """Whether it comes from an entitlement. Such a limit is stored in billing alone."""
    subscription_id: str = ""
    """For an entitlement that a subscription gives: the subscription."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A limit as it is stored."""

    limit: Limit
    revision: int
    create_time: datetime
    update_time: datetime

    @property
    def etag(self) -> str:
        return str(self.revision)


class Call(NamedTuple):
    """What limits look at in a call; empty for what it does not have."""

    project_id: str = ""
    user_id: str = ""
    service_account_id: str = ""
    api_key_id: str = ""
    subscription_id: str = ""
    model: str = ""
    provider: str = ""
    labels: Mapping[str, str] = MappingProxyType({})


class Amounts(NamedTuple):
    """What a call uses, or may use, of everything that can be counted."""

    quantities: Quantities
    """In thousandths, by unit; tokens too."""
    total_tokens: int
    spend: Decimal = _ZERO
    currency_code: str = ""
    items: int = 0
    requests: int = 1
    concurrent_calls: int = 0


class Applied(NamedTuple):
    """A limit that is in force for a call, and for whom it counts it: the value of its scope."""

    limit: Limit
    subject: str


class Reservations(NamedTuple):
    """What an authorization has reserved of limits: counters, what they count, and how much, element by element."""

    counter_ids: tuple[str, ...] = ()
    metrics: tuple[tuple[str, str], ...] = ()
    """The metric and the currency of each counter."""
    amounts: tuple[Decimal, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.counter_ids)


NOTHING_RESERVED: Final = Reservations()


def amounts_of(quantities: Quantities, units: Units, spend: Decimal, currency_code: str, items: int = 0) -> Amounts:
    """Return what work with these quantities, tokens among them, uses of everything."""
    tokens = sum(value for unit, value in quantities.items() if unit in units and units[unit].kind is Kind.TOKEN)
    return Amounts(quantities, tokens, spend, currency_code, items)


def amount(metric: str, currency_code: str, amounts: Amounts) -> Decimal:
    """Return how much of a metric, for spend in a currency, is among the amounts."""
    if metric == REQUESTS:
        return _ONE if amounts.requests == 1 else Decimal(amounts.requests)
    if metric == TOTAL_TOKENS:
        return Decimal(amounts.total_tokens).scaleb(_THOUSANDTHS_EXPONENT)
    if metric == SPEND:
        return amounts.spend if amounts.currency_code == currency_code else _ZERO
    if metric == ITEMS:
        return Decimal(amounts.items)
    if metric == CONCURRENT_CALLS:
        return Decimal(amounts.concurrent_calls)
    return Decimal(amounts.quantities.get(metric, 0)).scaleb(_THOUSANDTHS_EXPONENT)


def may_be_subject(scope: Scope, value: str) -> bool:
    """Tell whether a scope can have a value, by its form alone: an id where it is one of something that has ids."""
    return not value or scope not in _WITH_IDS or is_id(value)


def canonical_subject(scope: Scope, value: str) -> str:
    """Return a scope's value as it is stored and compared: ids are in lower case."""
    return value.lower() if scope in _WITH_IDS else value


def subject_of(shape: Shape, call: Call) -> str | None:
    """Return for whom a limit counts a call, empty for the whole organization; None where it does not count it."""
    scope = shape.scope
    if scope is Scope.ORGANIZATION:
        return ""
    value = call.labels.get(shape.label, "") if scope is Scope.LABEL else _value(scope, call)
    if not value or (shape.scope_value and shape.scope_value != value):
        return None
    return value


def _value(scope: Scope, call: Call) -> str:
    match scope:
        case Scope.API_KEY:
            return call.api_key_id
        case Scope.SERVICE_ACCOUNT:
            return call.service_account_id
        case Scope.USER:
            return call.user_id
        case Scope.SUBSCRIPTION:
            return call.subscription_id
        case Scope.PROJECT:
            return call.project_id
        case Scope.MODEL:
            return call.model
        case Scope.PROVIDER:
            return call.provider
        case _:
            return ""


def in_force(limits: Iterable[Limit], call: Call, entitled: Sequence[Applied] = ()) -> Sequence[Applied]:
    """Return the limits that hold for a call: those of `limits` that count it, in their order, and the entitled ones.

    All of them hold, but for those of a metric and window in which a limit with a narrower scope replaces them.
    """
    counting = [Applied(limit, subject) for limit in limits if (subject := subject_of(limit.shape, call)) is not None]
    counting += entitled
    if not any(one.limit.terms.replaces for one in counting):
        return counting
    width_max: dict[tuple[object, ...], int] = {}
    for one in counting:
        if one.limit.terms.replaces:
            shape = one.limit.shape
            width = _WIDTH[shape.scope]
            width_max[_counted(shape)] = min(width_max.get(_counted(shape), width), width)
    return [
        one
        for one in counting
        if _WIDTH[one.limit.shape.scope] <= width_max.get(_counted(one.limit.shape), len(_WIDTH))
    ]


def _counted(shape: Shape) -> tuple[object, ...]:
    """Return what two limits share of which one can replace the other."""
    return shape.metric, shape.currency_code, shape.window, shape.sliding
