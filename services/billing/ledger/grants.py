"""Credit grants: in which order an account's credits are used up, and what of them expires.

A debit takes money from the account and knows no grants. What is left of each grant follows from how much of the
account has been used altogether, because grants are used up in a fixed order. So the rests are computed only when the
grants themselves change: one begins, expires or is voided (an event). Between two events they follow from the rests
at the earlier one and from what was used since.

`funded` is all that an account was given: credits, grants and transfers to it, without what was taken back, expired or
passed on. It changes with those alone, never with a debit. What was used is `funded - posted`, so it needs no
sum over movements.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

ZERO: Final = Decimal(0)


class GrantKind(StrEnum):
    """Where credits come from. Of grants with the same priority and end, the kinds are used up in this order."""

    PROMOTIONAL = "PROMOTIONAL"
    INCLUDED = "INCLUDED"
    PURCHASED = "PURCHASED"


class GrantState(StrEnum):
    """Where a grant is in its life."""

    SCHEDULED = "SCHEDULED"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


_KINDS: Final = tuple(GrantKind)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Grant:
    """Credits with terms, as of the last event of their account."""

    grant_id: str
    kind: GrantKind
    priority: int
    """The grant with the lowest is used up first."""
    amount: Decimal
    effective_time: datetime
    expire_time: datetime | None
    """None for one that does not expire."""
    create_time: datetime
    state: GrantState
    rest: Decimal
    """What is neither used nor expired; the whole amount while it is scheduled."""
    expired: Decimal = ZERO
    """What has expired or was voided."""
    organization_id: str = ""
    account_id: str = ""
    project_id: str | None = None
    operation_id: str = ""
    currency_code: str = ""
    source_reference: str = ""
    description: str = ""
    metadata: dict[str, str] | None = None
    actor: str = ""
    at_once: bool = False
    """Whether no effective_time was asked for."""
    void_time: datetime | None = None
    void_reason: str = ""
    void_actor: str = ""
    user_id: str | None = None
    """Where given, only charges of this user may use it."""
    model: str | None = None
    """Where given, only charges for this model may use it."""
    rollover_max: Decimal | None = None
    """For a refill: what it and the refills before it may be at most when it begins. None for no limit."""

    @property
    def is_scoped(self) -> bool:
        return self.user_id is not None or self.model is not None

    def follows(self, older: "Grant") -> bool:
        """Return whether this is a refill of what another one has granted before."""
        return (
            older.kind is self.kind is GrantKind.INCLUDED
            and older.grant_id != self.grant_id
            and (older.source_reference, older.user_id, older.model)
            == (self.source_reference, self.user_id, self.model)
        )

    @property
    def end_time(self) -> datetime | None:
        """When it ends: at its expire_time, or when it was voided before that. None for never."""
        return self.expire_time if self.void_time is None else self.void_time

    @property
    def holds_before(self) -> datetime | None:
        """Holds that were placed before this moment keep what they reserve of it, once it has ended.

        A hold and the void of a grant may be decided in one batch, and so at one moment: the hold counts.
        """
        return self.expire_time if self.void_time is None else self.void_time + timedelta(microseconds=1)

    @property
    def used(self) -> Decimal:
        return self.amount - self.rest - self.expired


@dataclass(frozen=True, slots=True)
class Standing:
    """The grants of an account as of one event."""

    used: Decimal
    """What of the account was used altogether, up to the event."""
    used_beside: Decimal
    """What of that no grant covered, since the account has grants."""
    grants: tuple[Grant, ...]
    """Those that are active, in the order in which they are used up."""


def in_order(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Sort active grants in the order in which they are used up.

    First by priority, then by end, since what ends first would be lost first; then by kind; then what fewer charges may
    use: of a user before of a model before of anybody; then the older one.
    """
    return tuple(
        sorted(
            grants,
            key=lambda grant: (
                grant.priority,
                grant.expire_time or _NEVER,
                _KINDS.index(grant.kind),
                grant.user_id is None,
                grant.model is None,
                grant.create_time,
                grant.grant_id,
            ),
        )
    )


