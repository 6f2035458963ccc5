"""Holds that a process remembers: what another process has done to them meanwhile counts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.database_url import plain_url
from tests.billing.support import BillingServer, Ledger, organization, refusal, until_answered, usd
from tests.billing.test_replays import until_waiting
from tests.support.clock import FixedClock
from tests.support.sharded import in_shard_of
from tollhouse.billing.v1 import ledger_pb2 as pb

pytestmark = pytest.mark.shards

MINUTE = Duration(seconds=60)
HOUR = Duration(seconds=3_600)
_MORE_THAN_CAREFUL_BATCHES = 40
"""After a wrong assumption a process reads and locks for some batches before it decides over its cache again."""


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def pair(server: BillingServer, clock: FixedClock) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Two processes on one database."""
    async with server.start(clock, sweep_every_s=3600) as one, server.start(clock, sweep_every_s=3600) as two:
        yield one, two
        assert await one.findings() == []


async def _end_elsewhere(pair: tuple[Ledger, Ledger], clock: FixedClock, org: str, how: str) -> None:
    """Have the second process end the hold `call` of the first, which then reads the account again, without the hold.

    A larger hold stays open, so that no constraint finds it if the ended hold is released a second time.
    """
    one, two = pair
    await one.credit(org, "top-up", "100")
    await one.hold(org, "other", "8", ttl=HOUR)
    await one.hold(org, "call", "5", ttl=MINUTE)
    if how == "expire":
        clock.advance(timedelta(seconds=61))
        await two.debit(org, "later", "1")
    elif how == "release":
        await two.release(org, "call")
    else:
        await two.capture(org, "call", "6")
    for number in range(_MORE_THAN_CAREFUL_BATCHES):
        await one.debit(org, f"debit-{number}", "0.01")


@pytest.mark.parametrize("how", ["expire", "release"])
async def test_hold_that_another_process_ended_is_not_released_again_by_its_capture(
    pair: tuple[Ledger, Ledger], clock: FixedClock, how: str
) -> None:
    org = organization()
    await _end_elsewhere(pair, clock, org, how)
    captured = await pair[0].capture(org, "call", "6")
    assert (captured.released_amount, captured.overrun_amount) == (usd("0"), usd("6"))
    assert captured.balance.held == usd("8")


async def test_hold_that_another_process_captured_is_charged_once(
    pair: tuple[Ledger, Ledger], clock: FixedClock
) -> None:
    org = organization()
    await _end_elsewhere(pair, clock, org, "capture")
    again = await pair[0].capture(org, "call", "6")
    assert again.replayed
    assert (again.released_amount, again.overrun_amount) == (usd("0"), usd("1"))
    assert (await refusal(pair[0].capture(org, "call", "7")))[1] == "OPERATION_ID_REUSED"


async def test_hold_extended_by_another_process_is_captured_whole(
    pair: tuple[Ledger, Ledger], clock: FixedClock
) -> None:
    one, two = pair
    org = organization()
    await one.credit(org, "top-up", "10")
    await one.hold(org, "call", "5", ttl=MINUTE)
    await two.ledger.ExtendHold(
        pb.ExtendHoldRequest(organization_id=org, operation_id="call", ttl=HOUR), metadata=two.metadata
    )
    clock.advance(timedelta(seconds=90))
    captured = await one.capture(org, "call", "3")
    assert (captured.released_amount, captured.balance.held) == (usd("2"), usd("0"))


@pytest.mark.usefixtures("patient_locks")
async def test_hold_declined_by_one_process_is_never_placed_by_another(server: BillingServer) -> None:
    """Both are asked at the same time, with different amounts; the second decides over its cached account."""
    org = organization()
    connection = await asyncpg.connect(plain_url(server.database_url))
    async with server.start() as one, server.start() as two:
        await one.credit(org, "top-up", "10")
        await one.debit(org, "before", "1")
        async with connection.transaction():
            lock = "SELECT FROM billing.accounts WHERE organization_id = $1 FOR UPDATE"
            await connection.fetch(in_shard_of(org, lock), org)
            declined = asyncio.create_task(refusal(two.hold(org, "call", "50", ttl=MINUTE)))
            await until_waiting(connection, 1)
            reused = asyncio.create_task(refusal(one.hold(org, "call", "1", ttl=MINUTE)))
            await until_waiting(connection, 2)
        assert (await declined)[1] == "INSUFFICIENT_BALANCE"
        assert (await reused)[1] == "OPERATION_ID_REUSED"
        assert await one.findings() == []
    await connection.close()


@pytest.mark.own_database
async def test_holds_and_captures_sent_to_two_processes_at_once_are_made_once(pair: tuple[Ledger, Ledger]) -> None:
    org = organization()
    await pair[0].credit(org, "top-up", "1000")

    async def place(ledger: Ledger, number: int) -> bool:
        return (await until_answered(lambda: ledger.hold(org, f"call-{number}", "2", ttl=HOUR))).replayed

    async def capture(ledger: Ledger, number: int) -> bool:
        return (await until_answered(lambda: ledger.capture(org, f"call-{number}", "1"))).replayed

    for step in (place, capture):
        replayed = await asyncio.gather(*(step(ledger, number) for number in range(60) for ledger in pair))
        assert sum(replayed) == 60
    last = await pair[0].credit(org, "end", "1")
    assert (last.balance.posted, last.balance.held, last.transaction.sequence) == (usd("941"), usd("0"), 62)


async def test_repeated_hold_shows_its_state_after_a_capture_over_the_cache(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    placed = await ledger.hold(org, "call", "5", ttl=MINUTE)
    assert placed.hold.state == pb.HOLD_STATE_OPEN
    captured = await ledger.capture(org, "call", "4")
    assert (captured.released_amount, captured.balance.posted, captured.balance.held) == (usd("1"), usd("6"), usd("0"))
    again = await ledger.hold(org, "call", "5", ttl=MINUTE)
    assert again.replayed
    assert (again.hold.hold_id, again.hold.state) == (placed.hold.hold_id, pb.HOLD_STATE_CAPTURED)
