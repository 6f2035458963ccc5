"""Parts of calls: what a settlement says of the whole call until now, and whether it may follow the part before it."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from services.metering.errors import BelowEarlierPart
from services.metering.model.domain import PriceVersion, format_nanos, least_cost
from services.metering.model.rates import STANDARD_TIER, Unpriced
from services.metering.model.units import THOUSANDTHS, TOKEN_CLASS_UNITS, Quantities, Units, quantity_text
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import Captured, Cost, Work

PARTS_MAX: Final = 10_000
_TOKEN_UNITS: Final = tuple(TOKEN_CLASS_UNITS[name] for name in TOKEN_CLASSES)


class Part(NamedTuple):
    """A part of a call as it is stored. What was used, and a stated amount, are those since the call began."""

    part: int
    model: str
    service_tier: str
    quantities: Quantities
    """Everything that was used, tokens too."""
    stated_amount: Decimal | None
    price_version_id: str | None
    """With which this part and all that follow are priced; None where the amount is stated or no price was known."""
    part_id: str | None
    """Under which billing captures it; None where there is nothing to capture."""
    amount: Decimal
    captured_amount: Decimal
    """What this part and those before it capture."""
    currency_code: str | None
    """None while no part had a price."""
    occur_time: datetime
    create_time: datetime

    @property
    def captured(self) -> Captured:
        return Captured(format_amount(self.captured_amount), self.currency_code or "")


class InParts(NamedTuple):
    """What the dedupe row of an operation says, with the last of its parts."""

    fingerprint: bytes
    """Empty while the call is settled in parts."""
    usage_id: str
    """Another one after each part, so that a writer can tell whether it has seen the last."""
    last: Part | None

    @property
    def open(self) -> bool:
        """Whether the call is settled in parts, and its usage not recorded."""
        return not self.fingerprint and self.last is not None


def used_by(work: Work) -> Quantities:
    """Return everything that a work has used, in thousandths by unit."""
    tokens = {unit: count * THOUSANDTHS for unit, count in zip(_TOKEN_UNITS, work.tokens, strict=True) if count}
    return tokens | dict(work.quantities) if work.quantities else tokens


def contradiction(earlier: Part, work: Work, cost: Cost | None) -> BelowEarlierPart | None:
    """Return how a settlement contradicts an earlier part of its call; None if it may follow it.

    It has the same model, service tier and currency, states its amount if the part did, and has no smaller quantity.
    """
    given: dict[str, tuple[str, str]] = {
        "model": (earlier.model, work.model),
        "service_tier": (earlier.service_tier, work.service_tier or STANDARD_TIER),
        "stated_amount": _stated(earlier, work),
    }
    if earlier.currency_code is not None and cost is not None:
        given["currency_code"] = (earlier.currency_code, cost.currency_code)
    for field, (before, now) in given.items():
        if before != now:
            return BelowEarlierPart(operation_id=work.operation_id, field=field, earlier=before, given=now)
    used = used_by(work)
    for unit, quantity in sorted(earlier.quantities.items()):
        if used.get(unit, 0) < quantity:
            before, now = quantity_text(quantity), quantity_text(used.get(unit, 0))
            return BelowEarlierPart(operation_id=work.operation_id, field=unit, unit=unit, earlier=before, given=now)
    return None


def _stated(earlier: Part, work: Work) -> tuple[str, str]:
    """Return the stated amounts, where they contradict each other; else the same text twice."""
    before = None if earlier.stated_amount is None else format_amount(earlier.stated_amount)
    now = None if work.stated is None else work.stated.amount
    may_follow = before == now or (before is not None and now is not None and Decimal(before) <= Decimal(now))
    return ("", "") if may_follow else (before or "none", now or "none")


def amount_of_part(work: Work, version: PriceVersion | None, earlier: Part | None, units: Units) -> Decimal:
    """Return what a part captures: what the call costs at least, less what earlier parts capture.

    That is zero where the call is not charged, or a unit has no rate. It is never more than what the whole call turns
    out to cost, so that the last charge is not negative.
    """
    if work.environment == TEST:
        return Decimal(0)
    if work.stated is not None:
        least = Decimal(work.stated.amount)
    elif version is None:
        return Decimal(0)
    else:
        nanos = least_cost(version, work.tokens, work.quantities, work.service_tier or STANDARD_TIER, units)
        if isinstance(nanos, Unpriced):
            return Decimal(0)
        least = Decimal(format_nanos(nanos))
    return max(least - (earlier.captured_amount if earlier is not None else 0), Decimal(0))
