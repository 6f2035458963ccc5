"""Charges written straight into the tables of billing and metering, as the owner of the database."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg

from libs.common.ids import new_id
from libs.common.sharding import shard_number, shard_schema
from tests.support.sharded import SHARDS

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

_ACCOUNT = """
    INSERT INTO {schema}.accounts AS a (organization_id, account_id, owner_id, currency_code, posted, held, sequence,
        overdraft_limit, state, last_movement_time, version, revision, create_time, update_time)
    VALUES ($1, $2, $2, $3, 0, 0, 1, 0, 'OPEN', $4, 1, 1, $4, $4)
    ON CONFLICT (organization_id, account_id)
        DO UPDATE SET sequence = a.sequence + 1, last_movement_time = greatest(a.last_movement_time, $4)
    RETURNING sequence
"""
_TRANSACTION = """
    INSERT INTO {schema}.transactions (organization_id, operation_id, transaction_id, kind, account_id, sequence,
        direction, currency_code, amount, balance_after, overdrawn, system_account, metadata, create_time)
    VALUES ($1, $2, gen_random_uuid(), $3, $4, $5, 'DEBIT', $6, $7, 0, false, 'REVENUE', $8::jsonb, $9)
"""
_OPERATION = """
    INSERT INTO {schema}.usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)
    VALUES ($1, $2, '\\x00', $3, $4)
"""
_USAGE = """
    INSERT INTO {schema}.usage_records (organization_id, occur_time, usage_id, operation_id, model, input, output,
        cache_read, cache_write, reasoning, audio_input, audio_output, image, partial, cost, currency_code,
        price_version_id, charge_kind, create_time)
    VALUES ($1, $2, $3, $4, 'm', 0, 0, 0, 0, 0, 0, 0, 0, false, $5, $6, $1, 'DEBIT', $7)
"""
_OUTBOX = """
    INSERT INTO {schema}.outbox (organization_id, operation_id, kind, state, amount, currency_code, description,
        attempt_count, next_attempt_time, create_time)
    VALUES ($1, $2, 'DEBIT', 'PENDING', 1, 'USD', '', 0, $3, $3)
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


def _in(context: str, charge: Charge, shard: int | None) -> str:
    """Return the schema in which a charge is: its organization's, or that of the shard of the given number."""
    return shard_schema(context, shard_number(charge.organization_id, SHARDS) if shard is None else shard)


async def put_billed(connection: asyncpg.Connection, charge: Charge, shard: int | None = None) -> None:
    """Write a charge as billing would have made it; the account's balance is not kept."""
    account, schema = charge.account_id or charge.organization_id, _in("billing", charge, shard)
    sequence = await connection.fetchval(
        _ACCOUNT.format(schema=schema), charge.organization_id, account, charge.currency_code, charge.time
    )
    await connection.execute(
        _TRANSACTION.format(schema=schema),
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


async def put_metered(connection: asyncpg.Connection, charge: Charge, shard: int | None = None) -> None:
    """Write usage that was charged."""
    values = charge.organization_id, charge.operation_id, charge.usage_id, charge.time
    schema = _in("metering", charge, shard)
    await connection.execute(_OPERATION.format(schema=schema), *values)
    await connection.execute(
        _USAGE.format(schema=schema),
        charge.organization_id,
        charge.time,
        charge.usage_id,
        charge.operation_id,
        charge.amount,
        charge.currency_code,
        charge.time + timedelta(milliseconds=1),
    )


async def put_pending(connection: asyncpg.Connection, charge: Charge, shard: int | None = None) -> None:
    """Note that billing has not confirmed a charge."""
    statement = _OUTBOX.format(schema=_in("metering", charge, shard))
    await connection.execute(statement, charge.organization_id, charge.operation_id, charge.time)
