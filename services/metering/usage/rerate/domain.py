"""What re-rating does to usage: which stays as it is, what it costs afterwards, and how that adds up. Pure rules."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from libs.common.amount import format_amount
from libs.common.errors import Refusal
from services.metering.model.domain import PriceVersion
from services.metering.model.units import Units
from services.metering.quota.domain import SPEND
from services.metering.usage.correction.domain import CORRECTIONS_MAX, Counted, Movement, Source, priced
from services.metering.usage.dimensions import TEST
from services.metering.usage.domain import Cost, Recorded, Work
from services.metering.usage_errors import NothingToAmend, PriceOfAnotherCurrency, TooManyCorrections, UsageVoided

_DIGEST_BYTES: Final = 16
NO_DIGEST: Final = "0" * 2 * _DIGEST_BYTES
"""The digest of nothing to do."""
_ZERO: Final = Decimal(0)

PriceOf = Callable[[Work], PriceVersion | None]
"""Returns the version to price work with."""


class Scope(NamedTuple):
    """Which usage is re-rated, by what was recorded of it, and at which price."""

    organization_ids: Sequence[str]
    """That of all organizations when empty."""
    start_time: datetime
    end_time: datetime
    models: Sequence[str]
    """That of all models when empty."""
    owners: tuple[str | None, str | None, str | None, str | None]
    """Project, user, API key and subscription; None lets everything through."""
    current_price_version_id: str | None
    price_version_id: str | None
    """None for the prices that are in force."""


class Seen(NamedTuple):
    """Usage as it is after its corrections, as far as re-rating is concerned."""

    usage_id: str
    recorded_time: datetime
    """When it happened, as it was recorded."""
    work: Work
    cost: Cost | None
    stated: bool
    voided: bool
    corrections: int


class ChargedUsage(NamedTuple):
    """Usage as it is, with what its money and its limits follow from."""

    seen: Seen
    project_id: str | None
    user_id: str | None
    own_charge: Source | None
    """The charge that was made for it when it was recorded or priced; None where there was none."""
    in_parts: bool
    """Whether its call was settled in parts, each with a charge."""
    in_lease: bool
    counted: Counted
    """What it counts in limits."""

    @property
    def may_have_further_charges(self) -> bool:
        return self.in_parts or self.seen.corrections > 0


class Change(NamedTuple):
    """What a re-rate makes of usage."""

    usage: ChargedUsage
    before: Cost
    after: Cost
    counted: Counted
    """What it counts in limits then."""
    charges: Sequence[tuple[str, Movement]]
    """The movements of money, each with the operation id that billing gets."""


class Fate(StrEnum):
    """What becomes of usage."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    VOIDED = "voided"
    STATED = "stated"
    PENDING_PRICE = "pending_price"
    FAILED = "failed"


class Verdict(NamedTuple):
    """What re-rating would make of usage."""

    fate: Fate
    after: Cost | None = None
    """What it costs then; None unless it changes."""
    reason: str = ""
    """Why it cannot be re-rated."""


class LeftOut(NothingToAmend):
    """Usage is left out by a job. It never reaches a caller."""

    def __init__(self, fate: Fate | None) -> None:
        super().__init__()
        self.fate = fate
        """What becomes of it; None where the filters leave it out, so that it is not counted."""


def rerated(usage: Recorded, current: str | None, version: PriceVersion | None, units: Units) -> Recorded:
    """Return usage as re-rating makes it, where only that with a `current` price version is re-rated if one is given.

    Raises:
        LeftOut: it has another price version, a stated amount, or none yet.
        NothingToAmend: it costs the same.
        PriceOfAnotherCurrency: the price is in another currency.
        PriceUnknown, CostTooLarge: see `priced`.
    """
    if current is not None and (usage.cost is None or usage.cost.price_version_id != current):
        raise LeftOut(None)
    if usage.work.stated is not None:
        raise LeftOut(Fate.STATED)
    if usage.cost is None:
        raise LeftOut(Fate.PENDING_PRICE)
    return usage._replace(cost=_rerated(usage.work, usage.cost, version, units))


def fate_of(refusal: Refusal) -> tuple[Fate, str] | None:
    """Return what becomes of usage that a job does not correct, and why; None where it is not counted."""
    match refusal:
        case LeftOut():
            return None if refusal.fate is None else (refusal.fate, "")
        case UsageVoided():
            return Fate.VOIDED, ""
        case NothingToAmend():
            return Fate.UNCHANGED, ""
    return Fate.FAILED, refusal.reason


def _rerated(work: Work, before: Cost, version: PriceVersion | None, units: Units) -> Cost:
    after = priced(work, version, units)
    if after.currency_code != before.currency_code:
        raise PriceOfAnotherCurrency(
            price_version_id=after.price_version_id,
            currency_code=after.currency_code,
            charged_currency_code=before.currency_code,
        )
    if _amounts(after) == _amounts(before):
        raise NothingToAmend(operation_id=work.operation_id)
    return after


def _amounts(cost: Cost) -> tuple[str | None, ...]:
    return cost.amount, cost.provider_cost, cost.provider_currency_code


