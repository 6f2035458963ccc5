"""Billing on a cluster, which words a violated constraint in its own way and may lose the machine that has the data."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import TypeVar

import grpc
import pytest

from tests.billing.organization_watches import until_true
from tests.billing.support import BillingServer, Ledger, organization, usd
from tests.support.callers import Callers
from tests.support.cluster import Cluster, clustered
from tollhouse.billing.v1 import account_pb2

_T = TypeVar("_T")
_LOST_FOR_S = 1.0


@pytest.fixture(params=[False, True], ids=["by statement", "by COPY"])
async def through(
    request: pytest.FixtureRequest, callers: Callers, database_urls: dict[str, str]
) -> AsyncIterator[tuple[BillingServer, Cluster]]:
    async with clustered(database_urls["billing"], by_copy=request.param) as (url, cluster):
        yield BillingServer(callers, url), cluster


async def test_operation_repeated_after_it_moved_money_is_charged_once(
    through: tuple[BillingServer, Cluster],
) -> None:
    server, cluster = through
    org = organization()
    async with server.start() as ledger:
        await ledger.credit(org, "top-up", "100")
        first = await ledger.debit(org, "call", "1")
        again = await ledger.debit(org, "call", "1")
        assert (first.replayed, again.replayed) == (False, True)
        assert again.transaction.transaction_id == first.transaction.transaction_id
        assert again.balance.posted == usd("99")
    assert cluster.reworded > 0


async def test_debits_of_two_servers_with_the_same_ids_charge_each_once(
    through: tuple[BillingServer, Cluster],
) -> None:
    server, cluster = through
    org = organization()
    codes: Counter[grpc.StatusCode] = Counter()
    async with server.start() as one, server.start() as two:
        await asyncio.gather(
            *(_repeated(lambda at=at: at.credit(org, "top-up", "1000"), codes) for at in (one, two))  # type: ignore[misc]
        )
        calls = [
            _repeated(lambda at=at, n=n: at.debit(org, f"call-{n}", "1"), codes)  # type: ignore[misc]
            for n in range(200)
            for at in (one, two)
        ]
        answers = await asyncio.gather(*calls)
        assert sum(not answer.replayed for answer in answers) == 200
        last = await one.credit(org, "end", "1")
        assert (last.balance.posted, last.transaction.sequence) == (usd("801"), 202)
        assert await two.findings() == []
    assert cluster.reworded > 0
    assert set(codes) <= {grpc.StatusCode.ABORTED}


async def test_account_that_many_callers_open_at_once_is_opened_once(
    through: tuple[BillingServer, Cluster],
) -> None:
    server, cluster = through
    org = organization()

    async def opened(ledger: Ledger) -> grpc.StatusCode:
        request = account_pb2.OpenAccountRequest(organization_id=org, currency_code="USD")
        try:
            await ledger.accounts.OpenAccount(request, metadata=ledger.metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async with server.start() as one, server.start() as two:
        codes = Counter(await asyncio.gather(*(opened(ledger) for ledger in (one, two) * 8)))
        assert codes.pop(grpc.StatusCode.OK) == 1
        assert set(codes) <= {grpc.StatusCode.ABORTED, grpc.StatusCode.ALREADY_EXISTS}
        assert await one.findings() == []
    assert cluster.reworded > 0


async def test_calls_are_unavailable_while_the_machine_is_lost_and_charged_once_when_it_is_back(
    through: tuple[BillingServer, Cluster],
) -> None:
    server, cluster = through
    org = organization()
    codes: Counter[grpc.StatusCode] = Counter()
    async with server.start() as ledger:
        await ledger.credit(org, "top-up", "1000")
        await ledger.debit(org, "before", "1")
        calls = [
            asyncio.create_task(_repeated(lambda n=n: ledger.debit(org, f"call-{n}", "1"), codes))  # type: ignore[misc]
            for n in range(60)
        ]
        cluster.lost = True
        await asyncio.sleep(_LOST_FOR_S)
        # On a busy machine it may take longer until some caller has heard of it.
        await until_true(lambda: bool(codes))
        assert not any(call.done() for call in calls)
        cluster.lost = False
        answers = await asyncio.gather(*calls)
        assert {answer.posted_amount.value for answer in answers} == {"1"}
        last = await ledger.credit(org, "end", "1")
        assert Decimal(last.balance.posted.value) == 1000 - 1 - 60 + 1
        assert last.transaction.sequence == 63
        assert await ledger.findings() == []
    assert cluster.broken_off > 0
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}


async def _repeated(call: Callable[[], Awaitable[_T]], codes: Counter[grpc.StatusCode]) -> _T:
    """Repeat a call as callers are told to, and count with what it was refused meanwhile."""
    for _ in range(200):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            codes[error.code()] += 1
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
                raise
        await asyncio.sleep(0.05)
    raise AssertionError(f"no answer after 200 tries: {codes}")
