"""Answers stay true and repeats find them, with lost connections, several processes and callers that leave."""

import asyncio
import random
from decimal import Decimal

import asyncpg
import grpc
import pytest

from libs.common.database_url import plain_url
from tests.billing.support import BillingServer, Ledger, organization, until_answered, usd

pytestmark = pytest.mark.shards


async def _kill_connections(admin_url: str, rounds: int) -> int:
    connection = await asyncpg.connect(plain_url(admin_url))
    killed = 0
    for _ in range(rounds):
        await asyncio.sleep(random.uniform(0.005, 0.05))
        killed += await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'tollhouse_billing'"
        )
    await connection.close()
    return killed


async def test_connections_killed_mid_batch_lose_and_double_nothing(ledger: Ledger, database_admin_url: str) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1000")
    killer = asyncio.create_task(_kill_connections(database_admin_url, 20))
    done = 0
    while not killer.done():
        calls = [
            until_answered(lambda name=f"call-{done + n}": ledger.debit(org, name, "0.01"))  # type: ignore[misc]
            for n in range(40)
        ]
        answers = await asyncio.gather(*calls)
        assert all(answer.posted_amount == usd("0.01") for answer in answers)
        done += len(calls)
    assert await killer > 0
    last = await ledger.credit(org, "end", "0.01")
    assert last.transaction.sequence == done + 2


async def test_connections_killed_mid_batch_charge_every_part_and_the_rest_of_each_hold_once(
    ledger: Ledger, database_admin_url: str
) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1000")
    killer = asyncio.create_task(_kill_connections(database_admin_url, 20))

    async def work(name: str) -> None:
        await until_answered(lambda: ledger.hold(org, name, "0.04"))
        parts = [
            until_answered(lambda part_id=f"{name}/{n}": ledger.capture(org, name, "0.01", part_id=part_id))  # type: ignore[misc]
            for n in range(2)
        ]
        enlarged = until_answered(lambda: ledger.extend(org, name, "0.06"))
        await asyncio.gather(*parts, enlarged)
        last = await until_answered(lambda: ledger.capture(org, name, "0.03"))
        assert (last.transaction.held_amount, last.released_amount) == (usd("0.04"), usd("0.01"))

    done = 0
    while not killer.done():
        await asyncio.gather(*(work(f"call-{done + n}") for n in range(20)))
        done += 20
    assert await killer > 0
    last = await ledger.credit(org, "end", "0.01")
    assert last.transaction.sequence == 3 * done + 2
    assert (last.balance.posted, last.balance.held) == (usd(Decimal("1000.01") - Decimal("0.05") * done), usd("0"))


@pytest.mark.own_database
async def test_two_servers_share_one_account_and_one_set_of_operation_ids(server: BillingServer) -> None:
    org = organization()
    async with server.start() as one, server.start() as two:

        async def charge(ledger: Ledger, number: int) -> bool:
            try:
                return not (await until_answered(lambda: ledger.debit(org, f"call-{number}", "1"))).replayed
            except grpc.aio.AioRpcError as error:
                return error.code() is not grpc.StatusCode.FAILED_PRECONDITION

        await asyncio.gather(one.credit(org, "a", "100"), two.credit(org, "b", "100"))
        new = await asyncio.gather(*(charge(ledger, n) for n in range(300) for ledger in (one, two)))
        assert sum(new) == 200
        last = await one.credit(org, "end", "1")
        assert (last.balance.posted, last.transaction.sequence) == (usd("1"), 203)
        assert await two.findings() == []


async def test_callers_that_leave_break_no_batch(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1000")
    calls = [asyncio.create_task(ledger.debit(org, f"call-{n}", "1")) for n in range(200)]
    await asyncio.sleep(0.02)
    for call in random.sample(calls, 100):
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    again = await asyncio.gather(*(ledger.debit(org, f"call-{n}", "1") for n in range(200)))
    assert len({answer.transaction.transaction_id for answer in again}) == 200
    assert (await ledger.credit(org, "end", "1")).balance.posted == usd("801")


async def test_connections_killed_mid_batch_use_each_users_credits_once(
    ledger: Ledger, database_admin_url: str
) -> None:
    """On an account with credits for certain users, where each charge is entered with what it used of them."""
    org, users = organization(), [organization() for _ in range(3)]
    for user in users:
        await ledger.grant(org, f"of-{user}", "1000", user_id=user)
    killer = asyncio.create_task(_kill_connections(database_admin_url, 12))

    async def work(user: str, name: str) -> None:
        await until_answered(lambda: ledger.hold(org, name, "0.04", user_id=user))
        await until_answered(lambda: ledger.capture(org, name, "0.01", part_id=f"{name}/1"))
        await until_answered(lambda: ledger.capture(org, name, "0.02"))
        charged = await until_answered(lambda: ledger.debit(org, f"{name}/debit", "0.03", user_id=user))
        back = charged.transaction.transaction_id
        await until_answered(lambda: ledger.reverse(org, f"{name}/back", back, "0.01"))

    done = 0
    while not killer.done():
        await asyncio.gather(*(work(user, f"{user}-{done + n}") for n in range(5) for user in users))
        done += 5
    assert await killer > 0
    left = {grant.remaining_amount.value for grant in await ledger.grants(org)}
    assert {Decimal(value) for value in left} == {1000 - Decimal("0.05") * done}
