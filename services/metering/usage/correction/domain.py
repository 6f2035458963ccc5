"""Corrections of usage: what each makes of it, and what follows for its money and for limits. Pure rules."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from libs.common.errors import FieldViolation, InvalidArgument
from services.metering.errors import PriceUnknown
from services.metering.model.domain import PriceVersion, Rated, Tokens, rate, refusal_of_cost
from services.metering.model.rates import STANDARD_TIER, Unpriced
from services.metering.model.units import CLASS_OF_UNIT, Quantities, Units
from services.metering.quota.domain import SPEND, Amounts, amount, amounts_of
from services.metering.tables import TOKEN_CLASSES
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import (
    EARLY_MAX,
    LATE_MAX,
    NO_QUANTITIES,
    REFUSED,
    SETTLED,
    Cost,
    Recorded,
    Stated,
    Work,
    charge_kind,
    dimensions_of,
    rated_cost,
)
from services.metering.usage.part_domain import used_by
from services.metering.usage_errors import (
    AmountNotStated,
    AmountOfAnotherCurrency,
    NothingToAmend,
    TooManyCorrections,
    UsageNotVoided,
    UsageVoided,
)

CORRECTIONS_MAX: Final = 100
"""How many corrections a usage may have, so that an answer has room for all of them."""
GIVEN_UP: Final = "GIVEN_UP"
"""The state of a charge that billing refused and a correction gave up: it was never made, and is never sent."""
_ZERO: Final = Decimal(0)

Counted = Mapping[str, Decimal]
"""What usage counts in limits, by counter."""


class CorrectionKind(StrEnum):
    """What a correction does."""

    AMEND = "AMEND"
    VOID = "VOID"
    RESTORE = "RESTORE"
    PRICE = "PRICE"
    RERATE = "RERATE"


class Amendment(NamedTuple):
    """What an amendment replaces: the fields that `paths` names."""

    paths: frozenset[str]
    tokens: Tokens = (0,) * len(TOKEN_CLASSES)
    quantities: Quantities = NO_QUANTITIES
    labels: str | None = None
    occur_time: datetime | None = None
    items: int | None = None
    stated_amount: Stated | None = None


class State(NamedTuple):
    """What usage is after its corrections."""

    usage: Recorded
    """As it is; where it is voided, as it was before. It was recorded at its `create_time`."""
    counted: Counted
    """What `usage` counts in limits."""
    voided: bool
    number: int
    """How many corrections it has had."""
    original: Recorded
    """As it was recorded, or priced without a correction."""

    @property
    def now(self) -> Recorded | None:
        """The usage as it is; None where it is voided."""
        return None if self.voided else self.usage


class Source(NamedTuple):
    """A charge that was made for a usage, and how much of it was not given back."""

    operation_id: str
    left: Decimal
    currency_code: str
    state: str = SETTLED
    """PENDING or REFUSED while it is in the outbox; GIVEN_UP where a correction gave it up."""


class Movement(NamedTuple):
    """A movement of money that a correction asks billing for."""

    amount: Decimal
    currency_code: str
    reverses_operation_id: str | None
    """The charge of which it gives something back; None where the account is debited."""


class Correction(NamedTuple):
    """A correction as it is stored."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    kind: CorrectionKind
    usage_operation_id: str
    usage_id: str
    number: int
    reason: str
    actor: str
    create_time: datetime
    before: Recorded | None
    """None where the usage was voided."""
    after: Recorded | None
    """None where it is voided."""
    charges: "Sequence[CorrectionCharge]" = ()


class CorrectionCharge(NamedTuple):
    """A movement of a correction, and what has become of it."""

    operation_id: str
    movement: Movement
    settlement: str
    refusal_reason: str = ""


def require_correctable(state: State, kind: CorrectionKind) -> None:
    """Raise the refusal of a correction that usage cannot have as it is.

    Raises:
        UsageVoided: it is voided.
        UsageNotVoided: it is to be restored, and is not voided.
        TooManyCorrections: it had as many as a usage may have.
    """
    operation_id = state.usage.work.operation_id
    if kind is CorrectionKind.RESTORE and not state.voided:
        raise UsageNotVoided(operation_id=operation_id)
    if kind is not CorrectionKind.RESTORE and state.voided:
        raise UsageVoided(operation_id=operation_id)
    # There is always room for a last one that voids it.
    if state.number >= (CORRECTIONS_MAX if kind is CorrectionKind.VOID else CORRECTIONS_MAX - 1):
        raise TooManyCorrections(operation_id=operation_id, corrections=state.number)


