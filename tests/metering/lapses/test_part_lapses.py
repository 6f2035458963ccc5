"""A call with parts whose last settlement never comes is recorded as its last part said, once, whatever the policy."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.status import reason_of
from services.metering.admission.lapse import Lapsed, Later, Over, verdict
from services.metering.admission.policy import LapseCharge
from services.metering.usage.dimensions import TEST
from tests.metering.lapses.support import Worker, checks, worker
from tests.metering.lapses.test_lapses import END, STORED
from tests.metering.parts.support import Call, add_models, assert_spent, captured
from tests.metering.policy_calls import RELEASE, charge_input, updated
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usd
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, usage_pb2

LAPSED: Final = (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_LAPSED")
HOLD: Final = timedelta(seconds=65)
"""Somewhat longer than the holds of these calls last."""
MINUTE: Final = Duration(seconds=60)
GRACE: Final = timedelta(minutes=5)
"""After which time a call of these organizations has lapsed."""


@pytest.fixture
async def organization_id(platform: Platform) -> str:
    organization_id, _ = await (await platform.start_identity()).create_organization()
    await platform.fund(organization_id, "100")
    await add_models(platform.metering)
    await lapse_soon(platform.metering, organization_id)
    return organization_id


async def lapse_soon(metering: Metering, organization_id: str) -> None:
    """Let the organization's calls lapse after GRACE, and charge nothing for calls without parts."""
    await updated(
        metering, organization_id, lapse_charge=RELEASE, lapse_after=Duration(seconds=int(GRACE.total_seconds()))
    )


