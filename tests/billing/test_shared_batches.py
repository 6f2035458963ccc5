"""Commands of many tenants share the ledger's batches; one that fails, for whatever cause, fails alone."""

import asyncio
import random

import grpc
import pytest

from tests.billing.support import BillingServer, Ledger, organization
from tests.support.poison import SQLSTATES, plant_poison, poisoned
from tollhouse.billing.v1 import ledger_pb2

pytestmark = pytest.mark.shards

HONEST = 40
MUST_POST = ledger_pb2.DEBIT_MODE_MUST_POST
POISONED = 3


@pytest.mark.parametrize("sqlstate", SQLSTATES)
async def test_a_command_that_cannot_be_stored_fails_no_other_callers_command(
    ledger: Ledger, database_admin_url: str, sqlstate: str
) -> None:
    await plant_poison(database_admin_url, "billing.transactions")
    honest, hostile = organization(), organization()
    for tenant in (honest, hostile):
        await ledger.credit(tenant, "top-up", "1000")
    ids = [f"call-{number}" for number in range(HONEST)]
    for number in range(POISONED):
        ids.insert(random.randrange(len(ids)), poisoned(sqlstate, number))

    async def debit(name: str) -> bool:
        try:
            await ledger.debit(hostile if name.startswith("poison") else honest, name, "1")
        except grpc.aio.AioRpcError:
            return False
        return True

    made = dict(zip(ids, await asyncio.gather(*map(debit, ids)), strict=True))

    assert [name for name, good in made.items() if good == name.startswith("poison")] == []
    last = await ledger.credit(honest, "end", "1")
    assert (last.balance.posted.value, last.transaction.sequence) == (str(1001 - HONEST), HONEST + 2)
    assert await ledger.findings() == []


@pytest.mark.shards
async def test_four_processes_share_hostile_and_honest_callers(server: BillingServer, database_admin_url: str) -> None:
    await plant_poison(database_admin_url, "billing.transactions")
    honest, hostile = organization(), organization()
    async with server.start() as one, server.start() as two, server.start() as three, server.start() as four:
        servers = (one, two, three, four)
        await one.credit(honest, "top-up", "1000")

        async def debit(ledger: Ledger, name: str) -> bool:
            try:
                await ledger.debit(hostile if name.startswith("poison") else honest, name, "1", mode=MUST_POST)
            except grpc.aio.AioRpcError:
                return False
            return True

        calls = [(ledger, f"call-{n}-{number}") for n, ledger in enumerate(servers) for number in range(HONEST)]
        calls += [(ledger, poisoned("22021", n)) for n, ledger in enumerate(servers)]
        random.shuffle(calls)
        ends = await asyncio.gather(*(debit(ledger, name) for ledger, name in calls))

        assert [n for (_, n), good in zip(calls, ends, strict=True) if good == n.startswith("poison")] == []
        assert await one.findings() == []
