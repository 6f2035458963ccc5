"""A server whose answers make no sense ends each call in a clear exception, and nobody is served by it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.client.fake_service import debit
from tests.client.test_leases import refuse
from tests.metering.support import eventually
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc
from tollhouse.metering.v1 import admission_pb2, lease_pb2, model_pb2, model_pb2_grpc, usage_pb2
from tollhouse_client import Client, KeyCache, key_cache
from tollhouse_client.errors import Denied, Internal

GARBAGE = b"\xff\xff\xff"


class Garbage(grpc.GenericRpcHandler):
    """Answers every RPC with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.calls: list[str] = []
        self._answer = answer

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        path = str(details.method)
        self.calls.append(path)

        async def answer(_: bytes, __: object) -> bytes:
            return self._answer

        async def stream(_: bytes, __: object) -> AsyncIterator[bytes]:
            yield self._answer

        if "Watch" in path:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def served(answer: bytes) -> AsyncIterator[tuple[Client, Garbage]]:
    garbage = Garbage(answer)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((garbage,))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with Client(identity=address, billing=address, metering=address) as client:
            yield client, garbage
    finally:
        await server.stop(0)


async def _block(client: Client) -> None:
    async with client.meter.authorize(model="m", api_key="k"):
        raise AssertionError("served")


async def _stream(client: Client) -> None:
    stub = client.stub(api_key_pb2_grpc.ApiKeyServiceStub)
    await anext(aiter(stub.WatchApiKeys(api_key_pb2.WatchApiKeysRequest())))


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "authorize": lambda client: client.authorize(admission_pb2.AuthorizeRequest(operation_id="a")),
    "settle": lambda client: client.settle(admission_pb2.SettleRequest(operation_id="a")),
    "record_usage": lambda client: client.record_usage(usage_pb2.RecordUsageRequest(operation_id="a")),
    "debit": lambda client: client.debit(debit("a")),
    "verify_api_key": lambda client: client.verify_api_key(api_key_pb2.VerifyApiKeyRequest(key="k")),
    "cancel": lambda client: client.cancel(admission_pb2.CancelRequest(operation_id="a")),
    "extend": lambda client: client.extend(admission_pb2.ExtendAuthorizationRequest(operation_id="a")),
    "stub": lambda client: client.stub(model_pb2_grpc.ModelServiceStub).GetModel(model_pb2.GetModelRequest()),
    "stream": _stream,
    "block": _block,
    "key": lambda client: KeyCache(client).verify("k"),
}


@pytest.mark.parametrize("call", CALLS)
async def test_answer_that_cannot_be_read_is_an_exception_and_never_an_answer(call: str) -> None:
    async with served(GARBAGE) as (client, _):
        with pytest.raises(Internal) as error:
            await CALLS[call](client)
    assert error.value.reason == "CLIENT_MALFORMED_ANSWER"


async def test_stream_that_cannot_be_read_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "_OPEN_AGAIN_AFTER_S", 0.01)
    async with served(GARBAGE) as (client, garbage), KeyCache(client):

        async def opened() -> int:
            return len(garbage.calls)

        await eventually(opened, lambda count: count >= 3)


async def test_lease_whose_answer_cannot_be_read_lets_nobody_through() -> None:
    request = lease_pb2.AcquireLeaseRequest(organization_id="o", ttl=Duration(seconds=10))
    async with served(GARBAGE) as (client, _), client.meter.lease(request, on_refused=refuse) as lease:
        assert lease.take({"requests": 1}) is None


@pytest.mark.parametrize("fields", [{"allowed_addresses": ["not an address"]}, {"principal": None}])
async def test_good_key_of_nobody_or_with_odd_addresses_is_not_served(fields: dict[str, object]) -> None:
    principal = api_key_pb2.Principal(organization_id="o")
    answer = api_key_pb2.VerifyApiKeyResponse(
        code=api_key_pb2.VERIFY_API_KEY_CODE_VALID,
        **{"principal": principal, **fields},  # type: ignore[arg-type]  # fields of different types
    )
    async with served(answer.SerializeToString()) as (client, _), asyncio.timeout(10):
        with pytest.raises(Internal):
            await KeyCache(client).verify("k")


async def test_denial_with_odd_facts_is_a_denial() -> None:
    denial = admission_pb2.Denial(facts={"retry_after_ms": "9" * 5000})
    answer = admission_pb2.AuthorizeResponse(decision=admission_pb2.DECISION_DENIED, denial=denial)
    async with served(answer.SerializeToString()) as (client, _):
        with pytest.raises(Denied) as error:
            await _block(client)
    assert error.value.retry_after_s is None
