"""Metering's cache of keys, in front of a real identity; a proxy counts the calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import pytest

from libs.common.clock import SystemClock
from services.metering.clients.identity import VALID, IdentityClient
from tests.metering.support import Platform
from tests.support.callers import Metadata, in_the_name_of

pytestmark = pytest.mark.own_database

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
TTL_S = 3.0


class Gate(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts the calls to identity, and holds them back while it is closed."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.asked = 0
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, _Request], Awaitable[grpc.aio.UnaryUnaryCall[_Request, _Response]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: _Request,
    ) -> grpc.aio.UnaryUnaryCall[_Request, _Response] | _Response:
        self.asked += 1
        self.reached.set()
        await self.open.wait()
        details = in_the_name_of(self._metadata, client_call_details)
        return await continuation(details, request)


@asynccontextmanager
async def identity_behind(gate: Gate, port: int) -> AsyncIterator[IdentityClient]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=[gate]) as channel:
        yield IdentityClient(channel, SystemClock(), ttl_s=TTL_S, answers_max=10)


async def test_calls_with_one_key_share_a_question_and_have_it_renewed_before_it_is_too_old(platform: Platform) -> None:
    identity = await platform.start_identity()
    secret = (await identity.create_key()).secret
    gate = Gate(platform.callers.service("metering"))
    async with identity_behind(gate, platform.identity_port) as client:

        async def code() -> str:
            async with asyncio.timeout(TTL_S):
                answer = await client.verify(secret, model="gpt-4o", required_scopes=[], min_revision=0)
            return answer.code

        assert set(await asyncio.gather(*(code() for _ in range(64)))) == {VALID}
        assert gate.asked == 1

        # While the renewal is held back, calls go on with what is known.
        gate.open.clear()
        while gate.asked == 1:
            assert await code() == VALID
            await asyncio.sleep(0.02)
        assert await code() == VALID
        assert gate.asked == 2
        gate.open.set()


async def test_caller_who_gives_up_takes_the_question_from_nobody_else(platform: Platform) -> None:
    identity = await platform.start_identity()
    secret = (await identity.create_key()).secret
    gate = Gate(platform.callers.service("metering"))
    async with identity_behind(gate, platform.identity_port) as client:
        gate.open.clear()
        first, second = (
            asyncio.create_task(client.verify(secret, model="gpt-4o", required_scopes=[], min_revision=0))
            for _ in range(2)
        )
        await gate.reached.wait()

        first.cancel()
        gate.open.set()

        assert (await second).code == VALID
        assert gate.asked == 1
        assert first.cancelled()
