"""RunPeriods works off what is due and tells how far it is, also beside the run that billing makes by itself."""

from datetime import timedelta

import grpc
import pytest

from libs.common.status import field_violations
from libs.common.timestamps import render_time
from tests.billing.subscription_calls import Subscriptions
from tests.billing.support import BillingServer, Ledger, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import subscription_pb2 as pb

pytestmark = pytest.mark.shards


async def run(ledger: Ledger, **fields: object) -> list[pb.RunPeriodsResponse]:
    stub = Subscriptions(ledger).stub
    request = pb.RunPeriodsRequest(**fields)  # type: ignore[arg-type]
    return [report async for report in stub.RunPeriods(request, metadata=ledger.metadata, timeout=20)]


@pytest.mark.own_database
async def test_a_year_is_caught_up_by_a_call_and_counted(server: BillingServer, clock: FixedClock) -> None:
    async with server.start(clock, sweep_every_s=3600, period_run_every_s=3600) as ledger:
        subscriptions = Subscriptions(ledger)
        paying, poor = organization(), organization()
        await ledger.credit(paying, "top-up", "500")
        paid = await subscriptions.create(paying, "basic")
        free = await subscriptions.create(poor, "free")
        first = clock.now()
        clock.advance(timedelta(days=364))
        half = first + timedelta(days=180)
        reports = await run(ledger, until_time=render_time(half))
        # Of each there were five periods after the first, until the middle of September.
        assert (reports[0].due_count, reports[0].done_count) == (2, 0)
        assert (reports[-1].due_count, reports[-1].done_count) == (0, 10)
        reports = await run(ledger)
        assert (reports[-1].due_count, reports[-1].done_count, reports[-1].set_aside_count) == (0, 12, 0)
        for one in (paid, free):
            periods = [
                e for e in await subscriptions.events(one) if e.kind == pb.SUBSCRIPTION_EVENT_KIND_PERIOD_STARTED
            ]
            assert len(periods) == 12
        assert [report.done_count for report in await run(ledger)] == [0, 0]
        assert await ledger.findings() == []


async def test_a_time_to_come_is_refused(timed: Ledger, clock: FixedClock) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await run(timed, until_time=render_time(clock.now() + timedelta(seconds=1)))
    assert list(field_violations(caught.value)) == ["until_time"]
