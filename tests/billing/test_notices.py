"""Billing announces what happens to subscriptions, credits and balances, in the transaction of the change, once."""

import asyncio
from datetime import timedelta

import pytest

from libs.common.shards import Shards
from services.billing.notice.worker import NoticeWorker
from tests.billing.subscription_calls import NOW, Subscriptions, add_plan
from tests.billing.support import Ledger, organization, usd
from tests.billing.test_credits import DAY, at, balance
from tests.billing.test_run_periods import run
from tests.support.clock import FixedClock
from tests.support.events import announced
from tollhouse.billing.v1 import account_pb2

pytestmark = pytest.mark.shards


async def events(ledger: Ledger, org: str, kind: str) -> list[dict[str, object]]:
    return [data for _, _, data in await announced(ledger.channel, ledger.metadata, org, type=kind)]


async def set_threshold(ledger: Ledger, org: str, value: str | None) -> account_pb2.Account:
    """Set it by UpdateAccount and then by SetLowBalanceThreshold, which is to change nothing more."""
    listed = await ledger.accounts.ListAccounts(
        account_pb2.ListAccountsRequest(organization_id=org), metadata=ledger.metadata
    )
    account = account_pb2.Account(account_id=listed.accounts[0].account_id)
    threshold = None if value is None else usd(value)
    account.low_balance_threshold.CopyFrom(threshold) if threshold else None
    request = account_pb2.UpdateAccountRequest(organization_id=org, account=account)
    request.update_mask.paths.append("low_balance_threshold")
    updated = (await ledger.accounts.UpdateAccount(request, metadata=ledger.metadata)).account
    set_request = account_pb2.SetLowBalanceThresholdRequest(
        organization_id=org, account_id=account.account_id, threshold=threshold
    )
    answer = await ledger.accounts.SetLowBalanceThreshold(set_request, metadata=ledger.metadata)
    assert answer.account.low_balance_threshold == updated.low_balance_threshold
    return answer.account


async def test_a_low_balance_is_announced_once_for_each_crossing(
    timed: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    org = organization()
    workers = [NoticeWorker(billing_shards, clock, 1) for _ in range(3)]

    async def low_after(*movements: str) -> list[object]:
        for number, value in enumerate(movements):
            name = f"{len(movements)}-{number}-{value}"
            await (timed.credit(org, name, value) if value[0] != "-" else timed.debit(org, name, value[1:]))
        for _ in range(2):
            await asyncio.gather(*(worker.sweep(database) for worker in workers for database in billing_shards))
        return [data["posted"] for data in await events(timed, org, "tollhouse.balance.low")]

    assert await low_after("100") == []
    account = await set_threshold(timed, org, "20")
    assert account.low_balance_threshold.value == "20"
    assert await low_after("-80") == []
    assert await low_after("-1", "-2") == ["17"]
    assert await low_after("-3") == ["17"]
    assert await low_after("50", "-1", "-0.5") == ["17"]
    assert await low_after("-45.5", "-2", "-1", "-1") == ["17", "13"]
    await set_threshold(timed, org, "5")
    assert await low_after() == ["17", "13"]
    await set_threshold(timed, org, "30")
    assert await low_after() == ["17", "13", "13"]
    assert not (await set_threshold(timed, org, None)).HasField("low_balance_threshold")
    assert await low_after("-2") == ["17", "13", "13"]


async def test_credits_are_announced_a_week_before_they_expire_and_when_they_do_each_once(
    timed: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    org = organization()
    await timed.grant(org, "gift", "10", priority=2, expire_time=at(clock.now() + 10 * DAY))
    await timed.grant(org, "used", "5", priority=1, expire_time=at(clock.now() + 10 * DAY))
    await timed.grant(org, "lasting", "5", priority=9, expire_time=at(clock.now() + 300 * DAY))
    await timed.debit(org, "use", "5")
    workers = [NoticeWorker(billing_shards, clock, 1) for _ in range(3)]

    async def look() -> tuple[list[object], list[object]]:
        await asyncio.gather(*(worker.sweep(database) for worker in workers for database in billing_shards))
        soon = await events(timed, org, "tollhouse.credit_grant.expiring")
        gone = await events(timed, org, "tollhouse.credit_grant.expired")
        return [data["amount"] for data in soon], [data["expired"] for data in gone]

    assert await look() == ([], [])
    clock.advance(4 * DAY)
    assert sorted(map(str, (await look())[0])) == ["10", "5"]
    assert sorted(map(str, (await look())[0])) == ["10", "5"]
    clock.advance(7 * DAY)
    await asyncio.gather(*(balance(timed, org) for _ in range(5)))
    await timed.debit(org, "after", "1")
    _, gone = await look()
    assert gone == ["10"]


async def test_what_happens_to_a_subscription_is_announced_in_order(timed: Ledger, clock: FixedClock) -> None:
    calls = Subscriptions(timed)
    org = organization()
    await timed.credit(org, "top-up", "35")
    plan = await add_plan(timed, "monthly", "10")
    made = await calls.create(org, plan.plan_code)
    clock.advance(timedelta(days=31))
    await run(timed)
    await calls.cancel(made, timing=NOW)
    found = await announced(timed.channel, timed.metadata, org, subject=f"subscription/{made.subscription_id}")
    kinds = [kind.removeprefix("tollhouse.subscription.") for kind, _, _ in found]
    assert kinds == ["created", "renewed", "renewed", "cancelled"]
    assert found[2][2]["charge"] == {"currency_code": "USD", "value": "10"}
    assert [data["state"] for _, _, data in found] == ["PENDING", "ACTIVE", "ACTIVE", "CANCELLED"]
