"""By how much usage changes the counters of limits: pure rules."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Final

from services.metering.quota.counter_store import Change, Key
from services.metering.usage.domain import Counts

_ZERO: Final = Decimal(0)


def counters_of(counts: Counts) -> Iterable[str]:
    """Return the counters that usage changes, by their ids."""
    return counts.reservations.counter_ids or counts.amounts


def sums(counted: Iterable[tuple[str, str, Counts]], contradicted: Collection[Key]) -> dict[Key, Change]:
    """Return by how much counters change. What was given back already is not taken back."""
    used: defaultdict[str, defaultdict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    taken_back: defaultdict[Key, Decimal] = defaultdict(Decimal)
    for organization_id, operation_id, (amounts, reservations, _) in counted:
        of_organization = used[organization_id]
        for counter_id, value in amounts.items():
            of_organization[counter_id] += value
        is_reserved = bool(reservations) and (organization_id, operation_id) not in contradicted
        for counter_id, value in zip(reservations.counter_ids, reservations.amounts, strict=True):
            of_organization[counter_id] += _ZERO
            if is_reserved:
                taken_back[organization_id, counter_id] -= value
    return {
        (organization_id, counter_id): Change(value, taken_back.get((organization_id, counter_id), _ZERO))
        for organization_id, of_organization in used.items()
        for counter_id, value in of_organization.items()
    }
