"""Allocations: amounts that a caller takes from limits before work that metering does not price. Pure rules.

An amount counts in the limits of its metric, and in no others: `input_tokens` are no `total_tokens` here unless the
caller names those, too.

A lease is an allocation that only reserves. Settlements put what was used in the place of what it has reserved.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple

from services.metering.quota.decisions import Place, Refused, Standing, Take, left, refusal, standing_at
from services.metering.quota.domain import CONCURRENT_CALLS, Call, Enforcement, Shape, Window

LEASE_DEFAULT: Final = timedelta(minutes=10)
COUNTED_MAX: Final = Decimal(10) ** 18
"""The most that allocations count in a limit. A counter has room for ten times as much, so that usage fits in, too."""
FIELDS: Final = (
    "amounts",
    "mode",
    "project_id",
    "user_id",
    "service_account_id",
    "api_key_id",
    "subscription_id",
    "model",
    "provider",
    "labels",
    "lease_ttl",
)
"""What makes two requests with the same operation id the same one."""
_DIGEST_SIZE: Final = 8
_ZERO: Final = Decimal(0)


class Mode(StrEnum):
    """What happens where a limit leaves less than what is asked for."""

    NORMAL = "NORMAL"
    BEST_EFFORT = "BEST_EFFORT"
    CHECK_ONLY = "CHECK_ONLY"
    ADJUST_ONLY = "ADJUST_ONLY"


class Asked(NamedTuple):
    """An amount of a metric."""

    metric: str
    currency_code: str
    """For spend; empty for the others."""
    value: Decimal
    step: Decimal
    """What the value is a multiple of. Less than what was asked for is a multiple of it, too."""


class Ask(NamedTuple):
    """A request to take amounts."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    mode: Mode
    amounts: Sequence[Asked]
    call: Call
    lease: timedelta
    """How long concurrent calls keep their places, or the lease lasts."""
    is_lease: bool = False


class Taken(NamedTuple):
    """What an allocation counts in a counter."""

    counter_id: str
    used: Decimal
    reserved: Decimal
    """The places of concurrent calls; all that a lease has taken and nobody has used."""


