"""Work of one hold that is charged in parts: each is charged once and in full, and the rest stays held."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tests.billing.support import (
    MINUTE,
    BillingServer,
    Ledger,
    balance_of,
    funded,
    hold_of,
    organization,
    parts_of,
    refusal,
    usd,
)
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tests.support.sharded import value_over_shards
from tollhouse.billing.v1 import account_pb2, charge_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

EXISTS = grpc.StatusCode.ALREADY_EXISTS
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
# Whatever an operation id may be made of, a part id may be.
ODD_IDS = (
    "%",
    "_",
    "call/%",
    "'--",
    "\\",
    "{0}",
    "*",
    "call/",
    "x" * 255,
    "null",
    "".join(map(chr, range(0x21, 0x7F))),
)


async def test_part_is_charged_under_its_own_id_and_the_hold_stays_open_with_the_rest(ledger: Ledger) -> None:
    org = await funded(ledger)
    part = await ledger.capture(org, "call", "2", part_id="call/1", description="first", metadata={"a": "b"})
    moved = part.transaction
    assert (moved.operation_id, moved.hold_operation_id, moved.kind) == ("call/1", "call", pb.TRANSACTION_KIND_CAPTURE)
    assert (moved.amount, moved.held_amount, moved.description, dict(moved.metadata)) == (
        *(usd(2), usd(5), "first", {"a": "b"}),
    )
    assert (part.released_amount, part.overrun_amount, part.replayed) == (usd(0), usd(0), False)
    assert (part.balance.posted, part.balance.held, part.balance.available) == (usd(8), usd(3), usd(5))
    hold = await hold_of(ledger, org)
    assert (hold.state, hold.amount, hold.captured_amount) == (pb.HOLD_STATE_OPEN, usd(5), usd(2))
    request = pb.GetTransactionRequest(organization_id=org, operation_id="call/1")
    assert (await ledger.ledger.GetTransaction(request, metadata=ledger.metadata)).transaction == moved


async def test_last_capture_charges_its_amount_and_releases_the_rest(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.capture(org, "call", "2", part_id="call/1")
    last = await ledger.capture(org, "call", "1.25")
    assert (last.transaction.held_amount, last.released_amount, last.overrun_amount) == (usd(3), usd("1.75"), usd(0))
    assert (last.balance.posted, last.balance.held) == (usd("6.75"), usd(0))
    assert last.transaction.hold_operation_id == ""
    hold = await hold_of(ledger, org)
    assert (hold.state, hold.captured_amount) == (pb.HOLD_STATE_CAPTURED, usd(2))
    again = await ledger.capture(org, "call", "1.25")
    assert (again.replayed, again.released_amount, again.transaction) == (True, usd("1.75"), last.transaction)


async def test_parts_above_the_hold_are_charged_in_full_and_overdraw(ledger: Ledger) -> None:
    org = await funded(ledger, "5")
    first = await ledger.capture(org, "call", "4", part_id="1")
    second = await ledger.capture(org, "call", "3", part_id="2")
    last = await ledger.capture(org, "call", "1")
    assert [a.overrun_amount for a in (first, second, last)] == [usd(0), usd(2), usd(1)]
    assert [a.transaction.overdrawn for a in (first, second, last)] == [False, True, True]
    assert [a.transaction.held_amount for a in (first, second, last)] == [usd(5), usd(1), usd(0)]
    assert (last.balance.posted, last.balance.held, last.released_amount) == (usd(-3), usd(0), usd(0))
    hold = await hold_of(ledger, org)
    assert (hold.state, hold.captured_amount) == (pb.HOLD_STATE_CAPTURED, usd(7))


async def test_part_within_the_hold_takes_nothing_from_others(ledger: Ledger) -> None:
    org = await funded(ledger, "5", hold="3")
    await ledger.hold(org, "other", "2")
    part = await ledger.capture(org, "call", "3", part_id="1")
    assert (part.transaction.overdrawn, part.balance.available, part.balance.held) == (False, usd(0), usd(2))
    assert (await refusal(ledger.debit(org, "more", "0.01")))[1] == "INSUFFICIENT_BALANCE"


async def test_part_that_cost_nothing_is_a_movement_of_zero(ledger: Ledger) -> None:
    org = await funded(ledger)
    part = await ledger.capture(org, "call", "0", part_id="1")
    assert (part.transaction.amount, part.transaction.sequence, part.transaction.held_amount) == (usd(0), 2, usd(5))
    assert part.balance.held == usd(5)
    assert (await ledger.capture(org, "call", "0", part_id="1")).replayed
    assert (await refusal(ledger.capture(org, "call", "1", part_id="1")))[2]["field"] == "amount"
    assert (await hold_of(ledger, org)).captured_amount == usd(0)


async def _release(ledger: Ledger, org: str, clock: FixedClock) -> None:
    assert (await ledger.release(org, "call")).released_amount == usd("3")


async def _expire(ledger: Ledger, org: str, clock: FixedClock) -> None:
    clock.advance(timedelta(minutes=1))


async def _capture(ledger: Ledger, org: str, clock: FixedClock) -> None:
    assert (await ledger.capture(org, "call", "0")).released_amount == usd("3")


@pytest.mark.parametrize("end", [_release, _expire, _capture])
async def test_part_after_the_hold_has_ended_is_charged_in_full(
    timed: Ledger, clock: FixedClock, end: Callable[[Ledger, str, FixedClock], Awaitable[None]]
) -> None:
    org = await funded(timed)
    await timed.capture(org, "call", "2", part_id="1")
    await end(timed, org, clock)
    assert (await balance_of(timed, org)).held == usd(0)
    ended = await hold_of(timed, org)
    late = await timed.capture(org, "call", "4", part_id="2")
    assert (late.transaction.held_amount, late.overrun_amount, late.released_amount) == (usd(0), usd(4), usd(0))
    assert (late.balance.posted, late.balance.held, late.transaction.overdrawn) == (usd(4), usd(0), False)
    hold = await hold_of(timed, org)
    assert (hold.state, hold.end_time, hold.captured_amount) == (ended.state, ended.end_time, usd(6))
    assert (await timed.capture(org, "call", "4", part_id="2")).replayed
    if end is not _capture:
        last = await timed.capture(org, "call", "1")
        assert (last.transaction.held_amount, last.balance.posted) == (usd(0), usd(3))
    assert {part.operation_id for part in await parts_of(timed, org)} == {"1", "2"}


@pytest.mark.own_database
async def test_sweeper_frees_the_rest_of_an_expired_hold(server: BillingServer, clock: FixedClock) -> None:
    async with server.start(clock, sweep_every_s=0.05) as ledger:
        org = await funded(ledger)
        await ledger.hold(org, "over", "1", ttl=MINUTE)
        await ledger.capture(org, "call", "2", part_id="1")
        await ledger.capture(org, "over", "2", part_id="2")
        clock.advance(timedelta(days=1))
        for _ in range(100):
            if not await ledger.findings():
                break
            await asyncio.sleep(0.05)
        assert await ledger.findings() == []
        assert (await balance_of(ledger, org)).held == usd(0)
        assert (await ledger.release(org, "call")).hold.state == pb.HOLD_STATE_EXPIRED


async def test_parts_are_listed_newest_first_with_the_other_filters(timed: Ledger, clock: FixedClock) -> None:
    org = await funded(timed, "20", hold="15")
    for number in range(7):
        await timed.capture(org, "call", "1", part_id=f"{number}")
        clock.advance(timedelta(seconds=1))
    await timed.capture(org, "call", "1")
    await timed.debit(org, "debit", "1")
    parts = await parts_of(timed, org)
    assert [part.operation_id for part in parts] == ["6", "5", "4", "3", "2", "1", "0"]
    assert {part.hold_operation_id for part in parts} == {"call"}
    some = await parts_of(timed, org, start_time=parts[4].create_time, end_time=parts[1].create_time)
    assert [part.operation_id for part in some] == ["4", "3", "2"]
    assert await parts_of(timed, org, kind=pb.TRANSACTION_KIND_DEBIT) == []
    assert await parts_of(timed, org, "debit") == []
    assert await parts_of(timed, organization()) == []
    request = pb.ListTransactionsRequest(organization_id=org, hold_operation_id="call", page_size=2)
    token = (await timed.ledger.ListTransactions(request, metadata=timed.metadata)).next_page_token
    other = pb.ListTransactionsRequest(organization_id=org, hold_operation_id="calls", page_size=2, page_token=token)
    assert (await refusal(timed.ledger.ListTransactions(other, metadata=timed.metadata)))[0] is INVALID


@pytest.mark.own_database
async def test_each_part_is_an_entry_of_the_statement_and_a_charge_under_its_own_id(
    ledger: Ledger, callers: Callers
) -> None:
    org = await funded(ledger)
    source = {"source": "metering"}
    metering = Ledger(ledger.channel, lambda: callers.service("metering"))
    first = await metering.capture(org, "call", "1", part_id="call/1", metadata=source)
    await metering.capture(org, "call", "2", part_id="call/2", metadata=source)
    await metering.capture(org, "call", "0.5", metadata=source)
    statement = account_pb2.GetStatementRequest(organization_id=org, account_id=first.transaction.account_id)
    entries = (await ledger.accounts.GetStatement(statement, metadata=ledger.metadata)).entries
    assert [(entry.operation_id, entry.amount) for entry in entries] == [
        *(("top-up", usd(10)), ("call/1", usd(-1)), ("call/2", usd(-2)), ("call", usd("-0.5"))),
    ]
    named = charge_pb2.ListChargesRequest(organization_id=org, operation_ids=["call/2", "call"])
    listed = await ledger.charge.ListCharges(named, metadata=ledger.metadata)
    assert [(c.operation_id, c.amount) for c in listed.charges] == [("call", usd("0.5")), ("call/2", usd(2))]
    request = charge_pb2.DigestChargesRequest(organization_ids=[org], bucket_count=1)
    pieces = [piece async for piece in ledger.charge.DigestCharges(request, metadata=ledger.metadata)]
    (digest,) = [digest for piece in pieces for digest in piece.digests]
    assert (digest.charge_count, digest.total) == (3, usd("3.5"))


async def test_part_is_reversed_like_any_transaction_and_stays_captured(ledger: Ledger) -> None:
    org = await funded(ledger)
    part = await ledger.capture(org, "call", "2", part_id="1")
    undone = await ledger.reverse(org, "undo", part.transaction.transaction_id)
    assert (undone.balance.posted, undone.balance.held) == (usd(10), usd(3))
    assert (await hold_of(ledger, org)).captured_amount == usd(2)


async def test_balance_of_an_earlier_time_counts_what_was_captured_by_then(timed: Ledger, clock: FixedClock) -> None:
    org = await funded(timed)
    moments = [clock.now()]
    for part_id, value in (("1", "1"), ("2", "3"), ("3", "3"), ("", "1"), ("4", "1")):
        clock.advance(timedelta(seconds=1))
        await timed.capture(org, "call", value, part_id=part_id)
        moments.append(clock.now())
    clock.advance(timedelta(hours=1))
    then = [await balance_of(timed, org, as_of_time=render_time(moment)) for moment in moments]
    assert [balance.held for balance in then] == [usd(5), usd(4), usd(1), usd(0), usd(0), usd(0)]
    assert [balance.posted for balance in then] == [usd(10), usd(9), usd(6), usd(3), usd(2), usd(1)]


async def test_captured_amount_stays_within_what_an_amount_can_be(ledger: Ledger, database_admin_url: str) -> None:
    org = await funded(ledger)
    most = str(Decimal(10) ** 15 - 1)
    await ledger.capture(org, "call", most, part_id="1")
    await ledger.credit(org, "more", most)
    code, reason, _ = await refusal(ledger.capture(org, "call", "1", part_id="2"))
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "BALANCE_OUT_OF_RANGE")
    assert (await hold_of(ledger, org)).captured_amount == usd(most)
    assert (await ledger.capture(org, "call", "1")).balance.posted == usd(9)
    stored = "SELECT count(*) FROM billing.transactions WHERE hold_operation_id IS NOT NULL"
    assert await value_over_shards(database_admin_url, stored) == 1


async def test_projects_hold_is_captured_in_parts_from_the_account_that_held_it(ledger: Ledger) -> None:
    org, project = await funded(ledger, hold=None), new_id()
    await ledger.hold(org, "call", "5", project_id=project)
    # The project gets an account of its own after the hold was placed on the organization's.
    await ledger.credit(org, "allocation", "100", project_id=project)
    part = await ledger.capture(org, "call", "1", part_id="1")
    assert (part.balance.posted, part.balance.held, part.transaction.project_id) == (usd(9), usd(4), project)
