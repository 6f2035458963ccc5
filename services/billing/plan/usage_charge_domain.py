"""Charges for what is used in a period: steps over its quantity of a unit, and what a quantity costs by them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypedDict

from libs.common.amount import FRACTION_DIGITS, format_amount
from libs.common.errors import FieldViolation

_DIGITS_MAX: Final = 80
"""More than a quantity of 28 digits times a price of 19 has, so that nothing is rounded before the end."""
_SMALLEST: Final = Decimal(1).scaleb(-FRACTION_DIGITS)
_ZERO: Final = Decimal(0)


class UsageMode(StrEnum):
    """How the steps of a charge hold."""

    GRADUATED = "GRADUATED"
    """Each unit costs what the step says that it falls into."""
    VOLUME = "VOLUME"
    """All units cost what the step says that the last of them falls into."""


@dataclass(frozen=True, slots=True)
class UsageStep:
    """What a unit costs up to a quantity."""

    up_to: Decimal | None
    """The last quantity of the step; None for the last step, which has no end."""
    price: Decimal
    """What one unit costs."""
    flat: Decimal = _ZERO
    """What the step costs beside its units, once something falls into it."""


@dataclass(frozen=True, slots=True)
class UsageCharge:
    """What a plan charges for one unit in each period, in the currency of the plan's price."""

    usage_charge_code: str
    name: str
    unit: str
    models: tuple[str, ...]
    """The models whose usage counts; empty for all."""
    mode: UsageMode
    steps: tuple[UsageStep, ...]
    flat_fee: Decimal = _ZERO
    """What the period costs beside its steps."""
    flat_fee_without_usage: bool = False
    """Whether the flat fee is due in a period in which nothing was used."""

    def amount(self, quantity: Decimal, flat_fee: Decimal | None = None) -> Decimal:
        """Return what a quantity costs, rounded once, half to even, to the digits that the ledger keeps.

        `flat_fee` is the part of the flat fee that is due for a part of a period; all of it where it is None.
        """
        fee = self.flat_fee if flat_fee is None else flat_fee
        with localcontext() as context:
            context.prec = _DIGITS_MAX
            exact = self._graduated(quantity) if self.mode is UsageMode.GRADUATED else self._by_volume(quantity)
            if quantity > 0 or self.flat_fee_without_usage:
                exact += fee
            return exact.quantize(_SMALLEST, rounding=ROUND_HALF_EVEN)

    def _graduated(self, quantity: Decimal) -> Decimal:
        total, lower = _ZERO, _ZERO
        for step in self.steps:
            if quantity <= lower:
                break
            upper = quantity if step.up_to is None else min(quantity, step.up_to)
            total += (upper - lower) * step.price + step.flat
            lower = upper
        return total

    def _by_volume(self, quantity: Decimal) -> Decimal:
        if quantity <= 0:
            return _ZERO
        step = next(one for one in self.steps if one.up_to is None or quantity <= one.up_to)
        return quantity * step.price + step.flat

    def step_texts(self) -> tuple[str, ...]:
        """Return the steps and the flat fee as an invoice tells them, such as `from 0 to 250 at 0`."""
        texts, lower = [], _ZERO
        for step in self.steps:
            reach = f"above {format_amount(lower)}" if lower else "from 0"
            if step.up_to is not None:
                reach += f" to {format_amount(step.up_to)}"
                lower = step.up_to
            flat = f" and {format_amount(step.flat)} for the step" if step.flat else ""
            texts.append(f"{reach} at {format_amount(step.price)}{flat}")
        if self.flat_fee:
            texts.append(f"flat fee {format_amount(self.flat_fee)}")
        return tuple(texts)


def usage_charges_flaws(field: str, charges: Sequence[UsageCharge]) -> Iterator[FieldViolation]:
    """Yield what is wrong with usage charges, beyond the form of each field."""
    places: dict[str, int] = {}
    for index, charge in enumerate(charges):
        place = f"{field}[{index}]"
        first = places.setdefault(charge.usage_charge_code, index)
        if first != index:
            yield FieldViolation(f"{place}.usage_charge_code", f"is that of {field}[{first}] already")
        if len(set(charge.models)) < len(charge.models):
            yield FieldViolation(f"{place}.models", "must not name a model twice")
        if charge.flat_fee_without_usage and not charge.flat_fee:
            yield FieldViolation(f"{place}.flat_fee_without_usage", "must be unset where there is no flat_fee")
        yield from _steps_flaws(f"{place}.steps", charge.steps)
    yield from _counted_twice(field, charges)


def _steps_flaws(field: str, steps: Sequence[UsageStep]) -> Iterator[FieldViolation]:
    for index, step in enumerate(steps):
        is_last = index == len(steps) - 1
        if is_last and step.up_to is not None:
            yield FieldViolation(f"{field}[{index}].up_to", "must be empty in the last step, which has no end")
        if not is_last and not step.up_to:
            yield FieldViolation(f"{field}[{index}].up_to", "must be greater than zero in all steps but the last")
    for index, (before, after) in enumerate(pairwise(steps), start=1):
        if before.up_to and after.up_to and after.up_to <= before.up_to:
            yield FieldViolation(f"{field}[{index}].up_to", "must be greater than that of the step before")


def _counted_twice(field: str, charges: Sequence[UsageCharge]) -> Iterator[FieldViolation]:
    """Yield the charges that count usage which an earlier one counts already."""
    for index, charge in enumerate(charges):
        for first, other in enumerate(charges[:index]):
            shared = set(charge.models) & set(other.models)
            if charge.unit == other.unit and (shared or not charge.models or not other.models):
                rule = f"is charged by {field}[{first}] already, for some of the same models"
                yield FieldViolation(f"{field}[{index}].unit", rule)
                break


class UsageStepJson(TypedDict):
    """A step; `up_to` is null in the last one."""

    up_to: str | None
    price: str
    flat: str


class UsageChargeJson(TypedDict):
    """A usage charge, with numbers as text."""

    usage_charge_code: str
    name: str
    unit: str
    models: Sequence[str]
    mode: str
    steps: Sequence[UsageStepJson]
    flat_fee: str
    flat_fee_without_usage: bool


def usage_charge_json(charge: UsageCharge) -> UsageChargeJson:
    """Return a usage charge as it is stored."""
    return UsageChargeJson(
        usage_charge_code=charge.usage_charge_code,
        name=charge.name,
        unit=charge.unit,
        models=list(charge.models),
        mode=charge.mode.value,
        steps=[
            UsageStepJson(
                up_to=None if step.up_to is None else format_amount(step.up_to),
                price=format_amount(step.price),
                flat=format_amount(step.flat),
            )
            for step in charge.steps
        ],
        flat_fee=format_amount(charge.flat_fee),
        flat_fee_without_usage=charge.flat_fee_without_usage,
    )


def usage_charge_of_json(stored: UsageChargeJson | Mapping[str, object]) -> UsageCharge:
    """Return a stored usage charge; raises KeyError or ValueError for what `usage_charge_json` does not write."""
    read: UsageChargeJson = stored  # type: ignore[assignment]  # as it was written.
    return UsageCharge(
        read["usage_charge_code"],
        read["name"],
        read["unit"],
        tuple(read["models"]),
        UsageMode(read["mode"]),
        tuple(
            UsageStep(
                None if step["up_to"] is None else Decimal(step["up_to"]), Decimal(step["price"]), Decimal(step["flat"])
            )
            for step in read["steps"]
        ),
        Decimal(read["flat_fee"]),
        read["flat_fee_without_usage"],
    )
