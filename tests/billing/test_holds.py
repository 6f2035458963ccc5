"""Holds and time: an expired hold stops counting at once and still lets its work be charged, exactly once."""

import asyncio
from datetime import timedelta

import pytest

from tests.billing.support import MINUTE, BillingServer, Ledger, balance_of, organization, refusal, usd
from tests.support.clock import FixedClock
from tests.support.sharded import execute_in_shards, value_over_shards
from tollhouse.billing.v1 import ledger_pb2 as pb


async def _state(ledger: Ledger, org: str, operation_id: str) -> pb.HoldState.ValueType:
    request = pb.GetHoldRequest(organization_id=org, operation_id=operation_id)
    return (await ledger.ledger.GetHold(request, metadata=ledger.metadata)).hold.state


async def test_expired_hold_stops_counting_at_once(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.credit(org, "top-up", "5")
    await timed.hold(org, "call", "5", ttl=MINUTE)
    refused = await refusal(timed.debit(org, "too-soon", "1"))
    assert refused[2]["earliest_release_time"] == "2026-03-15T12:01:00Z"
    clock.advance(timedelta(seconds=60))
    assert (await balance_of(timed, org)).held == usd("0")
    assert await _state(timed, org, "call") == pb.HOLD_STATE_EXPIRED
    assert (await timed.debit(org, "now", "5")).balance.available == usd("0")
    assert (await timed.release(org, "call")).hold.state == pb.HOLD_STATE_EXPIRED


async def test_capture_after_expiry_charges_the_whole_once(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.credit(org, "top-up", "5")
    await timed.hold(org, "call", "5", ttl=MINUTE)
    clock.advance(timedelta(hours=1))
    captured = await timed.capture(org, "call", "6")
    assert captured.overrun_amount == usd("6")
    assert captured.released_amount == usd("0")
    assert captured.balance.posted == usd("-1")
    assert (await timed.capture(org, "call", "6")).replayed
    assert await _state(timed, org, "call") == pb.HOLD_STATE_EXPIRED


async def test_extended_hold_outlives_its_first_expiry(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.credit(org, "top-up", "5")
    await timed.hold(org, "call", "5", ttl=MINUTE)
    clock.advance(timedelta(seconds=59))
    request = pb.ExtendHoldRequest(organization_id=org, operation_id="call", ttl=MINUTE)
    await timed.ledger.ExtendHold(request, metadata=timed.metadata)
    clock.advance(timedelta(seconds=30))
    assert (await timed.capture(org, "call", "5")).overrun_amount == usd("0")
    assert (await refusal(timed.ledger.ExtendHold(request, metadata=timed.metadata)))[1] == "HOLD_ENDED"


async def test_captures_racing_expiry_end_each_hold_once(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.credit(org, "top-up", "51")
    await asyncio.gather(*(timed.hold(org, f"call-{n}", "1", ttl=MINUTE) for n in range(50)))

    async def expire() -> None:
        await asyncio.sleep(0.005)
        clock.advance(timedelta(seconds=60))

    captures = asyncio.gather(*(timed.capture(org, f"call-{n}", "1") for n in range(50)))
    await asyncio.gather(captures, expire(), *(timed.debit(org, f"debit-{n}", "0.001") for n in range(50)))
    balance = await balance_of(timed, org)
    assert (balance.posted, balance.held) == (usd("0.95"), usd("0"))


@pytest.mark.own_database
async def test_sweeper_ends_expired_holds_of_unused_accounts(server: BillingServer, clock: FixedClock) -> None:
    async with server.start(clock, sweep_every_s=0.05) as ledger:
        org = organization()
        await ledger.credit(org, "top-up", "5")
        await ledger.hold(org, "call", "5", ttl=MINUTE)
        clock.advance(timedelta(days=1))
        for _ in range(100):
            if not await ledger.findings():
                break
        assert await ledger.findings() == []


async def test_account_that_fails_in_the_sweeper_keeps_no_other_from_its_turn(
    server: BillingServer, clock: FixedClock, database_admin_url: str
) -> None:
    async with server.start(clock, sweep_every_s=0.05) as ledger:
        orgs = sorted(organization() for _ in range(5))
        for org in orgs:
            await ledger.credit(org, "top-up", "5")
            await ledger.hold(org, "call", "5", ttl=MINUTE)
        broken = orgs[2]
        refuse = f"ALTER TABLE billing.accounts ADD CONSTRAINT broken CHECK (organization_id <> '{broken}') NOT VALID"
        await execute_in_shards(database_admin_url, refuse)
        clock.advance(timedelta(days=1))
        tidied = "SELECT count(*) FROM billing.holds WHERE state = 'EXPIRED' AND organization_id <> $1"
        for _ in range(100):
            if await value_over_shards(database_admin_url, tidied, broken) == len(orgs) - 1:
                break
            await asyncio.sleep(0.05)
        assert await value_over_shards(database_admin_url, tidied, broken) == len(orgs) - 1
        assert {finding.split(":")[0] for finding in await ledger.findings()} == {"holds_end_once"}

        await execute_in_shards(database_admin_url, "ALTER TABLE billing.accounts DROP CONSTRAINT broken")
        for _ in range(100):
            if not await ledger.findings():
                break
        assert await ledger.findings() == []