def amended(usage: Recorded, amendment: Amendment, version: PriceVersion | None, units: Units) -> Recorded:
    """Return usage as an amendment makes it, priced with the version that it was priced with.

    Raises:
        InvalidArgument: the time is one that it could not have been recorded with, or a unit is counted in tokens.
        AmountNotStated: an amount is stated for usage whose cost is computed.
        PriceUnknown, CostTooLarge: see `priced`.
        NothingToAmend: it is so already.
    """
    _require_possible(usage, amendment)
    fields = {("stated" if path == "stated_amount" else path): getattr(amendment, path) for path in amendment.paths}
    work = usage.work._replace(**fields)
    dimensions = dimensions_of(work, usage.dimensions.provider) if "labels" in fields else usage.dimensions
    cost = usage.cost
    if work.stated is not None and cost is not None:
        costs = work.stated.amount != "0"
        kind = charge_kind(costs=costs, is_held=False, environment=work.environment)
        cost = cost._replace(amount=work.stated.amount, currency_code=work.stated.currency_code, charge_kind=kind)
    elif cost is not None:
        cost = priced(work, version, units)
    if work == usage.work and _same_cost(cost, usage.cost):
        raise NothingToAmend(operation_id=work.operation_id)
    return usage._replace(work=work, cost=cost, dimensions=dimensions)


def priced(work: Work, version: PriceVersion | None, units: Units) -> Cost:
    """Return what work costs by a price version.

    Raises:
        PriceUnknown: there is none, or it has no rate for a unit.
        CostTooLarge: it costs more than an amount can be.
    """
    if version is None:
        raise PriceUnknown(model_id=work.model, occur_time=work.occur_time)
    tier = work.service_tier or STANDARD_TIER
    rated = rate(version, work.tokens, work.quantities, tier, units, work.occur_time)
    if isinstance(rated, Unpriced):
        raise PriceUnknown(model_id=work.model, occur_time=work.occur_time, unit=rated.unit_id, service_tier=tier)
    too_large = refusal_of_cost(rated, version.card)
    if too_large is not None:
        raise too_large
    return _cost(rated, version, work)


def _cost(rated: Rated, version: PriceVersion, work: Work) -> Cost:
    kind = charge_kind(costs=rated.amount_nanos > 0, is_held=False, environment=work.environment)
    return rated_cost(rated, version, kind)


def _same_cost(one: Cost | None, other: Cost | None) -> bool:
    """Tell whether usage costs the same, however it is charged."""
    return (one and one._replace(charge_kind=None)) == (other and other._replace(charge_kind=None))


def _require_possible(usage: Recorded, amendment: Amendment) -> None:
    work, violations = usage.work, list[FieldViolation]()
    if amendment.occur_time is not None and "occur_time" in amendment.paths:
        earliest, latest = usage.create_time - LATE_MAX, usage.create_time + EARLY_MAX
        if not earliest <= amendment.occur_time <= latest and amendment.occur_time != work.occur_time:
            rule = "must be at most 35 days before the usage was recorded, and 5 minutes after that"
            violations.append(FieldViolation("occur_time", rule))
    tokens = amendment.tokens if "tokens" in amendment.paths else work.tokens
    quantities = amendment.quantities if "quantities" in amendment.paths else work.quantities
    counted = dict(zip(TOKEN_CLASSES, tokens, strict=True))
    violations += [
        FieldViolation("quantities", f"{unit} is counted in tokens.{CLASS_OF_UNIT[unit]} already")
        for unit in quantities
        if unit in CLASS_OF_UNIT and counted[CLASS_OF_UNIT[unit]]
    ]
    if violations:
        raise InvalidArgument(violations)
    if "stated_amount" in amendment.paths and work.stated is None:
        raise AmountNotStated(operation_id=work.operation_id)


