"""Calls that wait together travel together, and each keeps an outcome, a deadline and a cancellation of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.client.fake_service import FakeLedger, debit, fake_ledger, status
from tollhouse.billing.v1 import account_pb2, ledger_pb2, ledger_pb2_grpc
from tollhouse.billing.v1.account_pb2_grpc import AccountServiceStub
from tollhouse_client import Batching, Client, Retries
from tollhouse_client.batching import Batcher
from tollhouse_client.connection import Connection
from tollhouse_client.errors import (
    ClientClosed,
    DeadlineExceeded,
    InsufficientBalance,
    Internal,
    InvalidArgument,
    PermissionDenied,
    QueueFull,
    TollhouseError,
    Unavailable,
)
from tollhouse_client.ordering import Turns
from tollhouse_client.routes import BATCH_BYTES_MAX, DEBIT

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
QUICK = Retries(attempts_max=4, pause_s=0.001, pause_max_s=0.01)
LONG_S = 60.0


@pytest.fixture
async def ledger() -> AsyncIterator[FakeLedger]:
    async with fake_ledger() as fake:
        yield fake


@pytest.fixture
async def client(ledger: FakeLedger) -> AsyncIterator[Client]:
    async with Client(billing=ledger.address, timeout_s=LONG_S, retries=QUICK) as client:
        yield client


async def debits(client: Client, *ids: str) -> list[str | TollhouseError]:
    """Make debits at the same time; return what each has come to."""
    outcomes = await asyncio.gather(*(client.debit(debit(one)) for one in ids), return_exceptions=True)
    read: list[str | TollhouseError] = []
    for outcome in outcomes:
        assert isinstance(outcome, ledger_pb2.DebitResponse | TollhouseError), outcome
        read.append(outcome.transaction.operation_id if isinstance(outcome, ledger_pb2.DebitResponse) else outcome)
    return read


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- the server has no event for it.
            await asyncio.sleep(0.002)


async def test_call_alone_uses_the_plain_rpc(client: Client, ledger: FakeLedger) -> None:
    assert await debits(client, "a") == ["a"]
    assert ledger.rpcs == ["Debit"]


async def test_calls_made_at_once_travel_in_one_batch_in_their_order(client: Client, ledger: FakeLedger) -> None:
    ids = [f"op-{number}" for number in range(31)]
    assert await debits(client, *ids) == ids
    assert ledger.sent() == [ids]


async def test_many_calls_made_at_once_travel_in_two_batches_at_the_same_time(
    client: Client, ledger: FakeLedger
) -> None:
    ids = [f"op-{number}" for number in range(151)]
    assert await debits(client, *ids) == ids
    assert sorted(ledger.sent(), key=len) == [ids[76:], ids[:76]]


async def test_what_is_queued_while_batches_are_under_way_is_the_next_batch(client: Client, ledger: FakeLedger) -> None:
    ledger.gate.clear()
    first = asyncio.create_task(debits(client, "a"))
    await until(lambda: len(ledger.received) == 1)
    second = asyncio.create_task(debits(client, "b", "c"))
    await until(lambda: len(ledger.received) == 2)
    others = [asyncio.create_task(debits(client, f"{number}")) for number in range(30)]
    await asyncio.sleep(0.05)
    assert len(ledger.received) == 2
    ledger.gate.set()
    await asyncio.gather(first, second, *others)
    assert ledger.sent() == [["a"], ["b", "c"], [f"{number}" for number in range(30)]]


async def test_one_flag_sends_each_call_by_itself(ledger: FakeLedger) -> None:
    async with Client(billing=ledger.address, batching=False) as client:
        ledger.gate.clear()
        calls = asyncio.create_task(debits(client, *(f"{number}" for number in range(100))))
        await until(lambda: len(ledger.received) == 100)
        ledger.gate.set()
        await calls
    assert set(ledger.rpcs) == {"Debit"}


async def test_batch_has_no_more_calls_than_allowed(ledger: FakeLedger) -> None:
    async with Client(billing=ledger.address, batching=Batching(items_max=7)) as client:
        assert len(await debits(client, *(f"{number}" for number in range(20)))) == 20
    assert sorted(map(len, ledger.sent())) == [6, 7, 7]


async def test_batch_has_no_more_bytes_than_the_services_take(client: Client, ledger: FakeLedger) -> None:
    large = [debit(f"{number}", description="x" * (BATCH_BYTES_MAX // 2 - 1000)) for number in range(4)]
    await asyncio.gather(*map(client.debit, large))
    # Both are under way at the same time.
    assert sorted(ledger.sent()) == [["0", "1"], ["2", "3"]]


async def test_bad_call_fails_alone(client: Client, ledger: FakeLedger) -> None:
    ledger.refusals["b"] = [status(grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", needed="2")]
    first, refused, last = await debits(client, "a", "b", "c")
    assert (first, last) == ("a", "c")
    assert isinstance(refused, InsufficientBalance)
    assert refused.facts == {"needed": "2"}


async def test_batch_that_fails_because_of_one_call_is_sent_call_by_call(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(grpc.StatusCode.INTERNAL, "INTERNAL")]
    ledger.refusals["b"] = [status(grpc.StatusCode.INTERNAL, "INTERNAL", error_id="7")]
    first, refused, last = await debits(client, "a", "b", "c")
    assert (first, last) == ("a", "c")
    assert isinstance(refused, Internal)
    assert sorted(ledger.rpcs) == ["BatchDebit", "Debit", "Debit", "Debit"]


async def test_caller_who_may_not_batch_is_served_call_by_call(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")]
    assert await debits(client, "a", "b") == ["a", "b"]
    assert await debits(client, "c", "d") == ["c", "d"]
    assert ledger.rpcs == ["BatchDebit", "Debit", "Debit", "Debit", "Debit"]


async def test_caller_without_rights_is_told_so(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")] * 3
    assert [type(outcome) for outcome in await debits(client, "a", "b")] == [PermissionDenied] * 2


async def test_items_that_fail_for_now_are_sent_again_with_the_same_id_and_others_are_not(
    client: Client, ledger: FakeLedger
) -> None:
    ledger.refusals["b"] = [status(UNAVAILABLE, "OVERLOADED")] * 2
    assert await debits(client, "a", "b", "c") == ["a", "b", "c"]
    assert ledger.sent() == [["a", "b", "c"], ["b"], ["b"]]


async def test_batch_that_fails_for_now_is_sent_again_whole(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(UNAVAILABLE, "SHUTTING_DOWN")] * 2
    assert await debits(client, "a", "b") == ["a", "b"]
    assert ledger.sent() == [["a", "b"]] * 3


async def test_attempts_are_bounded(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(UNAVAILABLE, "OVERLOADED")] * 50
    outcomes = await debits(client, "a", "b")
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2
    assert len(ledger.received) == QUICK.attempts_max


async def test_service_that_is_away_is_called_until_the_time_of_the_call_is_over(ledger: FakeLedger) -> None:
    ledger.failures = [status(UNAVAILABLE, "OVERLOADED")] * 9
    async with Client(billing=ledger.address, retries=Retries(pause_max_s=0.1)) as client:
        assert await debits(client, "a") == ["a"]
    assert ledger.sent() == [["a"]] * 10


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.debit(debit("a"), timeout_s=0.1),
        lambda client: client.stub(AccountServiceStub).GetBalance(account_pb2.GetBalanceRequest(), timeout=0.1),
    ],
    ids=["batched", "stub"],
)
def test_client_says_that_it_belongs_to_another_event_loop(use: Callable[[Client], Awaitable[object]]) -> None:
    client = Client(billing="127.0.0.1:1")

    async def fail(kind: type[Exception], says: str) -> None:
        with pytest.raises(kind, match=says):
            await use(client)

    asyncio.run(fail(Unavailable, "connect"))
    asyncio.run(fail(RuntimeError, "one event loop"))


async def test_pause_is_at_least_what_the_service_asks_for(client: Client, ledger: FakeLedger) -> None:
    ledger.failures = [status(UNAVAILABLE, "OVERLOADED", retry_after_ms=300)]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    assert await debits(client, "a") == ["a"]
    assert loop.time() - began_s >= 0.3


async def test_refusals_that_waiting_does_not_help_are_not_repeated(client: Client, ledger: FakeLedger) -> None:
    for code in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED):
        ledger.refusals["a"] = [status(code, "SOME_REASON")]
        (refused,) = await debits(client, "a")
        assert isinstance(refused, TollhouseError)
        assert (refused.code, refused.reason) == (code, "SOME_REASON")
    assert len(ledger.received) == 3


async def test_cancelled_caller_tears_no_batch(client: Client, ledger: FakeLedger) -> None:
    ledger.gate.clear()
    calls = [asyncio.create_task(client.debit(debit(one))) for one in ("a", "b", "c")]
    await until(lambda: len(ledger.received) == 1)
    calls[1].cancel()
    ledger.gate.set()
    first, cancelled, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(first, ledger_pb2.DebitResponse)
    assert isinstance(last, ledger_pb2.DebitResponse)
    assert ledger.sent() == [["a", "b", "c"]]


async def test_call_cancelled_in_the_queue_is_not_sent(client: Client, ledger: FakeLedger) -> None:
    ledger.gate.clear()
    under_way = [asyncio.create_task(client.debit(debit("a")))]
    await until(lambda: len(ledger.received) == 1)
    under_way.append(asyncio.create_task(client.debit(debit("b"))))
    await until(lambda: len(ledger.received) == 2)
    queued = [asyncio.create_task(client.debit(debit(one))) for one in ("c", "d", "e")]
    await asyncio.sleep(0)
    queued[1].cancel()
    await asyncio.sleep(0)
    ledger.gate.set()
    await asyncio.gather(*under_way, queued[0], queued[2])
    assert ledger.sent() == [["a"], ["b"], ["c", "e"]]


async def test_call_out_of_time_in_the_queue_is_not_sent_and_says_so(client: Client, ledger: FakeLedger) -> None:
    ledger.gate.clear()
    under_way = [asyncio.create_task(client.debit(debit(one))) for one in ("a",)]
    await until(lambda: len(ledger.received) == 1)
    under_way.append(asyncio.create_task(client.debit(debit("b"))))
    await until(lambda: len(ledger.received) == 2)
    with pytest.raises(DeadlineExceeded) as error:
        await client.debit(debit("late"), timeout_s=0.02)
    assert error.value.reason == "CLIENT_NOT_SENT"
    ledger.gate.set()
    await asyncio.gather(*under_way)
    assert await debits(client, "c") == ["c"]
    assert ledger.sent() == [["a"], ["b"], ["c"]]


async def test_impatient_caller_of_a_batch_leaves_and_the_patient_ones_are_answered(
    client: Client, ledger: FakeLedger
) -> None:
    ledger.gate.clear()
    patient = [asyncio.create_task(client.debit(debit(one))) for one in ("a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded) as error:
        await client.debit(debit("c"), timeout_s=0.05)
    assert error.value.reason == "CLIENT_NO_ANSWER"
    ledger.gate.set()
    await asyncio.gather(*patient)
    assert ledger.sent() == [["a", "b", "c"]]
    assert ledger.received[0].left_s > 5


async def test_time_limit_of_a_millisecond_ends_in_an_outcome(client: Client) -> None:
    outcomes = await asyncio.gather(
        *(client.debit(debit(f"{number}"), timeout_s=0.001) for number in range(50)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} <= {DeadlineExceeded, ledger_pb2.DebitResponse}


async def test_calls_with_one_operation_id_are_sent_one_after_another(client: Client, ledger: FakeLedger) -> None:
    ledger.refusals["same"] = [status(UNAVAILABLE, "OVERLOADED")]
    first, second, other = await debits(client, "same", "same", "other")
    assert (first, second, other) == ("same", "same", "other")
    assert ledger.sent() == [["same", "other"], ["same"], ["same"]]


async def test_call_that_waits_for_its_turn_goes_on_when_the_one_before_is_cancelled(
    client: Client, ledger: FakeLedger
) -> None:
    ledger.gate.clear()
    first = asyncio.create_task(client.debit(debit("same")))
    second = asyncio.create_task(client.debit(debit("same")))
    third = asyncio.create_task(client.debit(debit("same")))
    await until(lambda: len(ledger.received) == 1)
    first.cancel()
    second.cancel()
    ledger.gate.set()
    assert (await third).transaction.operation_id == "same"
    assert ledger.sent() == [["same"], ["same"]]


async def test_full_queue_refuses_plainly_and_takes_calls_again(ledger: FakeLedger) -> None:
    async with Client(billing=ledger.address, batching=Batching(waiting_max=10)) as client:
        ledger.gate.clear()
        calls = [asyncio.create_task(client.debit(debit(f"{number}"))) for number in range(10)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as error:
            await client.debit(debit("beyond"))
        assert error.value.code is UNAVAILABLE
        ledger.gate.set()
        await asyncio.gather(*calls)
        assert await debits(client, "after") == ["after"]


async def test_answer_of_another_length_or_of_garbage_is_an_error_of_each_call(
    client: Client, ledger: FakeLedger
) -> None:
    short = ledger_pb2.BatchDebitResponse(outcomes=[ledger_pb2.DebitOutcome()]).SerializeToString()
    for garbage in (b"\xff\xff\xff", b"", short):

        async def respond(rpc: str, data: bytes, context: object, answer: bytes = garbage) -> bytes:
            return answer

        ledger.respond = respond
        outcomes = await debits(client, "a", "b")
        assert [getattr(one, "reason", one) for one in outcomes] == ["CLIENT_MALFORMED_ANSWER"] * 2


async def test_message_is_what_it_was_when_the_call_was_made(client: Client, ledger: FakeLedger) -> None:
    request = debit("before")
    call = asyncio.create_task(client.debit(request))
    await asyncio.sleep(0)
    request.operation_id = "after"
    await call
    assert ledger.sent() == [["before"]]


async def test_closing_answers_everybody(ledger: FakeLedger) -> None:
    client = Client(billing=ledger.address, timeout_s=LONG_S)
    stub = client.stub(ledger_pb2_grpc.LedgerServiceStub)
    ledger.gate.clear()
    calls = [asyncio.create_task(client.debit(debit(one))) for one in ("a", "same", "same")]
    calls.append(asyncio.create_task(stub.Debit(debit("by a stub"))))  # type: ignore[arg-type]  # a coroutine here
    await until(lambda: len(ledger.received) == 2)
    async with asyncio.timeout(LONG_S / 4):
        await client.close()
        assert [type(one) for one in await asyncio.gather(*calls, return_exceptions=True)] == [ClientClosed] * 4
        for late in (client.debit(debit("b")), stub.Debit(debit("b"))):
            with pytest.raises(ClientClosed):
                await late
    await client.close()


async def test_first_call_of_its_kind_after_closing_is_answered_at_once(ledger: FakeLedger) -> None:
    client = Client(billing=ledger.address, timeout_s=LONG_S)
    await client.stub(ledger_pb2_grpc.LedgerServiceStub).Debit(debit("a"))
    await client.close()
    async with asyncio.timeout(LONG_S / 4):
        with pytest.raises(ClientClosed):
            await client.debit(debit("b"))


async def test_hundreds_of_callers_who_leave_at_any_moment_leave_nothing_behind(ledger: FakeLedger) -> None:
    connection = Connection("billing", ledger.address, None, None)
    batcher = Batcher(DEBIT, connection, Turns(), QUICK, Batching())
    calls = [asyncio.create_task(batcher.call(debit(f"{number % 40}"), LONG_S)) for number in range(400)]
    for number, call in enumerate(calls):
        if number % 3 == 0:
            call.cancel()
        if number % 7 == 0:
            await asyncio.sleep(0)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    answered = [one for one in outcomes if isinstance(one, ledger_pb2.DebitResponse)]
    assert len(answered) == len(calls) - sum(isinstance(one, asyncio.CancelledError) for one in outcomes)
    await until(lambda: not batcher.has_calls)
    batcher.close()
    await connection.close()


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 3601])
async def test_impossible_time_limit_is_refused(client: Client, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="time limit"):
        await client.debit(debit("a"), timeout_s=timeout_s)


async def test_fields_at_fault_are_named(client: Client, ledger: FakeLedger) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="amount.value", description="must be a number")
    bad = error_details_pb2.BadRequest(field_violations=[violation])
    ledger.refusals["a"] = [status(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", more=[bad])]
    (refused,) = await debits(client, "a")
    assert isinstance(refused, InvalidArgument)
    assert refused.fields == {"amount.value": "must be a number"}
