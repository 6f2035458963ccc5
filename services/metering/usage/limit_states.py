"""Where limits stand that usage is counted in: pure rules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final

from services.metering.quota.alerts import Used
from services.metering.quota.counter_store import Counted, Key
from services.metering.quota.decisions import Place, Standing, carried
from services.metering.usage.domain import LimitState, Recorded

_ZERO: Final = Decimal(0)
_NOTHING: Final = Counted(_ZERO, _ZERO)


def places_of(new: Sequence[Recorded]) -> Mapping[Key, Place]:
    """Return where usages are counted that are recorded together."""
    return next((one.counts.places for one in new if one.counts is not None), {})


def used_of(new: Sequence[Recorded], added: Mapping[Key, Counted]) -> list[Used]:
    """Return what is used of the limits that have thresholds, from the counters as usages have changed them."""
    places = places_of(new)
    return [
        (key[0], place.counter, counted.used)
        for key, counted in added.items()
        if (place := places.get(key)) is not None and place.counter.limit.terms.thresholds
    ]


def counters_beside(place: Place) -> Iterable[str]:
    """Return the other counters that say how much a limit leaves at a place."""
    return place.steps or (() if place.before is None else (place.before.counter_id,))


def counted_in(found: Mapping[Key, Counted], organization_id: str, counter_id: str) -> Counted:
    """Return what a counter has that was read; one that was not found has nothing."""
    return found.get((organization_id, counter_id), _NOTHING)


def look_beside(state: LimitState, counted: Callable[[str], Counted]) -> None:
    """Add what is counted elsewhere and says how much a limit leaves."""
    place, standing = state.place, state.standing
    if place.steps:
        standing.earlier = tuple(sum(counted(step), _ZERO) for step in place.steps)
        standing.earlier_sum = sum(standing.earlier, _ZERO)
    elif place.before is not None:
        standing.carried = carried(place.counter.limit, Standing(*counted(place.before.counter_id)))
