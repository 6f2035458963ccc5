"""What a part of a call captures is never more than the whole call turns out to cost."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.metering.errors import BelowEarlierPart
from services.metering.model.domain import NANOS, PriceVersion, rate
from services.metering.model.hours import Hours, Schedule, Span
from services.metering.model.rates import RateCard, Unpriced, amount_nanos, least_nanos, rounded
from services.metering.model.units import SEEDED_UNITS
from services.metering.usage.dimensions import LIVE, TEST
from services.metering.usage.domain import Cost, Stated, Work
from services.metering.usage.part_domain import Part, amount_of_part, contradiction, used_by
from tests.metering.rate_cards import card, in_hours, per_million, rounded_nanos
from tests.metering.test_rates import AMOUNTS, IN_CONTEXT, SECONDS, by_reference, rate_cards

NOW: Final = datetime(2026, 3, 1, tzinfo=UTC)
TIER: Final = st.sampled_from(["standard", "batch", "priority"])
NO_TOKENS: Final = (0,) * 8
patient: Final = settings(suppress_health_check=[HealthCheck.too_slow])
"""Rate cards take long to make, on a machine that does other things beside."""


def grown(used: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {unit: used.get(unit, 0) + more.get(unit, 0) for unit in {*used, *more}}


@patient
@given(rate_cards(), AMOUNTS, AMOUNTS, SECONDS, SECONDS, TIER)
def test_whatever_a_call_goes_on_to_use_it_costs_at_least_what_a_part_captured(
    rates: RateCard, used: dict[str, int], more: dict[str, int], seconds: int, later_seconds: int, tier: str
) -> None:
    now = used | {"input_seconds": seconds}
    whole = grown(now, more | {"input_seconds": later_seconds})
    least = least_nanos(rates, now, tier, SEEDED_UNITS)
    present, final = by_reference(rates, now, tier), by_reference(rates, whole, tier)

    if isinstance(least, Unpriced):
        assert least == Unpriced(str(present), tier)
        return
    assert not isinstance(present, str)
    assert least <= rounded_nanos(present[0])
    if not isinstance(final, str):
        assert least <= rounded_nanos(final[0])


@patient
@given(rate_cards(), AMOUNTS, TIER)
def test_a_part_captures_what_some_end_of_the_call_costs(rates: RateCard, used: dict[str, int], tier: str) -> None:
    """It is not only a lower bound: the call costs just that if its input context ends up where that is cheapest."""
    least = least_nanos(rates, used, tier, SEEDED_UNITS)
    if isinstance(least, Unpriced):
        return
    context = sum(used.get(unit, 0) for unit in IN_CONTEXT)
    free = "cache_read_explicit_tokens"
    costs = []
    for above in (0, *(one.above * 1_000 for one in rates.rates)):
        # Tokens that no card here has a rate for, and so cost nothing: they move the context and nothing else.
        moved = {free: max(above + 1_000 - context, 0)}
        plan = rates.plan(tier, SEEDED_UNITS)
        bracket = plan.at(context + moved[free])
        costs.append(
            rounded(sum(quantity * bracket.weights[unit] for unit, quantity in used.items() if quantity), plan.divisor)
        )
    assert least == min(costs)


@patient
@given(rate_cards(), st.lists(st.tuples(AMOUNTS, SECONDS), min_size=1, max_size=6), TIER)
def test_parts_and_the_last_charge_are_together_the_cost_of_the_whole(
    rates: RateCard, steps: list[tuple[dict[str, int], int]], tier: str
) -> None:
    version = PriceVersion("v", "m", None, rates, NOW, NOW, "")
    used: dict[str, int] = {}
    last: Part | None = None
    for more, seconds in steps:
        used = grown(used, more | {"input_seconds": seconds})
        work = a_work(quantities=used, service_tier=tier)
        amount = amount_of_part(work, version, last, SEEDED_UNITS)
        assert amount >= 0
        before = last.captured_amount if last is not None else Decimal(0)
        last = a_part(work, amount, before + amount, number=last.part + 1 if last is not None else 1)
    assert last is not None
    whole = amount_nanos(rates, used, tier, SEEDED_UNITS)
    if isinstance(whole, Unpriced):
        return
    assert Decimal(whole) / NANOS >= last.captured_amount


def test_a_cheaper_price_above_a_threshold_holds_a_part_back() -> None:
    """1,000 tokens at 5 dollars a million are 0.005; if the call ends above 2,000 they are 0.001, so 0.001 is sure."""
    falling = card(per_million("input_tokens", "5"), per_million("input_tokens", "1", above=2_000))
    rising = card(per_million("input_tokens", "1"), per_million("input_tokens", "5", above=2_000))

    def least(rates: RateCard, tokens: int) -> object:
        return least_nanos(rates, {"input_tokens": tokens * 1_000}, "standard", SEEDED_UNITS)

    assert [least(falling, tokens) for tokens in (1_000, 2_000, 2_001)] == [1_000_000, 2_000_000, 2_001_000]
    assert [least(rising, tokens) for tokens in (1_000, 2_000, 2_001)] == [1_000_000, 2_000_000, 10_005_000]


def a_work(**fields: object) -> Work:
    nothing = dict.fromkeys(
        (
            *("project_id", "user_id", "api_key_id", "subscription_id", "latency_ms", "status_code"),
            *("error_message", "endpoint", "conversation_id", "labels"),
        )
    )
    whole: dict[str, object] = {
        **nothing,
        "organization_id": "o",
        "operation_id": "call-1",
        "fingerprint": b"f",
        "occur_time": NOW,
        "model": "m",
        "tokens": NO_TOKENS,
        "partial": False,
        "settles": True,
        "adjusted": (),
        "service_tier": "standard",
    }
    return Work(**whole | fields)  # type: ignore[arg-type]


def a_part(work: Work, amount: Decimal, captured: Decimal, number: int = 1) -> Part:
    stated = None if work.stated is None else Decimal(work.stated.amount)
    used, tier = used_by(work), work.service_tier or ""
    return Part(number, work.model, tier, used, stated, "v", "p", amount, captured, "USD", NOW, NOW)


NOW_AND_THEN: Final[dict[str, object]] = {
    "tokens": (1_000, 100, 0, 0, 0, 0, 0, 0),
    "quantities": {"input_seconds": 1_500},
}


@pytest.mark.parametrize(
    ("later", "field", "figures"),
    [
        ({"tokens": (1_000, 99, 0, 0, 0, 0, 0, 0)}, "output_tokens", ("100", "99")),
        ({"tokens": (1_000, 0, 0, 0, 0, 0, 0, 0)}, "output_tokens", ("100", "0")),
        ({"quantities": {}}, "input_seconds", ("1.5", "0")),
        ({"quantities": {"input_seconds": 1_499}}, "input_seconds", ("1.5", "1.499")),
        ({"model": "n"}, "model", ("m", "n")),
        ({"service_tier": "batch"}, "service_tier", ("standard", "batch")),
        ({"stated": Stated("9", "USD")}, "stated_amount", ("none", "9")),
    ],
)
def test_a_smaller_settlement_is_refused_by_the_name_of_what_is_smaller(
    later: dict[str, object], field: str, figures: tuple[str, str]
) -> None:
    first = a_work(**NOW_AND_THEN)
    earlier = a_part(first, Decimal(1), Decimal(1))
    assert contradiction(earlier, first, None) is None

    refusal = contradiction(earlier, a_work(**NOW_AND_THEN | later), None)

    assert isinstance(refusal, BelowEarlierPart)
    assert refusal.facts["field"] == field
    assert (refusal.facts["earlier"], refusal.facts["given"]) == figures
    assert field in refusal.message


def test_stated_amounts_do_not_fall_and_keep_their_currency() -> None:
    earlier = a_part(a_work(stated=Stated("2.5", "USD")), Decimal("2.5"), Decimal("2.5"))

    def given_now(stated: Stated | None) -> object:
        work = a_work(stated=stated)
        cost = None if stated is None else Cost(stated.amount, stated.currency_code, None, None)
        refusal = contradiction(earlier, work, cost)
        return None if refusal is None else (refusal.facts["field"], refusal.facts["earlier"], refusal.facts["given"])

    assert given_now(Stated("2.5", "USD")) is None
    assert given_now(Stated("10", "USD")) is None
    assert given_now(Stated("2.4", "USD")) == ("stated_amount", "2.5", "2.4")
    assert given_now(Stated("2.5", "EUR")) == ("currency_code", "USD", "EUR")
    assert given_now(None) == ("stated_amount", "2.5", "none")


def test_a_stated_amount_is_captured_as_far_as_it_grows_and_nothing_of_a_test() -> None:
    earlier = a_part(a_work(), Decimal(2), Decimal(2))
    for environment, stated, amount in ((LIVE, "2.5", "0.5"), (LIVE, "2", "0"), (LIVE, "1", "0"), (TEST, "9", "0")):
        work = a_work(stated=Stated(stated, "USD"), environment=environment)
        assert amount_of_part(work, None, earlier, SEEDED_UNITS) == Decimal(amount)


def test_a_unit_without_a_rate_captures_nothing() -> None:
    version = PriceVersion("v", "m", None, card(per_million("input_tokens", "5")), NOW, NOW, "")
    work = a_work(tokens=(1_000_000, 0, 0, 0, 0, 0, 0, 0), quantities={"web_searches": 1_000})
    assert amount_of_part(work, version, None, SEEDED_UNITS) == 0
    assert amount_of_part(work._replace(quantities={}), version, None, SEEDED_UNITS) == 5
    assert amount_of_part(work, None, None, SEEDED_UNITS) == 0


def test_a_part_in_dear_hours_captures_no_more_than_the_call_costs_if_it_ends_in_cheap_ones() -> None:
    night = Schedule("UTC", (Hours("night", (Span(0, 360),)),))
    rates = card(
        per_million("input_tokens", "2"),
        in_hours(per_million("input_tokens", "1"), "night"),
        per_million("output_tokens", "4"),
        schedule=night,
    )
    version = PriceVersion("v", "m", None, rates, NOW, NOW, "")
    tokens = (1_000_000, 500_000, 0, 0, 0, 0, 0, 0)
    noon = NOW.replace(hour=12)
    by_day, by_night = (
        rate(version, tokens, {}, "standard", SEEDED_UNITS, moment) for moment in (noon, NOW.replace(hour=3))
    )
    assert not isinstance(by_day, Unpriced)
    assert not isinstance(by_night, Unpriced)
    assert (by_day.amount_nanos, by_night.amount_nanos) == (4 * NANOS, 3 * NANOS)
    part = amount_of_part(a_work(tokens=tokens, occur_time=noon), version, None, SEEDED_UNITS)
    assert part == 3