async def test_the_last_part_is_recorded_as_partial_usage_and_ends_the_hold(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    call = Call(metering, organization_id)
    await call.authorize(hold_ttl=MINUTE)
    await call.part(1_000, 100, endpoint="/v1/stream", labels={"team": "blue"}, error_message="\x00é")
    part = await call.part(1_000, 400, endpoint="/v1/stream", labels={"team": "blue"}, latency_ms=-5)
    assert await checks(platform) == ["call-1"]

    await looking.look_later(HOLD)
    assert await refused(metering.get(organization_id, "call-1")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    await looking.look_later(GRACE)
    await looking.look_after_a_lease()

    recorded = await metering.get(organization_id, "call-1")
    assert (recorded.partial, recorded.cost, recorded.tokens) == (True, usd("0.0065"), part.usage.tokens)
    assert (recorded.endpoint, dict(recorded.labels)) == ("/v1/stream", {"team": "blue"})
    assert (recorded.occur_time, recorded.HasField("latency_ms")) == (part.usage.occur_time, False)
    (authorization,) = await metering.authorizations(organization_id)
    assert authorization.state == admission_pb2.AUTHORIZATION_STATE_LAPSED
    assert (authorization.recorded_when_lapsed, authorization.captured_amount) == (True, usd("0.0065"))
    assert await refused(call.last(1_000, 600)) == LAPSED
    assert await refused(call.part(1_000, 600)) == LAPSED
    again = await call.part(1_000, 400, endpoint="/v1/stream", labels={"team": "blue"}, latency_ms=-5)
    assert (again.replayed, captured(again)) == (True, "0.0065")
    assert (await call.hold(platform)).state != ledger_pb2.HOLD_STATE_OPEN
    assert await checks(platform) == []
    await assert_spent(platform, organization_id, "0.0065")


async def test_what_a_part_held_back_is_charged_when_the_call_lapses(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    call = Call(metering, organization_id)
    await call.authorize(model="tiered", input_tokens=3_000, hold_ttl=MINUTE)
    assert captured(await call.part(1_000, 100, model="tiered")) == "0.502"

    await looking.look_later(HOLD + GRACE)

    assert (await metering.get(organization_id, "call-1")).cost == usd("0.506")
    await assert_spent(platform, organization_id, "0.506")


async def test_a_call_whose_parts_still_come_does_not_lapse(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    call = Call(metering, organization_id)
    await call.authorize(hold_ttl=MINUTE)
    for made in range(100, 600, 100):
        await call.part(1_000, made)
        await looking.look_later(HOLD + GRACE / 2)
    assert await refused(metering.get(organization_id, "call-1")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")

    assert captured(await call.last(1_000, 600)) == "0.0085"
    await looking.look_later(HOLD + GRACE)
    assert await checks(platform) == []
    assert not (await metering.get(organization_id, "call-1")).partial
    await assert_spent(platform, organization_id, "0.0085")


async def test_the_last_part_is_recorded_instead_of_the_authorized_input(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await charge_input(metering, organization_id, lapse_after_s=int(GRACE.total_seconds()))
    with_part, without = Call(metering, organization_id), Call(metering, organization_id, "call-2")
    await with_part.authorize(hold_ttl=MINUTE)
    await without.authorize(hold_ttl=MINUTE)
    await with_part.part(10, 1)

    await looking.look_later(HOLD)
    await looking.look_later(GRACE)
    await looking.look_after_a_lease()

    assert (await metering.get(organization_id, "call-1")).cost == usd("0.000035")
    assert (await metering.get(organization_id, "call-2")).cost == usd("0.0025")
    await assert_spent(platform, organization_id, "0.002535")


async def test_two_workers_and_a_settlement_at_once_record_each_call_once(
    platform: Platform, metering: Metering, organization_id: str, clock: ShiftedClock, looking: Worker
) -> None:
    calls = [Call(metering, organization_id, f"call-{number}") for number in range(12)]
    for call in calls:
        await call.authorize(hold_ttl=MINUTE)
        await call.part(1_000, 100)

    async def settle(call: Call) -> int:
        """Return the output tokens that are recorded of the call."""
        try:
            return (await call.last(1_000, 300)).usage.tokens.output
        except grpc.aio.AioRpcError as error:
            return 100 if reason_of(error) == LAPSED[1] else 0

    async with worker(platform, clock) as other:
        clock.advance(HOLD + GRACE)
        made, *_ = await asyncio.gather(asyncio.gather(*map(settle, calls)), looking.look(), other.look())
        await looking.look_after_a_lease()
    stored = [await metering.get(organization_id, call.operation_id) for call in calls]
    assert [one.tokens.output for one in stored] == made
    cost = 12 * Decimal("0.0025") + sum(made) * Decimal("0.00001")
    await assert_spent(platform, organization_id, str(cost))


async def test_parts_of_a_test_key_a_cancelled_call_and_an_unpriced_one_are_recorded_too(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    key = api_key_pb2.CreateApiKeyRequest(environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST)
    created = await platform.identity.create_key(key)
    await lapse_soon(metering, created.api_key.organization_id)
    request = admission_pb2.AuthorizeRequest(
        operation_id="test", api_key=created.secret, model="gpt-4o", hold_ttl=MINUTE
    )
    allowed = await metering.authorize(request)
    test = Call(metering, allowed.principal.organization_id, "test")
    await test.part(1_000, 50)
    cancelled = Call(metering, organization_id, "cancelled")
    await cancelled.authorize(hold_ttl=MINUTE)
    await cancelled.part(1_000, 50)
    # As if the call was cancelled while the part was stored.
    await platform.execute("UPDATE metering.authorizations SET cancelled = true WHERE operation_id = 'cancelled'")
    unpriced = Call(metering, organization_id, "unpriced")
    await unpriced.authorize(hold_ttl=MINUTE)
    await metering.add_model("late")
    await unpriced.part(1_000_000, model="late")

    await looking.look_later(HOLD + GRACE)

    recorded = await metering.get(test.organization_id, "test")
    assert (recorded.partial, recorded.cost, recorded.environment) == (True, usd("0.003"), usage_pb2.ENVIRONMENT_TEST)
    assert (await metering.get(organization_id, "cancelled")).cost == usd("0.003")
    assert (await metering.get(organization_id, "unpriced")).settlement == usage_pb2.SETTLEMENT_PENDING_PRICE
    await metering.set_price("late", price_in="2", effective_time=stamp(days=-1))
    await eventually(
        lambda: metering.get(organization_id, "unpriced"),
        lambda found: found.settlement == usage_pb2.SETTLEMENT_SETTLED,
    )
    await assert_spent(platform, organization_id, "2.003")


async def test_a_call_is_recorded_later_where_billing_is_away(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    call = Call(metering, organization_id)
    await call.authorize(hold_ttl=MINUTE)
    await call.part(1_000, 100)
    await platform.stop_billing()
    await looking.look_later(HOLD + GRACE)
    assert await refused(metering.get(organization_id, "call-1")) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")

    await platform.start_billing()

    async def recorded() -> bool:
        await looking.look_after_a_lease()
        return await is_recorded(metering, organization_id)

    await eventually(recorded, bool)
    await assert_spent(platform, organization_id, "0.0035")


async def is_recorded(metering: Metering, organization_id: str) -> bool:
    """Whether the usage is recorded."""
    try:
        await metering.get(organization_id, "call-1")
    except grpc.aio.AioRpcError:
        return False
    return True


def test_the_time_runs_from_the_end_of_the_hold_or_from_the_last_part_where_that_came_later() -> None:
    """By default a call has an hour."""
    second, hour = timedelta(seconds=1), timedelta(hours=1)
    for part_time, lapse_time in ((END - second, END + hour), (END + second, END + second + hour)):
        for stored in (
            STORED,
            STORED._replace(cancelled=True),
            STORED._replace(declined=True),
            STORED._replace(pinned=STORED.pinned._replace(ask=STORED.pinned.ask._replace(environment=TEST))),
        ):
            assert verdict(stored, None, END, lapse_time - second, part_time) == Later(lapse_time)
            assert verdict(stored, None, END, lapse_time, part_time) == Lapsed(LapseCharge.RELEASE)
        assert verdict(STORED._replace(settled=True), None, END, lapse_time, part_time) == Over()
