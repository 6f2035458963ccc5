"""A request takes what all its descriptors take, in their order, or nothing: against plain arithmetic."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.metering.quota.allocation_domain import Asked, takes_of
from services.metering.quota.decisions import Standing, place_of
from services.metering.quota.domain import Limit, Scope, Shape, Terms, Window
from services.metering.rate_limit.decisions import decide

NOW = datetime(2026, 3, 15, 12, 0, 20, tzinfo=UTC)
METRICS = ("requests", "items")
MAXIMA = st.lists(st.tuples(st.sampled_from(METRICS), st.none() | st.integers(0, 6)), max_size=5)
HITS = st.lists(st.tuples(st.sampled_from(METRICS), st.integers(0, 4)), min_size=1, max_size=5)


def limit_of(number: int, metric: str, maximum: int | None) -> Limit:
    shape = Shape(metric, "", Window.MINUTE, False, "", 0, Scope.ORGANIZATION, "", "")
    return Limit(str(number), str(number), shape, Terms(None if maximum is None else Decimal(maximum)))


@given(MAXIMA, HITS, st.integers(0, 4))
def test_request_takes_all_or_nothing(
    maxima: list[tuple[str, int | None]], hits: list[tuple[str, int]], used: int
) -> None:
    places = [place_of(limit_of(number, *each), "", NOW) for number, each in enumerate(maxima)]
    standings = {place.counter.counter_id: Standing(Decimal(used)) for place in places}
    takes = [
        takes_of(places, [Asked(metric, "", Decimal(value), Decimal(1))], only_asked=True) for metric, value in hits
    ]

    statuses, taken, _ = decide(takes, standings, NOW)

    counted = [used] * len(maxima)
    passes = []
    for metric, value in hits:
        met = [number for number, (counts, _) in enumerate(maxima) if counts == metric]
        fits = all(
            (maximum := maxima[number][1]) is None or (maximum > 0 and value <= max(maximum - counted[number], 0))
            for number in met
        )
        passes.append(fits)
        for number in met if fits else ():
            counted[number] += value
    if not all(passes):
        counted = [used] * len(maxima)
    assert [status.passes for status in statuses] == passes
    assert [standings[place.counter.counter_id].used for place in places] == counted
    sums = [sum(one.used for one in taken if one.counter_id == place.counter.counter_id) for place in places]
    assert sums == [count - used for count in counted]
    for (metric, _), status in zip(hits, statuses, strict=True):
        rests = [
            max(maximum - counted[number], 0)
            for number, (counts, maximum) in enumerate(maxima)
            if counts == metric and maximum is not None
        ]
        assert (status.limit is None) == (not rests)
        if status.passes and rests:
            assert status.left == min(rests)
