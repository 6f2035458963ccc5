"""The ways in which the client process makes the calls of a script: by bare stubs, or through the client package."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Final, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import usage_pb2
from tollhouse_client import Client, KeyAnswer, KeyCache, Token

CALL_DEADLINE_S = 20.0

Call: TypeAlias = Callable[[Message], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Step:
    """One RPC: its path and its response type."""

    path: str
    reply: type[Message]


@asynccontextmanager
async def _by_stubs(target: str, token: str, steps: Sequence[Step]) -> AsyncIterator[list[Call]]:
    metadata = (("authorization", f"Bearer {token}"),)
    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_DEADLINE_S)
        yield [
            partial(
                channel.unary_unary(
                    step.path, request_serializer=_serialize, response_deserializer=step.reply.FromString
                ),
                timeout=CALL_DEADLINE_S,
                metadata=metadata,
            )
            for step in steps
        ]


@asynccontextmanager
async def _by_client(target: str, token: str, steps: Sequence[Step]) -> AsyncIterator[list[Call]]:
    # Every context has the same address, for a script calls only one of them.
    credentials = Token(token)
    async with Client(
        identity=target, billing=target, metering=target, credentials=credentials, timeout_s=CALL_DEADLINE_S
    ) as client:
        methods = {
            "Debit": client.debit,
            "Authorize": client.authorize,
            "Settle": client.settle,
            "RecordUsage": client.record_usage,
            "VerifyApiKey": client.verify_api_key,
        }
        yield [cast(Call, methods[step.path.rpartition("/")[2]]) for step in steps]


@asynccontextmanager
async def _by_key_cache(target: str, token: str, steps: Sequence[Step]) -> AsyncIterator[list[Call]]:
    client = Client(identity=target, credentials=Token(token), timeout_s=CALL_DEADLINE_S)
    async with client, KeyCache(client) as keys:
        async with asyncio.timeout(CALL_DEADLINE_S):
            while not keys.watched_revision:  # noqa: ASYNC110 -- the cache has no event for its first message.
                await asyncio.sleep(0.01)
        replies: dict[int, tuple[KeyAnswer, Message]] = {}

        async def verify(request: Message) -> Message:
            """The message for each answer is made once, so that the check of the replies is no part of the measure."""
            assert isinstance(request, api_key_pb2.VerifyApiKeyRequest)
            answer = await keys.verify(request.key, model=request.model)
            known = replies.get(id(answer))
            if known is None:
                known = replies[id(answer)] = (answer, _reply(answer))
            return known[1]

        yield [verify for _ in steps]


@asynccontextmanager
async def _by_streams(target: str, token: str, steps: Sequence[Step]) -> AsyncIterator[list[Call]]:
    """Messages of StreamUsage, on each of a few streams in turn. A call ends when all its usages are acknowledged."""
    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.wait_for(channel.channel_ready(), CALL_DEADLINE_S)
        opened = channel.stream_stream(
            steps[0].path, request_serializer=_serialize, response_deserializer=steps[0].reply.FromString
        )
        streams = [_Stream(opened(metadata=(("authorization", f"Bearer {token}"),))) for _ in range(STREAMS)]
        turns = cycle(streams)
        yield [lambda request: next(turns).send(request)]
        for stream in streams:
            await stream.close()


class _Stream:
    """A stream of usage, and the messages on it that are not acknowledged in full."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[Message, Message]") -> None:
        self._call = call
        self._waiting: dict[str, _Waiting] = {}
        self._writing = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    async def send(self, request: Message) -> Message:
        """Send a message; return the acknowledgements of its usages, in the order in which they came."""
        assert isinstance(request, usage_pb2.StreamUsageRequest)
        usages = request.usages or [request.usage]
        waiting = _Waiting(len(usages), asyncio.get_running_loop().create_future())
        self._waiting.update((usage.operation_id, waiting) for usage in usages)
        async with self._writing:
            await self._call.write(request)
        await asyncio.wait_for(waiting.complete, CALL_DEADLINE_S)
        return waiting.reply

    async def close(self) -> None:
        """Send nothing more, and wait for the end."""
        await self._call.done_writing()
        await self._reader

    async def _read(self) -> None:
        async for response in self._call:
            assert isinstance(response, usage_pb2.StreamUsageResponse)
            for outcome in response.outcomes or [response.outcome]:
                waiting = self._waiting.pop(outcome.operation_id)
                waiting.reply.outcomes.append(outcome)
                waiting.missing -= 1
                if not waiting.missing:
                    waiting.complete.set_result(None)


@dataclass(slots=True)
class _Waiting:
    """A message whose acknowledgements are awaited."""

    missing: int
    complete: "asyncio.Future[None]"
    reply: usage_pb2.StreamUsageResponse = field(default_factory=usage_pb2.StreamUsageResponse)


def _reply(answer: KeyAnswer) -> Message:
    if answer.key is None:
        return api_key_pb2.VerifyApiKeyResponse(code=api_key_pb2.VERIFY_API_KEY_CODE_NOT_FOUND)
    principal = api_key_pb2.Principal(organization_id=answer.key.organization_id)
    valid = api_key_pb2.VERIFY_API_KEY_CODE_VALID
    return api_key_pb2.VerifyApiKeyResponse(code=valid, principal=principal, api_key_id=answer.key.api_key_id)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


STUBS: Final = "stubs"
CLIENT: Final = "client"
KEY_CACHE: Final = "key cache"
STREAMED: Final = "streams"
STREAMS: Final = 4
"""The number of streams that messages are sent on in turn."""
WAYS: Final[Mapping[str, Callable[[str, str, Sequence[Step]], AbstractAsyncContextManager[list[Call]]]]] = {
    STUBS: _by_stubs,
    CLIENT: _by_client,
    KEY_CACHE: _by_key_cache,
    STREAMED: _by_streams,
}
