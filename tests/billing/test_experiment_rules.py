"""Which subject gets which variant of an experiment, and the sums of what became of them. No database."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from services.billing.plan.experiment_domain import Experiment, Outcome, Result, Variant, variant_for

_MOMENT: Final = datetime(2026, 3, 15, tzinfo=UTC)
_ID: Final = "0197c5a8-0000-7000-8000-0000000000aa"


def experiment(**weights: int) -> Experiment:
    variants = tuple(Variant(f"id of {code}", code, weights[code]) for code in sorted(weights))
    return Experiment(_ID, "id of a", "a", variants, 1, _MOMENT, _MOMENT, None)


def ids(count: int, seed: int = 1) -> list[str]:
    numbers = random.Random(seed)
    return [str(UUID(int=numbers.getrandbits(128))) for _ in range(count)]


def test_ten_thousand_subjects_split_as_the_weights_say() -> None:
    weights = {"a": 1, "b": 7, "c": 2}
    got = Counter(variant_for(experiment(**weights), organization, "").plan_code for organization in ids(10_000))
    # Five standard deviations are 240 at most.
    assert all(abs(got[code] - 1_000 * weight) < 240 for code, weight in weights.items())

    of_users = Counter(variant_for(experiment(**weights), _ID, user).plan_code for user in ids(10_000, seed=2))
    assert all(abs(of_users[code] - 1_000 * weight) < 240 for code, weight in weights.items())


def test_variants_of_two_experiments_have_nothing_to_do_with_each_other() -> None:
    first = experiment(a=1, b=1)
    second = replace(first, experiment_id=ids(1)[0])
    both = Counter(
        (variant_for(first, organization, "").plan_code, variant_for(second, organization, "").plan_code)
        for organization in ids(10_000)
    )
    assert all(abs(count - 2_500) < 220 for count in both.values())
    assert len(both) == 4


def test_variant_is_the_one_that_the_contract_describes() -> None:
    """The figures were computed with sha256sum in a shell, from the comment of PlanExperiment.

    The digests begin with 7bb7c716 and a3be35e8, which leave 22 and 48 when divided by 100.
    """
    tried = experiment(control=30, other=70)
    user = "0197c5a8-0000-7000-8000-0000000000bb"
    assert variant_for(tried, _ID, "").plan_code == "control"
    assert variant_for(tried, _ID, user).plan_code == "other"


def test_result_counts_each_subject_and_sums_money_by_currency() -> None:
    result = Result("a")
    for outcome in (
        Outcome("p"),
        Outcome("p", tried=True),
        Outcome("p", tried=True, subscribed=True, brought={"USD": Decimal("9.99"), "EUR": Decimal(1)}),
        Outcome("p", subscribed=True, stayed=True, brought={"USD": Decimal("0.01")}),
    ):
        result = result.with_outcome(outcome)
    assert result == Result("a", 4, 2, 2, 1, {"USD": Decimal("10.00"), "EUR": Decimal(1)})