def after_use(standing: Standing, used: Decimal) -> Standing:
    """Return the standing once `used` of the account has been used altogether.

    What is used beyond all grants is taken from the rest of the account. Where less is used than at the event, because
    debits were reversed, what was used last comes back first: what no grant covered, then the grants in reverse order,
    each up to its amount. What came from grants that have ended stays with the account, and does not expire.
    """
    more = used - standing.used
    if more >= ZERO:
        grants = []
        for grant in standing.grants:
            taken = min(more, grant.rest)
            more -= taken
            grants.append(replace(grant, rest=grant.rest - taken) if taken else grant)
        return Standing(used, standing.used_beside + more, tuple(grants))
    back = -more
    returned = min(back, max(standing.used_beside, ZERO))
    back -= returned
    restored: list[Grant] = []
    for grant in reversed(standing.grants):
        given = min(back, grant.used)
        back -= given
        restored.append(replace(grant, rest=grant.rest + given) if given else grant)
    return Standing(used, standing.used_beside - returned - back, tuple(reversed(restored)))


class Event(StrEnum):
    """What moves money of a grant, other than use."""

    BEGIN = "BEGIN"
    EXPIRY = "EXPIRY"
    TAKEN = "TAKEN"


@dataclass(frozen=True, slots=True)
class Step:
    """Money that an event moves: into the account where a grant begins, out of it where it expires or is taken back."""

    event: Event
    grant: Grant
    """As it is after the event."""
    amount: Decimal
    time: datetime
    """When it was due."""


def next_due(grants: Iterable[Grant]) -> datetime | None:
    """Return when the next grant begins or expires; None where none will."""
    times = [
        grant.effective_time if grant.state is GrantState.SCHEDULED else grant.end_time
        for grant in grants
        if grant.state is not GrantState.ENDED
    ]
    return min((time for time in times if time is not None), default=None)


@dataclass(frozen=True, slots=True)
class Reserved:
    """What open holds reserve of grants, and so does not expire while they are open."""

    held: Decimal = ZERO
    """What all of them hold of the account."""
    before: Mapping[datetime, Decimal] = field(default_factory=dict)
    """What those hold that were placed before a moment, by `Grant.holds_before` of grants that have ended."""
    of_grants: Mapping[str, Decimal] | None = None
    """What they reserve of each grant, on accounts whose charges are entered grant by grant. None on others, where it
    follows from the order of use."""


def due_steps(
    last: Standing, used: Decimal, scheduled: Sequence[Grant], now: datetime, reserved: Reserved
) -> tuple[Standing, list[Step]]:
    """Let every grant begin and expire that is due by now, in the order of their times; return the standing then.

    `last` is the standing at the last event, and `used` what was used up to now. A grant is there from its
    effective_time on, and no more from its end on. Where both fall on one moment, the end comes first. What open holds
    have reserved of a grant does not expire while they are open. When a refill with a limit begins, so much of those
    before it expires that together they keep the limit.

    A scheduled grant that was due to expire before anybody looked at the account begins and expires.
    """
    steps: list[Step] = []
    waiting = list(scheduled)
    standing = after_use(last, used)
    while True:
        beginning = min(
            (grant for grant in waiting if grant.effective_time <= now),
            key=lambda grant: (grant.effective_time, grant.grant_id),
            default=None,
        )
        ending = (
            (grant.end_time, grant.grant_id, grant, _expirable(last, used, grant, reserved))
            for grant in standing.grants
            if grant.end_time is not None and grant.end_time <= now
        )
        first = min((one for one in ending if one[3]), key=lambda one: one[:2], default=None)
        if first is not None and (beginning is None or first[0] <= beginning.effective_time):
            standing, step = _expire(standing, first[2], first[3], first[0])
        elif beginning is not None:
            over = _over_limit(last, used, standing, beginning, reserved)
            if over is not None:
                standing, step = _expire(standing, *over, beginning.effective_time)
            else:
                waiting.remove(beginning)
                begun = replace(beginning, state=GrantState.ACTIVE)
                standing = replace(standing, grants=in_order((*standing.grants, begun)))
                step = Step(Event.BEGIN, begun, begun.amount, begun.effective_time)
        else:
            kept = tuple(grant for grant in standing.grants if not _is_over(grant, now, is_event=bool(steps)))
            return replace(standing, grants=kept), steps
        steps.append(step)
        last = standing


