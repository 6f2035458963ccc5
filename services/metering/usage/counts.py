"""By how much usage changes the counters of limits: pure rules."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Final

from services.metering.quota.counter_store import Change, Key
from services.metering.usage.domain import Counts

_ZERO: Final = Decimal(0)


def counters_of(counts: Counts) -> tuple[str, ...]:
    """Return the counters that usage changes, by their ids."""
    return counts.reservations.counter_ids or counts.counter_ids


def sums(counted: Iterable[tuple[str, str, Counts]], contradicted: Collection[Key]) -> dict[Key, Change]:
    """Return by how much counters change, in the order of their keys. What was given back already is not taken back."""
    used: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    taken_back: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for organization_id, operation_id, (counter_ids, values, reservations, _) in counted:
        used_there = used[organization_id]
        for counter_id, value in zip(counter_ids, values, strict=True):
            used_there[counter_id] += value
        if len(counter_ids) < len(reservations.counter_ids):
            for counter_id in reservations.counter_ids:
                used_there[counter_id] += _ZERO
        if reservations and (organization_id, operation_id) not in contradicted:
            taken_back_there = taken_back[organization_id]
            for counter_id, value in zip(reservations.counter_ids, reservations.amounts, strict=True):
                taken_back_there[counter_id] -= value
    # The keys in two steps: texts are compared quicker than pairs of them.
    return {
        (organization_id, counter_id): Change(used_there[counter_id], taken_back[organization_id][counter_id])
        for organization_id, used_there in sorted(used.items())
        for counter_id in sorted(used_there)
    }