class Amount(NamedTuple):
    """An amount that was allocated."""

    metric: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class Allocation:
    """An allocation as it is stored."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    amounts: Sequence[Amount]
    currency_code: str
    """That of the spend; empty where there is none."""
    taken: Sequence[Taken]
    lease_end_time: datetime | None
    """When concurrent calls lose their places, or the lease ends; None where there are neither."""
    create_time: datetime
    released: bool = False
    """Whether what is reserved was given back."""
    lapsed: bool = False
    """Whether that was because its lease had ended."""
    spent: Sequence[Decimal] | None = None
    """For a lease: what settlements have used of each amount. None for what is no lease."""
    declined: bool = False
    """Whether billing declined the hold of the lease."""

    @property
    def is_lease(self) -> bool:
        return self.spent is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request."""

    allocated: bool
    amounts: Sequence[Amount]
    currency_code: str
    limits: Sequence[tuple[Place, Standing]]
    """Where the limits in force for the call stand after it."""
    refused: Refused | None = None
    lease_end_time: datetime | None = None
    replayed: bool = False
    allocation: Allocation | None = None
    """What is stored; None where nothing is."""


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a release."""

    replayed: bool
    lapsed: bool


def fingerprint_of(texts: Mapping[str, str]) -> bytes:
    """Return a digest of each of FIELDS, one after another, so that a differing one can be named."""
    return b"".join(hashlib.blake2b(texts[name].encode(), digest_size=_DIGEST_SIZE).digest() for name in FIELDS)


def differing_field(before: bytes, now: bytes) -> str | None:
    """Return the first field in which two fingerprints differ; None where there is none."""
    for number, name in enumerate(FIELDS):
        part = slice(number * _DIGEST_SIZE, (number + 1) * _DIGEST_SIZE)
        if before[part] != now[part]:
            return name
    return None


def takes_of(
    places: Iterable[Place], amounts: Iterable[Asked], *, only_asked: bool = False, is_lease: bool = False
) -> list[Take]:
    """Return what amounts take of each limit.

    Limits of metrics that are not named are asked for nothing; with `only_asked` they are left out. A lease is for many
    calls, so it is no matter of limits of single calls, unless these allow none.
    """
    values = {(one.metric, one.currency_code): one.value for one in amounts}
    takes: list[Take] = []
    for place in places:
        shape = place.counter.limit.shape
        value = values.get((shape.metric, shape.currency_code))
        if is_lease and shape.window is Window.CALL and place.counter.limit.terms.maximum != 0:
            value = None
        if value is not None or not only_asked:
            takes.append(Take(place, _ZERO if value is None else value, value is not None))
    return takes


def granted(
    ask: Ask, takes: Sequence[Take], standings: Mapping[str, Standing], now: datetime
) -> Sequence[Asked] | Refused:
    """Return the amounts that may be taken, in the order of the request, or why none may.

    With BEST_EFFORT nothing is taken only where something was asked for and no metric has anything left.
    """
    if ask.mode is Mode.ADJUST_ONLY:
        return ask.amounts
    refused = refusal(takes, standings, now)
    if refused is None:
        return ask.amounts
    if ask.mode is Mode.BEST_EFFORT:
        rests = [_least_left(one, takes, standings) for one in ask.amounts]
        if any(rest > 0 for rest in rests):
            return [one._replace(value=rest) for one, rest in zip(ask.amounts, rests, strict=True)]
    # What is decided next must not change what this answer says.
    return refused._replace(standing=replace(refused.standing))


def has_moved_on(takes: Iterable[Take], now: datetime) -> bool:
    """Tell whether a sliding window has moved while its lock was waited for.

    Then others may have counted in its next step already, which a decision in the earlier one would not see.
    """
    ends = (one.place.counter.span.end for one in takes if one.place.steps)
    return any(end is not None and end <= now for end in ends)


def too_much(takes: Iterable[Take], standings: Mapping[str, Standing]) -> Take | None:
    """Return a take that would bring what its limit has counted above COUNTED_MAX; None where there is none."""
    for take in takes:
        standing = standing_at(take.place, standings)
        if take.amount and standing.used + standing.reserved + take.amount > COUNTED_MAX:
            return take
    return None


def take(takes: Iterable[Take], standings: Mapping[str, Standing], *, is_lease: bool = False) -> list[Taken]:
    """Count what is taken, for the decisions that follow, and return it."""
    taken: list[Taken] = []
    for one in takes:
        shape = one.limit.shape
        if not one.amount or shape.window is Window.CALL:
            continue
        standing = standings[one.place.counter.counter_id]
        used, reserved = (_ZERO, one.amount) if is_lease or _is_given_back(shape) else (one.amount, _ZERO)
        standing.used += used
        standing.reserved += reserved
        taken.append(Taken(one.place.counter.counter_id, used, reserved))
    return taken


def lease_end(amounts: Iterable[Asked], lease: timedelta, now: datetime) -> datetime | None:
    """Return when concurrent calls among the amounts lose their places; None where there are none."""
    return now + lease if any(one.metric == CONCURRENT_CALLS and one.value for one in amounts) else None


def _is_given_back(shape: Shape) -> bool:
    return shape.metric == CONCURRENT_CALLS


def _least_left(one: Asked, takes: Iterable[Take], standings: Mapping[str, Standing]) -> Decimal:
    """Return as much of an amount as every hard limit of its metric leaves, in whole steps."""
    least = one.value
    for take_ in takes:
        limit = take_.limit
        if limit.terms.enforcement is not Enforcement.HARD or not take_.asked:
            continue
        if (limit.shape.metric, limit.shape.currency_code) == (one.metric, one.currency_code):
            rest = left(limit, standing_at(take_.place, standings))
            if rest is not None:
                least = min(least, _ZERO if limit.terms.maximum == 0 else rest)
    return least // one.step * one.step
