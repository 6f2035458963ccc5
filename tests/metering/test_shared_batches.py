"""Calls of many tenants share batches; an item that fails, for whatever cause, fails alone."""

import asyncio
import random

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, settlement, usage
from tests.support.poison import SQLSTATES, plant_poison, poisoned
from tollhouse.metering.v1 import admission_pb2, usage_pb2

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

HONEST = 40
POISONED = 3


def ask(organization_id: str, operation_id: str) -> admission_pb2.AuthorizeRequest:
    return admission_pb2.AuthorizeRequest(
        operation_id=operation_id,
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=1000,
        max_output_tokens=1000,
    )


def names(sqlstate: str, prefix: str) -> list[str]:
    """Return operation ids of honest calls with a few poisoned ones among them."""
    among = [f"{prefix}-{number}" for number in range(HONEST)]
    for number in range(POISONED):
        among.insert(random.randrange(len(among)), poisoned(sqlstate, f"{prefix}-{number}"))
    return among


@pytest.mark.parametrize("sqlstate", SQLSTATES)
async def test_usage_that_cannot_be_stored_fails_no_other_callers_usage(
    platform: Platform, metering: Metering, sqlstate: str
) -> None:
    await plant_poison(platform.admin_url, "metering.usage_operations")
    honest, hostile = new_id(), new_id()

    async def record(name: str) -> bool:
        organization_id = hostile if name.startswith("poison") else honest
        try:
            await metering.record(usage(organization_id, name))
        except grpc.aio.AioRpcError:
            return False
        return True

    ids = names(sqlstate, "call")
    recorded = dict(zip(ids, await asyncio.gather(*map(record, ids)), strict=True))
    batch = [usage(hostile if name.startswith("poison") else honest, name) for name in names(sqlstate, "item")]
    outcomes = {outcome.operation_id: outcome for outcome in await metering.record_batch(batch)}

    assert [name for name, good in recorded.items() if good == name.startswith("poison")] == []
    failed = {name for name, outcome in outcomes.items() if outcome.HasField("refused")}
    assert failed == {name for name in outcomes if name.startswith("poison")}
    await platform.settled()
    assert len(await metering.charges()) == 2 * HONEST
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


@pytest.mark.parametrize("sqlstate", SQLSTATES)
async def test_an_authorization_that_cannot_be_stored_fails_no_other_callers_authorization(
    platform: Platform, metering: Metering, sqlstate: str
) -> None:
    await plant_poison(platform.admin_url, "metering.authorizations")
    honest, hostile = new_id(), new_id()
    await platform.fund(honest)
    await platform.fund(hostile)

    async def authorize(name: str) -> bool:
        try:
            answer = await metering.authorize(ask(hostile if name.startswith("poison") else honest, name))
        except grpc.aio.AioRpcError:
            return False
        return answer.decision == admission_pb2.DECISION_ALLOWED

    ids = names(sqlstate, "call")
    allowed = dict(zip(ids, await asyncio.gather(*map(authorize, ids)), strict=True))

    assert [name for name, good in allowed.items() if good == name.startswith("poison")] == []


@pytest.mark.shards
async def test_a_hold_and_a_charge_that_billing_cannot_store_fail_no_other_callers(
    platform: Platform, metering: Metering
) -> None:
    await plant_poison(platform.admin_url, "billing.holds")
    await plant_poison(platform.admin_url, "billing.transactions")
    honest, hostile = new_id(), new_id()
    await platform.fund(honest)
    await platform.fund(hostile)

    async def call(name: str) -> tuple[bool, int]:
        organization_id = hostile if name.startswith("poison") else honest
        try:
            allowed = (await metering.authorize(ask(organization_id, name))).decision == admission_pb2.DECISION_ALLOWED
        except grpc.aio.AioRpcError:
            allowed = False
        return allowed, (await metering.settle(settlement(organization_id, name))).usage.settlement

    ids = names("XX000", "call")
    ended = dict(zip(ids, await asyncio.gather(*map(call, ids)), strict=True))

    good, waiting = (True, usage_pb2.SETTLEMENT_SETTLED), (False, usage_pb2.SETTLEMENT_PENDING)
    assert {name: end for name, end in ended.items() if end != (waiting if name.startswith("poison") else good)} == {}


@pytest.mark.shards
async def test_the_relay_makes_the_charges_beside_one_that_billing_cannot_store(
    platform: Platform, metering: Metering
) -> None:
    await plant_poison(platform.admin_url, "billing.transactions")
    await platform.stop_billing()
    honest, hostile = new_id(), new_id()
    ids = names("XX000", "call")
    for name in ids:
        await metering.record(usage(hostile if name.startswith("poison") else honest, name))
    await platform.start_billing()

    async def charged() -> int:
        return len(await platform.billing_charges())

    for _ in range(400):
        if await charged() == HONEST:
            break
        await asyncio.sleep(0.05)
    assert await charged() == HONEST


@pytest.mark.shards
async def test_usage_that_cannot_be_priced_later_leaves_the_others_priced(
    platform: Platform, metering: Metering
) -> None:
    organization_id = new_id()
    names_ = [f"call-{number}" for number in range(20)]
    await metering.record_batch([usage(organization_id, name, model="late") for name in names_])
    await platform.execute(
        "ALTER TABLE metering.usage_pricings ADD CONSTRAINT poison CHECK (usage_id <> "
        f"'{(await metering.get(organization_id, 'call-7')).usage_id}')"
    )

    await metering.add_model("late")
    await metering.set_price("late")

    async def waiting() -> object:
        return await platform.value("SELECT count(*) FROM metering.unpriced_usages")

    for _ in range(400):
        if await waiting() == 1:
            break
        await asyncio.sleep(0.05)
    assert await waiting() == 1


@pytest.mark.shards
async def test_four_processes_share_hostile_and_honest_callers(platform: Platform, metering: Metering) -> None:
    """Four servers with queues of their own before one database; each has poisoned items in its batches."""
    await plant_poison(platform.admin_url, "metering.usage_operations")
    servers = [metering, *[await platform.start_metering() for _ in range(3)]]
    honest, hostile = new_id(), new_id()

    async def record(server: Metering, name: str) -> bool:
        try:
            await server.record(usage(hostile if name.startswith("poison") else honest, name))
        except grpc.aio.AioRpcError:
            return False
        return True

    calls = [
        (server, name)
        for number, server in enumerate(servers)
        for sqlstate in ("22021", "40P01", "08006")
        for name in names(sqlstate, f"{sqlstate}-{number}")
    ]
    random.shuffle(calls)
    ends = await asyncio.gather(*(record(server, name) for server, name in calls))

    wrong = [name for (_, name), good in zip(calls, ends, strict=True) if good == name.startswith("poison")]
    assert wrong == []
    await platform.settled()
    assert await metering.charges() == await platform.billing_charges()
    for server in servers[:-1]:
        await server.service.stop(0)
