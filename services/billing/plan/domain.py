"""Plans, their versions, and the rules for what a subscriber agrees to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Final

from libs.common.errors import FieldViolation
from services.billing.plan.usage_charge_domain import UsageCharge

PLANS_MAX: Final = 1_000
"""The most plans that there can be, archived ones included."""
VERSIONS_MAX: Final = 1_000
"""The most versions that a plan can have."""
PRICE_MAX: Final = Decimal(1_000_000_000)
SPEND: Final = "spend"
"""The metric whose limits are amounts of money."""
FALLBACK_FIELD: Final = "terms.past_due.fallback_plan_code"
_MINIMUM_FIELD: Final = "terms.minimum"

Place = tuple[int, str]
"""The sort_order and the code of a plan: its place in lists."""


class IntervalUnit(StrEnum):
    """A unit of the calendar."""

    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    YEAR = "YEAR"


_COUNT_MAX: Final = {
    IntervalUnit.DAY: 3_660,
    IntervalUnit.WEEK: 520,
    IntervalUnit.MONTH: 120,
    IntervalUnit.YEAR: 10,
}


class Rollover(StrEnum):
    """What becomes of included credits that are left at the end of a period."""

    NONE = "NONE"
    ALL = "ALL"
    UP_TO = "UP_TO"


class LimitWindow(StrEnum):
    """The time in which a limit counts."""

    CALL = "CALL"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    PERIOD = "PERIOD"
    LIFETIME = "LIFETIME"


class PastDueEnd(StrEnum):
    """What happens to a subscription that could not be paid by the last attempt."""

    CANCEL = "CANCEL"
    SUSPEND = "SUSPEND"
    CHANGE_PLAN = "CHANGE_PLAN"


class VersionState(StrEnum):
    """Whether a version is prepared, in force or replaced."""

    DRAFT = "DRAFT"
    PUBLISHED = "PUBLISHED"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of a unit of money or credit."""

    currency_code: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class Interval:
    """A span of the calendar."""

    unit: IntervalUnit
    count: int = 1


@dataclass(frozen=True, slots=True)
class IncludedCredits:
    """Credits that each period includes."""

    amount: Money
    rollover: Rollover
    rollover_max: Money | None
    """What may be there after a refill; for UP_TO, and None for the others."""
    priority: int


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something may be used in a window of time."""

    metric: str
    window: LimitWindow
    maximum: Decimal | None
    """None for any amount."""
    soft: bool
    currency_code: str
    """Empty unless the metric is `spend`."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number that a plan allows. It has a type of its own since Python takes True and 1 for equal."""

    value: Decimal


@dataclass(frozen=True, slots=True)
class Entitlement:
    """One thing that a plan allows: a feature, a number, a text or a limit."""

    entitlement_code: str
    value: bool | Number | str | Limit


@dataclass(frozen=True, slots=True)
class PastDue:
    """What happens where a period cannot be paid."""

    retry_after_s: tuple[int, ...]
    end: PastDueEnd
    fallback_plan_code: str
    """Empty unless `end` is CHANGE_PLAN."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a subscriber agrees to."""

    price: Money
    billing_interval: Interval
    credits: tuple[IncludedCredits, ...]
    trial: Interval | None
    entitlements: tuple[Entitlement, ...]
    past_due: PastDue
    metadata: Mapping[str, str]
    minimum: Money | None = None
    """What the usage of a period comes to at least, in the currency of the price; None for no minimum."""
    usage_charges: tuple[UsageCharge, ...] = ()
    """What is charged for the usage of a period when it is over, in the currency of the price."""

    @property
    def is_free(self) -> bool:
        return not self.price.value and self.minimum is None and not self.usage_charges


TERMS_FIELDS: Final = tuple(field.name for field in fields(Terms))


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a plan."""

    version: int
    state: VersionState
    terms: Terms
    create_time: datetime
    publish_time: datetime | None = None
    archive_time: datetime | None = None


@dataclass(frozen=True, slots=True, order=True)
class ProviderReference:
    """What a payment provider calls a plan."""

    provider: str
    kind: str
    external_id: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.kind}/{self.external_id}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan with its versions that matter now. It has a draft or a published version, or both."""

    plan_id: str
    plan_code: str
    name: str
    description: str
    active: bool
    sort_order: int
    provider_references: tuple[ProviderReference, ...]
    """Sorted."""
    published: Version | None
    draft: Version | None
    revision: int
    create_time: datetime
    update_time: datetime
    archive_time: datetime | None = None

    @property
    def etag(self) -> str:
        return str(self.revision)

    @property
    def is_offered(self) -> bool:
        """Whether users see it in lists."""
        return self.active and self.archive_time is None and self.published is not None

    @property
    def newest(self) -> Version:
        """The draft, or else the published version."""
        found = self.draft or self.published
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class NewPlan:
    """A plan that is to be added, with the terms of its first draft."""

    plan_code: str
    name: str
    description: str
    active: bool
    sort_order: int
    provider_references: tuple[ProviderReference, ...]
    terms: Terms


@dataclass(frozen=True, slots=True)
class Changes:
    """New values of fields of a plan, and of fields of its terms, by their names."""

    of_plan: Mapping[str, object]
    of_terms: Mapping[str, object]


