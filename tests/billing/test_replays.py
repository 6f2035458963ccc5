"""One operation id has one effect, also when it is repeated, changed, sent to another process or after a restart."""

import asyncio
from collections.abc import Awaitable
from copy import deepcopy
from typing import Protocol, TypeAlias

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.database import RawConnection
from libs.common.database_url import plain_url
from libs.common.ids import new_id
from tests.billing.support import BillingServer, Ledger, organization, refusal, until_answered, usd
from tests.support.sharded import in_shard_of
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1.amount_pb2 import Amount

pytestmark = pytest.mark.own_database

Request: TypeAlias = (
    pb.DebitRequest
    | pb.CreditRequest
    | pb.TransferRequest
    | pb.CreateHoldRequest
    | pb.CaptureHoldRequest
    | pb.ReverseTransactionRequest
)

ORG, PROJECT, OTHER_PROJECT = organization(), new_id(), new_id()
SAID = {"description": "said", "metadata": {"a": "b"}}
FIVE = usd("5")

REQUESTS: dict[str, Request] = {
    "Debit": pb.DebitRequest(amount=FIVE, project_id=PROJECT, **SAID),  # type: ignore[arg-type]
    "Credit": pb.CreditRequest(amount=FIVE, project_id=PROJECT, **SAID),  # type: ignore[arg-type]
    "Transfer": pb.TransferRequest(amount=FIVE, destination_project_id=PROJECT, **SAID),  # type: ignore[arg-type]
    "CreateHold": pb.CreateHoldRequest(amount=FIVE, project_id=PROJECT, **SAID),  # type: ignore[arg-type]
    "CaptureHold": pb.CaptureHoldRequest(amount=FIVE, **SAID),  # type: ignore[arg-type]
    "ReverseTransaction": pb.ReverseTransactionRequest(amount=FIVE, **SAID),  # type: ignore[arg-type]
}

# For each command every field that can differ, and by what name the refusal calls it.
AMOUNTS: dict[str, tuple[object, str]] = {
    "amount": (usd("4"), "amount"),
    "amount ": (Amount(currency_code="EUR", value="5"), "amount"),
    "description": ("other", "description"),
    "metadata": ({"a": "c"}, "metadata"),
}
CHANGES: dict[str, dict[str, tuple[object, str]]] = {
    "Debit": AMOUNTS
    | {
        "project_id": (OTHER_PROJECT, "project_id"),
        "project_id ": ("", "project_id"),
        "mode": (pb.DEBIT_MODE_BEST_EFFORT, "mode"),
    },
    "Credit": AMOUNTS | {"project_id": ("", "project_id"), "source": (pb.CREDIT_SOURCE_GRANT, "source")},
    "Transfer": AMOUNTS
    | {
        "source_project_id": (OTHER_PROJECT, "source_project_id"),
        "destination_project_id": (OTHER_PROJECT, "destination_project_id"),
    },
    "CreateHold": AMOUNTS | {"project_id": (OTHER_PROJECT, "project_id"), "ttl": (Duration(seconds=7), "ttl")},
    "CaptureHold": AMOUNTS,
    "ReverseTransaction": AMOUNTS | {"transaction_id": (new_id(), "transaction_id")},
}


class Answer(Protocol):
    """What these answers have in common."""

    replayed: bool


def _call(ledger: Ledger, name: str, request: Request) -> Awaitable[Answer]:
    answer: Awaitable[Answer] = getattr(ledger.ledger, name)(request, metadata=ledger.metadata, timeout=20)
    return answer


def _changed(request: Request, field: str, value: object) -> Request:
    """The request with one field changed; a trailing space distinguishes two changes of one field."""
    name, changed = field.strip(), deepcopy(request)
    changed.ClearField(name)  # type: ignore[arg-type]  # the name of one of its fields.
    if isinstance(value, Amount | Duration):
        getattr(changed, name).CopyFrom(value)
    elif isinstance(value, dict):
        getattr(changed, name).update(value)
    else:
        setattr(changed, name, value)
    return changed


async def _prepared(ledger: Ledger, name: str) -> Request:
    """The request, in an organization where it succeeds."""
    request = deepcopy(REQUESTS[name])
    request.organization_id, request.operation_id = ORG, "call"
    top_up = await ledger.credit(ORG, "top-up", "100")
    await ledger.credit(ORG, "allocation", "100", project_id=PROJECT)
    if name == "CaptureHold":
        await ledger.hold(ORG, "call", "5")
    if isinstance(request, pb.ReverseTransactionRequest):
        request.transaction_id = top_up.transaction.transaction_id
    return request


