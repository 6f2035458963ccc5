"""What a quantity costs by the steps of a usage charge, against a count of each unit; and the rules of steps."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.plan.usage_charge_domain import (
    UsageCharge,
    UsageMode,
    UsageStep,
    usage_charge_json,
    usage_charge_of_json,
    usage_charges_flaws,
)

GRADUATED, VOLUME = UsageMode.GRADUATED, UsageMode.VOLUME


def charge(mode: UsageMode, *steps: tuple[str, str, str], fee: str = "0", always: bool = False) -> UsageCharge:
    """Return a charge of steps: the last quantity, the price and the flat amount of each."""
    listed = tuple(
        UsageStep(Decimal(up_to) if up_to else None, Decimal(price), Decimal(flat or 0)) for up_to, price, flat in steps
    )
    return UsageCharge("units", "", "units", (), mode, listed, Decimal(fee), always)


FREE_250 = (("250", "0", ""), ("", "0.02", ""))
FROM_101 = (("100", "3", ""), ("", "1", ""))


@pytest.mark.parametrize(
    ("mode", "steps", "quantity", "amount"),
    [
        (GRADUATED, FREE_250, "250", "0"),
        (GRADUATED, FREE_250, "251", "0.02"),
        (GRADUATED, FREE_250, "250.5", "0.01"),
        (GRADUATED, FROM_101, "101", "301"),
        (VOLUME, FROM_101, "101", "101"),
        (VOLUME, FROM_101, "100", "300"),
        (GRADUATED, FROM_101, "0", "0"),
        (VOLUME, FROM_101, "0", "0"),
        (GRADUATED, (("100", "0", "5"), ("", "0", "7")), "100", "5"),
        (GRADUATED, (("100", "0", "5"), ("", "0", "7")), "100.001", "12"),
        (VOLUME, (("100", "0", "5"), ("", "0", "7")), "100.001", "7"),
        (GRADUATED, (("", "0.000000001", ""),), "0.5", "0"),
        (GRADUATED, (("", "0.000000001", ""),), "1.5", "0.000000002"),
        (GRADUATED, (("", "999999999.999999999", ""),), "12345678901234.567", "12345678901234566987654.321098765"),
    ],
)
def test_steps_of_the_acceptance_cases_and_at_their_edges(
    mode: UsageMode, steps: tuple[tuple[str, str, str], ...], quantity: str, amount: str
) -> None:
    """Acceptance case 7."""
    assert charge(mode, *steps).amount(Decimal(quantity)) == Decimal(amount)


def test_a_flat_fee_is_due_without_usage_only_where_the_plan_says_so() -> None:
    for always, of_nothing in ((False, "0"), (True, "9")):
        fee = charge(GRADUATED, *FREE_250, fee="9", always=always)
        assert fee.amount(Decimal(0)) == Decimal(of_nothing)
        assert fee.amount(Decimal(1)) == Decimal(9)
        assert fee.amount(Decimal(251), Decimal("4.5")) == Decimal("4.52")


prices = st.decimals(0, 1000, places=9)
quantities = st.integers(0, 80).map(lambda halves: Decimal(halves) / 2)


@st.composite
def charges(draw: st.DrawFn) -> UsageCharge:
    bounds = sorted(draw(st.sets(st.integers(1, 35), max_size=5)))
    ends: list[Decimal | None] = [*map(Decimal, bounds), None]
    steps = tuple(UsageStep(end, draw(prices), draw(st.sampled_from([Decimal(0), Decimal("0.1")]))) for end in ends)
    mode = draw(st.sampled_from(UsageMode))
    return UsageCharge("units", "Units", "units", (), mode, steps, draw(prices), draw(st.booleans()))


def reference(one: UsageCharge, quantity: Decimal) -> Decimal:
    """Go through each half of a unit, and ask which step it falls into."""

    def step_of(half: int) -> UsageStep:
        return next(step for step in one.steps if step.up_to is None or half <= step.up_to * 2)

    halves = int(quantity * 2)
    fallen = [step_of(number) for number in range(1, halves + 1)]
    if one.mode is VOLUME:
        fallen = fallen[-1:] * halves
    total = sum((Fraction(step.price) / 2 for step in fallen), Fraction(0))
    total += sum((Fraction(step.flat) for step in one.steps if step in fallen), Fraction(0))
    if halves or one.flat_fee_without_usage:
        total += Fraction(one.flat_fee)
    return Decimal(round(total * 10**9)).scaleb(-9)


@given(charges(), quantities)
def test_an_amount_is_what_each_half_of_a_unit_costs(one: UsageCharge, quantity: Decimal) -> None:
    assert one.amount(quantity) == reference(one, quantity)
    assert one.amount(quantity) == one.amount(quantity).quantize(Decimal("1e-9"), ROUND_HALF_EVEN)


@given(charges(), st.lists(quantities, max_size=8))
def test_movements_to_whatever_was_known_add_up_to_what_all_of_it_costs(one: UsageCharge, known: list[Decimal]) -> None:
    """Whatever came late or was taken back in between, what was moved is what the last quantity costs."""
    charged = Decimal(0)
    for quantity in known:
        charged += one.amount(quantity) - charged
    assert charged == (one.amount(known[-1]) if known else 0)


@given(charges())
def test_a_charge_is_read_as_it_was_stored(one: UsageCharge) -> None:
    assert usage_charge_of_json(usage_charge_json(one)) == one


@pytest.mark.parametrize(
    ("steps", "field"),
    [
        ((("250", "0", ""),), "x[0].steps[0].up_to"),
        ((("", "0", ""), ("", "1", "")), "x[0].steps[0].up_to"),
        ((("0", "0", ""), ("", "1", "")), "x[0].steps[0].up_to"),
        ((("5", "0", ""), ("5", "0", ""), ("", "1", "")), "x[0].steps[1].up_to"),
    ],
)
def test_steps_that_leave_a_gap_or_overlap_are_named(steps: tuple[tuple[str, str, str], ...], field: str) -> None:
    assert [flaw.field for flaw in usage_charges_flaws("x", [charge(GRADUATED, *steps)])] == [field]
