"""The statements that list subscriptions. Each reads a range of one index, and no more rows than it is told to."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.billing.subscription.domain import Subscription
from services.billing.subscription.states import State
from services.billing.subscription.store import REFERENCES_COLUMN, SELECT, SUBSCRIPTION_COLUMNS, subscription_of

Due = tuple[datetime, str, str]
"""The time at which something is or was due, the organization and the subscription: the order of what is due."""

# Before any subscription of a page, or before all. As a part of the row comparison it is where the index begins.
_BEFORE: Final = "coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)"

# A range of the primary key, which sorts by the time of creation, backwards.
_OF_ORGANIZATION: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.subscription_id < {_BEFORE}
    ORDER BY s.subscription_id DESC LIMIT $3
"""


def _range_of(column: str, kind: str) -> str:
    """Return the statement of a range of an index, backwards. No other index can be used, whatever Postgres believes of
    the column, since rows are compared and sorted with it."""
    return f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND (s.{column}, s.subscription_id) < ($4::{kind}, {_BEFORE})
        AND (s.{column}, s.subscription_id) >= ($4::{kind}, '00000000-0000-0000-0000-000000000000'::uuid)
    ORDER BY s.{column} DESC, s.subscription_id DESC LIMIT $3
"""


_OF_USER: Final = _range_of("user_id", "uuid")
_IN_STATE: Final = _range_of("state", "text")
_OF_PLAN: Final = _range_of("plan_code", "text")
# A range of the partial index by model, backwards.
_OF_MODEL: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.model = $4 AND s.subscription_id < {_BEFORE}
    ORDER BY s.subscription_id DESC LIMIT $3
"""

# A range of the index on expiries.
_EXPIRING: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.expire_time < $2
        AND (s.expire_time, s.subscription_id) > ($3::timestamptz, $4::uuid)
    ORDER BY s.expire_time, s.subscription_id LIMIT $5
"""

# Ranges of the partial indexes on what is due and what was set aside.
_DUE: Final = f"""
    {SELECT} WHERE s.due_time IS NOT NULL AND s.set_aside_time IS NULL AND s.due_time < $1
        AND (s.due_time, s.organization_id, s.subscription_id) > ($2::timestamptz, $3::uuid, $4::uuid)
    ORDER BY s.due_time, s.organization_id, s.subscription_id LIMIT $5
"""
_SET_ASIDE: Final = f"""
    {SELECT} WHERE s.set_aside_time < $1
        AND (s.set_aside_time, s.organization_id, s.subscription_id) > ($2::timestamptz, $3::uuid, $4::uuid)
    ORDER BY s.set_aside_time, s.organization_id, s.subscription_id LIMIT $5
"""

# The first of a range of the index by user. A subject has few subscriptions, since it has one at a time.
_TRIAL_OF_ORGANIZATION: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.user_id IS NULL AND s.trial_end_time IS NOT NULL
    ORDER BY s.subscription_id LIMIT 1
"""
_TRIAL_OF_USER: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.user_id = $2::uuid AND s.model IS NULL
        AND s.trial_end_time IS NOT NULL
    ORDER BY s.subscription_id LIMIT 1
"""
# The user's are read first (OFFSET keeps it so): a model may have those of many users.
_TRIAL_OF_MODEL: Final = f"""
    SELECT {SUBSCRIPTION_COLUMNS}, {REFERENCES_COLUMN} FROM (
        SELECT * FROM subscriptions WHERE organization_id = $1::uuid AND user_id = $2::uuid OFFSET 0
    ) AS s
    WHERE s.model = $3 AND s.trial_end_time IS NOT NULL
    ORDER BY s.subscription_id LIMIT 1
"""  # noqa: S608 -- constants of ours alone.


@dataclass(frozen=True, slots=True)
class Filter:
    """Which subscriptions of an organization are wanted; None for any."""

    user_id: str | None = None
    model: str | None = None
    plan_code: str | None = None
    state: State | None = None
    expire_before: datetime | None = None

    @property
    def is_empty(self) -> bool:
        return self == Filter()

    def takes(self, s: Subscription) -> bool:
        """Return whether a subscription is wanted."""
        return (
            self.user_id in (None, s.user_id)
            and self.model in (None, s.model)
            and self.plan_code in (None, None if s.plan is None else s.plan.plan_code)
            and self.state in (None, s.state)
            and (self.expire_before is None or (s.expire_time is not None and s.expire_time < self.expire_before))
        )


async def before(
    connection: RawConnection, organization_id: str, wanted: Filter, before: str | None, limit: int
) -> list[Subscription]:
    """Return subscriptions before one, the latest first: those that the first filter takes which is set.

    The caller applies the other filters. `wanted.expire_before` has a list of its own, `expiring_after`.
    """
    if wanted.user_id is not None:
        rows = await connection.fetch(_OF_USER, organization_id, before, limit, wanted.user_id)
    elif wanted.model is not None:
        rows = await connection.fetch(_OF_MODEL, organization_id, before, limit, wanted.model)
    elif wanted.plan_code is not None:
        rows = await connection.fetch(_OF_PLAN, organization_id, before, limit, wanted.plan_code)
    elif wanted.state is not None:
        rows = await connection.fetch(_IN_STATE, organization_id, before, limit, wanted.state.value)
    else:
        rows = await connection.fetch(_OF_ORGANIZATION, organization_id, before, limit)
    return list(map(subscription_of, rows))


async def expiring_after(
    connection: RawConnection, organization_id: str, expire_before: datetime, after: tuple[datetime, str], limit: int
) -> list[Subscription]:
    """Return subscriptions that expire before a time, the first to expire first, after one of them."""
    rows = await connection.fetch(_EXPIRING, organization_id, expire_before, *after, limit)
    return list(map(subscription_of, rows))


async def due_after(
    connection: RawConnection, due_before: datetime, after: Due, limit: int, *, set_aside: bool
) -> list[Subscription]:
    """Return a shard's subscriptions that something is due for, or that were set aside, before a time, in order."""
    rows = await connection.fetch(_SET_ASIDE if set_aside else _DUE, due_before, *after, limit)
    return list(map(subscription_of, rows))


async def find_with_trial(
    connection: RawConnection, organization_id: str, user_id: str | None, model: str | None
) -> Subscription | None:
    """Return a subscription of a subject that has or had a trial, ended ones included."""
    if user_id is None:
        row = await connection.fetchrow(_TRIAL_OF_ORGANIZATION, organization_id)
    elif model is None:
        row = await connection.fetchrow(_TRIAL_OF_USER, organization_id, user_id)
    else:
        row = await connection.fetchrow(_TRIAL_OF_MODEL, organization_id, user_id, model)
    return None if row is None else subscription_of(row)
