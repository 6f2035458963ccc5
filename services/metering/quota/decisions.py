"""What a call takes of limits, and whether they leave it: pure rules.

A limit of the calendar leaves its maximum less what is used and reserved in the present window. A sliding one counts
the earlier steps of its length, too. With a burst, what the window before left of the maximum may be used as well, up
to the burst.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

from libs.common.ids import id_of_digest
from services.metering.quota.domain import Amounts, Applied, Enforcement, Limit, Scope, Window, amount
from services.metering.quota.windows import ALWAYS, STEPS, Span, length_of, steps_of, window_before, window_of

_ZERO: Final = Decimal(0)
_KNOWN_MAX: Final = 100_000
_MICROSECOND: Final = timedelta(microseconds=1)


class Counter(NamedTuple):
    """What is counted for one limit, one subject and one window, or one step of a sliding window."""

    counter_id: str
    limit: Limit
    subject: str
    span: Span


class Place(NamedTuple):
    """Where a limit counts something at a moment."""

    counter: Counter
    head: Counter | None = None
    """What is locked for a sliding window, since its steps come and go. It counts nothing, and leaves with them."""
    before: Counter | None = None
    """The window before, which a burst looks at."""
    steps: tuple[str, ...] = ()
    """The earlier steps of a sliding window, the latest first."""

    @property
    def locked(self) -> tuple[Counter, ...]:
        """The counters to lock before a decision, so that no other decision on the same limit is made meanwhile."""
        if self.head is not None:
            return self.counter, self.head
        return (self.counter,) if self.before is None else (self.counter, self.before)


class Take(NamedTuple):
    """What a call takes of one limit."""

    place: Place
    amount: Decimal
    asked: bool
    """Whether the call wants anything of the metric, which a maximum of zero refuses."""

    @property
    def limit(self) -> Limit:
        return self.place.counter.limit


@dataclass(slots=True)
class Standing:
    """What is counted at a place."""

    used: Decimal = _ZERO
    reserved: Decimal = _ZERO
    earlier: tuple[Decimal, ...] = ()
    """What is used and reserved in each earlier step of a sliding window, the latest first."""
    earlier_sum: Decimal = _ZERO
    carried: Decimal = _ZERO
    """What a burst adds to the maximum in this window."""

    @property
    def total(self) -> Decimal:
        return self.used + self.reserved + self.earlier_sum


class Refused(NamedTuple):
    """Why a call may not take something."""

    take: Take
    standing: Standing
    retry_after: timedelta | None
    """When the same would be left if nothing else were taken; None where waiting does not help."""


@lru_cache(maxsize=_KNOWN_MAX)
def counter_id(limit_id: str, subject: str, start: datetime) -> str:
    """Return the id of a counter: a UUID of version 8 (RFC 9562) made of a digest of what it counts."""
    text = f"{limit_id}\x1f{subject}\x1f{(start - ALWAYS) // _MICROSECOND}"
    return id_of_digest(text)


def place_of(limit: Limit, subject: str, moment: datetime) -> Place:
    """Return where a limit counts what happens to a subject at a moment."""
    shape = limit.shape
    span = window_of(shape, moment) if limit.period is None else _period(*limit.period, moment)
    counter = _counter(limit, subject, span)
    if shape.sliding:
        steps = tuple(counter_id(limit.limit_id, subject, step.start) for step in steps_of(shape, span))
        return Place(counter, head=_counter(limit, subject, Span(ALWAYS, None)), steps=steps)
    if limit.terms.burst and span.end is not None:
        return Place(counter, before=_counter(limit, subject, window_before(shape, span)))
    return Place(counter)


def later_steps(place: Place, until: datetime) -> list[str]:
    """Return the steps of a sliding window after the one that is decided in, up to a moment.

    Others count in them already if the lock was waited for, or if their clocks are ahead. What they have counted is
    taken as if it were in this step, so that no window of any clock holds more than the maximum.
    """
    limit, subject, end = place.counter.limit, place.counter.subject, place.counter.span.end
    ids: list[str] = []
    while end is not None and end <= until:
        ids.append(counter_id(limit.limit_id, subject, end))
        end += STEPS[limit.shape.window]
    return ids


def take_of(applied: Applied, place: Place, amounts: Amounts) -> Take:
    """Return what a call with these amounts takes of a limit."""
    shape = applied.limit.shape
    wanted = amount(shape.metric, shape.currency_code, amounts)
    return Take(place, wanted, wanted > 0)


def left(limit: Limit, standing: Standing) -> Decimal | None:
    """Return how much a limit leaves, at least zero; None where it leaves any amount."""
    if limit.terms.maximum is None:
        return None
    return max(limit.terms.maximum + standing.carried - standing.total, _ZERO)


def carried(limit: Limit, before: Standing) -> Decimal:
    """Return what a burst adds to the maximum after a window in which this was counted."""
    if limit.terms.maximum is None:
        return _ZERO
    return min(limit.terms.burst, max(limit.terms.maximum - before.total, _ZERO))


def exceeds(take: Take, standing: Standing) -> bool:
    """Tell whether a limit leaves less than a call would take. Taking nothing is left, unless the maximum is zero."""
    maximum = take.place.counter.limit.terms.maximum
    if maximum is None or not take.asked:
        return False
    counted = standing.used + standing.reserved
    if standing.earlier:
        counted += standing.earlier_sum
    if standing.carried:
        maximum += standing.carried
    return (take.amount > 0 and take.amount + counted > maximum) or take.place.counter.limit.terms.maximum == 0


def subscription_of(refused: Refused) -> str:
    """Return the subscription whose limit refused; empty where it is none of a subscription."""
    counter = refused.take.place.counter
    if counter.limit.subscription_id:
        return counter.limit.subscription_id
    return counter.subject if counter.limit.shape.scope is Scope.SUBSCRIPTION else ""


def refusal(takes: Iterable[Take], standings: Mapping[str, Standing], now: datetime) -> Refused | None:
    """Return the first hard limit that leaves less than a call would take; None where the call may take all."""
    for take in takes:
        if take.asked and take.place.counter.limit.terms.enforcement is Enforcement.HARD:
            standing = standing_at(take.place, standings)
            if exceeds(take, standing):
                return Refused(take, standing, retry_after(take, standing, now))
    return None


def in_shadow(takes: Iterable[Take], standings: Mapping[str, Standing]) -> list[str]:
    """Return the metrics of the SHADOW limits that leave less than a call takes."""
    return [
        take.limit.shape.metric
        for take in takes
        if take.limit.terms.enforcement is Enforcement.SHADOW and exceeds(take, standing_at(take.place, standings))
    ]


def reserve(takes: Iterable[Take], standings: Mapping[str, Standing]) -> None:
    """Add what a call takes to what is reserved, for the decisions that follow."""
    for place, amount_taken, asked in takes:
        if asked and place.counter.limit.shape.window is not Window.CALL:
            standings[place.counter.counter_id].reserved += amount_taken


def standing_at(place: Place, standings: Mapping[str, Standing]) -> Standing:
    """Return what is counted at a place. A limit of single calls counts nothing."""
    counter = place.counter
    return Standing() if counter.limit.shape.window is Window.CALL else standings[counter.counter_id]


def retry_after_s(refused: Refused) -> int | None:
    """Return after how many whole seconds the call would pass, at least one; None where waiting does not help."""
    if refused.retry_after is None:
        return None
    return max(-(-refused.retry_after // timedelta(seconds=1)), 1)


def retry_after(take: Take, standing: Standing, now: datetime) -> timedelta | None:
    """Return after how long a limit leaves what a call would take; None where it never does by waiting."""
    limit, span = take.limit, take.place.counter.span
    maximum = limit.terms.maximum
    if maximum is None or maximum == 0 or take.amount > maximum or span.end is None:
        return None
    if not limit.shape.sliding:
        return span.end - now
    # Step by step, from the earliest on, what was used is forgotten.
    wanted = standing.total + take.amount - maximum
    size, length = span.end - span.start, length_of(limit.shape)
    counted: Sequence[Decimal] = (standing.used + standing.reserved, *standing.earlier)
    for number in range(len(counted) - 1, -1, -1):
        wanted -= counted[number]
        if wanted <= 0:
            return span.start - number * size + length + size - now
    return None


def _period(start: datetime, end: datetime, moment: datetime) -> Span:
    """Return the present billing period, also after its end, since billing has not renewed it yet.

    What is recorded late, of a time before it, must not count in it.
    """
    return Span(start, end) if moment >= start else Span(start - (end - start), start)


def _counter(limit: Limit, subject: str, span: Span) -> Counter:
    return Counter(counter_id(limit.limit_id, subject, span.start), limit, subject, span)
