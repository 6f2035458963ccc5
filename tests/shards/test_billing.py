"""Billing over several shards: calls that concern several, and what one shard must not do to the others."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from services.billing.subscription.progress import LOCKS_POOL_SIZE
from tests.billing.support import BillingServer, Ledger, refusal, usd
from tests.metering.support import eventually
from tests.shards.support import SHARDS, answered, locked, one_in_each, organization_in, soon
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tests.support.sharded import value_in_shard_of, value_over_shards
from tests.support.transaction_pooler import pooled
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

OPEN_HOLDS = "SELECT count(*) FROM billing.holds WHERE state = 'OPEN'"
TABLES = ("accounts", "transactions", "holds", "declines")


def debit(organization_id: str, operation_id: str, value: str = "1", **fields: object) -> pb.DebitRequest:
    return pb.DebitRequest(
        organization_id=organization_id,
        operation_id=operation_id,
        amount=usd(value),
        **fields,  # type: ignore[arg-type]
    )


async def batch(ledger: Ledger, *requests: pb.DebitRequest) -> list[pb.DebitOutcome]:
    answer = await ledger.ledger.BatchDebit(pb.BatchDebitRequest(requests=requests), metadata=ledger.metadata)
    return list(answer.outcomes)


async def posted(ledger: Ledger, organization_id: str) -> str:
    request = account_pb2.GetBalanceRequest(organization_id=organization_id)
    return (await ledger.accounts.GetBalance(request, metadata=ledger.metadata)).balance.posted.value


async def test_batch_over_shards_answers_in_order_and_charges_each_once(server: BillingServer, admin_url: str) -> None:
    organizations = one_in_each()
    async with server.start() as ledger:
        for organization_id in organizations:
            await ledger.credit(organization_id, "top-up", "100")
        requests = [debit(organizations[number * 7 % SHARDS], f"call-{number}") for number in range(60)]

        outcomes = await batch(ledger, *requests)
        again = await batch(ledger, *requests)

        assert [outcome.response.transaction.operation_id for outcome in outcomes] == [r.operation_id for r in requests]
        assert [o.response.transaction for o in again] == [o.response.transaction for o in outcomes]
        assert not any(outcome.response.replayed for outcome in outcomes)
        assert all(outcome.response.replayed for outcome in again)
        assert [await posted(ledger, organization_id) for organization_id in organizations] == ["80"] * SHARDS
        count = "SELECT count(*) FROM billing.transactions WHERE kind = 'DEBIT'"
        for organization_id in organizations:
            assert await value_in_shard_of(organization_id, admin_url, count) == 20


async def test_item_that_is_refused_in_one_shard_fails_alone(server: BillingServer) -> None:
    rich, poor, other = one_in_each()
    async with server.start() as ledger:
        for organization_id, value in ((rich, "100"), (poor, "0.5"), (other, "100")):
            await ledger.credit(organization_id, "top-up", value)

        outcomes = await batch(
            ledger,
            debit(rich, "a"),
            debit(poor, "b"),
            debit(other, "c"),
            debit("no id", "d"),
            debit(poor, "e", "0.5"),
            debit(rich, "f"),
        )

        assert [outcome.HasField("response") for outcome in outcomes] == [True, False, True, False, True, True]
        assert [await posted(ledger, organization_id) for organization_id in (rich, poor, other)] == ["98", "0", "99"]


async def test_one_operation_id_is_another_operation_in_each_organization(server: BillingServer) -> None:
    organizations = [*one_in_each(), organization_in(0)]
    async with server.start() as ledger:
        for organization_id in organizations:
            await ledger.credit(organization_id, "top-up", "10")
        outcomes = await batch(ledger, *(debit(one, "call", str(place + 1)) for place, one in enumerate(organizations)))
        assert not any(outcome.response.replayed for outcome in outcomes)
        assert [await posted(ledger, one) for one in organizations] == ["9", "8", "7", "6"]


async def test_lists_and_page_tokens_show_the_callers_organization_only(server: BillingServer) -> None:
    first, second, third = one_in_each()
    neighbour = organization_in(0)
    async with server.start() as ledger:
        for organization_id in (first, second, third, neighbour):
            await ledger.credit(organization_id, "top-up", "100")
            await batch(ledger, *(debit(organization_id, f"{organization_id}/{number}") for number in range(5)))

        listed: list[str] = []
        request = pb.ListTransactionsRequest(organization_id=first, page_size=2)
        while True:
            page = await ledger.ledger.ListTransactions(request, metadata=ledger.metadata)
            assert {transaction.organization_id for transaction in page.transactions} <= {first}
            listed += [transaction.operation_id for transaction in page.transactions]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            for stranger in (second, neighbour):
                foreign = pb.ListTransactionsRequest(
                    organization_id=stranger, page_size=2, page_token=request.page_token
                )
                code, _, _ = await refusal(ledger.ledger.ListTransactions(foreign, metadata=ledger.metadata))
                assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert sorted(listed) == sorted([f"{first}/{number}" for number in range(5)] + ["top-up"])

        mine = await ledger.ledger.GetTransaction(
            pb.GetTransactionRequest(organization_id=first, operation_id=f"{first}/0"), metadata=ledger.metadata
        )
        for stranger in (second, neighbour):
            one = pb.GetTransactionRequest(organization_id=stranger, transaction_id=mine.transaction.transaction_id)
            code, _, _ = await refusal(ledger.ledger.GetTransaction(one, metadata=ledger.metadata))
            assert code == grpc.StatusCode.NOT_FOUND


async def test_two_sweepers_end_the_holds_of_every_shard_once(server: BillingServer, admin_url: str) -> None:
    clock = FixedClock()
    organizations = [organization_in(shard) for shard in range(SHARDS) for _ in range(4)]
    async with server.start(clock, sweep_every_s=0.05) as one, server.start(clock, sweep_every_s=0.05):
        for organization_id in organizations:
            await one.credit(organization_id, "top-up", "5")
            await one.hold(organization_id, "call", "5", ttl=Duration(seconds=60))
        clock.advance(timedelta(days=1))
        await eventually(lambda: value_over_shards(admin_url, OPEN_HOLDS), lambda count: count == 0)
        assert await value_over_shards(admin_url, "SELECT array_agg(DISTINCT held) FROM billing.accounts") == [0]
        assert await one.findings() == []


@pytest.mark.parametrize(("shards", "calls_each"), [(1, 200), (2, 60)])
async def test_locked_shards_delay_no_call_of_another(
    server: BillingServer, admin_url: str, shards: int, calls_each: int
) -> None:
    organizations = one_in_each()
    stuck, others = organizations[:shards], organizations[shards:]
    async with server.start() as ledger:
        for organization_id in organizations:
            await ledger.credit(organization_id, "top-up", "1000")
        names = [f"stuck-{number}" for number in range(calls_each)]
        async with AsyncExitStack() as locks:
            for shard in range(shards):
                await locks.enter_async_context(locked(admin_url, "billing", shard, TABLES))
            waiting = [asyncio.create_task(answered(ledger.debit(one, name, "1"))) for one in stuck for name in names]
            await asyncio.sleep(0.2)
            for turn in range(3):
                for organization_id in others:
                    await soon(*(ledger.debit(organization_id, f"call-{turn}-{n}", "1") for n in range(20)))
                    await soon(ledger.hold(organization_id, f"hold-{turn}", "1"))
                    await soon(ledger.capture(organization_id, f"hold-{turn}", "1"))
                    await soon(posted(ledger, organization_id))
                    request = pb.ListTransactionsRequest(organization_id=organization_id)
                    await soon(ledger.ledger.ListTransactions(request, metadata=ledger.metadata))
            assert not any(call.done() for call in waiting)
        await asyncio.gather(*waiting)
        for organization_id in stuck:
            outcomes = await batch(ledger, *(debit(organization_id, name) for name in names))
            assert all(outcome.HasField("response") for outcome in outcomes)
            assert await posted(ledger, organization_id) == str(1000 - calls_each)
        assert await ledger.findings() == []


async def test_sweeper_ends_holds_beside_a_locked_shard(server: BillingServer, admin_url: str) -> None:
    clock = FixedClock()
    organizations = one_in_each()
    async with server.start(clock, sweep_every_s=0.05) as ledger:
        for organization_id in organizations:
            await ledger.credit(organization_id, "top-up", "5")
            await ledger.hold(organization_id, "call", "5", ttl=Duration(seconds=60))
        async with locked(admin_url, "billing", 0, TABLES):
            clock.advance(timedelta(days=1))
            for one in organizations[1:]:
                await eventually(
                    lambda one=one: value_in_shard_of(one, admin_url, OPEN_HOLDS),  # type: ignore[misc]
                    lambda count: count == 0,
                )


async def test_process_keeps_to_its_connections_over_all_shards(server: BillingServer, admin_url: str) -> None:
    pool_size, others = 4, 2 + 2 + LOCKS_POOL_SIZE
    async with server.start(pool_size=pool_size) as ledger:
        organizations = [organization_in(number % SHARDS) for number in range(60)]
        for turn in range(3):
            await asyncio.gather(*(ledger.credit(one, f"top-up-{turn}", "5") for one in organizations))
            await asyncio.gather(*(posted(ledger, one) for one in organizations))
        opened = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'tollhouse-billing'"
        )
        count = await value_over_shards(admin_url, opened)
        assert isinstance(count, int)
        assert 0 < count <= pool_size + others


async def test_calls_go_to_the_right_shard_through_a_transaction_pooler(
    callers: Callers, urls: dict[str, str], admin_url: str
) -> None:
    organizations = one_in_each()
    async with pooled(urls["billing"]) as (url, pooler):
        async with BillingServer(callers, url).start(statement_cache_size=0) as ledger:
            for organization_id in organizations:
                await ledger.credit(organization_id, "top-up", "100")
            outcomes = await batch(ledger, *(debit(organizations[n % SHARDS], f"call-{n}") for n in range(60)))
            assert all(outcome.HasField("response") for outcome in outcomes)
            await asyncio.gather(*(ledger.hold(one, "held", "10") for one in organizations))
            await asyncio.gather(*(ledger.capture(one, "held", "12") for one in organizations))
            assert [await posted(ledger, one) for one in organizations] == ["68"] * SHARDS
            assert await ledger.findings() == []
        assert pooler.transactions > 10
    for organization_id in organizations:
        owners = "SELECT array_agg(DISTINCT organization_id::text) FROM billing.transactions"
        assert await value_in_shard_of(organization_id, admin_url, owners) == [organization_id]
