"""The statements on invoices that are to be issued by themselves, and on those that are overdue, in one shard each.

`invoice_schedules` has a row for each month: how far the accounts of the shard are looked at. `invoice_dues` has one
for each invoice that is to be issued.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.database import RawConnection

_LOCK: Final = """
    SELECT pg_try_advisory_xact_lock(hashtextextended('billing.invoice_schedule/' || current_schema(), 0))
"""
# The primary key, from its end.
_LAST: Final = """
    SELECT end_time, after_organization_id::text, after_account_id::text, complete FROM invoice_schedules
    ORDER BY end_time DESC LIMIT 1
"""
_BEGIN: Final = """
    INSERT INTO invoice_schedules (end_time, after_organization_id, after_account_id, complete)
    VALUES ($1, '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', false)
"""
_GO_ON: Final = """
    UPDATE invoice_schedules SET after_organization_id = $2::uuid, after_account_id = $3::uuid, complete = $4
    WHERE end_time = $1
"""

# A range of the primary key of accounts; of each the last invoice by the unique position, and a voided one by the
# partial index on those.
_ENROL: Final = """
    WITH page AS MATERIALIZED (
        SELECT a.organization_id, a.account_id, a.currency_code, a.sequence FROM accounts AS a
        WHERE (a.organization_id, a.account_id) > ($2::uuid, $3::uuid)
        ORDER BY a.organization_id, a.account_id LIMIT $5
    ), added AS (
        INSERT INTO invoice_dues (organization_id, account_id, end_time, due_time, attempts, error)
        SELECT p.organization_id, p.account_id, $1::timestamptz, $4::timestamptz, 0, '' FROM page AS p
        LEFT JOIN LATERAL (
            SELECT i.to_sequence, i.to_time, i.rest_from FROM invoices AS i
            WHERE i.organization_id = ANY (ARRAY[p.organization_id]) AND i.account_id = p.account_id
                AND i.position IS NOT NULL
            ORDER BY i.position DESC LIMIT 1
        ) AS h ON true
        WHERE p.currency_code ~ '^[A-Z]{3}$' AND (h.to_time IS NULL OR h.to_time < $1)
            AND (p.sequence > coalesce(h.to_sequence, 0) OR h.rest_from IS NOT NULL OR EXISTS (
                SELECT FROM invoices AS v
                WHERE v.organization_id = ANY (ARRAY[p.organization_id]) AND v.account_id = p.account_id
                    AND v.state = 'VOID' AND v.replaced_by IS NULL
            ))
        ON CONFLICT DO NOTHING
    )
    SELECT organization_id::text, account_id::text, count(*) OVER () FROM page
    ORDER BY page.organization_id DESC, page.account_id DESC LIMIT 1
"""

# The index of what is due, from its beginning; what others take at this moment is passed over. An account's earlier
# invoice comes first. Whoever takes one has it for a time, and its due_time is how it is known to have it still.
_TAKE: Final = """
    WITH found AS MATERIALIZED (
        SELECT d.organization_id, d.account_id, d.end_time FROM invoice_dues AS d
        WHERE d.due_time <= $1::timestamptz AND NOT EXISTS (
            SELECT FROM invoice_dues AS o
            WHERE o.organization_id = ANY (ARRAY[d.organization_id]) AND o.account_id = d.account_id
                AND o.end_time < d.end_time
        )
        ORDER BY d.due_time, d.organization_id, d.account_id, d.end_time LIMIT $3 FOR UPDATE OF d SKIP LOCKED
    )
    UPDATE invoice_dues AS d SET due_time = $2::timestamptz
    FROM found AS f
    WHERE d.organization_id = ANY (ARRAY[f.organization_id]) AND d.account_id = f.account_id
        AND d.end_time = f.end_time
    RETURNING d.organization_id::text, d.account_id::text, d.end_time, d.due_time, d.attempts, (
        SELECT nullif(a.owner_id, a.organization_id)::text FROM accounts AS a
        WHERE a.organization_id = d.organization_id AND a.account_id = d.account_id
    ), (
        SELECT a.currency_code FROM accounts AS a
        WHERE a.organization_id = d.organization_id AND a.account_id = d.account_id
    )