@pytest.mark.parametrize("name", CHANGES)
async def test_repeat_with_any_field_changed_is_refused_by_its_name(ledger: Ledger, name: str) -> None:
    request = await _prepared(ledger, name)
    await _call(ledger, name, request)
    for field, (value, called) in CHANGES[name].items():
        code, reason, facts = await refusal(_call(ledger, name, _changed(request, field, value)))
        assert (code, reason, facts["field"]) == (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED", called), field
    assert (await _call(ledger, name, request)).replayed


@pytest.mark.parametrize(("first", "second"), [("Debit", "Credit"), ("Credit", "Debit"), ("Transfer", "Debit")])
async def test_operation_id_of_one_kind_of_movement_is_no_other_kind(ledger: Ledger, first: str, second: str) -> None:
    await _call(ledger, first, await _prepared(ledger, first))
    request = deepcopy(REQUESTS[second])
    request.organization_id, request.operation_id = ORG, "call"
    refused = await refusal(_call(ledger, second, request))
    assert (refused[1], refused[2]["field"]) == ("OPERATION_ID_REUSED", "kind")


async def test_decline_stays_a_decline_once_its_project_has_an_account_with_enough(ledger: Ledger) -> None:
    """By then the server has cached the accounts, and only the statement that posts can find the duplicate."""
    org, project = organization(), new_id()
    await ledger.credit(org, "top-up", "10")
    first = await refusal(ledger.debit(org, "call", "50", project_id=project))
    assert first[1] == "INSUFFICIENT_BALANCE"
    await ledger.credit(org, "allocation", "100", project_id=project)
    await ledger.credit(org, "more", "100")
    await ledger.debit(org, "other", "1", project_id=project)
    assert await refusal(ledger.debit(org, "call", "50", project_id=project)) == first
    changed = await refusal(ledger.debit(org, "call", "50"))
    assert (changed[1], changed[2]["field"]) == ("OPERATION_ID_REUSED", "project_id")
    assert (await ledger.debit(org, "next", "1", project_id=project)).balance.posted == usd("98")


async def test_duplicates_of_earlier_batches_are_found_within_a_stream_of_new_ones(ledger: Ledger) -> None:
    org = organization()
    await ledger.credit(org, "top-up", "1000")
    first = await asyncio.gather(*(ledger.debit(org, f"call-{n}", "1") for n in range(50)))
    mixed = await asyncio.gather(*(ledger.debit(org, f"call-{n}", "1") for n in range(100)))
    assert [answer.replayed for answer in mixed] == [n < 50 for n in range(100)]
    assert [answer.transaction for answer in mixed[:50]] == [answer.transaction for answer in first]
    later = await asyncio.gather(*(ledger.debit(org, f"call-{n}", "1") for n in range(100, 400)))
    assert not any(answer.replayed for answer in later)
    assert (await ledger.credit(org, "end", "1")).transaction.sequence == 402


async def test_terms_changed_by_the_account_service_count_at_once(ledger: Ledger) -> None:
    org = organization()
    account_id = (await ledger.credit(org, "top-up", "10")).transaction.account_id
    await ledger.debit(org, "before", "1")
    account = account_pb2.Account(account_id=account_id, overdraft_limit=usd("50"))
    update = account_pb2.UpdateAccountRequest(
        organization_id=org, account=account, update_mask=FieldMask(paths=["overdraft_limit"])
    )
    await ledger.accounts.UpdateAccount(update, metadata=ledger.metadata)
    answer = await ledger.debit(org, "after", "1")
    assert (answer.balance.overdraft_limit, answer.balance.available) == (usd("50"), usd("58"))


async def test_two_servers_take_turns_at_one_account(server: BillingServer) -> None:
    """Each server finds at every turn that the other one has changed the account."""
    org = organization()
    async with server.start() as one, server.start() as two:
        await one.credit(org, "top-up", "1000")
        for turn in range(40):
            for ledger in (one, two):
                done = await ledger.debit(org, f"{turn}-{id(ledger)}", "1")
                assert not done.replayed

        async def charge(ledger: Ledger, number: int) -> pb.DebitResponse:
            return await until_answered(lambda: ledger.debit(org, f"both-{number}", "1"))

        answers = await asyncio.gather(*(charge(ledger, n) for n in range(60) for ledger in (one, two)))
        assert sum(not answer.replayed for answer in answers) == 60
        assert (await one.credit(org, "end", "1")).transaction.sequence == 142
        assert await two.findings() == []


async def test_repeats_after_a_restart_find_what_was_done(server: BillingServer) -> None:
    org = organization()
    async with server.start() as before:
        await before.credit(org, "top-up", "10")
        done = await before.debit(org, "call", "4")
        declined = await refusal(before.debit(org, "too-much", "40"))
    async with server.start() as after:
        await after.credit(org, "more", "100")
        await after.debit(org, "other", "1")
        again = await after.debit(org, "call", "4")
        assert again.replayed
        assert again.transaction == done.transaction
        assert await refusal(after.debit(org, "too-much", "40")) == declined
        assert await after.findings() == []


async def until_waiting(connection: RawConnection, sessions: int) -> None:
    """Returns once so many sessions wait for a lock in this database."""
    async with asyncio.timeout(10):
        while True:
            waiting = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            if waiting == sessions:
                return
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("patient_locks")
async def test_operation_declined_by_one_server_is_never_posted_by_another(server: BillingServer) -> None:
    """Both are asked at the same time, with different amounts; the second decides over its cached account."""
    org = organization()
    connection = await asyncpg.connect(plain_url(server.database_url))
    async with server.start() as one, server.start() as two:
        await one.credit(org, "top-up", "10")
        await one.debit(org, "before", "1")
        async with connection.transaction():
            lock = "SELECT FROM billing.accounts WHERE organization_id = $1 FOR UPDATE"
            await connection.fetch(in_shard_of(org, lock), org)
            declined = asyncio.create_task(refusal(two.debit(org, "call", "50")))
            await until_waiting(connection, 1)
            reused = asyncio.create_task(refusal(one.debit(org, "call", "1")))
            await until_waiting(connection, 2)
        assert (await declined)[1] == "INSUFFICIENT_BALANCE"
        assert (await reused)[1] == "OPERATION_ID_REUSED"
        assert await one.findings() == []
    await connection.close()
