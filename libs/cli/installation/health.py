"""Health checks of a service, with the standard gRPC health protocol."""

import asyncio
import time
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from libs.common.channel import ClientTls

_ANSWER_WITHIN_S: Final = 2.0


async def is_serving(target: str, tls: ClientTls | None = None) -> bool:
    """Return whether the service is serving; asks once."""
    async with _channel(target, tls) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_WITHIN_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def wait_until_serving(target: str, timeout_s: float, tls: ClientTls | None = None) -> bool:
    """Ask repeatedly until the service is serving; return False when it is not within the time."""
    give_up = time.monotonic() + timeout_s
    while not await is_serving(target, tls=tls):
        if time.monotonic() >= give_up:
            return False
        await asyncio.sleep(0.05)
    return True


def _channel(target: str, tls: ClientTls | None) -> grpc.aio.Channel:
    """Open a channel without a token: health checks need none."""
    if tls is None:
        return grpc.aio.insecure_channel(target)
    credentials = grpc.ssl_channel_credentials(
        tls.server_ca_file.read_bytes(), tls.key_file.read_bytes(), tls.certificate_file.read_bytes()
    )
    return grpc.aio.secure_channel(target, credentials)
