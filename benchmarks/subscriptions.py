"""Fills billing by SQL with subscriptions that are due for renewal, as real use would have left them.

    python -m benchmarks.subscriptions DATABASE_URL COUNT

The URL is that of the owner of a migrated database. Each subscription is an organization's own, to the plan `basic`. It
was charged for its first period, whose included credits have not been used, and that period ends now: what is due for
it is a debit, the expiry of a grant and a new grant. Everything that billing checks about its data holds.
"""

import argparse
import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg

from libs.common.ids import new_id
from libs.common.sharding import shard_number, shard_schema

_FUNDS = 1_000
_PRICE = "9.99"
_CREDITS = 100
_STATEMENT_S = 600.0
_CHUNK = 10_000
_SET_PATH = "SELECT set_config('search_path', $1, false)"

# The organizations of a chunk, each with four ids that follow from its own: of its subscription, of its accounts in USD
# and CREDIT, and of its grant. $2 is the beginning of the period, $3 its end.
_ORGANIZATIONS = """
    SELECT organization_id, md5(organization_id || 's')::uuid AS subscription_id,
        md5(organization_id || 'u')::uuid AS usd_id, md5(organization_id || 'c')::uuid AS credit_id,
        md5(organization_id || 'g')::uuid AS grant_id, p.plan_id,
        'subscription/' || md5(organization_id || 's')::uuid AS source,
        $2::timestamptz AS period_start, $3::timestamptz AS period_end
    FROM unnest($1::uuid[]::text[]) AS o (organization_id), billing.plans AS p WHERE p.plan_code = 'basic'
"""

