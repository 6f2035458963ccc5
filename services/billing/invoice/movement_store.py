"""The statements with which an invoice reads what it covers."""

import json
from decimal import Decimal
from typing import Final

from libs.common.database import RawConnection
from services.billing.invoice.domain import Quantity
from services.billing.invoice.gathering import Charged, PlanPeriod
from services.billing.plan.usage_charge_domain import usage_charge_of_json

INVOICED: Final = """
    t.system_account IN ('REVENUE', 'ADJUSTMENTS')
        AND (t.direction = 'DEBIT' OR (t.metadata ->> 'credit_note_id') IS NULL)
"""
"""Which movements of an account are on invoices: charges, their reversals, and adjustments. What gives money back for a
credit note is not; a charge is, whatever its metadata says."""
TAKEN: Final = "CASE t.direction WHEN 'DEBIT' THEN t.amount ELSE -t.amount END"

# A range of the unique sequence.
_PAGE: Final = f"""
    SELECT t.sequence, t.operation_id, t.hold_operation_id, coalesce(t.description, ''), {TAKEN}, t.create_time,
        t.metadata ->> 'source' IS NOT DISTINCT FROM 'metering',
        t.reverses_transaction_id IS NOT NULL OR t.system_account = 'ADJUSTMENTS'
            OR coalesce(t.metadata ? 'corrects' AND t.metadata ->> 'source' = 'metering', false)
    FROM transactions t
    WHERE t.organization_id = $1::uuid AND t.account_id = $2::uuid AND t.sequence > $3 AND t.sequence <= $4
        AND {INVOICED}
    ORDER BY t.sequence LIMIT $5
"""  # noqa: S608 -- made of constants of ours alone.

# By the unique charge of events, and the unique operation of usage charges with their time by primary key; the zones of
# their subscriptions by primary key.
_PERIODS: Final = """
    SELECT e.charge_operation_id, e.subscription_id::text, coalesce(e.plan_code, ''), (
            SELECT s.time_zone FROM subscriptions s
            WHERE s.organization_id = $1::uuid AND s.subscription_id = e.subscription_id
        ), e.reason,
        coalesce(e.period_start_time, e.effective_time), coalesce(e.period_end_time, e.effective_time),
        CASE e.kind WHEN 'MINIMUM_CHARGED' THEN e.effective_time - interval '1 microsecond' END, NULL, 0
    FROM subscription_events e
    WHERE e.organization_id = $1::uuid AND e.charge_operation_id = ANY($2::text[])
    UNION ALL
    SELECT m.operation_id, m.subscription_id::text, p.plan_code, (
            SELECT s.time_zone FROM subscriptions s
            WHERE s.organization_id = $1::uuid AND s.subscription_id = m.subscription_id
        ),
        coalesce(nullif(p.charge ->> 'name', ''), nullif(p.usage_charge_code, ''), 'minimum spend')
            || CASE WHEN m.sequence > 1 THEN ', corrected' ELSE '' END,
        p.start_time, p.end_time, p.end_time - interval '1 microsecond', p.charge::text, m.quantity - coalesce((
            SELECT b.quantity FROM usage_period_movements b
            WHERE b.organization_id = m.organization_id AND b.subscription_id = m.subscription_id
                AND b.start_time = m.start_time AND b.usage_charge_code = m.usage_charge_code
                AND b.sequence = m.sequence - 1
        ), 0)
    FROM usage_period_movements m
    JOIN usage_periods p ON p.organization_id = ANY (ARRAY[m.organization_id]) AND p.subscription_id = m.subscription_id
        AND p.start_time = m.start_time AND p.usage_charge_code = m.usage_charge_code
    WHERE m.organization_id = $1::uuid AND m.operation_id = ANY($2::text[])
"""

# One probe of each of the two unique sequences.
_BALANCE: Final = """
    SELECT balance_after FROM transactions
    WHERE organization_id = $1::uuid AND account_id = $2::uuid AND sequence = $3
    UNION ALL
    SELECT counter_balance_after FROM transactions
    WHERE organization_id = $1::uuid AND counter_account_id = $2::uuid AND counter_sequence = $3
    LIMIT 1
"""

# What was used of an account's grants that have begun, by kind, as of its last event; by the index on accounts.
_GRANTED: Final = """
    SELECT kind, sum(amount) - sum(expired) FROM credit_grants
    WHERE organization_id = $1::uuid AND account_id = $2::uuid
        AND state <> 'SCHEDULED' AND (void_time < effective_time) IS NOT TRUE
    GROUP BY kind
"""


async def page(
    connection: RawConnection, organization_id: str, account_id: str, bounds: tuple[int, int], limit: int
) -> list[Charged]:
    """Return movements of an account that invoices cover: after one sequence, up to another, in order."""
    rows = await connection.fetch(_PAGE, organization_id, account_id, *bounds, limit)
    return [Charged(*row) for row in rows]


async def periods(connection: RawConnection, organization_id: str, operation_ids: list[str]) -> dict[str, PlanPeriod]:
    """Return what subscriptions were charged for under these operations, by the operation."""
    rows = await connection.fetch(_PERIODS, organization_id, operation_ids)
    return {row[0]: PlanPeriod(*row[1:8])._replace(quantities=_quantities(row[8], row[9])) for row in rows}


def _quantities(stored: str | None, quantity: Decimal) -> tuple[Quantity, ...]:
    """Return how much more a usage charge counts with a movement, and its steps."""
    if stored is None:
        return ()
    charge = usage_charge_of_json(json.loads(stored))
    return (Quantity(charge.unit, quantity, charge.step_texts()),)


async def balance_at(connection: RawConnection, organization_id: str, account_id: str, sequence: int) -> Decimal:
    """Return the balance of an account after one of its movements; zero before the first."""
    found: Decimal | None = await connection.fetchval(_BALANCE, organization_id, account_id, sequence)
    return Decimal(0) if found is None else found


async def granted_less_expired(connection: RawConnection, organization_id: str, account_id: str) -> dict[str, Decimal]:
    rows = await connection.fetch(_GRANTED, organization_id, account_id)
    return {row[0]: row[1] for row in rows}
