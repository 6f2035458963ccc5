"""Holds are enlarged where enough is available, and stay the holds that were asked for."""

from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.clock import SystemClock
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from libs.common.status import field_violations
from services.billing.invariants import CHECKS
from services.billing.ledger.domain import (
    ZERO,
    Capture,
    Command,
    Credit,
    Decline,
    Extend,
    HoldState,
    Place,
    Placed,
    SystemAccount,
)
from services.billing.ledger.engine import Engine
from services.billing.ledger.history import History
from tests.billing.support import MINUTE, Ledger, funded, hold_of, organization, refusal, usd
from tests.support.clock import FixedClock
from tests.support.invariants import findings_of
from tests.support.sharded import execute_in_shards, value_over_shards
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

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


async def test_hold_that_is_placed_captured_and_enlarged_in_one_batch_is_stored_as_it_ends(
    billing_shards: Shards,
) -> None:
    org, clock, one = organization(), SystemClock(), Decimal(1)
    engine = Engine(billing_shards, clock)
    await engine.submit([Credit(org, "top-up", None, "USD", Decimal(10), SystemAccount.PAYMENTS, "", None, "system")])
    commands: list[Command] = [
        Place(org, "open", None, "USD", one, 60_000, "", None, "system"),
        Capture(org, "open/1", "open", "USD", one / 2, "", None, "system"),
        Extend(org, "open", 90_000, currency_code="USD", amount=one * 2),
        Place(org, "ended", None, "USD", one, 60_000, "", None, "system"),
        Extend(org, "ended", 1, currency_code="USD", amount=one * 3),
        Capture(org, "ended/1", "ended", "USD", one * 2, "", None, "system"),
        Capture(org, "ended", None, "USD", one / 2, "", None, "system"),
        Capture(org, "ended/late", "ended", "USD", one, "", None, "system"),
    ]
    answers = await engine.submit(commands)
    again = await engine.submit([commands[0], commands[3]])
    await engine.drain()

    assert not any(isinstance(answer, Exception | Decline) for answer in (*answers, *again))
    assert [answer.replayed for answer in again if isinstance(answer, Placed)] == [True, True]
    history = History(billing_shards, clock)
    opened, ended = await history.hold(org, "open"), await history.hold(org, "ended")
    assert (opened.state, opened.amount, opened.captured_amount, opened.reserved) == (
        *(HoldState.OPEN, one * 2, one / 2, one * 3 / 2),
    )
    assert (ended.state, ended.amount, ended.captured_amount, ended.reserved) == (
        *(HoldState.CAPTURED, one * 3, one * 3, ZERO),
    )
    last, _ = await history.transaction(org, transaction_id=None, operation_id="ended")
    assert (last.held_amount, last.balance_after) == (one, one * 7)
    assert await findings_of(Verification(billing_shards, clock, CHECKS)) == []


async def test_account_with_an_open_hold_that_is_all_captured_closes_and_takes_the_rest_of_the_work(
    ledger: Ledger,
) -> None:
    org = await funded(ledger, "5")
    part = await ledger.capture(org, "call", "5", part_id="1")
    account = account_pb2.CloseAccountRequest(organization_id=org, account_id=part.transaction.account_id)
    await ledger.accounts.CloseAccount(account, metadata=ledger.metadata)
    assert (await refusal(ledger.extend(org, "call", "6")))[1] == "ACCOUNT_CLOSED"
    assert (await ledger.capture(org, "call", "1", part_id="2")).balance.posted == usd(-1)
    assert (await ledger.capture(org, "call", "1")).balance.posted == usd(-2)


async def test_enlarged_hold_keeps_back_more_and_lives_longer(timed: Ledger, clock: FixedClock) -> None:
    org = await funded(timed)
    placed = await hold_of(timed, org)
    larger = await timed.extend(org, "call", "8", seconds=90)
    assert (larger.hold.amount, larger.balance.held, larger.balance.available) == (usd(8), usd(8), usd(2))
    assert larger.hold.expire_time.seconds == placed.expire_time.seconds + 30
    again = await timed.extend(org, "call", "8", seconds=90)
    assert (again.hold, again.balance) == (larger.hold, larger.balance)
    smaller = await timed.extend(org, "call", "1", seconds=1)
    assert (smaller.hold, smaller.balance) == (larger.hold, larger.balance)
    assert await hold_of(timed, org) == larger.hold
    captured = await timed.capture(org, "call", "7")
    assert (captured.transaction.held_amount, captured.released_amount, captured.balance.held) == (
        *(usd(8), usd(1), usd(0)),
    )
    assert (await refusal(timed.extend(org, "call", "9")))[1] == "HOLD_ENDED"


