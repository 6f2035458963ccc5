"""What a lease holds, and what a settlement makes of it: pure rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from services.metering.admission.domain import Denied, Status
from services.metering.quota.allocation_domain import Allocation
from services.metering.quota.decisions import Refused
from services.metering.quota.domain import SPEND, Amounts, amount
from services.metering.usage.domain import Counts, Outcome

_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Acquired:
    """What became of a request for a lease."""

    lease: Allocation | None
    """None where nothing was taken."""
    limits: Sequence[Status]
    """Where the limits in force for the call stand after it."""
    denied: Denied | None = None
    refused: Refused | None = None
    """The limit that refused."""
    replayed: bool = False


class AmountUsed(NamedTuple):
    """What became of an amount of a lease."""

    metric: str
    currency_code: str
    value: Decimal
    used: Decimal

    @property
    def remaining(self) -> Decimal:
        return max(self.value - self.used, _ZERO)

    @property
    def overrun(self) -> Decimal:
        return max(self.used - self.value, _ZERO)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a settlement."""

    outcomes: Sequence[Outcome]
    lease: Allocation
    """As it is after the settlement."""
    released: str | None = None
    """What was released of the hold, in the lease's currency; None where nothing was."""


def held_amount(lease: Allocation) -> Decimal:
    """Return what is held in billing for a lease, in its currency."""
    return sum((one.value for one in lease.amounts if one.metric == SPEND), _ZERO)


def held_currency(lease: Allocation) -> str:
    """Return the currency of what is held for a lease; empty where nothing is."""
    return lease.currency_code if held_amount(lease) and not lease.declined else ""


def without(lease: Allocation, limits: Iterable[Status]) -> list[Status]:
    """Return where limits stand when what a lease has reserved is given back."""
    reserved = {one.counter_id: one.reserved for one in lease.taken}
    return [
        (
            place,
            replace(standing, reserved=standing.reserved - reserved.get(place.counter.counter_id, _ZERO)),
        )
        for place, standing in limits
    ]


def settle(
    lease: Allocation, used: Iterable[tuple[Counts, Amounts]], now: datetime, *, end: bool
) -> tuple[Allocation, dict[str, Decimal]]:
    """Put what was used in the place of what a lease has reserved.

    Returns the lease as it is then, and by how much less is reserved in each of its counters. What is reserved falls by
    what was used until nothing is, and all of it is given back where the lease ends; of a lease that has ended, nothing
    is.
    """
    works = list(used)
    spent = [
        before + sum((amount(one.metric, lease.currency_code, amounts) for _, amounts in works), _ZERO)
        for before, one in zip(lease.spent or (), lease.amounts, strict=True)
    ]
    if lease.released:
        return replace(lease, spent=spent), {}
    counted: dict[str, Decimal] = {}
    for counts, _ in works:
        for counter_id, value in zip(counts.counter_ids, counts.values, strict=True):
            counted[counter_id] = counted.get(counter_id, _ZERO) + value
    rest = [one._replace(reserved=max(one.reserved - counted.get(one.counter_id, _ZERO), _ZERO)) for one in lease.taken]
    given_back = {
        before.counter_id: before.reserved if end else before.reserved - after.reserved
        for before, after in zip(lease.taken, rest, strict=True)
    }
    lapsed = end and lease.lease_end_time is not None and lease.lease_end_time <= now
    changed = replace(lease, spent=spent, taken=rest, released=end, lapsed=lapsed)
    return changed, {counter_id: value for counter_id, value in given_back.items() if value}


def amounts_used(lease: Allocation) -> list[AmountUsed]:
    """Return what became of each amount of a lease."""
    return [
        AmountUsed(one.metric, lease.currency_code if one.metric == SPEND else "", one.value, used)
        for one, used in zip(lease.amounts, lease.spent or (), strict=True)
    ]


def counters_of(lease: Allocation) -> list[str]:
    """Return the counters in which a lease has reserved something."""
    return [one.counter_id for one in lease.taken]


Used = Mapping[str, tuple[Counts, Amounts]]
"""What usages count and use, by their usage ids."""
