"""Where limits stand that usage is counted in: pure rules."""

from collections.abc import Iterable, Mapping, Sequence

from services.metering.quota.alerts import Used
from services.metering.quota.counter_store import Counted, Key
from services.metering.quota.decisions import Place
from services.metering.usage.domain import Recorded


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