async def test_amount_of_an_enlarged_hold_includes_what_was_captured_in_parts(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.capture(org, "call", "6", part_id="1")
    # The parts are above the hold by one, which is the first that an enlargement covers.
    assert (await ledger.extend(org, "call", "5.5")).balance.held == usd(0)
    larger = await ledger.extend(org, "call", "8")
    assert (larger.hold.amount, larger.hold.captured_amount, larger.balance.held) == (usd(8), usd(6), usd(2))
    part = await ledger.capture(org, "call", "1.5", part_id="2")
    assert (part.transaction.held_amount, part.balance.held) == (usd(2), usd("0.5"))
    assert (await ledger.release(org, "call")).released_amount == usd("0.5")


async def test_enlargement_beyond_what_is_available_changes_nothing_and_is_decided_anew(
    timed: Ledger, clock: FixedClock, database_admin_url: str
) -> None:
    org = await funded(timed)
    before = await hold_of(timed, org)
    code, reason, facts = await refusal(timed.extend(org, "call", "10.5", seconds=3600))
    assert (code, reason) == (PRECONDITION, "INSUFFICIENT_BALANCE")
    assert facts == {
        "account_id": before.account_id,
        "currency_code": "USD",
        "posted": "10",
        "held": "5",
        "overdraft_limit": "0",
        "available": "5",
        "needed": "5.5",
        "earliest_release_time": "2026-03-15T12:01:00Z",
    }
    assert await hold_of(timed, org) == before
    assert await value_over_shards(database_admin_url, "SELECT count(*) FROM billing.declines") == 0
    await timed.credit(org, "more", "0.5")
    assert (await timed.extend(org, "call", "10.5", seconds=3600)).balance.available == usd(0)


async def test_enlargement_that_needs_nothing_succeeds_in_an_overdrawn_account(ledger: Ledger) -> None:
    org = await funded(ledger, "5")
    await ledger.capture(org, "call", "7", part_id="1")
    larger = await ledger.extend(org, "call", "6")
    assert (larger.hold.amount, larger.balance.held, larger.balance.available) == (usd(6), usd(0), usd(-2))
    assert (await refusal(ledger.extend(org, "call", "7.01")))[2]["needed"] == "0.01"


async def test_placing_an_enlarged_hold_again_is_a_repeat_with_the_amount_first_asked_for(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.extend(org, "call", "6")
    await ledger.extend(org, "call", "7")
    again = await ledger.hold(org, "call", "5", ttl=MINUTE)
    assert (again.replayed, again.hold.amount, again.balance.held) == (True, usd(7), usd(7))
    for value in ("6", "7"):
        assert (await refusal(ledger.hold(org, "call", value, ttl=MINUTE)))[2]["field"] == "amount"


async def test_hold_from_before_parts_is_captured_in_parts_and_enlarged(
    ledger: Ledger, database_admin_url: str
) -> None:
    """The columns of a row that an earlier version wrote have their defaults."""
    org = await funded(ledger)
    await execute_in_shards(
        database_admin_url, "UPDATE billing.holds SET captured_amount = DEFAULT, requested_amount = DEFAULT"
    )
    assert (await ledger.hold(org, "call", "5", ttl=MINUTE)).replayed
    assert (await ledger.capture(org, "call", "1", part_id="1")).balance.held == usd(4)
    assert (await ledger.extend(org, "call", "6")).balance.held == usd(5)


@pytest.mark.parametrize("value", ["0", "0.000", "-1", "NaN", "1e3", "", "1" + "0" * 15])
async def test_enlargement_to_no_amount_is_refused_and_names_all_faults(ledger: Ledger, value: str) -> None:
    org = await funded(ledger)
    request = pb.ExtendHoldRequest(
        organization_id=org, operation_id="call", amount=Amount(currency_code="USD", value=value)
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.ledger.ExtendHold(request, metadata=ledger.metadata)
    assert refused.value.code() is INVALID
    assert field_violations(refused.value).keys() == {"ttl", "amount.value"}


async def test_enlargement_in_another_currency_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    org = await funded(ledger)
    before = await hold_of(ledger, org)
    for value in ("1", "9"):
        amount = Amount(currency_code="EUR", value=value)
        request = pb.ExtendHoldRequest(
            organization_id=org, operation_id="call", ttl=Duration(seconds=3600), amount=amount
        )
        refused = await refusal(ledger.ledger.ExtendHold(request, metadata=ledger.metadata))
        assert refused[:2] == (PRECONDITION, "CURRENCY_MISMATCH")
    assert await hold_of(ledger, org) == before
