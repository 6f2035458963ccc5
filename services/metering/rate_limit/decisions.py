"""Whether limits let a request pass that several descriptors tell about. Pure rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from services.metering.quota.allocation_domain import Taken, take, too_much
from services.metering.quota.decisions import Refused, Standing, Take, in_shadow, left, refusal, standing_at
from services.metering.quota.domain import Call, Enforcement, Limit

_ZERO: Final = Decimal(0)


class Hit(NamedTuple):
    """What a request takes by one descriptor."""

    call: Call
    metric: str
    currency_code: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class Status:
    """The answer to a descriptor."""

    passes: bool
    limit: Limit | None = None
    """The limit that refused, or the hard one that leaves least; None where none is in force."""
    maximum: Decimal = _ZERO
    left: Decimal = _ZERO
    reset: timedelta | None = None
    """After how long the limit's window ends, or leaves what the descriptor takes; None where waiting does not help."""
    refused: Refused | None = None
    """Why it does not pass."""


class Decided(NamedTuple):
    """What became of a request."""

    statuses: Sequence[Status]
    taken: Sequence[Taken]
    in_shadow: Sequence[str]
    """The metrics of SHADOW limits that would have refused it."""


def decide(hits: Sequence[Sequence[Take]], standings: Mapping[str, Standing], now: datetime) -> Decided:
    """Decide a request by what each of its descriptors takes, and take that.

    Descriptors are decided in their order. Those that meet the same limit take of it one after another. If a limit
    refuses one of them, nothing is taken by any.
    """
    refusals: list[Refused | None] = []
    taken: list[Taken] = []
    shadowed: list[str] = []
    for takes in hits:
        refused = refusal(takes, standings, now) or _full(takes, standings)
        refusals.append(refused)
        if refused is None:
            shadowed += in_shadow(takes, standings)
            taken += take(takes, standings)
    if any(refusals):
        give_back(taken, standings)
        taken, shadowed = [], []
    return Decided([_status(*each, standings, now) for each in zip(hits, refusals, strict=True)], taken, shadowed)


def give_back(taken: Iterable[Taken], standings: Mapping[str, Standing]) -> None:
    """Make standings what they were before something was taken."""
    for one in taken:
        standings[one.counter_id].used -= one.used


def _full(takes: Sequence[Take], standings: Mapping[str, Standing]) -> Refused | None:
    """Return a take that its counter has no room for, as refused."""
    full = too_much(takes, standings)
    return None if full is None else Refused(full, standing_at(full.place, standings), None)


def _status(takes: Iterable[Take], refused: Refused | None, standings: Mapping[str, Standing], now: datetime) -> Status:
    shown = _tightest(takes, standings) if refused is None else refused.take
    if shown is None:
        return Status(passes=True)
    limit, span = shown.limit, shown.place.counter.span
    standing = standing_at(shown.place, standings)
    reset = refused.retry_after if refused is not None else None
    if reset is None and span.end is not None and not limit.shape.sliding:
        reset = span.end - now
    maximum = (limit.terms.maximum or _ZERO) + standing.carried
    return Status(refused is None, limit, maximum, left(limit, standing) or _ZERO, reset, refused)


def _tightest(takes: Iterable[Take], standings: Mapping[str, Standing]) -> Take | None:
    """Return the hard limit that leaves least of what the descriptor takes."""
    rests = [
        (rest, one)
        for one in takes
        if one.asked
        and one.limit.terms.enforcement is Enforcement.HARD
        and (rest := left(one.limit, standing_at(one.place, standings))) is not None
    ]
    return min(rests, key=lambda each: each[0])[1] if rests else None
