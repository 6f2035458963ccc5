"""Processes that look for lapses: several at once, ones that die, and settlements that race them.

The calls are authorized for 1,000 input tokens, which cost 0.0025 dollars, and 1,000 output tokens.
"""

import asyncio
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.sharding import shard_number
from libs.common.status import error_info
from services.metering.admission import lapse_store
from services.metering.admission.lapses import RECORDED
from tests.metering.lapses.support import (
    INPUT_COST,
    LONG,
    Worker,
    billing_answers,
    checks,
    lapsed,
    recorded_count,
    worker,
)
from tests.metering.policy_calls import charge_input
from tests.metering.support import Metering, Platform, eventually, settlement
from tests.metering.test_batch_admission import ask
from tests.shards.support import locked
from tests.support.clock import ShiftedClock
from tests.support.sharded import shard_count
from tollhouse.metering.v1 import admission_pb2

pytestmark = pytest.mark.shards


async def test_lapse_waits_for_billing_and_is_recorded_when_it_is_back(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.authorize(ask(charging, "call-1"))
    await platform.stop_billing()
    await looking.look_later()
    assert await recorded_count(platform) == 0
    assert await checks(platform) == ["call-1"]
    await platform.start_billing()
    await eventually(lambda: billing_answers(platform, charging), bool)

    async def recorded() -> bool:
        await looking.look_after_a_lease()
        return await recorded_count(platform) == 1

    await eventually(recorded, bool)
    await platform.settled()
    assert await platform.posted(charging) == 1 - INPUT_COST


async def test_two_processes_record_each_lapse_once(
    platform: Platform, metering: Metering, looking: Worker, clock: ShiftedClock
) -> None:
    organizations = [new_id() for _ in range(5)]
    for organization_id in organizations:
        await platform.fund(organization_id, "10")
        await charge_input(metering, organization_id)
        await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(50)])
    clock.advance(LONG)

    async with worker(platform, clock) as other:
        await asyncio.gather(*(one.look() for one in (looking, other) * 3))
        await looking.look_after_a_lease()
        recorded = looking.lapses.counts[RECORDED] + other.lapses.counts[RECORDED]
    await platform.settled()

    assert recorded == 250
    for organization_id in organizations:
        assert len(await lapsed(metering, organization_id)) == 50
        assert await platform.posted(organization_id) == 10 - 50 * INPUT_COST
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_process_that_dies_at_any_moment_leaves_each_lapse_to_be_charged_once(
    platform: Platform, metering: Metering, charging: str, looking: Worker, clock: ShiftedClock
) -> None:
    await metering.authorize_batch([ask(charging, f"call-{number}") for number in range(60)])
    clock.advance(LONG)

    for death in range(12):
        async with worker(platform, clock) as dying:
            task = asyncio.create_task(dying.look())
            await asyncio.sleep(0.008 * death)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        clock.advance(timedelta(seconds=20))
    await looking.look_after_a_lease()
    await platform.settled()

    assert len(await lapsed(metering, charging)) == 60
    assert await platform.posted(charging) == 1 - 60 * INPUT_COST
    assert await checks(platform) == []
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_settlement_that_races_the_lapse_is_recorded_or_refused_and_charged_once(
    platform: Platform, metering: Metering, charging: str, looking: Worker, clock: ShiftedClock
) -> None:
    names = [f"call-{number}" for number in range(60)]
    await metering.authorize_batch([ask(charging, name) for name in names])
    clock.advance(LONG)

    async def settle_in_time(name: str, after_s: float) -> str:
        await asyncio.sleep(after_s)
        try:
            await metering.settle(settlement(charging, name))
        except grpc.aio.AioRpcError as error:
            info = error_info(error)
            assert info is not None
            return info.reason
        return "SETTLED"

    answers = await asyncio.gather(
        looking.look(), *(settle_in_time(name, 0.002 * place) for place, name in enumerate(names))
    )
    told = dict(zip(names, answers[1:], strict=True))
    await looking.look_after_a_lease()
    await platform.settled()

    assert set(told.values()) <= {"SETTLED", "AUTHORIZATION_LAPSED"}
    refusals = {name for name, answer in told.items() if answer == "AUTHORIZATION_LAPSED"}
    assert await lapsed(metering, charging) == refusals
    due = (60 - len(refusals)) * Decimal("0.0035") + len(refusals) * INPUT_COST
    assert await platform.posted(charging) == 1 - due
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_lapse_that_cannot_be_decided_keeps_no_other_from_its_turn(
    platform: Platform, metering: Metering, charging: str, looking: Worker
) -> None:
    await metering.authorize_batch([ask(charging, f"call-{number}") for number in range(5)])
    await platform.execute(
        "UPDATE metering.authorizations SET quantities = '{\"no_such_unit\": 1}' WHERE operation_id = 'call-2'"
    )

    await looking.look_later()
    assert await lapsed(metering, charging) == {"call-0", "call-1", "call-3", "call-4"}
    assert await checks(platform) == ["call-2"]

    await platform.execute("UPDATE metering.authorizations SET quantities = NULL WHERE operation_id = 'call-2'")
    await looking.look_after_a_lease()
    assert len(await lapsed(metering, charging)) == 5