def changed(plan: Plan, changes: Changes, now: datetime) -> Plan:
    """Return the plan with the changes; it is equal to `plan` if they change nothing.

    Changed terms are those of the draft. Where there is none, there is one afterwards.
    """
    after: Plan = replace(plan, **changes.of_plan)  # type: ignore[arg-type]  # parsing gives each its type.
    terms: Terms = replace(plan.newest.terms, **changes.of_terms)  # type: ignore[arg-type]  # the same.
    if terms == plan.newest.terms:
        return after
    if plan.draft is not None:
        return replace(after, draft=replace(plan.draft, terms=terms))
    return replace(after, draft=Version(plan.newest.version + 1, VersionState.DRAFT, terms, now))


def interval_flaws(field: str, interval: Interval) -> Iterator[FieldViolation]:
    """Yield what is wrong with an interval: it is too long."""
    count_max = _COUNT_MAX[interval.unit]
    if interval.count > count_max:
        rule = f"must be at most {count_max:,} for an interval in {interval.unit.lower()}s"
        yield FieldViolation(f"{field}.count", rule)


def price_flaws(field: str, price: Money) -> Iterator[FieldViolation]:
    """Yield what is wrong with a price that is not negative: it is too high."""
    if price.value > PRICE_MAX:
        yield FieldViolation(f"{field}.value", f"must be at most {PRICE_MAX:,}")


def minimum_flaws(terms: Terms) -> Iterator[FieldViolation]:
    """Yield what is wrong with the minimum beside the price: it is in another currency."""
    minimum, price = terms.minimum, terms.price
    if minimum is not None and minimum.currency_code != price.currency_code:
        yield FieldViolation(f"{_MINIMUM_FIELD}.currency_code", f"must be {price.currency_code}, as in price")


def credits_flaws(field: str, credits_: Sequence[IncludedCredits]) -> Iterator[FieldViolation]:
    """Yield what is wrong with included credits, beyond each amount by itself."""
    places: dict[str, int] = {}
    for index, one in enumerate(credits_):
        place = f"{field}[{index}]"
        first = places.setdefault(one.amount.currency_code, index)
        if first != index:
            rule = f"has its credits in {field}[{first}] already"
            yield FieldViolation(f"{place}.amount.currency_code", rule)
        if one.rollover is not Rollover.UP_TO:
            if one.rollover_max is not None:
                yield FieldViolation(f"{place}.rollover_max", "must be unset unless rollover is UP_TO")
        elif one.rollover_max is None:
            yield FieldViolation(f"{place}.rollover_max", "is required where rollover is UP_TO")
        elif one.rollover_max.currency_code != one.amount.currency_code:
            rule = f"must be {one.amount.currency_code}, as in amount"
            yield FieldViolation(f"{place}.rollover_max.currency_code", rule)
        elif one.rollover_max.value < one.amount.value:
            yield FieldViolation(f"{place}.rollover_max.value", "must be at least the amount")


def entitlements_flaws(field: str, entitlements: Sequence[Entitlement]) -> Iterator[FieldViolation]:
    """Yield what is wrong with entitlements, beyond the form of each."""
    places: dict[str, int] = {}
    for index, one in enumerate(entitlements):
        place = f"{field}[{index}]"
        first = places.setdefault(one.entitlement_code, index)
        if first != index:
            yield FieldViolation(f"{place}.entitlement_code", f"is that of {field}[{first}] already")
        yield from entitlement_flaws(place, one)


def entitlement_flaws(field: str, entitlement: Entitlement) -> Iterator[FieldViolation]:
    """Yield what is wrong with an entitlement by itself, beyond its form."""
    limit = entitlement.value
    if not isinstance(limit, Limit):
        return
    if limit.metric == SPEND and not limit.currency_code:
        yield FieldViolation(f"{field}.limit.currency_code", "is required where the metric is spend")
    if limit.metric != SPEND and limit.currency_code:
        yield FieldViolation(f"{field}.limit.currency_code", "must be empty unless the metric is spend")


def past_due_flaws(field: str, past_due: PastDue) -> Iterator[FieldViolation]:
    """Yield what is wrong with what happens where a period cannot be paid, whatever other plans there are."""
    for index, (before, after) in enumerate(pairwise(past_due.retry_after_s), start=1):
        if after <= before:
            yield FieldViolation(f"{field}.retry_after[{index}]", "must be later than the one before it")
    if past_due.end is PastDueEnd.CHANGE_PLAN and not past_due.fallback_plan_code:
        yield FieldViolation(f"{field}.fallback_plan_code", "is required where end is CHANGE_PLAN")
    if past_due.end is not PastDueEnd.CHANGE_PLAN and past_due.fallback_plan_code:
        yield FieldViolation(f"{field}.fallback_plan_code", "must be empty unless end is CHANGE_PLAN")


def references_flaws(field: str, references: Sequence[ProviderReference]) -> Iterator[FieldViolation]:
    """Yield the references that stand in the list already."""
    places: dict[ProviderReference, int] = {}
    for index, one in enumerate(references):
        first = places.setdefault(one, index)
        if first != index:
            yield FieldViolation(f"{field}[{index}]", f"is {field}[{first}] again")


def fallback_problem(plan_code: str, fallback: Plan | None) -> str:
    """Return why subscriptions of a plan cannot go to another one where they are not paid; empty if they can."""
    if fallback is None:
        return "must be the code of a plan"
    if fallback.plan_code == plan_code:
        return "must be another plan"
    if fallback.archive_time is not None:
        return "must not be an archived plan"
    if fallback.published is None:
        return "must be a plan that has a published version"
    return "" if fallback.published.terms.is_free else "must be a plan that costs nothing"