_STATEMENTS = (
    f"""
    INSERT INTO subscriptions (organization_id, subscription_id, subject, plan_id, plan_code, plan_version, state,
        state_reason, state_time, start_time, anchor_time, time_zone, period_number, period_start_time,
        period_end_time, period_paid, cancel_at_period_end, payment_attempts, due_time, last_sequence,
        customer_reference, actor, revision, create_time, update_time)
    SELECT organization_id::uuid, subscription_id, 'ORGANIZATION', plan_id, 'basic', 1, 'ACTIVE', 'it began',
        period_start, period_start, period_start, 'UTC', 0, period_start, period_end, true, false, 0, period_end, 2,
        '', 'system', 2, period_start, period_start
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO subscription_events (organization_id, subscription_id, sequence, kind, planned, from_state, to_state,
        reason, actor, plan_code, plan_version, effective_time, grant_operation_ids, details, create_time)
    SELECT organization_id::uuid, subscription_id, 1, 'CREATED', false, NULL, 'PENDING', '', 'system', 'basic', 1,
        period_start, '{{}}', jsonb_build_object('plan_id', plan_id), period_start
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO subscription_events (organization_id, subscription_id, sequence, kind, planned, from_state, to_state,
        reason, actor, plan_code, plan_version, period_start_time, period_end_time, effective_time,
        charge_operation_id, charge_currency_code, charge_amount, grant_operation_ids, details, create_time)
    SELECT organization_id::uuid, subscription_id, 2, 'PERIOD_STARTED', false, 'PENDING', 'ACTIVE', 'it began',
        'system', 'basic', 1, period_start, period_end, period_start, source || '/2', 'USD', {_PRICE},
        ARRAY[source || '/2/CREDIT'], jsonb_build_object('plan_id', plan_id, 'refills', jsonb_build_array(
            jsonb_build_object('operation_id', source || '/2/CREDIT', 'amount', jsonb_build_object(
                'currency_code', 'CREDIT', 'value', '{_CREDITS}'), 'priority', 10, 'effective_time', period_start,
                'expire_time', period_end, 'kept_at_most', NULL))), period_start
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO accounts (organization_id, account_id, owner_id, currency_code, posted, held, sequence,
        overdraft_limit, state, last_movement_time, grant_due_from, version, revision, create_time, update_time)
    SELECT organization_id::uuid, usd_id, organization_id::uuid, 'USD', {_FUNDS} - {_PRICE}, 0, 2, 0, 'OPEN',
        period_start, NULL, 1, 2, period_start, period_start FROM ({_ORGANIZATIONS}) AS o
    UNION ALL
    SELECT organization_id::uuid, credit_id, organization_id::uuid, 'CREDIT', {_CREDITS}, 0, 1, 0, 'OPEN',
        period_start, period_end, 1, 1, period_start, period_start FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO transactions (organization_id, operation_id, transaction_id, kind, account_id, sequence, direction,
        currency_code, amount, balance_after, requested_amount, mode, overdrawn, system_account, metadata,
        create_time, actor)
    SELECT organization_id::uuid, 'opening', md5(organization_id || 1)::uuid, 'CREDIT', usd_id, 1, 'CREDIT', 'USD',
        {_FUNDS}, {_FUNDS}, {_FUNDS}, NULL, false, 'PAYMENTS', NULL::jsonb, period_start, 'system'
    FROM ({_ORGANIZATIONS}) AS o
    UNION ALL
    SELECT organization_id::uuid, source || '/2', md5(organization_id || 2)::uuid, 'DEBIT', usd_id, 2, 'DEBIT', 'USD',
        {_PRICE}, {_FUNDS} - {_PRICE}, {_PRICE}, 'GUARDED', false, 'REVENUE', NULL, period_start, 'system'
    FROM ({_ORGANIZATIONS}) AS o
    UNION ALL
    SELECT organization_id::uuid, grant_id::text, md5(organization_id || 3)::uuid, 'GRANT', credit_id, 1, 'CREDIT',
        'CREDIT', {_CREDITS}, {_CREDITS}, {_CREDITS}, NULL, false, 'GRANTS',
        jsonb_build_object('grant_id', grant_id), period_start, 'system'
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO credit_grants (organization_id, grant_id, account_id, operation_id, currency_code, kind, priority,
        amount, effective_time, at_once, expire_time, state, rest, expired, source_reference, description, create_time,
        actor)
    SELECT organization_id::uuid, grant_id, credit_id, source || '/2/CREDIT', 'CREDIT', 'INCLUDED', 10, {_CREDITS},
        period_start, false, period_end, 'ACTIVE', {_CREDITS}, 0, source, '', period_start, 'system'
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
    f"""
    INSERT INTO grant_standings (organization_id, account_id, sequence, funded, used, used_beside, rests)
    SELECT organization_id::uuid, credit_id, 1, {_CREDITS}, 0, 0,
        jsonb_build_object(grant_id, jsonb_build_array('{_CREDITS}', '0'))
    FROM ({_ORGANIZATIONS}) AS o
    """,  # noqa: S608 -- put together from constants of ours.
)


async def load_subscriptions(url: str, count: int, shards: int = 1) -> None:
    """Add so many subscriptions to all shards together."""
    now = datetime.now(UTC).replace(microsecond=0)
    last_month = now.replace(day=1) - timedelta(days=1)
    began = last_month.replace(day=min(now.day, last_month.day))
    ids = [new_id() for _ in range(count)]
    connection = await asyncpg.connect(url, command_timeout=_STATEMENT_S)
    try:
        for number in range(shards):
            mine = [one for one in ids if shard_number(one, shards) == number]
            await connection.execute(_SET_PATH, f"{shard_schema('billing', number)}, billing")
            for at in range(0, len(mine), _CHUNK):
                for statement in _STATEMENTS:
                    await connection.execute(statement, mine[at : at + _CHUNK], began, now)
        await connection.execute("RESET search_path")
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()


def main() -> None:
    """Loads what the command line says."""
    parser = argparse.ArgumentParser(description="Fill billing with subscriptions that are due.")
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    asyncio.run(load_subscriptions(arguments.url, arguments.count))


if __name__ == "__main__":
    main()
