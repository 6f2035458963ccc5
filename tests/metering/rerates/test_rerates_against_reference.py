"""Usage, corrections, prices and re-rates in any order end as a plain reference model does."""

import asyncio
from collections.abc import Awaitable, Coroutine
from decimal import Decimal
from typing import Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common.ids import new_id
from tests.metering.corrections.calls import amend, charged, restore, tokens, void
from tests.metering.corrections.test_corrections_against_reference import counted, limit, outcome
from tests.metering.rerates.calls import done, later, previewed, rerate
from tests.metering.support import Platform, stamp, usage
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = [pytest.mark.shards, pytest.mark.own_database]

_T = TypeVar("_T")
NAMES: Final = st.sampled_from(["call-1", "call-2", "call-3"])
COUNTS: Final = st.sampled_from([0, 1000, 2000])
PRICES: Final = st.integers(1, 4)
STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("record"), NAMES, COUNTS),
        st.tuples(st.just("tokens"), NAMES, COUNTS),
        st.tuples(st.sampled_from(["void", "restore"]), NAMES, st.just(0)),
        st.tuples(st.just("price"), st.just(""), PRICES),
        st.tuples(st.sampled_from(["rerate", "rerate to the first price", "two re-rates"]), st.just(""), st.just(0)),
    ),
    min_size=6,
    max_size=14,
)


class Reference:
    """What usages are, and which price each has: that at which it was recorded, or re-rated last."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.prices: dict[str, int] = {}
        self.voided: set[str] = set()
        self.price = 1

    def step(self, verb: str, name: str, count: int) -> str:
        if verb == "price":
            self.price = count
        elif "re" in verb and not name:
            price = 1 if "first" in verb else self.price
            # What costs nothing stays as it is.
            self.prices |= {one: price for one in self.tokens.keys() - self.voided if self.tokens[one]}
        elif verb == "record":
            if name not in self.tokens:
                self.tokens[name], self.prices[name] = count, self.price
        elif name not in self.tokens:
            return "NOT_FOUND"
        else:
            return self.correct(verb, name, count)
        return "ok"

    def correct(self, verb: str, name: str, count: int) -> str:
        if verb == "restore":
            if name not in self.voided:
                return "USAGE_NOT_VOIDED"
            self.voided.remove(name)
        elif name in self.voided:
            return "USAGE_VOIDED"
        elif verb == "void":
            self.voided.add(name)
        elif self.tokens[name] == count:
            return "NOTHING_TO_AMEND"
        else:
            self.tokens[name] = count
        return "ok"

    @property
    def cost(self) -> Decimal:
        kept = self.tokens.keys() - self.voided
        return sum((self.tokens[name] * Decimal(self.prices[name]) / 1_000_000 for name in kept), Decimal(0))


class Run:
    """One series of steps on an organization and a model of its own."""

    def __init__(self, platform: Platform) -> None:
        self.platform, self.metering = platform, platform.metering
        self.organization_id, self.model = new_id(), f"model-{new_id()}"
        self.reference = Reference()
        self.recorded: dict[str, pb.RecordUsageRequest] = {}
        self.prices = 0
        self.first = ""

    async def begin(self) -> None:
        await limit(self.metering, self.organization_id)
        await self.metering.add_model(self.model)
        self.first = await self.set_price(1)

    async def set_price(self, price: int) -> str:
        self.prices += 1
        version = await self.metering.set_price(
            self.model, price_in=str(price), price_out="0", effective_time=later(self.prices)
        )
        return version.price_version_id

    async def do(self, verb: str, name: str, count: int) -> None:
        expected = self.reference.step(verb, name, count)
        if verb == "price":
            await self.set_price(count)
            return
        if not name:
            await self.rerate(verb)
            return
        assert await outcome(self.call(verb, name, count)) == expected

    def call(self, verb: str, name: str, count: int) -> Awaitable[object]:
        if verb == "record":
            used = usage(self.organization_id, name, model=self.model, occur_time=stamp(minutes=-5))
            used.tokens.CopyFrom(tokens(count))
            return self.metering.record(self.recorded.setdefault(name, used))
        if verb == "tokens":
            return amend(self.metering, self.organization_id, name, tokens=tokens(count))
        if verb == "void":
            return void(self.metering, self.organization_id, name)
        return restore(self.metering, self.organization_id, name)

    async def rerate(self, verb: str) -> None:
        chosen = self.first if "first" in verb else ""
        request = rerate(self.organization_id, price_version_id=chosen)
        differences, digest = await previewed(self.metering, request)
        request.digest = digest
        jobs = [request, rerate(self.organization_id, price_version_id=chosen)][: 2 if verb == "two re-rates" else 1]
        last = await asyncio.gather(*(done(self.metering, one) for one in jobs))
        changed = sum(one.sums.changed_count for one in differences)
        assert sum(one.sums.changed_count for one in last) == changed

    async def compare(self) -> None:
        request = pb.QueryUsageRequest(
            organization_id=self.organization_id, start_time=stamp(days=-1), end_time=stamp(days=1)
        )
        answer = await self.metering.usage.QueryUsage(request, metadata=self.metering.operator)
        kept = self.reference.tokens.keys() - self.reference.voided
        total = sum(self.reference.tokens[name] for name in kept)
        sums = answer.summaries[0] if answer.summaries else pb.UsageSummary()
        cost = self.reference.cost
        assert (sums.request_count, sums.tokens.input, Decimal(sums.cost.value or 0)) == (len(kept), total, cost)
        used = await counted(self.metering, self.organization_id)
        assert used == {"requests": len(kept), "tokens": total, "spend": cost, "today": total}
        await self.platform.settled()
        assert await charged(self.platform, self.organization_id) == cost


async def test_any_order_of_usage_corrections_prices_and_rerates_ends_as_the_reference_does(platform: Platform) -> None:
    loop = asyncio.get_running_loop()

    def wait(work: Coroutine[None, None, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def run(steps: list[tuple[str, str, int]]) -> None:
        one = Run(platform)
        wait(one.begin())
        for step in steps:
            wait(one.do(*step))
        wait(one.compare())

    await asyncio.to_thread(run)
    assert await platform.metering.findings() == []
    assert await platform.ledger.findings() == []
