"""The rules of corrections: what is charged after them is what is due, and nothing is given back twice."""

from collections import defaultdict
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.metering.usage.correction.domain import Source, count_changes, movements

AMOUNTS = st.integers(0, 20).map(Decimal)
CURRENCIES = st.sampled_from(["USD", "EUR"])
SOURCES = st.lists(st.tuples(AMOUNTS, CURRENCIES), max_size=6).map(
    lambda found: [Source(f"charge-{number}", left, currency) for number, (left, currency) in enumerate(found)]
)


@given(SOURCES, AMOUNTS, CURRENCIES)
def test_movements_make_what_is_charged_what_is_due(sources: list[Source], due: Decimal, currency_code: str) -> None:
    charged: defaultdict[str, Decimal] = defaultdict(Decimal)
    left = {source.operation_id: source.left for source in sources}
    for source in sources:
        charged[source.currency_code] += source.left

    found = movements(sources, (due, currency_code))

    for movement in found:
        assert movement.amount > 0
        if movement.reverses_operation_id is None:
            charged[movement.currency_code] += movement.amount
        else:
            left[movement.reverses_operation_id] -= movement.amount
            charged[movement.currency_code] -= movement.amount
    assert {code: amount for code, amount in charged.items() if amount} == ({currency_code: due} if due else {})
    assert all(amount >= 0 for amount in left.values())
    both = {movement.reverses_operation_id is None for movement in found if movement.currency_code == currency_code}
    assert both != {True, False}


@given(SOURCES)
def test_nothing_moves_while_no_price_is_known(sources: list[Source]) -> None:
    assert movements(sources, None) == []


def test_the_latest_charges_are_given_back_first() -> None:
    sources = [Source("first", Decimal(3), "USD"), Source("second", Decimal(2), "USD")]
    assert [(one.reverses_operation_id, one.amount) for one in movements(sources, (Decimal(1), "USD"))] == [
        ("second", Decimal(2)),
        ("first", Decimal(2)),
    ]


@given(st.dictionaries(st.sampled_from("abc"), AMOUNTS), st.dictionaries(st.sampled_from("abc"), AMOUNTS))
def test_counters_change_by_the_difference(before: dict[str, Decimal], after: dict[str, Decimal]) -> None:
    changes = count_changes(before, after)
    keys = before.keys() | after.keys()
    assert {key: before.get(key, Decimal(0)) + changes.get(key, Decimal(0)) for key in keys} == {
        key: after.get(key, Decimal(0)) for key in keys
    }