def due_for(usage: Recorded | None) -> tuple[Decimal, str] | None:
    """Return what is to be charged for usage in all, and in which currency; None while no price is known.

    Nothing is charged for voided usage, nor for that of tests.
    """
    if usage is None:
        return _ZERO, ""
    return due_at(usage.work, usage.cost)


def due_at(work: Work, cost: Cost | None) -> tuple[Decimal, str] | None:
    """Return the same for work that costs so much."""
    if work.environment == TEST:
        return _ZERO, ""
    return None if cost is None else (Decimal(cost.amount), cost.currency_code)


def require_currency(sources: Sequence[Source], before: Recorded, after: Recorded) -> None:
    """Refuse an amount in a currency in which nothing was charged for usage that was charged in another.

    What billing has refused was not charged.

    Raises:
        AmountOfAnotherCurrency: it is so.
    """
    if before.cost is None or after.cost is None or before.cost.currency_code == after.cost.currency_code:
        return
    charged = [source.currency_code for source in sources if source.state not in (REFUSED, GIVEN_UP)]
    if charged and after.cost.currency_code not in charged:
        raise AmountOfAnotherCurrency(
            operation_id=after.work.operation_id,
            charged_currency_code=charged[-1],
            currency_code=after.cost.currency_code,
        )


def refused_sources(sources: Sequence[Source], due: tuple[Decimal, str] | None) -> list[Source]:
    """Return the charges that a correction gives up: those that billing refused, where it is known what is due."""
    return [] if due is None else [source for source in sources if source.state == REFUSED]


def movements(sources: Sequence[Source], due: tuple[Decimal, str] | None) -> list[Movement]:
    """Return the movements after which just what is due is charged. `sources` are the charges, the earliest first.

    What is too much is given back, of the latest charges first; what is too little is debited. No charge is given back
    more than once, and none where nothing is known to be due.
    """
    if due is None:
        return []
    amount_due, currency_due = due
    charged: defaultdict[str, Decimal] = defaultdict(Decimal)
    for source in sources:
        charged[source.currency_code] += source.left
    found: list[Movement] = []
    for currency_code in sorted(charged):
        excess = charged[currency_code] - (amount_due if currency_code == currency_due else _ZERO)
        for source in reversed(sources):
            taken = min(excess, source.left) if source.currency_code == currency_code else _ZERO
            if taken > 0:
                found.append(Movement(taken, currency_code, source.operation_id))
                excess -= taken
    missing = amount_due - charged[currency_due]
    if missing > 0:
        found.append(Movement(missing, currency_due, None))
    return found


def amounts_used(usage: Recorded, units: Units) -> Amounts:
    """Return what usage uses of everything that limits count. The spend of tests is zero, as is an unknown one."""
    due = due_for(usage)
    spend, currency_code = (_ZERO, "") if due is None else due
    return amounts_of(used_by(usage.work), units, spend, currency_code, usage.work.items or 0)


def recounted(
    state: State, after: Recorded, metrics: Mapping[str, tuple[str, str]], elsewhere: Counted, units: Units
) -> dict[str, Decimal]:
    """Return what usage counts in limits after a correction that leaves it in its windows.

    It counts in the counters that it counted in, whose metrics are given as far as they exist still; and in those of
    `elsewhere`, which it would count in now, that it counts in for the first time, since it used nothing of their
    metric until now.
    """
    now, before = amounts_used(after, units), amounts_used(state.usage, units)
    found = {
        counter_id: amount(*metrics[counter_id], now) if counter_id in metrics else value
        for counter_id, value in state.counted.items()
    }
    for counter_id, value in elsewhere.items():
        metric = metrics.get(counter_id)
        if counter_id not in found and metric is not None and not amount(*metric, before):
            found[counter_id] = value
    return {
        counter_id: value
        for counter_id, value in found.items()
        if value or (after.cost is None and metrics.get(counter_id, ("", ""))[0] == SPEND)
    }


def count_changes(before: Counted, after: Counted) -> dict[str, Decimal]:
    """Return by how much counters change."""
    changes = {key: after.get(key, _ZERO) - before.get(key, _ZERO) for key in {**before, **after}}
    return {key: change for key, change in changes.items() if change}
