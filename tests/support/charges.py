"""Charges written straight into the tables of billing and metering, as the owner of the database."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg

from libs.common.ids import new_id

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

_ACCOUNT = """
    INSERT INTO billing.accounts AS a (organization_id, account_id, owner_id, currency_code, posted, held, sequence,
        overdraft_limit, state, last_movement_time, version, revision, create_time, update_time)
    VALUES ($1, $2, $2, $3, 0, 0, 1, 0, 'OPEN', $4, 1, 1, $4, $4)
    ON CONFLICT (organization_id, account_id)
        DO UPDATE SET sequence = a.sequence + 1, last_movement_time = greatest(a.last_movement_time, $4)
    RETURNING sequence
"""
_TRANSACTION = """
    INSERT INTO billing.transactions (organization_id, operation_id, transaction_id, kind, account_id, sequence,
        direction, currency_code, amount, balance_after, overdrawn, system_account, metadata, create_time)
    VALUES ($1, $2, gen_random_uuid(), $3, $4, $5, 'DEBIT', $6, $7, 0, false, 'REVENUE', $8::jsonb, $9)
"""
_OPERATION = """
    INSERT INTO metering.usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)
    VALUES ($1, $2, '', $3, $4)
"""
_USAGE = """
    INSERT INTO metering.usage_records (organization_id, occur_time, usage_id, operation_id, model, input, output,
        cache_read, cache_write, reasoning, audio_input, audio_output, image, partial, cost, currency_code,
        price_version_id, charge_kind, create_time)
    VALUES ($1, $2, $3, $4, 'm', 0, 0, 0, 0, 0, 0, 0, 0, false, $5, $6, $1, 'DEBIT', $7)
"""
_OUTBOX = """
    INSERT INTO metering.outbox (organization_id, operation_id, kind, state, amount, currency_code, description,
        attempt_count, next_attempt_time, create_time)
    VALUES ($1, $2, 'DEBIT', $3, 1, 'USD', '', 0, $4, $4)
"""


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge, by default the same in both services."""

    organization_id: str
    operation_id: str
    amount: Decimal = Decimal("0.0035")
    currency_code: str = "USD"
    time: datetime = NOW
    kind: str = "DEBIT"
    metadata: str = '{"source": "metering"}'
    account_id: str = ""
    usage_id: str = field(default_factory=new_id)


async def put_billed(connection: asyncpg.Connection, charge: Charge) -> None:
    """Write a charge as billing would have made it; the account's balance is not kept."""
    account = charge.account_id or charge.organization_id
    sequence = await connection.fetchval(_ACCOUNT, charge.organization_id, account, charge.currency_code, charge.time)
    await connection.execute(
        _TRANSACTION,
        charge.organization_id,
        charge.operation_id,
        charge.kind,
        account,
        sequence,
        charge.currency_code,
        charge.amount,
        charge.metadata,
        charge.time + timedelta(milliseconds=2),
    )


async def put_metered(connection: asyncpg.Connection, charge: Charge) -> None:
    """Write usage that was charged."""
    values = charge.organization_id, charge.operation_id, charge.usage_id, charge.time
    await connection.execute(_OPERATION, *values)
    await connection.execute(
        _USAGE,
        charge.organization_id,
        charge.time,
        charge.usage_id,
        charge.operation_id,
        charge.amount,
        charge.currency_code,
        charge.time + timedelta(milliseconds=1),
    )


async def put_pending(connection: asyncpg.Connection, charge: Charge, state: str = "PENDING") -> None:
    """Note that billing has not confirmed a charge."""
    await connection.execute(_OUTBOX, charge.organization_id, charge.operation_id, state, charge.time)
