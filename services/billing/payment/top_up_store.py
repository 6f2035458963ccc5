"""The statements on policies of top-ups. Each finds its rows by a primary key, or by the index it names."""

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Final

from libs.common.database import RawConnection
from libs.common.ids import first_id_of
from services.billing.payment.domain import PaymentStatus
from services.billing.payment.top_up_domain import TopUpPolicy

_CLOCKS_DIFFER_BY: Final = timedelta(hours=1)
_TAKEN_BACK_WITHIN: Final = timedelta(days=600)
"""How old a top-up may be of which a refund or a dispute is looked for. Card networks take disputes for 540 days."""
AUTOMATIC: Final = "automatic-top-up/"
"""With what the operation ids of automatic top-ups begin."""

_COLUMNS: Final = """
    organization_id::text, enabled, currency_code, threshold, top_up_amount, target_balance, provider,
    external_customer_id, max_per_day, max_per_month, actor, update_time, pending_payment_id::text, paused_reason
"""
_FIND: Final = f"SELECT {_COLUMNS} FROM top_up_policies WHERE organization_id = $1::uuid"  # noqa: S608 -- our names.
_LOCK: Final = f"{_FIND} FOR UPDATE"
_PUT: Final = """
    INSERT INTO top_up_policies AS p (
        organization_id, enabled, currency_code, threshold, top_up_amount, target_balance, provider,
        external_customer_id, max_per_day, max_per_month, actor, update_time, pending_payment_id, paused_reason
    ) VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::uuid, $14)
    ON CONFLICT ON CONSTRAINT top_up_policies_pkey DO UPDATE SET enabled = excluded.enabled,
        currency_code = excluded.currency_code, threshold = excluded.threshold, top_up_amount = excluded.top_up_amount,
        target_balance = excluded.target_balance, provider = excluded.provider,
        external_customer_id = excluded.external_customer_id, max_per_day = excluded.max_per_day,
        max_per_month = excluded.max_per_month, actor = excluded.actor, update_time = excluded.update_time,
        pending_payment_id = excluded.pending_payment_id, paused_reason = excluded.paused_reason
"""
# The primary key in pages; the account of each by its unique key on owner and currency.
_DUE: Final = """
    SELECT p.organization_id::text,
        p.pending_payment_id IS NOT NULL OR coalesce(a.posted - a.held + a.overdraft_limit, 0) < p.threshold
    FROM (
        SELECT organization_id, currency_code, threshold, pending_payment_id FROM top_up_policies
        WHERE organization_id > $1::uuid AND (enabled OR pending_payment_id IS NOT NULL)
        ORDER BY organization_id LIMIT $2
    ) AS p
    LEFT JOIN accounts a ON a.organization_id = ANY (ARRAY[p.organization_id])
        AND a.owner_id = p.organization_id AND a.currency_code = p.currency_code
    ORDER BY p.organization_id
"""
# The range of the primary key since the month began, since ids are made in the order of time.
_COUNT: Final = """
    SELECT count(*) FILTER (WHERE create_time >= $3), count(*)
    FROM payments
    WHERE organization_id = $1::uuid AND payment_id >= $5::uuid AND create_time >= $2 AND status <> 'FAILED'
        AND starts_with(operation_id, $4)
"""

# The range of each status in the index of payments by status, and the movements of each by their primary key. Rows are
# compared and sorted with the status, so that no other index is used: there are few payments with these.
_TAKEN_BACK: Final = """
    SELECT p.payment_id::text, p.status
    FROM unnest(ARRAY['PARTIALLY_REFUNDED', 'REFUNDED', 'DISPUTED']) AS s (status)
    CROSS JOIN LATERAL (
        SELECT p.payment_id, p.status FROM payments AS p
        WHERE p.organization_id = $1::uuid AND (p.status, p.payment_id) >= (s.status, $4::uuid)
            AND (p.status, p.payment_id) <= (s.status, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
            AND starts_with(p.operation_id, $3)
            AND EXISTS (
                SELECT FROM payment_movements AS m
                WHERE m.organization_id = ANY (ARRAY[p.organization_id]) AND m.payment_id = p.payment_id
                    AND m.kind IN ('TAKEN_MONEY', 'WRITTEN_OFF') AND m.create_time >= $2
            )
        ORDER BY p.status, p.payment_id LIMIT 1
    ) AS p
    LIMIT 1
"""


async def find(connection: RawConnection, organization_id: str) -> TopUpPolicy | None:
    """Return an organization's policy."""
    row = await connection.fetchrow(_FIND, organization_id)
    return None if row is None else TopUpPolicy(**dict(row))


async def lock(connection: RawConnection, organization_id: str) -> TopUpPolicy | None:
    """Return an organization's policy, and lock its row until the transaction ends."""
    row = await connection.fetchrow(_LOCK, organization_id)
    return None if row is None else TopUpPolicy(**dict(row))


async def put(connection: RawConnection, policy: TopUpPolicy) -> None:
    """Add a policy, or change it; its row is to be locked."""
    await connection.execute(_PUT, *(getattr(policy, field.name) for field in fields(policy)))


async def due(connection: RawConnection, after: str, limit: int) -> list[tuple[str, bool]]:
    """Return organizations with a policy in force after one, and whether their account needs a top-up."""
    rows = await connection.fetch(_DUE, after, limit)
    return [(row[0], bool(row[1])) for row in rows]


async def count(connection: RawConnection, organization_id: str, day: datetime, month: datetime) -> tuple[int, int]:
    """Return how many automatic top-ups there were since the day and since the month began, other than failed ones."""
    row = await connection.fetchrow(
        _COUNT, organization_id, month, day, AUTOMATIC, first_id_of(month - _CLOCKS_DIFFER_BY)
    )
    assert row is not None
    return row[0], row[1]


async def find_taken_back(
    connection: RawConnection, organization_id: str, since: datetime
) -> tuple[str, PaymentStatus] | None:
    """Return an automatic top-up that was refunded or disputed since a time, and is so now, with its status."""
    row = await connection.fetchrow(
        _TAKEN_BACK, organization_id, since, AUTOMATIC, first_id_of(since - _TAKEN_BACK_WITHIN)
    )
    return None if row is None else (row[0], PaymentStatus(row[1]))
