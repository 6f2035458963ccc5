"""What is told of an account's credits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from services.billing.ledger.books import AccountGrants
from services.billing.ledger.domain import Balance, Direction, Movement
from services.billing.ledger.grants import ZERO, Grant, GrantKind, Standing, after_use, in_order


@dataclass(frozen=True, slots=True)
class Totals:
    """What became of an account's grants of one kind that have begun, as of the account's last event."""

    kind: GrantKind
    granted: Decimal
    expired: Decimal


@dataclass(frozen=True, slots=True)
class Summary:
    """What an account has been given, has used, has lost and has left."""

    balance: Balance
    granted: Mapping[GrantKind, Decimal]
    remaining: Mapping[GrantKind, Decimal]
    other: Decimal | None
    """None where it is of the grants for a user or a model alone."""
    used: Decimal
    expired: Decimal
    next_expire_time: datetime | None
    next_expire_amount: Decimal
    next_effective_time: datetime | None
    last_refill_time: datetime | None
    used_since_refill: Decimal
    source: "RefillSource | None"


@dataclass(frozen=True, slots=True)
class Beneficiary:
    """The user or the model, or both, whose grants alone are meant. Neither for all grants."""

    user_id: str | None
    model: str | None

    @property
    def is_anybody(self) -> bool:
        return self.user_id is None and self.model is None

    def owns(self, grant: Grant) -> bool:
        """Return whether a grant is for this user and this model, as far as they are given."""
        return self.user_id in (None, grant.user_id) and self.model in (None, grant.model)


@dataclass(frozen=True, slots=True)
class RefillSource:
    """The live subscription that brought a refill, and its period under way."""

    subscription_id: str
    period_start_time: datetime
    period_end_time: datetime
    renews: bool
    """Whether it goes on, and is refilled, when the period ends, if nothing changes."""


@dataclass(frozen=True, slots=True)
class Refill:
    """The last INCLUDED grant that has begun, and what was used until then."""

    effective_time: datetime
    used_before: Decimal
    source: RefillSource | None


@dataclass(frozen=True, slots=True)
class Use:
    """How much of a grant one movement used, or gave back, and what was left of it then."""

    grant_id: str
    amount: Decimal
    rest: Decimal


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which grants a charge used up; what no grant covered is `other`."""

    movement: Movement
    uses: Sequence[Use]
    other: Decimal


def summarize(
    grants: AccountGrants, balance: Balance, totals: Sequence[Totals], whose: Beneficiary, refill: Refill | None
) -> Summary:
    """Add up what became of an account's credits, or of those for a user or a model alone.

    `totals` are of the same grants. In the balance of a user or a model, what they cannot use is not available.
    """
    active = [grant for grant in grants.present(balance.posted).grants if whose.owns(grant)]
    granted = {one.kind: one.granted for one in totals}
    remaining = dict.fromkeys(granted, ZERO)
    for grant in active:
        remaining[grant.kind] += grant.rest
    expired = sum((one.expired for one in totals), ZERO)
    used, other = grants.funded - balance.posted, grants.funded - sum(granted.values(), ZERO) + expired
    if not whose.is_anybody:
        used = sum(granted.values(), ZERO) - sum(remaining.values(), ZERO) - expired
        closed = ZERO if grants.itemized is None else grants.itemized.closed_to(whose.user_id, whose.model)
        balance = replace(balance, scoped=closed)
    ends = [grant.end_time for grant in active if grant.end_time is not None and grant.rest]
    next_expire_time = min(ends, default=None)
    ending = (grant.rest for grant in active if grant.end_time == next_expire_time)
    scheduled = (grant.effective_time for grant in grants.scheduled if whose.owns(grant))
    return Summary(
        balance=balance,
        granted=granted,
        remaining=remaining,
        other=other if whose.is_anybody else None,
        used=used,
        expired=expired,
        next_expire_time=next_expire_time,
        next_expire_amount=ZERO if next_expire_time is None else sum(ending, ZERO),
        next_effective_time=min(scheduled, default=None),
        last_refill_time=None if refill is None else refill.effective_time,
        used_since_refill=ZERO if refill is None else used - refill.used_before,
        source=None if refill is None else refill.source,
    )


@dataclass(frozen=True, slots=True)
class LastEvent:
    """An account's grants as of the last event before a movement."""

    used: Decimal
    used_beside: Decimal
    rests: Mapping[str, tuple[Decimal, Decimal]]
    """What was left of each active grant, and what had expired of it."""
    funded: Decimal
    """What the account was funded with when the movement came."""

    def standing(self, grants: Sequence[Grant]) -> Standing:
        """Return the standing then; `grants` are those of `rests`, as they are now."""
        then = (
            replace(grant, rest=self.rests[grant.grant_id][0], expired=self.rests[grant.grant_id][1])
            for grant in grants
        )
        return Standing(self.used, self.used_beside, in_order(then))


def explain(movement: Movement, event: LastEvent, grants: Sequence[Grant]) -> Explanation:
    """Say which grants a charge used, or the reversal of one gave back to."""
    used = event.funded - movement.balance_after
    used_before = used - (movement.amount if movement.direction is Direction.DEBIT else -movement.amount)
    standing = event.standing(grants)
    rests = {grant.grant_id: grant.rest for grant in after_use(standing, used_before).grants}
    uses = [
        Use(grant.grant_id, abs(rests[grant.grant_id] - grant.rest), grant.rest)
        for grant in after_use(standing, used).grants
        if rests[grant.grant_id] != grant.rest
    ]
    return Explanation(movement, uses, movement.amount - sum((use.amount for use in uses), ZERO))
