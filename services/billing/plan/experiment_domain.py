"""Experiments on plans: which subject gets which variant, and what became of the subjects of each."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.errors import FieldViolation
from services.billing.plan.domain import Plan

_VARIANTS_MIN: Final = 2
_HASH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Variant:
    """A plan that some subjects get."""

    plan_id: str
    plan_code: str
    weight: int


@dataclass(frozen=True, slots=True)
class Experiment:
    """A comparison of plans: who asks for one plan gets one of several."""

    experiment_id: str
    plan_id: str
    plan_code: str
    variants: tuple[Variant, ...]
    """By their codes."""
    revision: int
    start_time: datetime
    update_time: datetime
    end_time: datetime | None
    """None while it runs."""

    @property
    def etag(self) -> str:
        return f"{self.experiment_id}/{self.revision}"

    @property
    def is_running(self) -> bool:
        return self.end_time is None

    @property
    def weights(self) -> Mapping[str, int]:
        """The weights by the codes of the variants' plans."""
        return {variant.plan_code: variant.weight for variant in self.variants}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a subject that has a variant."""

    plan_id: str
    """The plan of the variant."""
    tried: bool = False
    subscribed: bool = False
    stayed: bool = False
    brought: Mapping[str, Decimal] = field(default_factory=dict)
    """What was charged, less what was given back, by currency."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of all subjects of a variant."""

    plan_code: str
    saw: int = 0
    tried: int = 0
    subscribed: int = 0
    stayed: int = 0
    brought: Mapping[str, Decimal] = field(default_factory=dict)

    def with_outcome(self, outcome: Outcome) -> "Result":
        """Return the result with one more subject."""
        return replace(
            self,
            saw=self.saw + 1,
            tried=self.tried + outcome.tried,
            subscribed=self.subscribed + outcome.subscribed,
            stayed=self.stayed + outcome.stayed,
            brought=sums([self.brought, outcome.brought]),
        )


def variant_for(experiment: Experiment, organization_id: str, user_id: str) -> Variant:
    """Return the variant of a subject that has none yet: the same for the same weights, in any process.

    `user_id` is empty for the organization itself. The comment of PlanExperiment in the proto says how it is computed.
    """
    subject = f"{experiment.experiment_id}/{organization_id}/{user_id}"
    number = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:_HASH_BYTES])
    rest = number % sum(variant.weight for variant in experiment.variants)
    for variant in experiment.variants:
        if rest < variant.weight:
            return variant
        rest -= variant.weight
    raise AssertionError("the rest is below the sum of the weights")


def sums(amounts: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    """Return the sums of amounts by currency."""
    total: dict[str, Decimal] = {}
    for each in amounts:
        for currency_code, value in each.items():
            total[currency_code] = total.get(currency_code, Decimal(0)) + value
    return total


def variants_flaws(field_name: str, plan_codes: Sequence[str]) -> Iterator[FieldViolation]:
    """Yield what is wrong with the plans of variants, whatever plans there are."""
    if len(plan_codes) == 1:
        yield FieldViolation(field_name, f"must be at least {_VARIANTS_MIN}, or none to end the experiment")
    places: dict[str, int] = {}
    for index, plan_code in enumerate(plan_codes):
        first = places.setdefault(plan_code, index)
        if first != index:
            yield FieldViolation(f"{field_name}[{index}].plan_code", f"is that of {field_name}[{first}] already")


def variant_problem(plan: Plan | None) -> str:
    """Return why a plan cannot be a variant; empty if it can."""
    if plan is None:
        return "must be the code of a plan"
    if plan.archive_time is not None:
        return f"must not be an archived plan, as {plan.plan_code} is"
    return (
        "" if plan.published is not None else f"must be a plan with a published version, which {plan.plan_code} lacks"
    )
