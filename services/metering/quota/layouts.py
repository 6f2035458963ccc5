"""Where calls under the same limits count until one of their windows ends. It is found once for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.metering.quota.decisions import Place
from services.metering.quota.domain import Amounts, Applied, Enforcement, Reservations, Window, amount


@dataclass(slots=True)
class Layout:
    """The places of limits in the windows of a time."""

    applied: Sequence[Applied]
    places: Sequence[Place]
    start: datetime | None
    end: datetime | None
    metrics: Sequence[tuple[str, str]]
    """What the limits count, by metric and currency, each once."""
    counter_ids: tuple[str, ...]
    """The counters; there are none for limits of single calls."""
    metric_places: tuple[int, ...]
    """The place of each counter's metric in `metrics`."""
    metrics_of_counters: tuple[tuple[str, str], ...]
    maxima: tuple[Decimal | None, ...]
    """The maximum of each counter that refuses or is noted; None where any amount may be used."""
    singles: Sequence[tuple[int, Decimal]]
    """The maxima of limits of single calls that refuse or are noted, each with the place of its metric."""
    is_plain: bool
    """Whether each limit looks at its present window alone, so that its counter says all."""
    is_created: bool = False
    """Whether the counters are known to exist. If one is gone all the same, its limit was deleted."""

    def holds(self, applied: Sequence[Applied], moment: datetime) -> bool:
        """Tell whether these are the places for the limits at a moment."""
        return (
            self.applied is applied
            and (self.start is None or self.start <= moment)
            and (self.end is None or moment < self.end)
        )

    def amounts(self, amounts: Amounts) -> list[Decimal]:
        """Return what a call takes of each metric."""
        return [amount(metric, currency_code, amounts) for metric, currency_code in self.metrics]

    def fits_singles(self, wanted: Sequence[Decimal]) -> bool:
        """Tell whether no limit of single calls would refuse or note a call."""
        return all(not wanted[metric] or (maximum and wanted[metric] <= maximum) for metric, maximum in self.singles)

    def reservations(self, wanted: Sequence[Decimal]) -> Reservations:
        """Return what a call reserves that takes this of each metric."""
        amounts = tuple(map(wanted.__getitem__, self.metric_places))
        return Reservations(self.counter_ids, self.metrics_of_counters, amounts)


def layout_of(applied: Sequence[Applied], places: Sequence[Place]) -> Layout:
    """Return where calls under these limits count, from the places of the limits."""
    metrics: dict[tuple[str, str], int] = {}
    counted: list[tuple[str, int, Decimal | None]] = []
    singles: list[tuple[int, Decimal]] = []
    for place in places:
        counter = place.counter
        shape, terms = counter.limit.shape, counter.limit.terms
        metric = metrics.setdefault((shape.metric, shape.currency_code), len(metrics))
        maximum = None if terms.enforcement is Enforcement.SOFT else terms.maximum
        if shape.window is not Window.CALL:
            counted.append((counter.counter_id, metric, maximum))
        elif maximum is not None:
            singles.append((metric, maximum))
    counter_ids, metric_places, maxima = map(tuple, zip(*counted, strict=True)) if counted else ((), (), ())
    listed = list(metrics)
    spans = [place.counter.span for place in places]
    return Layout(
        applied,
        places,
        max((span.start for span in spans), default=None),
        min((span.end for span in spans if span.end is not None), default=None),
        listed,
        counter_ids,
        metric_places,
        tuple(listed[metric] for metric in metric_places),
        maxima,
        singles,
        all(place.head is None and place.before is None and not place.steps for place in places),
    )
