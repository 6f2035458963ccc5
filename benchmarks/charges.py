"""Fills billing and metering with many charges by SQL, as real traffic would have left them, and damages some.

    python -m benchmarks.charges DATABASE_URL COUNT [--organizations 1000]

The URL is that of the owner of a migrated database. Everything that the services check about their own data and about
each other holds afterwards: accounts, movements, holds, operations, usage in its months, hourly sums, prices, and
organizations that identity knows. The rows of the organizations are interleaved in time. Three charges of four are
debits, the fourth captures a hold.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import gcd

import asyncpg

from libs.common.ids import first_id_of, new_id
from libs.common.sharding import shard_number, shard_schema
from services.metering.tables import HOUR_KEY
from services.metering.usage.statements import HOUR_SUMS, LATENCY_BUCKET, hour_key, hour_sums

MODEL = "bench-of-charges"
SPAN = timedelta(days=28)
_CARD = (
    '{"rates": [{"unit": "input_tokens", "price": "2.5", "per": 1000000},'
    ' {"unit": "output_tokens", "price": "10", "per": 1000000}], "fallbacks": {}}'
)
_FUNDS = 1_000_000_000
_CHUNK = 250_000
_STATEMENT_S = 1_800.0

# Charge number g is the k-th of its organization. Its cost goes in a cycle of eight, so that every balance is known
# without reading the one before: 0.0035, 0.00375, … and 0.035 for each whole cycle.
_CHARGES = """
    SELECT g, k, cost, organization_id, account_id, moment,
        'call-' || lpad(to_hex(g), 12, '0') AS operation_id,
        $5::numeric - (k + 1) / 8 * 0.035 - (k + 1) % 8 * 0.0035 - (k + 1) % 8 * ((k + 1) % 8 - 1) * 0.000125
            AS balance,
        (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(g % 4096), 3, '0')
            || '8' || lpad(to_hex(g), 15, '0'))::uuid AS row_id
    FROM (
        SELECT g, k, 0.0035 + k % 8 * 0.00025 AS cost, ($3::uuid[])[at] AS organization_id,
            ($4::uuid[])[at] AS account_id, $6::timestamptz + g * $7::interval AS moment
        FROM (
            SELECT g, g / $8::bigint AS k, (g % $8 * $9::bigint + g / $8 * 13) % $8 + 1 AS at
            FROM generate_series($1::bigint, $2::bigint) AS g
        ) AS numbered
    ) AS priced
    WHERE organization_id IS NOT NULL
"""

_TRANSACTIONS = f"""
    INSERT INTO transactions (organization_id, operation_id, transaction_id, kind, account_id, sequence,
        direction, currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account,
        description, metadata, create_time, held_amount, actor)
    SELECT organization_id, operation_id, row_id, CASE k % 4 WHEN 3 THEN 'CAPTURE' ELSE 'DEBIT' END, account_id, k + 2,
        'DEBIT', 'USD', cost, balance, cost, CASE WHEN k % 4 <> 3 THEN 'MUST_POST' END, false, 'REVENUE',
        '{MODEL}', '{{"source": "metering"}}', moment + interval '3 ms', CASE k % 4 WHEN 3 THEN cost END,
        'service:metering'
    FROM ({_CHARGES}) AS charge
"""  # noqa: S608 -- put together from constants of ours.

_HOLDS = f"""
    INSERT INTO holds (organization_id, operation_id, hold_id, account_id, currency_code, amount, ttl_ms, state,
        description, create_time, expire_time, end_time, actor)
    SELECT organization_id, operation_id, row_id, account_id, 'USD', cost, 60000, 'CAPTURED', '{MODEL}',
        moment - interval '1 s', moment + interval '59 s', moment + interval '3 ms', 'service:metering'
    FROM ({_CHARGES}) AS charge WHERE k % 4 = 3
