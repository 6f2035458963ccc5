"""Tests that leak a secret on purpose. The suite excludes them; tests/common/test_secrecy.py expects them to fail."""

import sys
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest
import structlog

from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc

KEY = "th_live_" + "0aB" * 16 + "7"
WITHOUT_SHAPE = "correct horse battery staple"
TOKEN = "eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiJ4In0.c2ln"

_log = structlog.get_logger("planted")


async def verify(
    request: api_key_pb2.VerifyApiKeyRequest, context: grpc.aio.ServicerContext
) -> api_key_pb2.VerifyApiKeyResponse:
    """Tell what should be kept."""
    if not request.model:
        await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no {request.key}.")
    _log.info("verifying", presented=request.key)
    return api_key_pb2.VerifyApiKeyResponse()


@pytest.fixture
async def careless() -> AsyncIterator[api_key_pb2_grpc.ApiKeyServiceStub]:
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        verify,
        api_key_pb2.VerifyApiKeyRequest.FromString,
        api_key_pb2.VerifyApiKeyResponse.SerializeToString,
    )
    service = "tollhouse.identity.v1.ApiKeyService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"VerifyApiKey": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield api_key_pb2_grpc.ApiKeyServiceStub(channel)
    await server.stop(None)


def test_nothing_gets_out() -> None:
    _log.info("a key came", presented=KEY)


async def test_secret_without_a_shape_in_the_log(careless: api_key_pb2_grpc.ApiKeyServiceStub) -> None:
    await careless.VerifyApiKey(api_key_pb2.VerifyApiKeyRequest(key=WITHOUT_SHAPE, model="any"))


async def test_secret_in_a_refusal(careless: api_key_pb2_grpc.ApiKeyServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await careless.VerifyApiKey(api_key_pb2.VerifyApiKeyRequest(key=KEY))


async def test_secret_in_a_table(database_admin_url: str) -> None:
    connection = await asyncpg.connect(database_admin_url)
    await connection.execute("CREATE TABLE identity.planted (note jsonb)")
    await connection.execute("INSERT INTO identity.planted VALUES (jsonb_build_object('changed', $1::text))", KEY)
    await connection.close()


def test_secret_in_the_output() -> None:
    print(TOKEN, file=sys.stderr)
