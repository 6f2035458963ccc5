"""Accounts: opening, terms, closing, balances of other days, statements."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from tests.billing.support import BillingServer, Ledger, organization, refusal, usd
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import account_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def timed(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    async with server.start(clock) as ledger:
        yield ledger
        assert await ledger.findings() == []


def _time(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


async def _open(ledger: Ledger, org: str, **fields: object) -> pb.OpenAccountResponse:
    request = pb.OpenAccountRequest(organization_id=org, currency_code="USD")
    request.MergeFrom(pb.OpenAccountRequest(**fields))  # type: ignore[arg-type]  # the message checks them.
    return await ledger.accounts.OpenAccount(request, metadata=ledger.metadata)


async def test_overdraft_limit_lets_guarded_debits_go_below_zero(ledger: Ledger) -> None:
    org = organization()
    opened = await _open(ledger, org, overdraft_limit=usd("10"), request_id="r1")
    answer = await ledger.debit(org, "call", "10")
    assert (answer.balance.posted, answer.balance.available) == (usd("-10"), usd("0"))
    assert not answer.transaction.overdrawn
    assert (await refusal(ledger.debit(org, "more", "0.1")))[1] == "INSUFFICIENT_BALANCE"
    again = await _open(ledger, org, overdraft_limit=usd("10"), request_id="r1")
    assert again.replayed
    assert again.account.account_id == opened.account.account_id
    changed = await refusal(_open(ledger, org, overdraft_limit=usd("11"), request_id="r1"))
    assert (changed[1], changed[2]["field"]) == ("REQUEST_ID_REUSED", "overdraft_limit")
    assert (await refusal(_open(ledger, org)))[1] == "ACCOUNT_EXISTS"


async def test_update_is_guarded_by_the_etag(ledger: Ledger) -> None:
    org = organization()
    account = (await _open(ledger, org)).account
    account.overdraft_limit.CopyFrom(usd("5"))
    request = pb.UpdateAccountRequest(
        organization_id=org, account=account, update_mask=FieldMask(paths=["overdraft_limit"])
    )
    updated = (await ledger.accounts.UpdateAccount(request, metadata=ledger.metadata)).account
    assert updated.balance.available == usd("5")
    stale = await refusal(ledger.accounts.UpdateAccount(request, metadata=ledger.metadata))
    assert stale[0] is grpc.StatusCode.ABORTED
    listed = await ledger.accounts.ListAccounts(pb.ListAccountsRequest(organization_id=org), metadata=ledger.metadata)
    assert list(listed.accounts) == [updated]


async def test_closed_account_takes_only_work_already_done(ledger: Ledger) -> None:
    org, project = organization(), new_id()
    await ledger.credit(org, "top-up", "5")
    account_id = (await ledger.transfer(org, "t", "1", "", project)).transaction.counter_account_id
    close = pb.CloseAccountRequest(organization_id=org, account_id=account_id)
    assert (await refusal(ledger.accounts.CloseAccount(close, metadata=ledger.metadata)))[1] == "ACCOUNT_NOT_EMPTY"
    await ledger.transfer(org, "back", "1", project, "")
    closed = await ledger.accounts.CloseAccount(close, metadata=ledger.metadata)
    assert closed.account.state == pb.ACCOUNT_STATE_CLOSED
    assert (await refusal(ledger.credit(org, "c", "1", project_id=project)))[1] == "ACCOUNT_CLOSED"
    assert (await ledger.debit(org, "d", "1", project_id=project)).balance.posted == usd("4")


@pytest.mark.own_database
async def test_balance_and_statement_of_other_days(timed: Ledger, clock: FixedClock) -> None:
    org, project, start = organization(), new_id(), clock.now()
    for day in range(5):
        await timed.credit(org, f"top-up-{day}", "10")
        await timed.debit(org, f"call-{day}", "1")
        clock.advance(timedelta(days=1))
    moved = await timed.transfer(org, "allocate", "15", "", project)
    account_id = moved.transaction.account_id
    for day in range(5):
        moment = _time(start + timedelta(days=day))
        asked = pb.GetBalanceRequest(organization_id=org, as_of_time=moment)
        balance = (await timed.accounts.GetBalance(asked, metadata=timed.metadata)).balance
        assert (balance.posted, balance.sequence) == (usd(str(9 * (day + 1))), 2 * (day + 1))
    request = pb.GetStatementRequest(
        organization_id=org,
        account_id=account_id,
        start_time=_time(start + timedelta(days=1)),
        end_time=_time(start + timedelta(days=3)),
        page_size=3,
    )
    first = await timed.accounts.GetStatement(request, metadata=timed.metadata)
    request.page_token = first.next_page_token
    second = await timed.accounts.GetStatement(request, metadata=timed.metadata)
    assert [e.operation_id for e in (*first.entries, *second.entries)] == ["top-up-1", "call-1", "top-up-2", "call-2"]
    assert (first.opening_balance, second.closing_balance) == (usd("9"), usd("27"))
    assert second.next_page_token == ""
    other = pb.GetStatementRequest(organization_id=org, account_id=moved.transaction.counter_account_id)
    received = await timed.accounts.GetStatement(other, metadata=timed.metadata)
    assert [entry.amount for entry in received.entries] == [usd("15")]


async def test_another_organization_sees_nothing(ledger: Ledger) -> None:
    org = organization()
    account_id = (await _open(ledger, org)).account.account_id
    request = pb.GetAccountRequest(organization_id=organization(), account_id=account_id)
    foreign = await refusal(ledger.accounts.GetAccount(request, metadata=ledger.metadata))
    missing = pb.GetAccountRequest(organization_id=org, account_id=new_id())
    assert foreign == await refusal(ledger.accounts.GetAccount(missing, metadata=ledger.metadata))


async def test_transactions_are_listed_newest_first_in_pages(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "10")
    for number in range(5):
        await ledger.debit(org, f"call-{number}", "1")
    found: list[str] = []
    request = ledger_pb2.ListTransactionsRequest(
        organization_id=org, page_size=2, kind=ledger_pb2.TRANSACTION_KIND_DEBIT
    )
    while True:
        page = await ledger.ledger.ListTransactions(request, metadata=ledger.metadata)
        found += [transaction.operation_id for transaction in page.transactions]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sorted(found) == [f"call-{number}" for number in range(5)]
