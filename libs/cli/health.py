"""Asking a service, through the standard health protocol, whether it serves."""

import asyncio
import time

import grpc
from grpc_health.v1 import health_pb2


async def is_serving(target: str, timeout_s: float = 2.0) -> bool:
    """Ask once."""
    async with grpc.aio.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def wait_until_serving(target: str, timeout_s: float) -> bool:
    """Ask again and again until it serves; say whether it did within the time."""
    give_up = time.monotonic() + timeout_s
    while not await is_serving(target):
        if time.monotonic() >= give_up:
            return False
        await asyncio.sleep(0.05)
    return True