def judged(seen: Seen, price_of: PriceOf, units: Units) -> Verdict:
    """Return what re-rating would make of usage."""
    if seen.voided:
        return Verdict(Fate.VOIDED)
    if seen.corrections >= CORRECTIONS_MAX - 1:
        return Verdict(Fate.FAILED, reason=TooManyCorrections.reason)
    if seen.stated:
        return Verdict(Fate.STATED)
    if seen.cost is None:
        return Verdict(Fate.PENDING_PRICE)
    try:
        after = _rerated(seen.work, seen.cost, price_of(seen.work), units)
    except NothingToAmend:
        return Verdict(Fate.UNCHANGED)
    except Refusal as refusal:
        return Verdict(Fate.FAILED, reason=refusal.reason)
    return Verdict(Fate.CHANGED, after)


def changes_costs_alone(usage: ChargedUsage, before: Cost, after: Cost) -> bool:
    """Tell whether a change of the cost changes nothing else that sums or limits are kept by.

    It does where the provider's currency changes, which the hourly sums are kept by, and where usage that cost nothing
    may begin to count in limits of what is spent.
    """
    begins_to_cost = before.amount == "0" and after.amount != "0" and usage.seen.work.environment != TEST
    return before.provider_currency_code == after.provider_currency_code and (usage.in_lease or not begins_to_cost)


def recounted(usage: ChargedUsage, after: Cost, metrics: Mapping[str, tuple[str, str]]) -> Counted:
    """Return what usage counts in limits when it costs something else: the same of everything but what is spent.

    `metrics` are those of the counters that exist still, with the currency of each.
    """
    if not usage.counted:
        return usage.counted
    spent = _ZERO if usage.seen.work.environment == TEST else Decimal(after.amount)
    counted: dict[str, Decimal] = {}
    for counter_id, value in usage.counted.items():
        metric, currency_code = metrics.get(counter_id, ("", ""))
        if metric == SPEND:
            value = spent if currency_code == after.currency_code else _ZERO
        if value:
            counted[counter_id] = value
    return counted


@dataclass(slots=True)
class Sums:
    """How many usages met which fate, and what those that change cost before and after it."""

    counts: dict[Fate, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    amounts: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)

    @property
    def usages(self) -> int:
        return sum(self.counts.values())

    def add(self, fate: Fate, reason: str = "", count: int = 1) -> None:
        """Count usages that do not change, or that cannot be re-rated for a reason."""
        self.counts[fate] = self.counts.get(fate, 0) + count
        if fate is Fate.FAILED:
            self.failures[reason] = self.failures.get(reason, 0) + count

    def add_changed(self, before: Cost, after: Cost) -> None:
        """Count a usage that changes."""
        self.counts[Fate.CHANGED] = self.counts.get(Fate.CHANGED, 0) + 1
        old, new = self.amounts.get(after.currency_code, (_ZERO, _ZERO))
        self.amounts[after.currency_code] = old + Decimal(before.amount), new + Decimal(after.amount)

    def add_verdict(self, seen: Seen, verdict: Verdict) -> None:
        """Count a usage with what would become of it."""
        if verdict.after is None or seen.cost is None:
            self.add(verdict.fate, verdict.reason)
        else:
            self.add_changed(seen.cost, verdict.after)

    def merge(self, other: "Sums") -> None:
        """Add other sums to these."""
        for fate, count in other.counts.items():
            self.counts[fate] = self.counts.get(fate, 0) + count
        for reason, count in other.failures.items():
            self.failures[reason] = self.failures.get(reason, 0) + count
        for currency_code, (before, after) in other.amounts.items():
            old, new = self.amounts.get(currency_code, (_ZERO, _ZERO))
            self.amounts[currency_code] = old + before, new + after

    def plain(self) -> Mapping[str, object]:
        """Return them as plain values, for JSON."""
        amounts = {key: [format_amount(one) for one in pair] for key, pair in self.amounts.items()}
        return {"counts": self.counts, "failures": self.failures, "amounts": amounts}


def sums_of(plain: Mapping[str, Mapping[str, object]]) -> Sums:
    """Return sums from the plain values that `plain` gives."""
    found = Sums()
    found.counts = {Fate(fate): _count(count) for fate, count in plain["counts"].items()}
    found.failures = {reason: _count(count) for reason, count in plain["failures"].items()}
    for currency_code, pair in plain["amounts"].items():
        assert isinstance(pair, list), "an amount before and one after"
        found.amounts[currency_code] = Decimal(pair[0]), Decimal(pair[1])
    return found


def _count(value: object) -> int:
    assert isinstance(value, int), "a count"
    return value


def digest_of(changes: Sequence[tuple[Seen, Verdict]]) -> str:
    """Return a digest of what becomes of usages that change or cannot be re-rated. Their order does not matter."""
    total = 0
    for seen, (fate, after, reason) in changes:
        if fate not in (Fate.CHANGED, Fate.FAILED) or seen.cost is None:
            continue
        parts = (seen.work.organization_id, seen.usage_id, *seen.cost[:3], reason, *(() if after is None else after))
        text = "\n".join("" if part is None else part for part in parts)
        total += int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest())
    return _digest(total)


def digests_added(one: str, other: str) -> str:
    """Return the digest of all that two digests are of."""
    return _digest(int(one, 16) + int(other, 16))


def _digest(total: int) -> str:
    return f"{total % 2 ** (8 * _DIGEST_BYTES):0{2 * _DIGEST_BYTES}x}"
