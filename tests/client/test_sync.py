"""The client without asyncio does what the asynchronous one does, for any number of threads, and refuses forks."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tests.client.conftest import House, addresses_of
from tests.client.fake_service import FakeLedger, debit, fake_ledger
from tests.client.test_leases import MOST, refuse
from tests.client.test_leases import request as lease_request
from tests.client.test_meter import CHAT, COST, MODEL, BrokenStreamError
from tests.client.test_recorder import usage
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc
from tollhouse_client import SigningKey
from tollhouse_client.errors import ClientClosed, KeyDenied, UsageMissing
from tollhouse_client.sync import Client, KeyCache, Recorder

_Result = TypeVar("_Result")
THREADS = 32


@pytest.fixture
async def ledger() -> AsyncIterator[FakeLedger]:
    async with fake_ledger() as fake:
        yield fake


async def beside(program: Callable[[], _Result]) -> _Result:
    """Run a program without asyncio in a thread, while the services go on in this one."""
    return await asyncio.to_thread(program)


def client_of(house: House) -> Client:
    addresses = addresses_of(house.platform)
    return Client(**addresses, credentials=SigningKey.read(house.signing_key_file))  # type: ignore[arg-type]


async def test_block_settles_cancels_and_keeps_partial_usage(house: House) -> None:
    def program() -> None:
        with client_of(house) as client:
            with client.meter.authorize(
                operation_id="sync-whole", api_key=house.secret, model=MODEL, input_tokens=1000
            ) as call:
                call.settle_part(quantities={"input_tokens": 500})
                call.used(CHAT)
            assert call.settlement is not None
            with (
                pytest.raises(BrokenStreamError),
                client.meter.authorize(
                    operation_id="sync-cancelled", api_key=house.secret, model=MODEL, input_tokens=10
                ),
            ):
                raise BrokenStreamError
            with (  # noqa: PT012 -- the block as a whole is what is interrupted.
                pytest.raises(KeyboardInterrupt),
                client.meter.authorize(
                    operation_id="sync-partial", api_key=house.secret, model=MODEL, input_tokens=1000
                ) as call,
            ):
                call.partial(quantities={"input_tokens": 1000, "output_tokens": 100})
                raise KeyboardInterrupt
            with pytest.raises(KeyDenied), client.meter.authorize(api_key="nobody's", model=MODEL):
                raise AssertionError("served")
            with pytest.raises(UsageMissing), client.meter.authorize(api_key=house.secret, model=MODEL):
                pass

    await beside(program)
    charges = await house.charges()
    assert charges["sync-partial"] == COST
    assert "sync-cancelled" not in charges


async def test_calls_of_threads_within_a_lease_are_charged_once_each(house: House) -> None:
    def program() -> None:
        with client_of(house) as client, client.meter.lease(lease_request(house), on_refused=refuse) as lease:

            def serve(number: int) -> None:
                with client.meter.authorize(
                    operation_id=f"sync-leased-{number}", on_replay="allow", model=MODEL, lease=lease, most=MOST
                ) as call:
                    call.used(CHAT)
                assert call.settlement is None

            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(serve, range(40)))

    held_before = await house.held()
    await beside(program)
    charges = await house.charges()
    assert {operation: value for operation, value in charges.items() if operation.startswith("sync-leased-")} == {
        f"sync-leased-{number}": COST for number in range(40)
    }
    assert await house.held() == held_before


async def test_threads_that_call_at_once_travel_together(ledger: FakeLedger) -> None:
    def program() -> list[str]:
        with Client(billing=ledger.address) as client, ThreadPoolExecutor(THREADS) as threads:
            requests = [debit(f"{number}") for number in range(500)]
            return [answer.transaction.operation_id for answer in threads.map(client.debit, requests)]

    assert await beside(program) == [f"{number}" for number in range(500)]
    assert len(ledger.received) < 400


async def test_other_rpcs_are_run_in_the_clients_thread(house: House) -> None:
    def program() -> model_pb2.GetModelResponse:
        with client_of(house) as client:
            request = model_pb2.GetModelRequest(model_id=MODEL)
            return client.run(lambda inner: inner.stub(model_pb2_grpc.ModelServiceStub).GetModel(request))

    assert (await beside(program)).model.model_id == MODEL


async def test_keys_and_usage_work_without_asyncio(house: House, tmp_path: Path) -> None:
    def program() -> bool:
        with client_of(house) as client, KeyCache(client) as keys, Recorder(client, tmp_path) as recorder:
            recorder.record(usage(house, "sync-recorded"))
            recorder.flush()
            client.meter.settle_through(recorder)
            return keys.verify(house.secret, model=MODEL).is_valid

    assert await beside(program)
    assert (await house.charges())["sync-recorded"] == COST


FORKING = """
import asyncio, os, sys
from tollhouse.billing.v1 import ledger_pb2
from tollhouse_client import Client as AsynchronousClient
from tollhouse_client.sync import Client, UsedAfterFork

def debit(name):
    return ledger_pb2.DebitRequest(operation_id=name)

async def debit_in_a_loop():
    await AsynchronousClient(billing=sys.argv[1]).debit(debit("in a loop of a child"))

def refused(call):
    try:
        call()
    except UsedAfterFork:
        return True

def fork(in_child):
    child = os.fork()
    if not child:
        os._exit(7 if in_child() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

client = Client(billing=sys.argv[1])
fork(lambda: refused(lambda: client.debit(debit("in a child"))))
fork(lambda: Client(billing=sys.argv[1]).debit(debit("in a child before the first use")))
client.debit(debit("in the parent"))
# gRPC would hang from here on, or crash if the parent has closed its client.
fork(lambda: refused(lambda: Client(billing=sys.argv[1]).debit(debit("in a late child"))))
client.close()
fork(lambda: refused(lambda: asyncio.run(debit_in_a_loop())))
"""


async def test_client_refuses_plainly_to_be_used_after_a_fork_where_it_would_hang(ledger: FakeLedger) -> None:
    # In a process of its own, for gRPC's own handlers do not survive a fork beside the servers of the tests.
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, ledger.address)
    try:
        async with asyncio.timeout(30):
            assert await program.wait() == 0
    finally:
        if program.returncode is None:
            program.kill()
    assert ledger.sent() == [["in a child before the first use"], ["in the parent"]]


async def test_closed_client_is_closed(ledger: FakeLedger) -> None:
    client = Client(billing=ledger.address)
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.debit(debit("a"))


async def test_closing_ends_what_other_threads_wait_for(ledger: FakeLedger) -> None:
    client = Client(billing=ledger.address)
    forever = asyncio.create_task(asyncio.to_thread(client.run, lambda _: asyncio.Event().wait()))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await asyncio.to_thread(client.close)
        with pytest.raises(ClientClosed):
            await forever


async def test_callback_in_the_clients_own_thread_does_not_wait_for_itself(ledger: FakeLedger) -> None:
    async def call_back(_: object) -> None:
        client.debit(debit("from inside"))

    with Client(billing=ledger.address) as client:
        with pytest.raises(RuntimeError, match="client's own thread"):
            client.run(call_back)
        await asyncio.to_thread(client.debit, debit("from outside"))
