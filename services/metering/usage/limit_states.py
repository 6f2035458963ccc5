"""Where limits stand that usage is counted in: pure rules."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.metering.quota.alerts import Used
from services.metering.quota.counter_store import Counted, Key
from services.metering.quota.counters import standing_of
from services.metering.quota.decisions import Place
from services.metering.usage.domain import LimitState, Recorded


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


def counters_beside(places: Mapping[Key, Place], added: Mapping[Key, Counted]) -> set[Key]:
    """Return the other counters that say how much limits leave at the places where usage was added."""
    beside: set[Key] = set()
    for key in added:
        place = places.get(key)
        if place is not None and (place.steps or place.before is not None):
            others = place.steps or (() if place.before is None else (place.before.counter_id,))
            beside.update((key[0], other) for other in others)
    return beside - added.keys()


def states_of(
    places: Mapping[Key, Place], added: Mapping[Key, Counted], counted: Mapping[Key, Counted]
) -> Mapping[str, Mapping[str, LimitState]]:
    """Return where limits stand in which usage was added, by organization and counter; `counted` has those beside."""
    states: defaultdict[str, dict[str, LimitState]] = defaultdict(dict)
    for key in added:
        place = places.get(key)
        if place is not None:
            states[key[0]][key[1]] = LimitState(place, standing_of(key[0], place, counted))
    return states