async def test_authorizations_are_walked_through_once_and_so_many_at_a_time(
    platform: Platform, metering: Metering, charging: str, looking: Worker, clock: ShiftedClock
) -> None:
    await metering.authorize(ask(charging, "first"))
    await metering.settle(settlement(charging, "first"))
    more = 2 * lapse_store.STEPS_MAX + 50
    await platform.execute(
        "INSERT INTO metering.authorizations (organization_id, operation_id, fingerprint, model, input_tokens,"
        " max_output_tokens, hold_ttl_ms, price_version_id, currency_code, amount, create_time)"
        " SELECT organization_id, 'more-' || number, fingerprint, 'gpt-4o', 1, 1, 1000, price_version_id, 'USD', 0,"
        " create_time FROM metering.authorizations, generate_series(1, $1::int) AS number"
        " WHERE operation_id = 'first'",
        more,
    )
    clock.advance(LONG)
    shard = looking.shards.of(charging)
    noted: list[int] = []
    async with shard.raw_connection() as connection:
        for _ in range(4):
            walked = await lapse_store.walk(connection, lapse_store.FIRST_KEY[0], clock.now(), clock.now())
            noted.append(len(await checks(platform)))
            assert walked.is_more == (len(noted) < 3)

    # The first one was settled, and is not noted.
    assert noted == [lapse_store.STEPS_MAX - 1, 2 * lapse_store.STEPS_MAX - 1, more, more]
    await looking.look()
    assert await recorded_count(platform) == more + 1
    before = await platform.value("SELECT array_agg(operation_id) FROM metering.lapse_walks")
    await looking.look_later()
    assert await platform.value("SELECT array_agg(operation_id) FROM metering.lapse_walks") == before
    assert await checks(platform) == []


async def test_service_looks_by_itself(platform: Platform, charging: str, clock: ShiftedClock) -> None:
    await platform.metering.authorize(ask(charging, "call-1"))
    await platform.stop_metering()
    platform.lapses_every_s = 0.05
    metering = await platform.start_metering()
    clock.advance(LONG)

    await eventually(lambda: lapsed(metering, charging), lambda names: names == {"call-1"})
    await platform.settled()
    assert await platform.posted(charging) == 1 - INPUT_COST


async def test_authorization_that_waited_long_to_be_written_is_not_as_old_as_its_request(
    platform: Platform, metering: Metering, charging: str, looking: Worker, clock: ShiftedClock, database_admin_url: str
) -> None:
    """Else it could appear behind the place up to which its organization was walked through."""
    await metering.authorize(ask(charging, "warm"))
    number = shard_number(charging, shard_count())
    async with locked(database_admin_url, "metering", number, ["authorizations"]):
        waiting = asyncio.create_task(metering.authorize(ask(charging, "call-1")))
        await asyncio.sleep(0.2)
        clock.advance(timedelta(seconds=60))
        await asyncio.sleep(0.4)
    assert (await waiting).decision == admission_pb2.DECISION_ALLOWED

    await looking.look_later()

    assert "call-1" in await lapsed(metering, charging)
    warm, late = (one.create_time.ToDatetime() for one in (await metering.authorizations(charging))[::-1])
    assert late - warm > timedelta(seconds=59)