"""  # noqa: S608

# The accounts as their movements leave them. $1 organizations, $2 accounts, $3 funds, $4 when they were opened, $5 when
# the last charge was made, $6 the charges of each.
_ACCOUNTS = """
    INSERT INTO accounts (organization_id, account_id, owner_id, currency_code, posted, held, sequence,
        overdraft_limit, state, last_movement_time, version, revision, create_time, update_time)
    SELECT organization_id, account_id, organization_id, 'USD',
        $3::numeric - n / 8 * 0.035 - n % 8 * 0.0035 - (n % 8) * (n % 8 - 1) * 0.000125, 0, n + 1, 0, 'OPEN',
        $5::timestamptz, 1, n + 1, $4::timestamptz, $4
    FROM unnest($1::uuid[], $2::uuid[], $6::bigint[]) AS opened(organization_id, account_id, n)
    WHERE organization_id IS NOT NULL
"""
_CREDITS = """
    INSERT INTO transactions (organization_id, operation_id, transaction_id, kind, account_id, sequence,
        direction, currency_code, amount, balance_after, requested_amount, overdrawn, system_account, create_time)
    SELECT organization_id, 'opening', $5::uuid, 'CREDIT', account_id, 1, 'CREDIT', 'USD', $3, $3, $3, false,
        'PAYMENTS', $4::timestamptz
    FROM unnest($1::uuid[], $2::uuid[]) AS opened(organization_id, account_id) WHERE organization_id IS NOT NULL
"""

_OPERATIONS = f"""
    INSERT INTO usage_operations (organization_id, operation_id, fingerprint, usage_id, occur_time)
    SELECT organization_id, operation_id, decode(md5(operation_id), 'hex'), row_id, moment
    FROM ({_CHARGES}) AS charge
"""  # noqa: S608
_USAGE = f"""
    INSERT INTO usage_records (organization_id, occur_time, usage_id, operation_id, model, input, output,
        cache_read, cache_write, reasoning, audio_input, audio_output, image, latency_ms, status_code, endpoint,
        partial, cost, currency_code, price_version_id, charge_kind, create_time)
    SELECT organization_id, moment, row_id, operation_id, '{MODEL}', 1000 + k % 8 * 100, 100, 0, 0, 0, 0, 0, 0,
        200 + g % 900, 200, '/v1/chat/completions', false, cost, 'USD', $10::uuid,
        CASE k % 4 WHEN 3 THEN 'CAPTURE' ELSE 'DEBIT' END, moment + interval '1 ms'
    FROM ({_CHARGES}) AS charge
