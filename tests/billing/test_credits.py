"""Credit grants through the RPCs: order, beginnings and ends, holds, voids, and what is told of them."""

from datetime import datetime, timedelta
from decimal import Decimal

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.billing.support import Ledger, organization, refusal, usd
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import account_pb2, credit_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb

DAY = timedelta(days=1)


def at(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


async def balance(ledger: Ledger, org: str, project_id: str = "") -> pb.Balance:
    request = account_pb2.GetBalanceRequest(organization_id=org, project_id=project_id)
    return (await ledger.accounts.GetBalance(request, metadata=ledger.metadata)).balance


async def rests(ledger: Ledger, org: str) -> dict[str, str]:
    return {grant.operation_id: grant.remaining_amount.value for grant in await ledger.grants(org)}


async def statement(ledger: Ledger, org: str) -> list[tuple[str, str, str]]:
    account_id = (
        (
            await ledger.accounts.ListAccounts(
                account_pb2.ListAccountsRequest(organization_id=org), metadata=ledger.metadata
            )
        )
        .accounts[0]
        .account_id
    )
    request = account_pb2.GetStatementRequest(organization_id=org, account_id=account_id, page_size=1000)
    entries = (await ledger.accounts.GetStatement(request, metadata=ledger.metadata)).entries
    return [
        (pb.TransactionKind.Name(one.kind).removeprefix("TRANSACTION_KIND_"), one.amount.value, one.balance_after.value)
        for one in entries
    ]


async def test_grants_are_used_by_priority_then_end_then_kind_then_age(timed: Ledger, clock: FixedClock) -> None:
    """Acceptance case 10."""
    org = organization()
    november, december = at(clock.now() + 15 * DAY), at(clock.now() + 46 * DAY)
    await timed.grant(org, "first", "10", priority=2, expire_time=november)
    await timed.grant(org, "second", "5", priority=1, expire_time=december)
    await timed.grant(org, "third", "5", priority=1, expire_time=november)
    await timed.debit(org, "use", "7")
    assert await rests(timed, org) == {"first": "10", "second": "3", "third": "0"}
    explained = await timed.explain(org, "use")
    names = {grant.grant_id: grant.operation_id for grant in await timed.grants(org)}
    assert [(names[use.grant_id], use.amount.value, use.remaining_amount.value) for use in explained.uses] == [
        ("third", "5", "0"),
        ("second", "2", "3"),
    ]
    assert explained.other_amount == usd("0")


async def test_a_monthly_grant_is_there_once_at_the_very_reset(timed: Ledger, clock: FixedClock) -> None:
    """Acceptance case 11: 100 at the beginning, not 0 and not 200; after 30 are used, 100 in the next month."""
    org, month = organization(), 30 * DAY
    first, second = clock.now(), clock.now() + month
    await timed.grant(org, "promotion", "200", priority=9)
    await timed.grant(org, "month-1", "100", effective_time=at(first), expire_time=at(second))
    await timed.grant(org, "month-2", "100", effective_time=at(second), expire_time=at(second + month))
    assert (await balance(timed, org)).available == usd("300")
    await timed.debit(org, "use", "30")
    clock.advance(month - timedelta(microseconds=1))
    assert (await balance(timed, org)).available == usd("270")
    clock.advance(timedelta(microseconds=1))
    assert (await balance(timed, org)).available == usd("300")
    assert await rests(timed, org) == {"promotion": "200", "month-1": "0", "month-2": "100"}
    assert (await statement(timed, org))[-2:] == [("EXPIRY", "-70", "200"), ("GRANT", "100", "300")]


async def test_expired_credits_pay_for_nothing(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "g", "5", expire_time=at(clock.now() + DAY))
    await timed.debit(org, "one", "1")
    clock.advance(DAY)
    code, reason, facts = await refusal(timed.debit(org, "two", "1"))
    assert (code, reason, facts["posted"]) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", "0")
    assert (await refusal(timed.hold(org, "three", "1")))[1] == "INSUFFICIENT_BALANCE"
    await timed.credit(org, "top-up", "3")
    assert (await timed.debit(org, "four", "2")).balance.posted == usd("1")
    assert (await timed.explain(org, "four")).other_amount == usd("2")


async def test_the_expiry_is_a_movement_at_its_time_however_late_it_is_made(timed: Ledger, clock: FixedClock) -> None:
    org, end = organization(), clock.now() + DAY
    await timed.grant(org, "g", "5", expire_time=at(end))
    clock.advance(100 * DAY)
    assert (await balance(timed, org)).posted == usd("0")
    page = await timed.ledger.ListTransactions(pb.ListTransactionsRequest(organization_id=org), metadata=timed.metadata)
    expiry = page.transactions[0]
    assert (expiry.kind, expiry.create_time, expiry.system_account) == (
        pb.TRANSACTION_KIND_EXPIRY,
        at(end),
        pb.SYSTEM_ACCOUNT_EXPIRED,
    )
    assert expiry.metadata["grant_id"] == page.transactions[1].operation_id


async def test_what_is_held_does_not_expire_until_its_hold_ends(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "g", "10", expire_time=at(clock.now() + DAY))
    long_hold = Duration(seconds=86_400)
    await timed.hold(org, "released", "3", ttl=long_hold)
    await timed.hold(org, "captured", "4", ttl=long_hold)
    clock.advance(timedelta(hours=23))
    for name in ("released", "captured"):
        await timed.extend(org, name, seconds=86_400)
    clock.advance(timedelta(hours=1))
    assert (await balance(timed, org)).posted == usd("7")
    assert (await balance(timed, org)).available == usd("0")
    assert (await refusal(timed.hold(org, "later", "1")))[1] == "INSUFFICIENT_BALANCE"
    await timed.release(org, "released")
    assert (await balance(timed, org)).available == usd("0")
    captured = await timed.capture(org, "captured", "2")
    assert captured.overrun_amount == usd("0")
    assert (await balance(timed, org)).posted == usd("0")
    (grant,) = await timed.grants(org)
    assert (grant.state, grant.used_amount, grant.expired_amount) == (
        credit_pb2.GRANT_STATE_ENDED,
        usd("2"),
        usd("8"),
    )


async def test_a_hold_placed_after_the_end_keeps_nothing_alive(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "ends", "5", priority=0, expire_time=at(clock.now() + DAY))
    await timed.credit(org, "top-up", "10")
    await timed.hold(org, "before", "5", ttl=Duration(seconds=86_400))
    await timed.extend(org, "before", seconds=86_400)
    clock.advance(timedelta(hours=1))
    await timed.extend(org, "before", seconds=86_400)
    clock.advance(timedelta(hours=23))
    await timed.hold(org, "after", "10")
    assert (await balance(timed, org)).available == usd("0")
    await timed.release(org, "before")
    assert (await balance(timed, org)).posted == usd("10")
    assert (await balance(timed, org)).available == usd("0")


async def test_a_grant_repeated_is_granted_once_and_another_body_is_refused(timed: Ledger, clock: FixedClock) -> None:
    org, end = organization(), at(clock.now() + DAY)
    first = await timed.grant(org, "g", "5", expire_time=end, metadata={"a": "b"})
    again = await timed.grant(org, "g", "5", expire_time=end, metadata={"a": "b"})
    assert (again.replayed, again.grant) == (True, first.grant)
    assert (await balance(timed, org)).posted == usd("5")
    changed = await refusal(timed.grant(org, "g", "5", expire_time=end, metadata={"a": "c"}))
    assert changed == (
        grpc.StatusCode.ALREADY_EXISTS,
        "OPERATION_ID_REUSED",
        {"operation_id": "g", "field": "metadata"},
    )
    for field, fields in (
        ("priority", {"priority": 1}),
        ("kind", {"kind": credit_pb2.GRANT_KIND_PURCHASED}),
        ("effective_time", {"effective_time": at(clock.now())}),
        ("expire_time", {"expire_time": at(clock.now() + 2 * DAY)}),
        ("source_reference", {"source_reference": "order"}),
        ("description", {"description": "text"}),
    ):
        asked: dict[str, object] = {"expire_time": end, "metadata": {"a": "b"}} | fields
        assert (await refusal(timed.grant(org, "g", "5", **asked)))[2]["field"] == field
    assert (await refusal(timed.grant(org, "g", "6", expire_time=end, metadata={"a": "b"})))[2]["field"] == "amount"


async def test_a_grants_operation_does_not_collide_with_a_debits(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "same", "5")
    assert (await timed.debit(org, "same", "2")).balance.posted == usd("3")
    assert (await timed.grant(org, "same", "5")).replayed


async def test_void_takes_back_what_is_left_and_what_holds_give_back(timed: Ledger) -> None:
    org = organization()
    granted = await timed.grant(org, "g", "10", kind=credit_pb2.GRANT_KIND_PURCHASED)
    await timed.debit(org, "use", "2")
    await timed.hold(org, "held", "5")
    voided = await timed.void(org, granted.grant.grant_id, "ordered by mistake")
    assert (voided.voided_amount, voided.balance.posted) == (usd("3"), usd("5"))
    again = await timed.void(org, granted.grant.grant_id, "again")
    assert (again.voided_amount, again.grant.void_reason) == (usd("0"), "ordered by mistake")
    await timed.capture(org, "held", "1")
    assert (await balance(timed, org)).posted == usd("0")
    (grant,) = await timed.grants(org)
    assert (grant.used_amount, grant.expired_amount, grant.remaining_amount) == (usd("3"), usd("7"), usd("0"))
    assert [kind for kind, _, _ in await statement(timed, org)] == ["GRANT", "DEBIT", "VOID", "CAPTURE", "VOID"]
    last = await timed.void(org, granted.grant.grant_id)
    assert (last.voided_amount, last.grant) == (usd("0"), grant)


async def test_a_scheduled_grant_that_is_voided_never_begins(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.credit(org, "top-up", "1")
    granted = await timed.grant(org, "g", "10", effective_time=at(clock.now() + DAY))
    assert granted.grant.state == credit_pb2.GRANT_STATE_SCHEDULED
    assert (await timed.void(org, granted.grant.grant_id)).voided_amount == usd("10")
    clock.advance(2 * DAY)
    assert (await balance(timed, org)).posted == usd("1")
    assert (await timed.credit_summary(org)).granted == []


async def test_grants_that_are_used_up_or_missing_cannot_be_voided(timed: Ledger) -> None:
    org, other = organization(), organization()
    granted = await timed.grant(org, "g", "10")
    await timed.debit(org, "use", "10")
    assert (await refusal(timed.void(org, granted.grant.grant_id)))[1] == "GRANT_ENDED"
    assert (await refusal(timed.void(other, granted.grant.grant_id)))[:2] == (
        grpc.StatusCode.NOT_FOUND,
        "GRANT_NOT_FOUND",
    )
    code, _, _ = await refusal(timed.void(org, granted.grant.grant_id, "  "))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_reversed_charge_gives_its_grants_back(timed: Ledger) -> None:
    org = organization()
    await timed.grant(org, "a", "5", priority=1)
    await timed.grant(org, "b", "5", priority=2)
    charged = await timed.debit(org, "use", "7")
    await timed.reverse(org, "undo", charged.transaction.transaction_id, "3")
    assert await rests(timed, org) == {"a": "1", "b": "5"}
    explained = await timed.explain(org, "undo")
    assert sorted(use.amount.value for use in explained.uses) == ["1", "2"]
    for operation_id in ("undo-grant",):
        (first, *_) = await timed.grants(org)
        listed = await timed.ledger.GetTransaction(
            pb.GetTransactionRequest(organization_id=org, operation_id=first.grant_id), metadata=timed.metadata
        )
        refused = await refusal(timed.reverse(org, operation_id, listed.transaction.transaction_id))
        assert refused[1] == "REVERSAL_OF_GRANT"


async def test_credits_that_expire_cannot_be_passed_on(timed: Ledger, clock: FixedClock) -> None:
    org, project = organization(), organization()
    await timed.grant(org, "g", "5", expire_time=at(clock.now() + DAY))
    await timed.credit(org, "top-up", "3")
    refused = await refusal(timed.transfer(org, "t", "4", "", project))
    assert refused == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "EXPIRING_CREDITS_STAY",
        {"transferable": "3", "expiring": "5"},
    )
    await timed.transfer(org, "t", "3", "", project)
    await timed.grant(org, "of-project", "2", project_id=project)
    assert (await balance(timed, org, project_id=project)).posted == usd("5")
    assert [grant.operation_id for grant in await timed.grants(org, project_id=project)] == ["of-project"]


async def test_the_summary_adds_up_from_the_ledger(timed: Ledger, clock: FixedClock) -> None:
    org, project = organization(), organization()
    await timed.credit(org, "before", "20")
    await timed.debit(org, "used-before", "4")
    await timed.grant(org, "gift", "10", expire_time=at(clock.now() + DAY))
    await timed.grant(org, "pack", "50", kind=credit_pb2.GRANT_KIND_PURCHASED, expire_time=at(clock.now() + 9 * DAY))
    await timed.grant(org, "next", "7", effective_time=at(clock.now() + 2 * DAY))
    await timed.debit(org, "used", "6")
    await timed.transfer(org, "passed-on", "5", "", project)
    clock.advance(DAY)
    summary = await timed.credit_summary(org)
    assert summary.balance.posted == usd("61")
    assert [(one.kind, one.amount.value, one.remaining_amount.value) for one in summary.granted] == [
        (credit_pb2.GRANT_KIND_PROMOTIONAL, "10", "0"),
        (credit_pb2.GRANT_KIND_PURCHASED, "50", "50"),
    ]
    assert (summary.other_amount, summary.used_amount, summary.expired_amount) == (usd("15"), usd("10"), usd("4"))
    assert (summary.next_expire_time, summary.next_expire_amount) == (at(clock.now() + 8 * DAY), usd("50"))
    assert summary.next_effective_time == at(clock.now() + DAY)
    assert (await refusal(timed.credit_summary(organization())))[1] == "ACCOUNT_NOT_FOUND"
    assert (await refusal(timed.credit_summary(org, currency_code="CREDIT")))[0] in (
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    )


async def test_bad_grants_are_refused_by_name_and_change_nothing(timed: Ledger, clock: FixedClock) -> None:
    org, now = organization(), clock.now()
    for fields, named in (
        ({"amount": "0"}, "amount.value"),
        ({"amount": "-1"}, "amount.value"),
        ({"priority": 1001}, "priority"),
        ({"project_id": org}, "project_id"),
        ({"effective_time": at(now + DAY), "expire_time": at(now + DAY)}, "expire_time"),
        ({"effective_time": at(now + 4000 * DAY)}, "effective_time"),
        ({"kind": 99}, "kind"),
        ({"source_reference": "a\0b"}, "source_reference"),
    ):
        asked: dict[str, object] = dict(fields)
        code, _, _ = await refusal(timed.grant(org, "g", str(asked.pop("amount", "5")), **asked))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, named
    assert (await refusal(timed.grant(org, "g", "5", expire_time=at(now))))[1] == "GRANT_EXPIRED"
    assert await timed.grants(org) == []


async def test_an_account_with_grants_to_come_cannot_be_closed(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    granted = await timed.grant(org, "g", "5", effective_time=at(clock.now() + DAY))
    close = account_pb2.CloseAccountRequest(organization_id=org, account_id=granted.grant.account_id)
    assert (await refusal(timed.accounts.CloseAccount(close, metadata=timed.metadata)))[1] == "ACCOUNT_HAS_GRANTS"
    await timed.void(org, granted.grant.grant_id)
    await timed.accounts.CloseAccount(close, metadata=timed.metadata)
    assert (await refusal(timed.grant(org, "h", "5")))[1] == "ACCOUNT_CLOSED"


async def test_another_tenant_sees_no_grant(timed: Ledger) -> None:
    org, other = organization(), organization()
    await timed.grant(org, "g", "5")
    await timed.debit(org, "use", "1")
    assert await timed.grants(other) == []
    assert (await refusal(timed.explain(other, "use")))[1] == "TRANSACTION_NOT_FOUND"
    assert (await refusal(timed.explain(org, "nothing")))[1] == "TRANSACTION_NOT_FOUND"
    await timed.credit(org, "top-up", "1")
    assert (await refusal(timed.explain(org, "top-up")))[1] == "NOT_A_CHARGE"


async def test_charges_of_a_batch_are_explained_each_by_itself(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    await timed.grant(org, "g", "2.5", expire_time=at(clock.now() + DAY))
    requests = [
        pb.DebitRequest(organization_id=org, operation_id=f"d{n}", amount=usd("1"), mode=pb.DEBIT_MODE_MUST_POST)
        for n in range(4)
    ]
    await timed.ledger.BatchDebit(pb.BatchDebitRequest(requests=requests), metadata=timed.metadata)
    explained = [await timed.explain(org, f"d{n}") for n in range(4)]
    assert [[use.amount.value for use in one.uses] for one in explained] == [["1"], ["1"], ["0.5"], []]
    assert [Decimal(one.other_amount.value) for one in explained] == [0, 0, Decimal("0.5"), 1]
