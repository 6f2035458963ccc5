"""Usage whose time is out of the window is refused when it is new, and recognised when it is a repeat."""

from datetime import timedelta

import grpc
import pytest

from libs.common.clock import SystemClock
from services.metering.usage.domain import EARLY_MAX, LATE_MAX, time_violation
from tests.metering.support import Metering, Platform, refused, settlement, stamp, usage
from tests.metering.test_admission import ask
from tollhouse.metering.v1 import usage_pb2

pytestmark = pytest.mark.shards

REUSED = (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def recorded_long_ago(
    metering: Metering, organization_id: str, operation_id: str
) -> usage_pb2.RecordUsageRequest:
    """Record usage of 36 days ago; return the request without the flag that let it in."""
    request = usage(organization_id, operation_id, occur_time=stamp(days=-36), backfill=True)
    assert not (await metering.record(request)).replayed
    request.backfill = False
    return request


@pytest.mark.own_database
async def test_repeat_after_the_window_is_answered_as_replayed_by_every_rpc(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    request = await recorded_long_ago(metering, organization_id, "call-1")
    await platform.settled()

    again = await metering.record(request)
    (outcome,) = await metering.record_batch([request])
    settled = await metering.settle(settlement(organization_id, "call-1", occur_time=request.occur_time))
    stream = metering.usage.StreamUsage(iter([usage_pb2.StreamUsageRequest(usage=request)]), metadata=metering.operator)
    streamed = [response.outcome async for response in stream]

    assert again.replayed
    assert (outcome.recorded.replayed, outcome.recorded.usage) == (True, again.usage)
    assert (settled.replayed, settled.usage) == (True, again.usage)
    assert [one.recorded.replayed for one in streamed] == [True]
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_other_usage_under_an_old_operation_id_is_reuse(metering: Metering, organization_id: str) -> None:
    request = await recorded_long_ago(metering, organization_id, "call-1")
    request.tokens.output += 1

    assert await refused(metering.record(request)) == REUSED


async def test_new_usage_out_of_the_window_is_refused_item_by_item(metering: Metering, organization_id: str) -> None:
    known = await recorded_long_ago(metering, organization_id, "known")
    late = usage(organization_id, "late", occur_time=stamp(days=-36))
    early = usage(organization_id, "early", occur_time=stamp(minutes=6))
    fresh = usage(organization_id, "fresh")

    outcomes = await metering.record_batch([late, known, early, fresh])
    repeated = await metering.record_batch([late, fresh])

    kinds = [outcome.WhichOneof("outcome") for outcome in outcomes]
    assert kinds == ["refused", "recorded", "refused", "recorded"]
    assert [outcome.recorded.replayed for outcome in outcomes if outcome.HasField("recorded")] == [True, False]
    assert {outcome.refused.code for outcome in outcomes if outcome.HasField("refused")} == {INVALID[0].value[0]}
    assert [outcome.WhichOneof("outcome") for outcome in repeated] == ["refused", "recorded"]
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_settlement_is_judged_by_its_own_time_not_by_the_authorization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    await metering.authorize(ask(organization_id, "call-1"))
    await platform.execute("UPDATE metering.authorizations SET create_time = create_time - interval '40 days'")
    await platform.stop_metering()
    later = await platform.start_metering()

    old = settlement(organization_id, "call-1", occur_time=stamp(days=-36))
    assert await refused(later.settle(old)) == INVALID
    assert (await later.settle(settlement(organization_id, "call-1"))).released_amount.value == "0.009"
    assert await later.findings() == []


@pytest.mark.parametrize(
    ("offset", "backfilled", "taken"),
    [
        (-LATE_MAX, False, True),
        (-LATE_MAX - timedelta(microseconds=1), False, False),
        (-LATE_MAX - timedelta(microseconds=1), True, True),
        (EARLY_MAX, False, True),
        (EARLY_MAX + timedelta(microseconds=1), False, False),
        (EARLY_MAX + timedelta(microseconds=1), True, False),
    ],
)
def test_window_ends_35_days_ago_and_5_minutes_ahead(offset: timedelta, backfilled: bool, taken: bool) -> None:
    now = SystemClock().now()

    assert (time_violation(now + offset, now, backfilled=backfilled) is None) == taken
