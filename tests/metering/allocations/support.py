"""Limits beside the service that a test sets, and allocations in one line each."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.clock import Clock
from libs.common.ids import new_id
from libs.common.shards import Shards, open_shards
from services.metering.quota import store
from services.metering.quota.domain import (
    CONCURRENT_CALLS,
    Enforcement,
    Entry,
    Limit,
    Scope,
    Shape,
    Terms,
    Window,
)
from tests.metering.support import Metering, Platform
from tests.support.sharded import shard_count
from tollhouse.metering.v1 import quota_pb2 as pb
from tollhouse.metering.v1 import quota_pb2_grpc as rpc

Amounts = Mapping[str, str]
"""Amounts by metric; those of spend by a currency such as `USD`."""
NORMAL: Final = pb.ALLOCATION_MODE_NORMAL
BEST_EFFORT: Final = pb.ALLOCATION_MODE_BEST_EFFORT
CHECK_ONLY: Final = pb.ALLOCATION_MODE_CHECK_ONLY
ADJUST_ONLY: Final = pb.ALLOCATION_MODE_ADJUST_ONLY


@dataclass(frozen=True)
class Limits:
    """Sets limits in the database, as another process would."""

    shards: Shards
    clock: Clock

    async def set(
        self,
        organization_id: str,
        maximum: str | None,
        metric: str = "requests",
        *,
        name: str = "",
        window: Window = Window.LIFETIME,
        sliding: bool = False,
        scope: Scope = Scope.ORGANIZATION,
        label: str = "",
        currency_code: str = "",
        enforcement: Enforcement = Enforcement.HARD,
        burst: str = "0",
    ) -> Limit:
        shape = Shape(
            metric,
            currency_code,
            Window.NONE if metric == CONCURRENT_CALLS else window,
            sliding,
            "",
            0,
            scope,
            "",
            label,
        )
        limit = Limit(new_id(), name or f"limit-{new_id()}", shape, _terms(maximum, enforcement, burst))
        now = self.clock.now()
        async with self.shards.of(organization_id).raw_transaction() as connection:
            revision = await store.next_revision(connection)
            assert await store.add(connection, organization_id, Entry(limit, revision, now, now))
        return limit

    async def change(self, organization_id: str, limit: Limit, maximum: str | None) -> None:
        """Change the maximum."""
        now = self.clock.now()
        changed = Limit(limit.limit_id, limit.name, limit.shape, _terms(maximum, limit.terms.enforcement, "0"))
        async with self.shards.of(organization_id).raw_transaction() as connection:
            revision = await store.next_revision(connection)
            await store.change(connection, organization_id, Entry(changed, revision, now, now))

    async def delete(self, organization_id: str, limit: Limit) -> None:
        async with self.shards.of(organization_id).raw_transaction() as connection:
            await store.next_revision(connection)
            await store.delete(connection, organization_id, limit.limit_id)


def _terms(maximum: str | None, enforcement: Enforcement, burst: str) -> Terms:
    return Terms(None if maximum is None else Decimal(maximum), enforcement, Decimal(burst))


@asynccontextmanager
async def limits_of(platform: Platform) -> AsyncIterator[Limits]:
    shards = open_shards(platform.urls["metering"], schema="metering", count=shard_count())
    try:
        yield Limits(shards, platform.clock)
    finally:
        await shards.close()


def request_of(
    organization_id: str,
    amounts: Amounts,
    operation_id: str = "",
    *,
    mode: pb.AllocationMode.ValueType = NORMAL,
    **fields: object,
) -> pb.AllocateQuotaRequest:
    request = pb.AllocateQuotaRequest(
        organization_id=organization_id, operation_id=operation_id or f"op-{new_id()}", mode=mode
    )
    request.MergeFrom(pb.AllocateQuotaRequest(**fields))  # type: ignore[arg-type]
    for metric, value in amounts.items():
        if metric.isupper():
            request.amounts.add(metric="spend", currency_code=metric, value=value)
        else:
            request.amounts.add(metric=metric, value=value)
    return request


async def allocate(
    metering: Metering,
    organization_id: str,
    amounts: Amounts,
    operation_id: str = "",
    *,
    mode: pb.AllocationMode.ValueType = NORMAL,
    **fields: object,
) -> pb.AllocateQuotaResponse:
    request = request_of(organization_id, amounts, operation_id, mode=mode, **fields)
    return await stub(metering).AllocateQuota(request, metadata=metering.gateway)


async def release(metering: Metering, organization_id: str, operation_id: str) -> pb.ReleaseQuotaResponse:
    request = pb.ReleaseQuotaRequest(organization_id=organization_id, operation_id=operation_id)
    return await stub(metering).ReleaseQuota(request, metadata=metering.gateway)


def stub(metering: Metering) -> rpc.QuotaServiceStub:
    return rpc.QuotaServiceStub(metering.channel)


def allocated(answer: pb.AllocateQuotaResponse) -> dict[str, str]:
    """Return what was allocated, by metric or currency."""
    return {one.currency_code or one.metric: one.value for one in answer.allocated_amounts}


def standing(answer: pb.AllocateQuotaResponse, name: str) -> tuple[str, str, str]:
    """Return what is used, reserved and remaining of a limit."""
    (limit,) = (one for one in answer.limits if one.name == name)
    return limit.used, limit.reserved, limit.remaining


async def state(metering: Metering, organization_id: str, name: str) -> tuple[str, str, str]:
    """Return what is used, reserved and remaining of a limit of the organization, without taking anything."""
    answer = await allocate(metering, organization_id, {"products": "0"}, mode=CHECK_ONLY)
    return standing(answer, name)


async def assert_counters_are_allocations(platform: Platform) -> None:
    """Assert that every counter has what allocations took, and the places of those that are not released."""
    differing = await platform.value(
        """
        WITH taken AS (
            SELECT a.organization_id, t.counter_id, sum(t.used) AS used,
                sum(CASE WHEN a.released THEN 0 ELSE t.reserved END) AS reserved
            FROM metering.quota_allocations a
            CROSS JOIN LATERAL unnest(a.counters, a.taken, a.reserved) AS t(counter_id, used, reserved)
            GROUP BY 1, 2
        )
        SELECT array_agg(counter_id::text) FROM metering.limit_counters c FULL JOIN taken t
            USING (organization_id, counter_id)
        WHERE coalesce(c.used, -1) <> coalesce(t.used, 0) OR coalesce(c.reserved, -1) <> coalesce(t.reserved, 0)
        """
    )
    assert differing is None
    waiting = await platform.value(
        """
        SELECT count(*) FROM metering.quota_allocations a FULL JOIN metering.quota_leases l
            USING (organization_id, operation_id)
        WHERE (l.lease_end_time IS NOT NULL) <> (a.lease_end_time IS NOT NULL AND NOT a.released)
        """
    )
    assert waiting == 0


async def total(platform: Platform, column: str = "used") -> str:
    """Return the sum of what all counters have used, or reserved."""
    statements = {
        "used": "SELECT coalesce(sum(used), 0) FROM metering.limit_counters",
        "reserved": "SELECT coalesce(sum(reserved), 0) FROM metering.limit_counters",
    }
    return format_amount(Decimal(str(await platform.value(statements[column]))))


def at_the_start_of_a_minute(clock: Clock) -> timedelta:
    """Return by how much to move a clock so that the present minute does not end during the test."""
    now = clock.now()
    return timedelta(seconds=60.2) - timedelta(seconds=now.second, microseconds=now.microsecond)