"""  # noqa: S608
_HOURS = f"""
    INSERT INTO usage_hours ({", ".join((*HOUR_KEY, *HOUR_SUMS))})
    SELECT {hour_key("currency_code", "''")}, {hour_sums("cost", "0")}
    FROM (SELECT *, {LATENCY_BUCKET} FROM usage_records WHERE model = '{MODEL}') AS usage
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: `count` charges, of which organization number i has the operations of its numbers."""

    organization_ids: tuple[str, ...]
    account_ids: tuple[str, ...]
    count: int
    start: datetime

    def charge(self, number: int) -> tuple[str, str]:
        """Return the organization and the operation id of charge `number`, from 0."""
        return self.organization_ids[_at(number, len(self.organization_ids))], f"call-{number:012x}"

    def counts(self) -> list[int]:
        """Return how many charges each organization has."""
        organizations = len(self.organization_ids)
        counts = [self.count // organizations] * organizations
        for number in range(self.count - self.count % organizations, self.count):
            counts[_at(number, organizations)] += 1
        return counts


_Load = Callable[[asyncpg.Connection, Loaded], Awaitable[None]]


def load_charges(url: str, count: int, organizations: int = 1_000) -> Loaded:
    """Fill a migrated database, as its owner, with `count` charges of so many new organizations."""
    return asyncio.run(_load(url, count, organizations))


async def _load(url: str, count: int, organizations: int) -> Loaded:
    start = datetime.now(UTC) - SPAN - timedelta(minutes=1)
    organization_ids = tuple(new_id() for _ in range(organizations))
    loaded = Loaded(organization_ids, tuple(new_id() for _ in organization_ids), count, start)
    await _on_own_connection(url, "identity", _load_identity, loaded)
    await asyncio.gather(
        _on_own_connection(url, "billing", _load_billing, loaded),
        _on_own_connection(url, "metering", _load_metering, loaded),
    )
    return loaded


async def _in_shard(connection: asyncpg.Connection, context: str, organization_id: str | None, number: int = 0) -> int:
    """Let a connection work in the shard of an organization, or the one of a number; return how many there are."""
    count = int(await connection.fetchval(f"SELECT shard_count FROM {context}.sharding"))  # noqa: S608 -- ours.
    if organization_id is not None:
        number = shard_number(organization_id, count)
    await connection.execute(f"SET search_path = {shard_schema(context, number)}, {context}")
    return count


def _part(loaded: Loaded, number: int, count: int) -> list[str | None]:
    """Return the organizations, with nothing in the places of those of other shards."""
    return [one if shard_number(one, count) == number else None for one in loaded.organization_ids]


async def _on_own_connection(url: str, schema: str, load: _Load, loaded: Loaded) -> None:
    connection = await asyncpg.connect(url, command_timeout=_STATEMENT_S)
    try:
        await connection.execute("SET synchronous_commit = off; SET jit = off; SET work_mem = '256MB'")
        await connection.execute(f"SET search_path = {schema}")
        await load(connection, loaded)
    finally:
        await connection.close()


def _at(number: int, organizations: int) -> int:
    return (number % organizations * _stride(organizations) + number // organizations * 13) % organizations


def _stride(organizations: int) -> int:
    """Return a step that visits every organization once before it comes back to the first."""
    return next(step for step in (7, 11, 13, 17, 19, 23, 1) if gcd(step, organizations) == 1)


def _chunks(loaded: Loaded, organization_ids: Sequence[str | None]) -> Sequence[tuple[object, ...]]:
    """Return the parameters of `_CHARGES` for each part of the charges, in the order of time."""
    organizations = len(organization_ids)
    step = SPAN / max(loaded.count, 1)
    fixed = (organization_ids, loaded.account_ids, _FUNDS, loaded.start, step, organizations)
    return [
        (first, min(first + _CHUNK, loaded.count) - 1, *fixed, _stride(organizations))
        for first in range(0, loaded.count, _CHUNK)
    ]


async def _load_identity(connection: asyncpg.Connection, loaded: Loaded) -> None:
    users = [new_id() for _ in loaded.organization_ids]
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO organizations (organization_id, name, personal, create_time, update_time)"
            " SELECT id, 'Bench', true, $2, $2 FROM unnest($1::uuid[]) AS id",
            loaded.organization_ids,
            loaded.start,
        )
        await connection.execute(
            "INSERT INTO users (user_id, email, email_folded, full_name, picture_url,"
            " personal_organization_id, create_time, update_time)"
            " SELECT u, u || '@example.org', u || '@example.org', 'Owner', '', o, $3, $3"
            " FROM unnest($1::uuid[], $2::uuid[]) AS made(u, o)",
            users,
            loaded.organization_ids,
            loaded.start,
        )
        await connection.execute(
            "INSERT INTO members (organization_id, user_id, role, create_time, update_time)"
            " SELECT o, u, 'owner', $3, $3 FROM unnest($1::uuid[], $2::uuid[]) AS made(u, o)",
            users,
            loaded.organization_ids,
            loaded.start,
        )
    await connection.execute("ANALYZE organizations")


async def _load_billing(connection: asyncpg.Connection, loaded: Loaded) -> None:
    opened, number, count = loaded.start - timedelta(seconds=1), 0, 1
    while number < count:
        count = await _in_shard(connection, "billing", None, number)
        part = _part(loaded, number, count)
        accounts = (part, loaded.account_ids, _FUNDS, opened)
        await connection.execute(_ACCOUNTS, *accounts, loaded.start + SPAN, loaded.counts())
        await connection.execute(_CREDITS, *accounts, first_id_of(opened))
        for values in _chunks(loaded, part):
            await connection.execute(_TRANSACTIONS, *values)
            await connection.execute(_HOLDS, *values)
        for table in ("accounts", "transactions", "holds"):
            await connection.execute(f"VACUUM ANALYZE {table}")
        number += 1


async def _load_metering(connection: asyncpg.Connection, loaded: Loaded) -> None:
    price_version_id = new_id()
    async with connection.transaction():
        revision = await connection.fetchval("UPDATE catalogue_state SET revision = revision + 2 RETURNING revision")
        await connection.execute(
            "INSERT INTO models (model_id, provider, display_name, description, capabilities, context_length,"
            " max_output_tokens, active, metadata, revision, create_time, update_time)"
            " VALUES ($3, '', '', '', '{}', 0, 0, true, '{}', $1, $2, $2)",
            revision - 1,
            loaded.start,
            MODEL,
        )
        await connection.execute(
            "INSERT INTO price_versions (price_version_id, model_id, currency_code, input, output,"
            " effective_time, create_time, source, revision, rate_card)"
            " VALUES ($1, $4, 'USD', 2.5, 10, $2, $2, 'bench', $3, $5)",
            price_version_id,
            loaded.start,
            revision,
            MODEL,
            _CARD,
        )
    number, count = 0, 1
    while number < count:
        count = await _in_shard(connection, "metering", None, number)
        for month in range(3):
            await connection.execute(
                "SELECT ensure_usage_month($1::timestamptz + $2 * interval '1 month')", loaded.start, month
            )
        for values in _chunks(loaded, _part(loaded, number, count)):
            await connection.execute(_OPERATIONS, *values)
            await connection.execute(_USAGE, *values, price_version_id)
        await connection.execute(_HOURS)
        for table in ("usage_operations", "usage_records", "usage_hours"):
            await connection.execute(f"VACUUM ANALYZE {table}")
        number += 1


DIFFERENCES = (
    ("billing", "DELETE FROM transactions"),
    ("metering", "DELETE FROM usage_operations", "DELETE FROM usage_records"),
    ("billing", "UPDATE transactions SET amount = amount + 0.000000001"),
    ("billing", "UPDATE transactions SET currency_code = 'EUR'"),
)
"""Ways in which a charge can differ: missing in one of the services, another amount, another currency."""


def plant_differences(url: str, loaded: Loaded, count: int) -> set[tuple[str, str]]:
    """Damage `count` charges, spread over all time and all organizations; return their organizations and operations."""
    return asyncio.run(_plant(url, loaded, count))


async def _plant(url: str, loaded: Loaded, count: int) -> set[tuple[str, str]]:
    connection = await asyncpg.connect(url, command_timeout=_STATEMENT_S)
    planted: set[tuple[str, str]] = set()
    try:
        for number in range(count):
            charge = loaded.charge(number * (loaded.count // count) + number)
            context, *statements = DIFFERENCES[number % len(DIFFERENCES)]
            await _in_shard(connection, context, charge[0])
            for statement in statements:
                done = await connection.execute(
                    f"{statement} WHERE organization_id = $1 AND operation_id = $2", *charge
                )
                if not done.endswith(" 1"):
                    raise ValueError(f"{charge} cannot be damaged: {done}")
            planted.add(charge)
    finally:
        await connection.close()
    return planted


def main() -> None:
    """Load charges into a database that is named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charges", description=__doc__)
    parser.add_argument("url", help="the database, as its owner")
    parser.add_argument("count", type=int, help="how many charges")
    parser.add_argument("--organizations", type=int, default=1_000, help="of how many organizations")
    arguments = parser.parse_args()
    load_charges(arguments.url, arguments.count, arguments.organizations)


if __name__ == "__main__":
    main()
