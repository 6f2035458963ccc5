"""The services that are compared, and errors that name the one that failed."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc

from libs.cli.terminal.connection import Channels
from libs.cli.terminal.refusals import refusal_line
from libs.cli.verdict import NoVerdict
from tollhouse.billing.v1 import charge_pb2_grpc as billing_rpc
from tollhouse.identity.v1 import organization_pb2_grpc
from tollhouse.metering.v1 import charge_pb2_grpc as metering_rpc

_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True, slots=True)
class Peers:
    """Stubs of what the three services say about organizations and charges."""

    identity: organization_pb2_grpc.OrganizationServiceStub
    billing: billing_rpc.ChargeServiceStub
    metering: metering_rpc.ChargeServiceStub

    @classmethod
    def of(cls, channels: Channels) -> "Peers":
        return cls(
            organization_pb2_grpc.OrganizationServiceStub(channels.identity),
            billing_rpc.ChargeServiceStub(channels.billing),
            metering_rpc.ChargeServiceStub(channels.metering),
        )


@contextmanager
def naming(service: str) -> Iterator[None]:
    """Turn a failed call into an error that names the service.

    Raises:
        NoVerdict: a call in the context failed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise NoVerdict(
            f"{service} did not complete its part, so there is no verdict. {refusal_line(error)}"
        ) from error


async def both(one: Awaitable[_T], other: Awaitable[_U]) -> tuple[_T, _U]:
    """Wait for two at the same time. If one fails, the other is cancelled."""
    first, second = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(first, second)
    finally:
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def all_of(*parts: Awaitable[_T]) -> list[_T]:
    """Wait for all at the same time. If one fails, the others are cancelled."""
    futures = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
