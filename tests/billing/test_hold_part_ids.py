"""The ids of parts are operation ids: each has one movement, whoever asks again, for what, and at the same time."""

import asyncio
import random
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.billing.support import (
    MINUTE,
    BillingServer,
    Ledger,
    balance_of,
    funded,
    hold_of,
    parts_of,
    refusal,
    until_answered,
    usd,
)
from tests.support.clock import FixedClock
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


async def test_repeated_part_is_charged_once_also_after_the_hold_has_ended(ledger: Ledger) -> None:
    org = await funded(ledger)
    first = await ledger.capture(org, "call", "2", part_id="1", description="x")
    again = await ledger.capture(org, "call", "2.000", part_id="1", description="x")
    await ledger.capture(org, "call", "3")
    after = await ledger.capture(org, "call", "2", part_id="1", description="x")
    for repeat in (again, after):
        assert (repeat.replayed, repeat.transaction, repeat.balance.posted) == (True, first.transaction, usd(8))
        assert (repeat.released_amount, repeat.overrun_amount) == (usd(0), usd(0))
    assert (again.balance.held, after.balance.held) == (usd(3), usd(0))
    assert (await balance_of(ledger, org)).posted == usd(5)


async def test_part_id_with_another_body_is_refused_and_names_the_field(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.hold(org, "other", "1")
    await ledger.capture(org, "call", "2", part_id="1")
    for call, field in (
        (ledger.capture(org, "call", "3", part_id="1"), "amount"),
        (ledger.capture(org, "call", "2", part_id="1", description="x"), "description"),
        (ledger.capture(org, "call", "2", part_id="1", metadata={"a": "b"}), "metadata"),
        (ledger.capture(org, "other", "2", part_id="1"), "operation_id"),
        # Nor is it the id of a capture without a part, or of another command.
        (ledger.capture(org, "1", "2"), "part_id"),
        (ledger.debit(org, "1", "2"), "kind"),
        (ledger.credit(org, "1", "2"), "kind"),
    ):
        code, reason, facts = await refusal(call)
        assert (code, reason, facts["field"], facts["operation_id"]) == (EXISTS, "OPERATION_ID_REUSED", field, "1")
    assert (await ledger.capture(org, "call", "2", part_id="1")).replayed
    assert (await hold_of(ledger, org, "other")).captured_amount == usd(0)


async def test_part_id_that_another_movement_or_decline_has_is_refused(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.debit(org, "debit", "1")
    assert (await refusal(ledger.debit(org, "declined", "100")))[1] == "INSUFFICIENT_BALANCE"
    await ledger.hold(org, "other", "1")
    await ledger.capture(org, "other", "1")
    for part_id, field in (("debit", "kind"), ("declined", "kind"), ("top-up", "kind"), ("other", "part_id")):
        code, reason, facts = await refusal(ledger.capture(org, "call", "1", part_id=part_id))
        assert (code, reason, facts["field"]) == (EXISTS, "OPERATION_ID_REUSED", field)
    assert (await hold_of(ledger, org)).captured_amount == usd(0)


async def test_part_id_may_also_name_a_hold_whose_movement_it_then_is(ledger: Ledger) -> None:
    org = await funded(ledger)
    await ledger.hold(org, "call/1", "1")
    await ledger.capture(org, "call", "2", part_id="call/1")
    assert (await refusal(ledger.capture(org, "call/1", "1")))[2]["field"] == "part_id"
    # A part of that other hold is nevertheless another movement.
    assert (await ledger.capture(org, "call/1", "0.5", part_id="call/1/1")).balance.held == usd("3.5")
    assert (await ledger.release(org, "call/1")).released_amount == usd("0.5")
    assert (await balance_of(ledger, org)).held == usd(3)


async def test_part_id_of_the_operation_itself_is_refused(ledger: Ledger) -> None:
    org = await funded(ledger)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.capture(org, "call", "-1", part_id="call")
    assert refused.value.code() is INVALID
    assert field_violations(refused.value).keys() == {"part_id", "amount.value"}


async def test_part_of_a_hold_that_never_was_is_refused_and_leaves_its_id_free(ledger: Ledger) -> None:
    org = await funded(ledger, hold=None)
    code, reason, facts = await refusal(ledger.capture(org, "call", "1", part_id="1"))
    assert (code, reason, facts["operation_id"]) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND", "call")
    await ledger.hold(org, "call", "1")
    assert not (await ledger.capture(org, "call", "1", part_id="1")).replayed
    stranger = await funded(ledger, hold=None)
    assert (await refusal(ledger.capture(stranger, "call", "1", part_id="1")))[1] == "HOLD_NOT_FOUND"


async def test_part_in_another_currency_is_refused(ledger: Ledger) -> None:
    org = await funded(ledger)
    request = pb.CaptureHoldRequest(
        organization_id=org, operation_id="call", part_id="1", amount=Amount(currency_code="EUR", value="1")
    )
    refused = await refusal(ledger.ledger.CaptureHold(request, metadata=ledger.metadata))
    assert refused[:2] == (PRECONDITION, "CURRENCY_MISMATCH")


async def test_odd_part_ids_are_ids_like_others(ledger: Ledger) -> None:
    org = await funded(ledger, "100", hold="50")
    for part_id in ODD_IDS:
        assert (await ledger.capture(org, "call", "1", part_id=part_id)).transaction.operation_id == part_id
        assert (await ledger.capture(org, "call", "1", part_id=part_id)).replayed
    assert {part.operation_id for part in await parts_of(ledger, org)} == set(ODD_IDS)
    assert (await hold_of(ledger, org)).captured_amount == usd(len(ODD_IDS))


async def test_parts_of_odd_operations_are_found_by_exactly_their_name(ledger: Ledger) -> None:
    org = await funded(ledger, "100", hold=None)
    for number, operation_id in enumerate(ODD_IDS):
        await ledger.hold(org, operation_id, "1")
        await ledger.capture(org, operation_id, "0.5", part_id=f"part-{number}")
    for number, operation_id in enumerate(ODD_IDS):
        assert [part.operation_id for part in await parts_of(ledger, org, operation_id)] == [f"part-{number}"]


async def test_batch_decides_parts_and_the_last_capture_of_one_hold_in_order(ledger: Ledger) -> None:
    org = await funded(ledger)

    def capture(value: str, part_id: str = "", operation_id: str = "call") -> pb.CaptureHoldRequest:
        return pb.CaptureHoldRequest(organization_id=org, operation_id=operation_id, part_id=part_id, amount=usd(value))

    requests = [
        *(capture("1", "1"), capture("2", "2"), capture("1", "1"), capture("3", "2")),
        *(capture("0.5"), capture("1.5", "3"), capture("0.5"), capture("1", "4", "never")),
    ]
    batch = pb.BatchCaptureHoldRequest(requests=requests)
    outcomes = (await ledger.ledger.BatchCaptureHold(batch, metadata=ledger.metadata)).outcomes
    assert [o.HasField("response") for o in outcomes] == [True, True, True, False, True, True, True, False]
    assert [o.response.replayed for o in outcomes] == [False, False, True, False, False, False, True, False]
    made = [outcomes[n].response for n in (0, 1, 4, 5)]
    assert [a.transaction.held_amount for a in made] == [usd(5), usd(4), usd(2), usd(0)]
    assert [a.balance.held for a in made] == [usd(4), usd(2), usd(0), usd(0)]
    assert [a.released_amount for a in made] == [usd(0), usd(0), usd("1.5"), usd(0)]
    assert [a.overrun_amount for a in made] == [usd(0), usd(0), usd(0), usd("1.5")]
    hold = await hold_of(ledger, org)
    assert (hold.state, hold.captured_amount) == (pb.HOLD_STATE_CAPTURED, usd("4.5"))
    repeated = (await ledger.ledger.BatchCaptureHold(batch, metadata=ledger.metadata)).outcomes
    assert [o.response.transaction for o in repeated] == [o.response.transaction for o in outcomes]
    assert (await balance_of(ledger, org)).posted == usd(5)


@pytest.mark.own_database
async def test_two_processes_charge_each_part_once_whatever_ends_the_hold_meanwhile(
    server: BillingServer, clock: FixedClock
) -> None:
    holds, parts = 40, 4
    async with server.start(clock, sweep_every_s=0.05) as one, server.start(clock, sweep_every_s=0.05) as two:
        both = (one, two)
        org = await funded(one, "1000", hold=None)
        for number in range(holds):
            await one.hold(org, f"call-{number}", "2", ttl=MINUTE)

        async def capture(ledger: Ledger, name: str, part_id: str) -> pb.CaptureHoldResponse:
            return await until_answered(lambda: ledger.capture(org, name, "0.7", part_id=part_id))

        async def other(ledger: Ledger, name: str, number: int) -> None:
            """Every third hold is captured, every third released; the others expire."""
            try:
                if number % 3 == 0:
                    await until_answered(lambda: ledger.capture(org, name, "0.1"))
                elif number % 3 == 1:
                    await until_answered(lambda: ledger.release(org, name))
                else:
                    await until_answered(lambda: ledger.extend(org, name, "3"))
            except grpc.aio.AioRpcError as error:
                if error.code() is not PRECONDITION:
                    raise

        async def expire() -> None:
            await asyncio.sleep(0.05)
            clock.advance(timedelta(minutes=2))

        names = [(number, f"call-{number}") for number in range(holds)]
        calls = [
            capture(ledger, name, f"{name}/{part}") for _, name in names for part in range(parts) for ledger in both
        ]
        calls += [other(ledger, name, number) for number, name in names for ledger in both]  # type: ignore[misc]
        random.shuffle(calls)
        answers = [a for a in await asyncio.gather(expire(), *calls) if isinstance(a, pb.CaptureHoldResponse)]

        assert sum(not answer.replayed for answer in answers) == len(answers) // 2 == holds * parts
        used = {a.transaction.operation_id: a.transaction for a in answers}
        captured = len([number for number, _ in names if number % 3 == 0])
        balance = await balance_of(one, org)
        charged = Decimal("0.7") * holds * parts + Decimal("0.1") * captured
        assert (balance.posted, balance.held) == (usd((1000 - charged).normalize()), usd(0))
        for _, name in names:
            assert (await hold_of(two, org, name)).captured_amount == usd("2.8")
            assert {part.operation_id for part in await parts_of(two, org, name)} <= used.keys()
        for _ in range(100):
            if not await one.findings():
                break
            await asyncio.sleep(0.05)
        assert await two.findings() == []


@pytest.mark.own_database
async def test_one_part_id_for_two_holds_of_different_accounts_at_once_is_charged_once(server: BillingServer) -> None:
    async with server.start() as one, server.start() as two:
        org, project = await funded(one, "100", hold="50"), new_id()
        await one.credit(org, "allocation", "100", project_id=project)
        await one.hold(org, "project-call", "50", project_id=project)

        async def capture(ledger: Ledger, name: str, part_id: str) -> str:
            try:
                await until_answered(lambda: ledger.capture(org, name, "1", part_id=part_id))
            except grpc.aio.AioRpcError as error:
                if error.code() is not EXISTS:
                    raise
                return ""
            return name

        async def race(number: int) -> list[str]:
            calls = (capture(one, "call", f"part-{number}"), capture(two, "project-call", f"part-{number}"))
            return sorted(await asyncio.gather(*calls))

        ends = await asyncio.gather(*(race(number) for number in range(40)))
        assert all(first == "" and second for first, second in ends)
        won = [second for _, second in ends]
        for name in ("call", "project-call"):
            assert (await hold_of(one, org, name)).captured_amount == usd(won.count(name))
        assert await one.findings() == []
