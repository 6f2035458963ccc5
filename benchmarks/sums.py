# ruff: noqa: S608 -- the statement is put together from names of columns; values are bound.
"""`QueryUsage` over a year of much usage and of little, and by days that begin within an hour of UTC."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Final

import asyncpg
import grpc

from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure
from libs.common.ids import NIL, new_id
from libs.common.sharding import shard_number, shard_schema
from libs.common.timestamps import render_time
from services.metering.tables import HOUR_KEY, TOKEN_CLASSES
from services.metering.usage.statements import HOUR_SUMS, LATENCY_BUCKET, hour_key, hour_sums
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

FEW: Final = 100_000
YEAR: Final = timedelta(days=365)
_TARGET: Final = 1 / 1.2
_CALLS_IN_ROUND: Final = 5
_LIMIT_S: Final = 60.0
_LOAD_LIMIT_S: Final = 1_800.0
# The sums that so many usages of two models make, evenly spread over a year, as metering would have written them. The
# usage itself is left out: a query of a year does not read it.
_SUMS: Final = f"""
    INSERT INTO usage_hours ({", ".join((*HOUR_KEY, *HOUR_SUMS))})
    SELECT {hour_key("'USD'", "''")}, {hour_sums("cost", "0")}
    FROM (
        SELECT *, {LATENCY_BUCKET} FROM (
            SELECT $1::uuid AS organization_id, $2::timestamptz + g * ($3::interval / $4::bigint) AS occur_time,
                'model-' || g % 2 AS model, NULL::uuid AS project_id, NULL::uuid AS user_id, NULL::uuid AS api_key_id,
                '{NIL}'::uuid AS dimension_id, 1000::bigint AS input, 100::bigint AS output,
                {", ".join(f"0::bigint AS {name}" for name in TOKEN_CLASSES[2:])},
                0.0035::numeric AS cost, 200 + g % 900 AS latency_ms, 200 AS status_code, NULL::text AS error_message
            FROM generate_series(0, $4::bigint - 1) AS g
        ) AS made
    ) AS usage
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query over the year of an organization that has so much usage."""

    organization_id: str
    usages: int
    time_zone: str = "UTC"


def measure_year(usages: int, rounds: int, shards: int) -> Figure:
    """Compares a year of many usages with a year of few, by days and models."""
    large, small = Asked(new_id(), usages), Asked(new_id(), min(FEW, usages))
    return _measure(large, small, rounds, shards, f"the same with {small.usages:,} usages")


def measure_zone(usages: int, rounds: int, shards: int) -> Figure:
    """Compares a year by days that begin at half past an hour of UTC with the same year by days of UTC."""
    organization_id = new_id()
    kolkata, utc = Asked(organization_id, usages, "Asia/Kolkata"), Asked(organization_id, usages)
    return _measure(kolkata, utc, rounds, shards, "the same by days of UTC")


def _measure(asked: Asked, peer: Asked, rounds: int, shards: int, against: str) -> Figure:
    with Deployment(shards) as deployment:
        start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - YEAR
        loaded = {asked.organization_id: asked, peer.organization_id: peer}
        rows = asyncio.run(_load(deployment.database_url, start, loaded))
        times, peer_times = asyncio.run(_time(deployment, start, asked, peer, rounds))
    ratios = [median(theirs) / median(ours) for ours, theirs in zip(times, peer_times, strict=True)]
    ours, theirs = [one for each in times for one in each], [one for each in peer_times for one in each]
    zone = "" if asked.time_zone == "UTC" else f" in {asked.time_zone}"
    return Figure(
        measured=f"QueryUsage, a year by days{zone} and 2 models, {asked.usages:,} usages, {rows:,} sums",
        against=against,
        unit="queries",
        target=_TARGET,
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        rate_per_s=1 / median(ours),
        peer_rate_per_s=1 / median(theirs),
        p50_ms_at_1=median(ours) * 1000,
        p99_ms_at_64=max(ours) * 1000,
        cpu_us={},
        peer_cpu_us={},
    )


async def _load(url: str, start: datetime, loaded: dict[str, Asked]) -> int:
    """Fill a migrated database, as its owner; return how many sums the first organization has."""
    connection = await asyncpg.connect(url, command_timeout=_LOAD_LIMIT_S)
    counts = []
    try:
        await connection.execute("SET synchronous_commit = off; SET jit = off; SET work_mem = '256MB'")
        shards = int(await connection.fetchval("SELECT shard_count FROM metering.sharding"))
        for organization_id, asked in loaded.items():
            schema = shard_schema("metering", shard_number(organization_id, shards))
            await connection.execute("SELECT set_config('search_path', $1, false)", schema)
            done = await connection.execute(_SUMS, organization_id, start, YEAR, asked.usages)
            counts.append(int(done.rpartition(" ")[2]))
            await connection.execute("VACUUM ANALYZE usage_hours")
    finally:
        await connection.close()
    return counts[0]


async def _time(
    deployment: Deployment, start: datetime, asked: Asked, peer: Asked, rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Return how long the calls of each round took, one after another, with the order of the two in turn."""
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    metadata = (("authorization", f"Bearer {deployment.token}"),)
    async with grpc.aio.insecure_channel(deployment.service("metering")) as channel:
        stub = usage_pb2_grpc.UsageServiceStub(channel)

        async def call(one: Asked) -> float:
            request = usage_pb2.QueryUsageRequest(
                organization_id=one.organization_id,
                start_time=render_time(start),
                end_time=render_time(start + YEAR),
                window=usage_pb2.USAGE_WINDOW_DAY,
                group_by=[usage_pb2.USAGE_DIMENSION_MODEL],
                time_zone=one.time_zone,
                page_size=1000,
            )
            began_s = time.perf_counter()
            answer = await stub.QueryUsage(request, metadata=metadata, timeout=_LIMIT_S)
            took_s = time.perf_counter() - began_s
            if sum(row.request_count for row in answer.summaries) != one.usages:
                raise LoadError(f"the sums are not those of {one.usages} usages")
            return took_s

        sides = list(zip((asked, peer), times, strict=True))
        for number in range(-1, rounds):
            sides.reverse()
            for one, found in sides:
                took = [await call(one) for _ in range(_CALLS_IN_ROUND)]
                if number >= 0:
                    found.append(took)
    return times
