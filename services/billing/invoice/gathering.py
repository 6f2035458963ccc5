"""Puts movements into the lines of an invoice, one after another, whatever their number."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, NamedTuple

from services.billing.invoice.domain import ZERO, Line, LineKind, Quantity

LINES_MAX: Final = 1_000
"""How many lines an invoice has; what would be a further one is put together by month and kind."""
QUANTITIES_MAX: Final = 5_000
"""How many quantities they have, likewise. The answer to VoidInvoice, of 4 MB at most, has two documents."""
_DESCRIPTION_MAX: Final = 256
_ANY_TIER: Final = "any"
_RATES_MAX: Final = 4
"""How many rates of a unit are told; more, such as of many thresholds, are in the price version."""


@dataclass(slots=True)
class Charged:
    """A movement that an invoice covers."""

    sequence: int
    operation_id: str
    hold_operation_id: str | None
    description: str
    amount: Decimal
    """Negative for what was given back."""
    create_time: datetime
    is_metered: bool
    """Whether metering charged it for usage, or gave it back."""
    is_correction: bool
    """Whether it undoes a charge, corrects what metering charged, or adjusts the account."""


class Used(NamedTuple):
    """The usage behind a charge, as metering tells it."""

    occur_time: datetime
    model: str
    service_tier: str
    price_version_id: str
    quantities: Mapping[str, Decimal]
    """Empty for a part of a call whose usage is that of another movement."""


class PlanPeriod(NamedTuple):
    """What a subscription was charged for, or given back."""

    subscription_id: str
    plan_code: str
    time_zone: str
    reason: str
    start_time: datetime
    end_time: datetime
    belongs_to: datetime | None
    """The last moment of a time whose minimum or usage it is for; None for all else."""
    quantities: tuple[Quantity, ...] = ()
    """How much of what is charged for usage; empty for all else."""


class _Key(NamedTuple):
    kind: LineKind
    month: str
    text: str
    service_tier: str = ""
    price_version_id: str = ""


@dataclass(slots=True)
class _Sum:
    key: _Key
    start_time: datetime
    end_time: datetime
    amount: Decimal = ZERO
    count: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    quantities: dict[str, Decimal] = field(default_factory=dict)
    period: PlanPeriod | None = None

    def add(self, charged: Charged, moment: datetime, quantities: Mapping[str, Decimal]) -> None:
        self.start_time = min(self.start_time, moment)
        self.end_time = max(self.end_time, moment)
        self.amount += charged.amount
        self.count += 1
        self.first_sequence = min(self.first_sequence or charged.sequence, charged.sequence)
        self.last_sequence = max(self.last_sequence, charged.sequence)
        for unit, value in quantities.items():
            self.quantities[unit] = self.quantities.get(unit, ZERO) + value


def belongs_to(charged: Charged, used: Used | None, period: PlanPeriod | None) -> datetime:
    """Return the moment to which a movement belongs: usage to when it happened, a minimum to the end of its time."""
    if used is not None:
        return used.occur_time
    return charged.create_time if period is None or period.belongs_to is None else period.belongs_to


class Gathering:
    """The lines of an invoice while its movements are read. Its size depends on the lines alone."""

    def __init__(self) -> None:
        self._sums: dict[_Key, _Sum] = {}
        self._quantities = 0

    def add(self, charged: Charged, used: Used | None, period: PlanPeriod | None) -> None:
        """Put a movement into its line."""
        moment = belongs_to(charged, used, period)
        key = _key(charged, used, period, moment)
        is_full = len(self._sums) >= LINES_MAX or self._quantities >= QUANTITIES_MAX
        if is_full and key not in self._sums:
            key = key._replace(text="", service_tier="", price_version_id="")
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum(key, moment, moment)
            found.period = period if key.text else None
        before = len(found.quantities)
        found.add(charged, moment, {} if used is None else used.quantities)
        self._quantities += len(found.quantities) - before

    @property
    def subtotal(self) -> Decimal:
        return sum((one.amount for one in self._sums.values()), ZERO)

    @property
    def price_versions(self) -> set[tuple[str, str]]:
        """The price versions of the lines, each after its model."""
        return {(key.text, key.price_version_id) for key in self._sums if key.price_version_id}

    def lines(self, rates: Mapping[tuple[str, str, str], tuple[str, ...]]) -> tuple[Line, ...]:
        """Return the lines: subscriptions, usage, other charges, corrections; each kind by month and text.

        `rates` are those of price versions, by the version's id, the service tier and the unit.
        """
        order = (LineKind.SUBSCRIPTION, LineKind.USAGE, LineKind.CHARGE, LineKind.CORRECTION)
        sums = sorted(self._sums.values(), key=lambda one: (order.index(one.key.kind), *one.key[1:]))
        return tuple(_line(number, one, rates) for number, one in enumerate(sums, start=1))


def _key(charged: Charged, used: Used | None, period: PlanPeriod | None, moment: datetime) -> _Key:
    month = moment.astimezone(UTC).strftime("%Y-%m")
    text = charged.description[:_DESCRIPTION_MAX]
    if period is not None:
        return _Key(LineKind.SUBSCRIPTION, month, charged.operation_id)
    if charged.is_correction:
        return _Key(LineKind.CORRECTION, month, text)
    if used is not None:
        return _Key(LineKind.USAGE, month, used.model, used.service_tier, used.price_version_id)
    return _Key(LineKind.USAGE if charged.is_metered else LineKind.CHARGE, month, text)


def _line(number: int, one: _Sum, rates: Mapping[tuple[str, str, str], tuple[str, ...]]) -> Line:
    key, period = one.key, one.period
    line = Line(
        number=number,
        kind=key.kind,
        description=key.text,
        start_time=one.start_time,
        end_time=one.end_time,
        amount=one.amount,
        movement_count=one.count,
        first_sequence=one.first_sequence,
        last_sequence=one.last_sequence,
        quantities=tuple(
            Quantity(unit, value, _rates_of(key, unit, rates)) for unit, value in sorted(one.quantities.items())
        ),
        model=key.text if key.kind is LineKind.USAGE else "",
        service_tier=key.service_tier,
        price_version_id=key.price_version_id,
    )
    if period is None:
        return line
    return _of_period(line, period)


def _rates_of(key: _Key, unit: str, rates: Mapping[tuple[str, str, str], tuple[str, ...]]) -> tuple[str, ...]:
    """Return the rates for a unit in the line's service tier, or else those for every tier."""
    own = rates.get((key.price_version_id, key.service_tier, unit))
    return _few(rates.get((key.price_version_id, _ANY_TIER, unit), ()) if own is None else own)


def _few(rates: tuple[str, ...]) -> tuple[str, ...]:
    return rates if len(rates) <= _RATES_MAX else (*rates[:_RATES_MAX], "…")


def _of_period(line: Line, period: PlanPeriod) -> Line:
    return Line(
        number=line.number,
        kind=line.kind,
        description=period.reason[:_DESCRIPTION_MAX],
        start_time=period.start_time,
        end_time=period.end_time,
        amount=line.amount,
        movement_count=line.movement_count,
        first_sequence=line.first_sequence,
        last_sequence=line.last_sequence,
        quantities=tuple(replace(one, rates=_few(one.rates)) for one in period.quantities),
        subscription_id=period.subscription_id,
        plan_code=period.plan_code,
        time_zone=period.time_zone,
    )
