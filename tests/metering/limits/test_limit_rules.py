"""Which limits hold for a call, and whether they leave what it would take, against plain references."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metering.model.units import SEEDED_UNITS
from services.metering.quota.decisions import (
    Place,
    Standing,
    Take,
    carried,
    exceeds,
    left,
    place_of,
    refusal,
    reserve,
    retry_after,
)
from services.metering.quota.domain import (
    CONCURRENT_CALLS,
    ITEMS,
    REQUESTS,
    SPEND,
    TOTAL_TOKENS,
    Amounts,
    Call,
    Enforcement,
    Limit,
    Scope,
    Shape,
    Terms,
    Window,
    amount,
    amounts_of,
    in_force,
)
from services.metering.quota.windows import STEPS, length_of

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
VALUES = {
    Scope.API_KEY: "key",
    Scope.SERVICE_ACCOUNT: "account",
    Scope.USER: "ada",
    Scope.SUBSCRIPTION: "subscription",
    Scope.PROJECT: "project",
    Scope.LABEL: "team-a",
    Scope.MODEL: "gpt-4o",
    Scope.PROVIDER: "openai",
    Scope.ORGANIZATION: "",
}
CALL = Call("project", "ada", "account", "key", "subscription", "gpt-4o", "openai", {"team": "team-a"})


def limit(
    name: str = "n",
    *,
    scope: Scope = Scope.ORGANIZATION,
    value: str = "",
    metric: str = REQUESTS,
    window: Window = Window.MINUTE,
    sliding: bool = False,
    maximum: int | None = 10,
    burst: int = 0,
    enforcement: Enforcement = Enforcement.HARD,
    replaces: bool = False,
) -> Limit:
    label = "team" if scope is Scope.LABEL else ""
    currency = "USD" if metric == SPEND else ""
    shape = Shape(metric, currency, window, sliding, "", 0, scope, value, label)
    at_most = None if maximum is None else Decimal(maximum)
    return Limit(f"id-{name}", name, shape, Terms(at_most, enforcement, Decimal(burst), replaces))


def take(of: Limit, wanted: int, moment: datetime = NOON, *, asked: bool = True) -> Take:
    return Take(place_of(of, "", moment), Decimal(wanted), asked)


@st.composite
def any_limit(draw: st.DrawFn) -> Limit:
    scope = draw(st.sampled_from(list(Scope)))
    value = draw(st.sampled_from(["", VALUES[scope], "another"])) if scope is not Scope.ORGANIZATION else ""
    return limit(
        draw(st.text("abc", min_size=1, max_size=8)),
        scope=scope,
        value=value,
        metric=draw(st.sampled_from([REQUESTS, TOTAL_TOKENS])),
        window=draw(st.sampled_from([Window.MINUTE, Window.DAY])),
        replaces=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(limits=st.lists(any_limit(), max_size=8), left_out=st.sets(st.sampled_from(list(Scope))))
def test_limits_in_force_are_those_that_no_narrower_one_replaces(limits: list[Limit], left_out: set[Scope]) -> None:
    values = {scope: "" if scope in left_out else value for scope, value in VALUES.items()}
    call = Call(
        values[Scope.PROJECT],
        values[Scope.USER],
        values[Scope.SERVICE_ACCOUNT],
        values[Scope.API_KEY],
        values[Scope.SUBSCRIPTION],
        values[Scope.MODEL],
        values[Scope.PROVIDER],
        {"team": values[Scope.LABEL]} if values[Scope.LABEL] else {},
    )

    def counts(one: Limit) -> bool:
        scope = one.shape.scope
        if scope is Scope.ORGANIZATION:
            return True
        return bool(values[scope]) and one.shape.scope_value in ("", values[scope])

    order = list(Scope)
    expected = [
        (one, values[one.shape.scope])
        for one in limits
        if counts(one)
        and not any(
            other.terms.replaces
            and counts(other)
            and (other.shape.metric, other.shape.window) == (one.shape.metric, one.shape.window)
            and order.index(other.shape.scope) < order.index(one.shape.scope)
            for other in limits
        )
    ]
    assert [tuple(one) for one in in_force(limits, call)] == expected


def test_amounts_are_what_the_work_used() -> None:
    quantities = {"input_tokens": 1_000_000, "output_tokens": 500_000, "images": 3_000, "input_seconds": 1_500}
    amounts = amounts_of(quantities, SEEDED_UNITS, Decimal("0.25"), "USD", items=7)
    assert amount(REQUESTS, "", amounts) == 1
    assert amount(TOTAL_TOKENS, "", amounts) == 1_500
    assert amount("input_tokens", "", amounts) == 1_000
    assert amount("images", "", amounts) == 3
    assert amount("input_seconds", "", amounts) == Decimal("1.5")
    assert amount("pages", "", amounts) == 0
    assert amount(SPEND, "USD", amounts) == Decimal("0.25")
    assert amount(SPEND, "EUR", amounts) == 0, "money of another currency is not counted"
    assert amount(ITEMS, "", amounts) == 7
    assert amount(CONCURRENT_CALLS, "", amounts) == 0
    assert amount(CONCURRENT_CALLS, "", amounts._replace(concurrent_calls=1)) == 1


@settings(max_examples=200, deadline=None)
@given(
    maxima=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    calls=st.lists(st.integers(0, 4), max_size=12),
    soft=st.sets(st.integers(0, 3)),
)
def test_calls_are_decided_in_order_and_take_from_all_limits_or_none(
    maxima: list[int], calls: list[int], soft: set[int]
) -> None:
    limits = [
        limit(str(number), maximum=maximum, enforcement=Enforcement.SOFT if number in soft else Enforcement.HARD)
        for number, maximum in enumerate(maxima)
    ]
    standings = {place_of(one, "", NOON).counter.counter_id: Standing() for one in limits}
    used = 0
    for wanted in calls:
        takes = [take(one, wanted) for one in limits]
        refused = refusal(takes, standings, NOON)
        hard = [maximum for number, maximum in enumerate(maxima) if number not in soft]
        passes = all(maximum and used + wanted <= maximum for maximum in hard) if wanted else 0 not in hard
        assert (refused is None) == passes
        if refused is None:
            reserve(takes, standings)
            used += wanted
        assert {one.total for one in standings.values()} == {Decimal(used)}


def test_cost_above_the_limit_leaves_the_rest_to_others() -> None:
    of = limit(maximum=10)
    standings = {place_of(of, "", NOON).counter.counter_id: Standing()}
    decided: list[tuple[int, bool, Decimal | None]] = []
    for wanted in (5, 100, 5, 0, 1):
        takes = [take(of, wanted)]
        is_refused = refusal(takes, standings, NOON) is not None
        if not is_refused:
            reserve(takes, standings)
        (standing,) = standings.values()
        decided.append((wanted, is_refused, left(of, standing)))
    five, none = Decimal(5), Decimal(0)
    assert decided == [(5, False, five), (100, True, five), (5, False, none), (0, False, none), (1, True, none)]


def test_zero_allows_nothing_and_no_maximum_allows_everything() -> None:
    assert exceeds(take(limit(maximum=0), 0), Standing())
    assert not exceeds(take(limit(maximum=0), 0, asked=False), Standing()), "a call that wants none of it may pass"
    assert not exceeds(take(limit(maximum=None), 10**9), Standing(used=Decimal(10**12)))
    assert left(limit(maximum=None), Standing()) is None


def test_maximum_lowered_below_what_is_used_leaves_nothing() -> None:
    lowered = limit(maximum=50)
    assert left(lowered, Standing(used=Decimal(80))) == 0
    refused = refusal([take(lowered, 1)], {place_of(lowered, "", NOON).counter.counter_id: Standing(Decimal(80))}, NOON)
    assert refused is not None
    assert refused.retry_after == timedelta(minutes=1)


@settings(max_examples=200, deadline=None)
@given(maximum=st.integers(0, 20), burst=st.integers(0, 20), windows=st.lists(st.integers(0, 60), max_size=8))
def test_burst_is_what_the_window_before_left(maximum: int, burst: int, windows: list[int]) -> None:
    of = limit(maximum=maximum, burst=burst)
    before = 0
    for wanted in windows:
        standing = Standing(carried=carried(of, Standing(used=Decimal(before))))
        rest = left(of, standing)
        assert rest == maximum + min(burst, max(maximum - before, 0))
        before = min(wanted, int(rest))


@settings(max_examples=150, deadline=None)
@given(
    window=st.sampled_from(list(STEPS)),
    maximum=st.integers(1, 6),
    events=st.lists(st.tuples(st.floats(0, 1.5), st.integers(1, 4)), max_size=30),
)
def test_sliding_window_never_holds_more_than_its_maximum(
    window: Window, maximum: int, events: list[tuple[float, int]]
) -> None:
    """Times are in lengths of the window. What is refused passes when it says so, if nothing else is used."""
    of = limit(window=window, sliding=True, maximum=maximum)
    length, counted = length_of(of.shape), dict[str, Decimal]()
    taken: list[tuple[datetime, int]] = []
    moment = NOON

    def standing_of(place: Place) -> Standing:
        earlier = tuple(counted.get(step, Decimal(0)) for step in place.steps)
        return Standing(
            counted.get(place.counter.counter_id, Decimal(0)), earlier=earlier, earlier_sum=sum(earlier, Decimal(0))
        )

    for gap, wanted in events:
        moment += gap * length / 6
        asked = take(of, wanted, moment)
        standing = standing_of(asked.place)
        if not exceeds(asked, standing):
            counted[asked.place.counter.counter_id] = standing.used + wanted
            taken.append((moment, wanted))
            continue
        wait = retry_after(asked, standing, moment)
        assert (wait is None) == (wanted > maximum)
        if wait is not None:
            later = take(of, wanted, moment + wait)
            assert not exceeds(later, standing_of(later.place))
            sooner = take(of, wanted, moment + wait - timedelta(microseconds=1))
            assert exceeds(sooner, standing_of(sooner.place)), "and not before"
    for start, _ in taken:
        within = [wanted for when, wanted in taken if start <= when < start + length]
        assert sum(within) <= maximum


@pytest.mark.parametrize("window", [Window.NONE, Window.LIFETIME])
def test_limit_without_end_says_no_time_to_come_back(window: Window) -> None:
    of = limit(metric=CONCURRENT_CALLS if window is Window.NONE else REQUESTS, window=window, maximum=1)
    refused = refusal([take(of, 1)], {place_of(of, "", NOON).counter.counter_id: Standing(Decimal(1))}, NOON)
    assert refused is not None
    assert refused.retry_after is None


def test_limit_of_single_calls_looks_at_the_call_alone() -> None:
    of = limit(metric=ITEMS, window=Window.CALL, maximum=100)
    for _ in range(3):
        takes = [take(of, 100)]
        assert refusal(takes, {}, NOON) is None
        reserve(takes, {})
    assert refusal([take(of, 101)], {}, NOON) is not None


def test_amounts_of_a_call_without_anything_are_zero_but_the_request() -> None:
    amounts = Amounts({}, 0)
    assert [amount(metric, "", amounts) for metric in (REQUESTS, TOTAL_TOKENS, ITEMS, "images")] == [1, 0, 0, 0]
