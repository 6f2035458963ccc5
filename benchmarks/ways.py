"""The ways in which the client process makes the calls of a script: by bare stubs, or through the client package."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from tollhouse.identity.v1 import api_key_pb2
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
WAYS: Final[Mapping[str, Callable[[str, str, Sequence[Step]], AbstractAsyncContextManager[list[Call]]]]] = {
    STUBS: _by_stubs,
    CLIENT: _by_client,
    KEY_CACHE: _by_key_cache,
}