"""

# By primary key.
_DONE: Final = """
    DELETE FROM invoice_dues
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND end_time = $3 AND due_time = $4
"""
_LATER: Final = """
    UPDATE invoice_dues SET due_time = $5, attempts = $6, error = $7
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND end_time = $3 AND due_time = $4
"""

# The subscriptions of one organization, by primary key, and the index of times whose usage was not charged yet.
_PERIODS_DUE: Final = """
    WITH own AS MATERIALIZED (
        SELECT due_time, set_aside_time FROM subscriptions WHERE organization_id = $1::uuid
    )
    SELECT EXISTS (SELECT FROM own WHERE due_time <= $2::timestamptz AND set_aside_time IS NULL) OR EXISTS (
        SELECT FROM usage_periods
        WHERE organization_id = $1::uuid AND end_time <= $2::timestamptz AND looked_time IS NULL
    )
"""

# The index of invoices of which it was not told, from its beginning. What another process tells is passed over.
_OVERDUE: Final = """
    WITH found AS MATERIALIZED (
        SELECT i.organization_id, i.invoice_id FROM invoices AS i
        WHERE i.kind = 'INVOICE' AND i.state = 'ISSUED' AND NOT i.overdue_told AND i.due_time < $1::timestamptz
        ORDER BY i.due_time, i.organization_id, i.invoice_id LIMIT $2 FOR UPDATE OF i SKIP LOCKED
    )
    UPDATE invoices AS i SET overdue_told = true FROM found AS f
    WHERE i.organization_id = ANY (ARRAY[f.organization_id]) AND i.invoice_id = f.invoice_id
    RETURNING i.organization_id::text, i.invoice_id::text,
        i.subtotal + i.tax - i.credits_applied - i.credited - i.credited_tax > 0
"""


class Schedule(NamedTuple):
    """How far the accounts are looked at for the invoices of a month."""

    end_time: datetime
    after_organization_id: str
    after_account_id: str
    complete: bool


class Due(NamedTuple):
    """An invoice that this process is to issue, while `due_time` is unchanged."""

    organization_id: str
    account_id: str
    end_time: datetime
    due_time: datetime
    attempts: int
    project_id: str | None
    currency_code: str


async def try_lock(connection: RawConnection) -> bool:
    """Return whether nobody else looks at the accounts of the shard; until the transaction ends nobody will."""
    return bool(await connection.fetchval(_LOCK))


async def last(connection: RawConnection) -> Schedule | None:
    row = await connection.fetchrow(_LAST)
    return None if row is None else Schedule._make(row)


async def begin(connection: RawConnection, end_time: datetime) -> None:
    await connection.execute(_BEGIN, end_time)


async def enrol(connection: RawConnection, schedule: Schedule, now: datetime, limit: int) -> None:
    """Note for which of the next accounts an invoice is due, and how far they are looked at then."""
    after = schedule.after_organization_id, schedule.after_account_id
    row = await connection.fetchrow(_ENROL, schedule.end_time, *after, now, limit)
    after, count = (after, 0) if row is None else ((row[0], row[1]), row[2])
    await connection.execute(_GO_ON, schedule.end_time, *after, count < limit)


async def take(connection: RawConnection, now: datetime, until: datetime, limit: int) -> list[Due]:
    """Return invoices that are due, and keep them from others until a time."""
    return [Due._make(row) for row in await connection.fetch(_TAKE, now, until, limit)]


async def done(connection: RawConnection, due: Due) -> bool:
    """Note that an invoice is not due any more; return whether this process still had it."""
    return bool(await connection.execute(_DONE, *due[:4]) == "DELETE 1")


async def postpone(connection: RawConnection, due: Due, until: datetime, attempts: int, error: str) -> bool:
    """Let an invoice be due at another time; return whether this process still had it."""
    return bool(await connection.execute(_LATER, *due[:4], until, attempts, error) == "UPDATE 1")


async def has_periods_due(connection: RawConnection, organization_id: str, by: datetime) -> bool:
    """Return whether something is due for a subscription of the organization that can be done."""
    return bool(await connection.fetchval(_PERIODS_DUE, organization_id, by))


async def take_overdue(connection: RawConnection, now: datetime, limit: int) -> Sequence[tuple[str, str, bool]]:
    """Note of invoices whose due time has passed that it is told; return them, and whether something is left to pay."""
    return [(row[0], row[1], row[2]) for row in await connection.fetch(_OVERDUE, now, limit)]