def take_out(
    standing: Standing, grant_id: str, amount_max: Decimal, now: datetime, reserved: Reserved
) -> tuple[Standing, Step | None]:
    """Take back what is left of a grant, up to an amount. What open holds reserve of it stays.

    Return the standing then, and what was taken; None where nothing could be.
    """
    grant = next((one for one in standing.grants if one.grant_id == grant_id), None)
    if grant is None:
        return standing, None
    amount = min(amount_max, _unreserved(standing, standing.used, grant, reserved, reserved.held))
    if amount <= ZERO:
        return standing, None
    standing, step = _expire(standing, grant, amount, now)
    return standing, Step(Event.TAKEN, step.grant, amount, now)


def _over_limit(
    last: Standing, used: Decimal, standing: Standing, refill: Grant, reserved: Reserved
) -> tuple[Grant, Decimal] | None:
    """Return which of the refills before one must lose how much, so that it may begin: the oldest first."""
    if refill.rollover_max is None:
        return None
    older = [grant for grant in standing.grants if refill.follows(grant)]
    excess = sum((grant.rest for grant in older), refill.amount) - refill.rollover_max
    if excess <= ZERO:
        return None
    for grant in sorted(older, key=lambda one: (one.effective_time, one.grant_id)):
        amount = min(excess, _unreserved(last, used, grant, reserved, reserved.held))
        if amount:
            return grant, amount
    return None


def _is_over(grant: Grant, now: datetime, *, is_event: bool) -> bool:
    """Return whether nothing can become of a grant any more: it is used up, and what it had is not given back to it.

    A used-up grant that would still expire is kept, so that a reversal gives it back its credits, which expire. One
    that does not expire is kept until the next event.
    """
    if grant.rest:
        return False
    return is_event if grant.end_time is None else grant.end_time <= now


def _expirable(last: Standing, used: Decimal, grant: Grant, reserved: Reserved) -> Decimal:
    """Return what of a grant that has ended no open hold reserves: what would be left if they were captured now."""
    held = ZERO if grant.holds_before is None else reserved.before.get(grant.holds_before, ZERO)
    return _unreserved(last, used, grant, reserved, held)


def _unreserved(last: Standing, used: Decimal, grant: Grant, reserved: Reserved, held: Decimal) -> Decimal:
    if reserved.of_grants is not None:
        return grant.rest - reserved.of_grants.get(grant.grant_id, ZERO)
    if not held:
        return grant.rest
    captured = after_use(last, used + held)
    kept = grant.rest - next(one.rest for one in captured.grants if one.grant_id == grant.grant_id)
    return grant.rest - max(kept, ZERO)


def _expire(standing: Standing, grant: Grant, amount: Decimal, time: datetime) -> tuple[Standing, Step]:
    rest = grant.rest - amount
    after = replace(
        grant,
        rest=rest,
        expired=grant.expired + amount,
        state=GrantState.ACTIVE if rest else GrantState.ENDED,
    )
    kept = (after if one.grant_id == grant.grant_id else one for one in standing.grants)
    standing = replace(standing, grants=tuple(one for one in kept if one.state is GrantState.ACTIVE))
    return standing, Step(Event.EXPIRY, after, amount, time)
