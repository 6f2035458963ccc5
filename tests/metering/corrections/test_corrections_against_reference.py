"""Usage, amendments, voids, restorations and repeats in any order end as a plain reference model does."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.status import reason_of
from libs.common.timestamps import render_time
from tests.metering.corrections.calls import amendment, charged, tokens
from tests.metering.support import Metering, Platform, usage
from tollhouse.metering.v1 import quota_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

_T = TypeVar("_T")
NOW: Final = SystemClock().now() - timedelta(minutes=10)
DAYS: Final = (timedelta(), timedelta(days=1))
USAGES: Final = st.sampled_from(["call-1", "call-2"])
COUNTS: Final = st.sampled_from([0, 1000, 2000])
DAY: Final = st.integers(0, 1)
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("record"), USAGES, COUNTS, DAY),
        st.tuples(st.just("tokens"), USAGES, COUNTS, st.just(0)),
        st.tuples(st.just("time"), USAGES, st.just(0), DAY),
        st.tuples(st.just("void"), USAGES, st.just(0), st.just(0)),
        st.tuples(st.just("restore"), USAGES, st.just(0), st.just(0)),
        st.tuples(st.just("repeat"), USAGES, COUNTS, st.just(0)),
    ),
    min_size=6,
    max_size=14,
)


@dataclass
class Known:
    """What the reference knows of a usage."""

    tokens: int
    day: int
    voided: bool = False

    @property
    def cost(self) -> Decimal:
        return Decimal(0) if self.voided else self.tokens * Decimal("0.0000025")


class Reference:
    """What should become of usages, and what each step should be answered with."""

    def __init__(self) -> None:
        self.usages: dict[str, Known] = {}

    def step(self, verb: str, name: str, count: int, day: int) -> str:
        known = self.usages.get(name)
        if verb == "record":
            if known is None:
                self.usages[name] = Known(count, day)
            return "ok"
        if known is None:
            return "NOT_FOUND"
        if verb == "restore":
            if not known.voided:
                return "USAGE_NOT_VOIDED"
            known.voided = False
            return "ok"
        if known.voided:
            return "USAGE_VOIDED"
        if verb == "void":
            known.voided = True
            return "ok"
        changed = Known(count, known.day) if verb == "tokens" else Known(known.tokens, day)
        if changed == known:
            return "NOTHING_TO_AMEND"
        self.usages[name] = changed
        return "ok"

    def sums(self) -> dict[str, tuple[int, int, Decimal]]:
        """Return requests, tokens and cost of each day."""
        found: defaultdict[str, tuple[int, int, Decimal]] = defaultdict(lambda: (0, 0, Decimal(0)))
        for one in self.usages.values():
            if not one.voided:
                day = (NOW - DAYS[one.day]).date().isoformat()
                requests, total, cost = found[day]
                found[day] = requests + 1, total + one.tokens, cost + one.cost
        return dict(found)


class Run:
    """One series of steps on an organization of its own."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.metering = platform, platform.metering
        self.organization_id = new_id()
        self.reference = Reference()
        self.sent: list[Callable[[], Coroutine[None, None, str]]] = []
        self.recorded: dict[str, pb.RecordUsageRequest] = {}

    async def do(self, verb: str, name: str, count: int, day: int) -> None:
        if verb == "repeat":
            if self.sent:
                assert await self.sent[count % len(self.sent)]() == "ok"
            return
        expected = self.reference.step(verb, name, count, day)
        call = self.call(verb, name, count, day)
        assert await call() == expected
        if expected == "ok":
            self.sent.append(call)

    def call(self, verb: str, name: str, count: int, day: int) -> Callable[[], Coroutine[None, None, str]]:
        stub, metadata = self.metering.usage, self.metering.operator
        operation_id = new_id()
        moment = render_time(NOW - DAYS[day])
        if verb == "record":
            used = usage(self.organization_id, name, occur_time=moment)
            used.tokens.CopyFrom(tokens(count))
            request = self.recorded.setdefault(name, used)
            return lambda: outcome(stub.RecordUsage(request, metadata=metadata))
        if verb == "void":
            void = pb.VoidUsageRequest(
                organization_id=self.organization_id, operation_id=operation_id, usage_operation_id=name
            )
            return lambda: outcome(stub.VoidUsage(void, metadata=metadata))
        if verb == "restore":
            restore = pb.RestoreUsageRequest(
                organization_id=self.organization_id, operation_id=operation_id, usage_operation_id=name
            )
            return lambda: outcome(stub.RestoreUsage(restore, metadata=metadata))
        fields: dict[str, object] = {"tokens": tokens(count)} if verb == "tokens" else {"occur_time": moment}
        amended = amendment(self.organization_id, name, operation_id, **fields)
        return lambda: outcome(stub.AmendUsage(amended, metadata=metadata))

    async def compare(self) -> None:
        sums = self.reference.sums()
        request = pb.QueryUsageRequest(
            organization_id=self.organization_id,
            start_time=render_time(NOW - timedelta(days=3)),
            end_time=render_time(NOW + timedelta(days=1)),
            window=pb.USAGE_WINDOW_DAY,
        )
        answer = await self.metering.usage.QueryUsage(request, metadata=self.metering.operator)
        found = {
            one.start_time.ToJsonString()[:10]: (one.request_count, one.tokens.input, Decimal(one.cost.value or 0))
            for one in answer.summaries
        }
        assert found == sums
        assert await counted(self.metering, self.organization_id) == {
            "requests": sum(requests for requests, _, _ in sums.values()),
            "tokens": sum(total for _, total, _ in sums.values()),
            "spend": sum((cost for _, _, cost in sums.values()), Decimal(0)),
            "today": sums.get(NOW.date().isoformat(), (0, 0, 0))[1],
        }
        await self.platform.settled()
        due = sum((one.cost for one in self.reference.usages.values()), Decimal(0))
        assert await charged(self.platform, self.organization_id) == due


async def outcome(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return "ok"


async def counted(metering: Metering, organization_id: str) -> dict[str, Decimal]:
    request = quota_pb2.GetUsageAgainstLimitsRequest(organization_id=organization_id)
    page = await metering.quota.GetUsageAgainstLimits(request, metadata=metering.operator)
    return {one.name: Decimal(one.used) for one in page.limits}


async def limit(metering: Metering, organization_id: str) -> None:
    lifetime, day = quota_pb2.LIMIT_WINDOW_LIFETIME, quota_pb2.LIMIT_WINDOW_DAY
    for name, metric, window, currency_code in (
        ("requests", "requests", lifetime, ""),
        ("tokens", "total_tokens", lifetime, ""),
        ("spend", "spend", lifetime, "USD"),
        ("today", "total_tokens", day, ""),
    ):
        request = quota_pb2.SetLimitRequest(
            organization_id=organization_id,
            name=name,
            metric=metric,
            window=window,
            currency_code=currency_code,
            value="1000000",
        )
        await metering.quota.SetLimit(request, metadata=metering.operator)


async def test_any_order_of_usage_and_corrections_ends_as_the_reference_does(platform: Platform) -> None:
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[None, None, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def run(steps: list[tuple[str, str, int, int]]) -> None:
        one = Run(platform)
        wait(limit(platform.metering, one.organization_id))
        for step in steps:
            wait(one.do(*step))
        wait(one.compare())

    await asyncio.to_thread(run)
    assert await platform.metering.findings() == []
    assert await platform.ledger.findings() == []
