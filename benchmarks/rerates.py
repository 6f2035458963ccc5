"""Usages re-rated a second by a job, and what that does to the latency of usage that is recorded beside it."""

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc

from benchmarks.charges import MODEL, SPAN, Loaded, load_charges
from benchmarks.deployment import Deployment
from benchmarks.load import LoadError, Round
from benchmarks.measure import Figure
from benchmarks.preparation import PriceList
from benchmarks.tails import Paced
from benchmarks.traffic import Tenant, UsageRecords
from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc, usage_pb2, usage_pb2_grpc

_WANTED_PER_S: Final = 5_000
_ORGANIZATIONS: Final = 20
_RECORDED_PER_S: Final = 100
_LIMIT_S: Final = 1_800.0
_LOOK_EVERY_S: Final = 0.1
_ROUNDS: Final = 3
_SERVER: Final = {"max_wal_size": "8GB"}


@dataclass(frozen=True, slots=True)
class Done:
    """A job that is done."""

    usages: int
    duration_s: float
    peak_bytes: int
    """The most memory that metering had in use."""
    cpu_us: dict[str, float]

    @property
    def rate_per_s(self) -> float:
        return self.usages / self.duration_s


def measure_rerates(usages: int, shards: int) -> Figure:
    """Re-rates usage, previews first, and records usage beside a second job that gives the difference back.

    Raises:
        LoadError: a usage was left out, or a violation was found.
    """
    with Deployment(shards, _SERVER) as deployment:
        loaded = load_charges(deployment.database_url, usages, _ORGANIZATIONS)
        run = asyncio.run(_run(deployment, loaded, usages))
    alone, beside = run.alone, run.beside
    tail_before, tail_beside = min(run.tails_before), min(run.tails_beside)
    ratio = alone.rate_per_s / _WANTED_PER_S
    return Figure(
        measured=f"RerateUsage, {usages:,} usages of {_ORGANIZATIONS} organizations: {alone.rate_per_s:,.0f} a second"
        f" debited, previewed in {run.preview_s:.1f} s; beside {_RECORDED_PER_S} RecordUsage a second "
        f"{beside.rate_per_s:,.0f} given back, their p99 {tail_beside / tail_before:.2f} times; "
        f"metering's memory {alone.peak_bytes / 1e6:.0f} MB",
        against=f"{_WANTED_PER_S:,} a second",
        unit="usages",
        target=1,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        rate_per_s=alone.rate_per_s,
        peer_rate_per_s=_WANTED_PER_S,
        p50_ms_at_1=tail_before,
        p99_ms_at_64=tail_beside,
        cpu_us=alone.cpu_us,
        peer_cpu_us={},
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was seen. The tails are p99 latencies of usage that was recorded, in milliseconds."""

    preview_s: float
    alone: Done
    beside: Done
    tails_before: list[float]
    tails_beside: list[float]


async def _run(deployment: Deployment, loaded: Loaded, usages: int) -> _Measured:
    async with grpc.aio.insecure_channel(deployment.service("metering")) as channel:
        run = _Run(deployment, channel, loaded, usages)
        first, dearer = await run.prices()
        preview_s = await run.preview(dearer)
        alone = await run.job(dearer)
        before = [await run.tail() for _ in range(_ROUNDS)]
        tails: list[float] = []
        beside = await run.job(first, tails)
        await run.verify()
    return _Measured(preview_s, alone, beside, before, tails)


class _Run:
    """The jobs of one run, and the usage that is recorded beside them."""

    def __init__(self, deployment: Deployment, channel: grpc.aio.Channel, loaded: Loaded, usages: int) -> None:
        self._deployment = deployment
        self._channel = channel
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {deployment.token}"),)
        self._loaded = loaded
        self._usages = usages
        self._recorded = 0
        self._tenants = tuple(Tenant(one, new_id()) for one in loaded.organization_ids)
        deployment.run(Round(deployment.service("metering"), deployment.token, PriceList(), 0, 0, 1, 1))

    async def prices(self) -> tuple[str, str]:
        """Return the price version that all usage has, and one that costs twice as much."""
        models = model_pb2_grpc.ModelServiceStub(self._channel)
        listed = await models.ListPrices(model_pb2.ListPricesRequest(model_id=MODEL), metadata=self._metadata)
        dearer = model_pb2.SetPriceRequest(
            request_id=new_id(),
            model_id=MODEL,
            currency_code="USD",
            prices=model_pb2.TokenPrices(input="5", output="20"),
            effective_time=render_time(self._loaded.start + timedelta(seconds=1)),
        )
        answer = await models.SetPrice(dearer, metadata=self._metadata)
        return listed.price_versions[0].price_version_id, answer.price_version.price_version_id

    async def preview(self, price_version_id: str) -> float:
        """Return how long it took to see what a job would do."""
        request = self._request(price_version_id)
        request.validate_only = True
        began_s, changing = time.monotonic(), 0
        while True:
            page = await self._usage.RerateUsage(request, metadata=self._metadata, timeout=_LIMIT_S)
            changing += sum(one.sums.changed_count for one in page.differences)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        if changing != self._usages:
            raise LoadError(f"{changing} of {self._usages} usages would change")
        return time.monotonic() - began_s

    async def job(self, price_version_id: str, tails: list[float] | None = None) -> Done:
        """Re-rate all usage; where tails are asked for, record usage meanwhile, and add the p99 of each round."""
        before = self._deployment.cpu_seconds()
        began_s, peak_bytes = time.monotonic(), 0
        request = self._request(price_version_id)
        job = (await self._usage.RerateUsage(request, metadata=self._metadata, timeout=_LIMIT_S)).job
        asked = usage_pb2.GetRerateJobRequest(job_id=job.job_id)
        while job.state != usage_pb2.RERATE_JOB_STATE_DONE:
            if tails is None:
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                tails.append(await self.tail())
            peak_bytes = max(peak_bytes, self._deployment.resident_bytes("metering"))
            job = (await self._usage.GetRerateJob(asked, metadata=self._metadata, timeout=_LIMIT_S)).job
        ended = job.end_time.ToDatetime() - job.create_time.ToDatetime()
        if job.sums.changed_count != self._usages or time.monotonic() - began_s > _LIMIT_S:
            raise LoadError(f"{job.sums.changed_count} of {self._usages} usages were re-rated")
        spent = self._deployment.cpu_seconds()
        names = ("metering", "billing", "postgres")
        cpu_us = {name: (spent[name] - before.get(name, 0)) / self._usages * 1e6 for name in names}
        return Done(self._usages, ended.total_seconds(), peak_bytes, cpu_us)

    async def tail(self) -> float:
        """Return the p99 of usage that is recorded for some seconds, in milliseconds."""
        self._recorded += 1
        calls = Paced(UsageRecords(self._tenants, f"beside-{self._recorded}"), _RECORDED_PER_S)
        target = self._deployment.service("metering")
        timing = await asyncio.to_thread(self._deployment.run, calls.round(self._deployment, target))
        return timing.percentile_ms(99)

    async def verify(self) -> None:
        """Let metering check what it has stored."""
        stub = integrity_pb2_grpc.IntegrityServiceStub(self._channel)
        request = integrity_pb2.VerifyInvariantsRequest()
        async for piece in stub.VerifyInvariants(request, metadata=self._metadata, timeout=_LIMIT_S):
            if piece.HasField("finding"):
                raise LoadError(f"{piece.finding.invariant}: {piece.finding.detail}")

    def _request(self, price_version_id: str) -> usage_pb2.RerateUsageRequest:
        return usage_pb2.RerateUsageRequest(
            operation_id=new_id(),
            start_time=render_time(self._loaded.start),
            end_time=render_time(self._loaded.start + SPAN),
            price_version_id=price_version_id,
        )
