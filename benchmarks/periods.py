"""The run of periods over many subscriptions that are due, and whether each is renewed and refilled once."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import grpc

from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure
from benchmarks.subscriptions import load_subscriptions
from libs.common.sharding import shard_schema
from tollhouse.billing.v1 import subscription_pb2, subscription_pb2_grpc
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc

_WANTED_PER_S: Final = 1_000
_LIMIT_S: Final = 1_800.0
_LOOK_EVERY_S: Final = 0.1
_SERVER: Final = {"max_wal_size": "8GB"}
# Billing looks for what is due when it starts, and not again while it is measured.
_ENVIRONMENT: Final = {"TOLLHOUSE_BILLING_PERIOD_RUN_EVERY_S": "3600", "TOLLHOUSE_BILLING_SWEEP_EVERY_S": "3600"}
_SET_PATH: Final = "SELECT set_config('search_path', $1, false)"
_COUNTS: Final = """
    SELECT count(*) FILTER (WHERE e.kind = 'PERIOD_STARTED' AND e.sequence = 3 AND NOT e.planned AND t.amount = 9.99),
        count(g.grant_id), count(*)
    FROM subscription_events AS e
    LEFT JOIN transactions AS t ON t.organization_id = e.organization_id AND t.operation_id = e.charge_operation_id
    LEFT JOIN credit_grants AS g ON g.organization_id = e.organization_id
        AND g.operation_id = e.grant_operation_ids[1] AND g.state = 'ACTIVE' AND g.rest = 100
    WHERE e.sequence > 2
"""


@dataclass(slots=True)
class Run:
    """One run of everything that is due."""

    duration_s: float = 0.0
    sizes: list[int] = field(default_factory=list)
    """How much memory billing had in use, from the beginning to the end."""
    cpu_us: dict[str, float] = field(default_factory=dict)


def measure_periods(subscriptions: int, shards: int) -> Figure:
    """Renews subscriptions, each of which costs a debit, the expiry of a grant and a new one.

    Raises:
        LoadError: one was missed or done twice, or a violation was found.
    """
    with Deployment(shards, _SERVER, _ENVIRONMENT) as deployment:
        target = deployment.service("billing")
        asyncio.run(load_subscriptions(deployment.database_url, subscriptions, shards))
        run = asyncio.run(_run(deployment, target, subscriptions))
        asyncio.run(_check(deployment, target, subscriptions))
    rate = subscriptions / run.duration_s
    first, last = run.sizes[len(run.sizes) // 5], max(run.sizes)
    return Figure(
        measured=f"{subscriptions:,} due subscriptions renewed and refilled in {run.duration_s:.1f} s; memory "
        f"{first / 1e6:.0f} MB after a fifth, {last / 1e6:.0f} MB at most",
        against=f"{_WANTED_PER_S:,} a second",
        unit="subscriptions",
        target=1,
        ratio=rate / _WANTED_PER_S,
        ratio_low=rate / _WANTED_PER_S,
        ratio_high=rate / _WANTED_PER_S,
        rate_per_s=rate,
        peer_rate_per_s=_WANTED_PER_S,
        p50_ms_at_1=run.duration_s * 1000,
        p99_ms_at_64=run.duration_s * 1000,
        cpu_us=run.cpu_us,
        peer_cpu_us={},
    )


async def _run(deployment: Deployment, target: str, subscriptions: int) -> Run:
    metadata = (("authorization", f"Bearer {deployment.token}"),)
    run, before = Run(), deployment.cpu_seconds()
    async with grpc.aio.insecure_channel(target) as channel:
        stub = subscription_pb2_grpc.SubscriptionServiceStub(channel)
        looking = asyncio.create_task(_look(deployment, run))
        began_s = time.monotonic()
        request = subscription_pb2.RunPeriodsRequest()
        report = [one async for one in stub.RunPeriods(request, metadata=metadata, timeout=_LIMIT_S)][-1]
        run.duration_s = time.monotonic() - began_s
        looking.cancel()
    if (report.done_count, report.due_count, report.set_aside_count) != (subscriptions, 0, 0):
        raise LoadError(f"of {subscriptions} subscriptions the run did: {report}")
    spent = deployment.cpu_seconds()
    run.cpu_us = {name: (spent[name] - before.get(name, 0)) / subscriptions * 1e6 for name in ("billing", "postgres")}
    return run


async def _look(deployment: Deployment, run: Run) -> None:
    while True:
        run.sizes.append(deployment.resident_bytes("billing"))
        await asyncio.sleep(_LOOK_EVERY_S)


async def _check(deployment: Deployment, target: str, subscriptions: int) -> None:
    """Count what was written, and let billing check it."""
    connection = await asyncpg.connect(deployment.database_url)
    try:
        charged = granted = events = 0
        for number in range(deployment.shards):
            await connection.execute(_SET_PATH, f"{shard_schema('billing', number)}, billing")
            row = await connection.fetchrow(_COUNTS)
            assert row is not None
            charged, granted, events = charged + row[0], granted + row[1], events + row[2]
    finally:
        await connection.close()
    if (charged, granted, events) != (subscriptions, subscriptions, subscriptions):
        raise LoadError(f"of {subscriptions} {charged} were charged and {granted} refilled, in {events} events")
    metadata = (("authorization", f"Bearer {deployment.token}"),)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = integrity_pb2_grpc.IntegrityServiceStub(channel)
        async for piece in stub.VerifyInvariants(
            integrity_pb2.VerifyInvariantsRequest(), metadata=metadata, timeout=_LIMIT_S
        ):
            if piece.HasField("finding"):
                raise LoadError(f"{piece.finding.invariant}: {piece.finding.resource}: {piece.finding.detail}")
