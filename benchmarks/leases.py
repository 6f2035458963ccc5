"""Decisions that a gateway makes by itself within leases, while it acquires and settles them in the background."""

import asyncio
import statistics
import time
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import status_pb2

from benchmarks.load import LoadError
from benchmarks.measure import Figure
from benchmarks.traffic import MODELS
from libs.common.ids import new_id
from tollhouse.metering.v1 import lease_pb2, model_pb2, quota_pb2, quota_pb2_grpc, usage_pb2
from tollhouse.metering.v1.lease_holder import LeaseHolder

WANTED_PER_S: Final = 100_000
_ROUNDS: Final = 7
_DECISIONS: Final = 200_000
_SETTLED_EACH: Final = 1_000
"""Of so many decisions one is of a call whose usage is settled; those of the others give back what they took."""
_LOOP_EVERY: Final = 500
"""After so many decisions the event loop gets a turn, as it does after a few calls of a gateway."""
_CALL: Final = {"requests": 1, "total_tokens": 1_500}
_LEASE: Final = (("requests", "20000"), ("total_tokens", "30000000"))


def measure_leases(target: str, token: str, organization_id: str) -> Figure:
    """Let one holder decide calls, each of two amounts, and settle some of them.

    Raises:
        LoadError: a call was refused, or the counters differ from what was settled.
    """
    rates, cpu_us = asyncio.run(_decide(target, token, organization_id))
    rate = statistics.median(rates)
    return Figure(
        measured="calls decided within leases, in one thread of a gateway; leases acquired and settled beside",
        against=f"{WANTED_PER_S:,} a second",
        unit="decisions",
        target=1,
        ratio=rate / WANTED_PER_S,
        ratio_low=min(rates) / WANTED_PER_S,
        ratio_high=max(rates) / WANTED_PER_S,
        rate_per_s=rate,
        peer_rate_per_s=WANTED_PER_S,
        p50_ms_at_1=1000 / rate,
        p99_ms_at_64=1000 / min(rates),
        cpu_us={"client": cpu_us},
        peer_cpu_us={},
    )


async def _decide(target: str, token: str, organization_id: str) -> tuple[list[float], float]:
    """Return the rate of each round, and the CPU time of a decision in µs."""
    metadata = (("authorization", f"Bearer {token}"),)
    request = lease_pb2.AcquireLeaseRequest(
        organization_id=organization_id,
        amounts=[quota_pb2.QuotaAmount(metric=metric, value=value) for metric, value in _LEASE],
        ttl=Duration(seconds=30),
    )
    refused: list[status_pb2.Status] = []
    rates: list[float] = []
    settled = 0
    async with grpc.aio.insecure_channel(target) as channel:
        holder = LeaseHolder(
            channel, request, metadata=metadata, settle_every_s=0.2, on_refused=lambda _, status: refused.append(status)
        )
        async with holder:
            spent_s = time.process_time()
            for _ in range(_ROUNDS):
                began_s = time.perf_counter()
                settled += await _round(holder, organization_id)
                rates.append(_DECISIONS / (time.perf_counter() - began_s))
            cpu_us = (time.process_time() - spent_s) / (_ROUNDS * _DECISIONS) * 1e6
        if refused:
            raise LoadError(f"{len(refused)} usages were refused: {refused[0].message}")
        await _check(channel, metadata, organization_id, settled)
    return rates, cpu_us


async def _round(holder: LeaseHolder, organization_id: str) -> int:
    """Make the decisions of a round; return how many usages were reported."""
    settled = 0
    for number in range(_DECISIONS):
        taken = holder.take(_CALL)
        if taken is None:
            raise LoadError(f"a call was refused: {holder.denied}")
        if number % _SETTLED_EACH:
            holder.done(taken, None)
        else:
            usage = usage_pb2.RecordUsageRequest(
                organization_id=organization_id,
                operation_id=f"leased-{new_id()}",
                model=MODELS[0],
                tokens=model_pb2.TokenCounts(input=1_000, output=500),
            )
            holder.done(taken, usage)
            settled += 1
        if not number % _LOOP_EVERY:
            await asyncio.sleep(0)
    return settled


async def _check(
    channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...], organization_id: str, settled: int
) -> None:
    """Check that limits have counted just what was settled, and that nothing is reserved still."""
    stub: quota_pb2_grpc.QuotaServiceStub = quota_pb2_grpc.QuotaServiceStub(channel)
    request = quota_pb2.GetUsageAgainstLimitsRequest(organization_id=organization_id, name="limit-2")
    (limit,) = (await stub.GetUsageAgainstLimits(request, metadata=metadata)).limits
    if (limit.used, limit.reserved) != (str(settled), "0"):
        raise LoadError(f"{settled} usages were settled, but the limit has: {limit}")
