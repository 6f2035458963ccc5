# ruff: noqa: S608 -- the statement is put together from constants of ours; values are bound.
"""The statement that says what an organization has spent in a time.

Charges count, by metering or by anybody else, and their reversals count against them. What subscriptions cost does not,
nor do payments, grants, transfers, expiries and adjustments.

Charges are too many to be added one by one. What was charged on an account between two of its movements is what the
balance fell by, and what came in besides, which is little.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection

_BALANCE_AFTER: Final = """coalesce((
                SELECT t.balance_after FROM transactions AS t
                WHERE t.organization_id = $1::uuid AND t.account_id = s.account_id AND t.sequence = s.{sequence}
            ), (
                SELECT t.counter_balance_after FROM transactions AS t
                WHERE t.organization_id = $1::uuid AND t.counter_account_id = s.account_id
                    AND t.counter_sequence = s.{sequence}
            ), 0)"""

# Along each account's movements the time never falls, so that the last one before a moment is found in 41 steps, each a
# probe of the two unique sequences. What is no charge has an index of its own, and transfers from other accounts have
# the second of those. Charges of subscriptions are found by the index on their events: those of the last 400 days,
# since one of an earlier time may be reversed now. Usage charges of the subscription itself are found by their key, and
# left out as well: they count for the period of the usage, and not for that in which they are posted.
_SPENT: Final = f"""
    WITH RECURSIVE search (account_id, is_end, moment, last, at, step) AS (
        SELECT a.account_id, m.is_end, m.moment, a.sequence, CAST(0 AS bigint), CAST(1 AS bigint) << 40
        FROM accounts AS a
        CROSS JOIN (VALUES (false, $3::timestamptz), (true, $4::timestamptz)) AS m (is_end, moment)
        WHERE a.organization_id = $1::uuid AND a.currency_code = $2
        UNION ALL
        SELECT s.account_id, s.is_end, s.moment, s.last,
            CASE WHEN s.at + s.step <= s.last AND coalesce((
                SELECT t.create_time FROM transactions AS t
                WHERE t.organization_id = $1::uuid AND t.account_id = s.account_id AND t.sequence = s.at + s.step
            ), (
                SELECT t.create_time FROM transactions AS t
                WHERE t.organization_id = $1::uuid AND t.counter_account_id = s.account_id
                    AND t.counter_sequence = s.at + s.step
            )) < s.moment THEN s.at + s.step ELSE s.at END,
            s.step / 2
        FROM search AS s WHERE s.step > 0
    ), span AS MATERIALIZED (
        SELECT b.account_id, b.at AS after_sequence, e.at AS to_sequence
        FROM search AS b JOIN search AS e ON e.account_id = b.account_id AND e.is_end AND e.step = 0
        WHERE NOT b.is_end AND b.step = 0 AND b.at < e.at
    ), charged AS (
        SELECT coalesce(sum(
            {_BALANCE_AFTER.format(sequence="after_sequence")}
            - {_BALANCE_AFTER.format(sequence="to_sequence")}
            + own.amount + others.amount
        ), 0) AS amount
        FROM span AS s
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(CASE t.direction WHEN 'CREDIT' THEN t.amount ELSE -t.amount END), 0) AS amount
            FROM transactions AS t
            WHERE t.organization_id = $1::uuid AND t.account_id = s.account_id AND t.sequence > s.after_sequence
                AND t.sequence <= s.to_sequence AND t.system_account IS DISTINCT FROM 'REVENUE'
        ) AS own
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END), 0) AS amount
            FROM transactions AS t
            WHERE t.organization_id = $1::uuid AND t.counter_account_id = s.account_id
                AND t.counter_sequence > s.after_sequence AND t.counter_sequence <= s.to_sequence
        ) AS others
    ), price AS MATERIALIZED (
        SELECT t.transaction_id, t.account_id, t.sequence, t.amount
        FROM (
            SELECT e.organization_id, e.charge_operation_id FROM subscription_events AS e
            WHERE e.organization_id = $1::uuid AND e.charge_operation_id IS NOT NULL
                AND e.create_time >= $3::timestamptz - interval '400 days'
            UNION ALL
            SELECT m.organization_id, m.operation_id FROM usage_period_movements AS m
            WHERE m.organization_id = $1::uuid AND m.subscription_id = $5::uuid
                AND m.start_time >= $3::timestamptz - interval '400 days'
        ) AS e
        JOIN transactions AS t
            ON t.organization_id = ANY (ARRAY[e.organization_id]) AND t.operation_id = e.charge_operation_id
        WHERE t.system_account = 'REVENUE' AND t.currency_code = $2
    )
    SELECT c.amount
        - (SELECT coalesce(sum(p.amount), 0) FROM price AS p JOIN span AS s ON s.account_id = p.account_id
            AND p.sequence > s.after_sequence AND p.sequence <= s.to_sequence)
        + (SELECT coalesce(sum(r.amount), 0) FROM price AS p JOIN transactions AS r
            ON r.organization_id = $1::uuid AND r.reverses_transaction_id = p.transaction_id
            JOIN span AS s ON s.account_id = r.account_id
            AND r.sequence > s.after_sequence AND r.sequence <= s.to_sequence)
    FROM charged AS c
"""


# A range of the primary key.
_HAS_USAGE_CHARGES: Final = """
    SELECT EXISTS (
        SELECT FROM usage_periods
        WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND start_time >= $3::timestamptz
            AND usage_charge_code <> ''
    )
"""


async def spent(
    connection: RawConnection,
    organization_id: str,
    subscription_id: str,
    currency_code: str,
    since: datetime,
    until: datetime,
) -> Decimal:
    """Return what counts towards a subscription's minimum in a unit, without its usage charges.

    It is what was charged from one moment until before another, on all of the organization's accounts.
    """
    found: Decimal = await connection.fetchval(_SPENT, organization_id, currency_code, since, until, subscription_id)
    return found


async def has_usage_charges(
    connection: RawConnection, organization_id: str, subscription_id: str, since: datetime
) -> bool:
    """Return whether a part of the time since a moment has ended that usage charges are for."""
    return bool(await connection.fetchval(_HAS_USAGE_CHARGES, organization_id, subscription_id, since))
