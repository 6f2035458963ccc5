"""Metering over several shards: calls that concern several, and what one shard must not do to the others."""

import asyncio
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from services.metering.usage import relay
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage
from tests.shards.support import SHARDS, answered, locked, one_in_each, organization_in, soon
from tests.support.sharded import value_in_shard_of
from tollhouse.common.v1 import audit_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

COST = Decimal("0.0035")
TABLES = ("usage_operations", "usage_records", "usage_hours", "outbox", "authorizations")


@pytest.fixture
def metering(platform: Platform) -> Metering:
    return platform.metering


async def posted(platform: Platform, organizations: list[str]) -> list[Decimal]:
    return [await platform.posted(organization_id) for organization_id in organizations]


async def events(metering: Metering, organization_id: str) -> list[audit_pb2.AuditEvent]:
    """An organization's trail, or that of the platform."""
    request = audit_pb2.ListAuditEventsRequest(organization_id=organization_id, page_size=100)
    verify = audit_pb2.VerifyAuditChainRequest(organization_id=organization_id)
    assert (await metering.audit.VerifyAuditChain(verify, metadata=metering.operator)).intact
    return list((await metering.audit.ListAuditEvents(request, metadata=metering.operator)).events)


async def test_batch_over_shards_answers_in_order_and_charges_each_once(
    platform: Platform, metering: Metering, admin_url: str
) -> None:
    organizations = one_in_each()
    requests = [usage(organizations[number * 7 % SHARDS], f"call-{number}") for number in range(60)]

    outcomes = await metering.record_batch(requests)
    again = await metering.record_batch(requests)

    assert [o.operation_id for o in outcomes] == [o.operation_id for o in again] == [r.operation_id for r in requests]
    assert {outcome.recorded.replayed for outcome in outcomes} == {False}
    assert [o.recorded.usage.usage_id for o in again] == [o.recorded.usage.usage_id for o in outcomes]
    assert {outcome.recorded.replayed for outcome in again} == {True}
    await platform.settled()
    assert await posted(platform, organizations) == [-20 * COST] * SHARDS
    for organization_id in organizations:
        count = "SELECT count(*) FROM metering.usage_records"
        assert await value_in_shard_of(organization_id, admin_url, count) == 20
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_bad_item_fails_alone_and_repeats_in_a_batch_are_found_in_their_shard(
    platform: Platform, metering: Metering
) -> None:
    first, second, third = one_in_each()
    late = usage(second, "late", occur_time=stamp(days=-40))
    batch = [usage(first, "a"), late, usage("no id", "b"), usage(third, "a"), usage(first, "a"), usage(second, "c")]

    outcomes = await metering.record_batch(batch)

    assert [o.WhichOneof("outcome") for o in outcomes] == [
        *("recorded", "refused", "refused"),
        *("recorded", "recorded", "recorded"),
    ]
    assert [o.recorded.replayed for o in outcomes if o.HasField("recorded")] == [False, False, True, False]
    await platform.settled()
    assert await posted(platform, [first, second, third]) == [-COST] * SHARDS


async def test_stream_over_shards_acknowledges_and_charges_each_once(platform: Platform, metering: Metering) -> None:
    organizations = one_in_each()
    requests = [usage(organizations[number % SHARDS], f"call-{number}") for number in range(90)]
    stream = metering.usage.StreamUsage(
        iter(usage_pb2.StreamUsageRequest(usage=one) for one in [*requests, usage("no id", "bad"), requests[0]]),
        metadata=metering.gateway,
    )

    outcomes = [response.outcome async for response in stream]

    recorded = [(o.organization_id, o.operation_id) for o in outcomes if o.HasField("recorded")]
    assert sorted(recorded) == sorted((r.organization_id, r.operation_id) for r in [*requests, requests[0]])
    assert [o.operation_id for o in outcomes if o.HasField("refused")] == ["bad"]
    await platform.settled()
    assert await posted(platform, organizations) == [-30 * COST] * SHARDS


async def test_relays_of_two_processes_make_the_charges_of_every_shard_once(
    platform: Platform, metering: Metering
) -> None:
    await platform.stop_billing()
    other = await platform.start_metering()
    organizations = one_in_each() + one_in_each()
    for server in (metering, other):
        batch = [usage(one, f"{id(server)}/{number}") for one in organizations for number in range(10)]
        assert {o.WhichOneof("outcome") for o in await server.record_batch(batch)} == {"recorded"}
    await platform.start_billing()

    await platform.settled()

    assert await posted(platform, organizations) == [-20 * COST] * len(organizations)
    assert await other.charges() == await platform.billing_charges()
    assert await other.findings() == []
    await metering.service.stop(0)


async def test_two_processes_price_waiting_usage_of_every_shard_once(platform: Platform, metering: Metering) -> None:
    other = await platform.start_metering()
    organizations = one_in_each()
    batch = [usage(one, f"call-{number}", model="late") for one in organizations for number in range(30)]
    assert {o.recorded.usage.settlement for o in await metering.record_batch(batch)} == {
        usage_pb2.SETTLEMENT_PENDING_PRICE
    }

    await other.add_model("late")
    await asyncio.gather(
        metering.set_price("late"),
        other.set_price("late", effective_time=stamp(hours=1)),
    )

    await eventually(lambda: platform.value("SELECT count(*) FROM metering.unpriced_usages"), lambda count: count == 0)
    await platform.settled()
    assert await posted(platform, organizations) == [-30 * COST] * SHARDS
    assert await platform.value("SELECT count(*) FROM metering.usage_pricings") == 30 * SHARDS
    assert await other.findings() == []
    await metering.service.stop(0)


async def test_lists_and_page_tokens_show_the_callers_organization_only(metering: Metering) -> None:
    mine, *others = [organization_in(0), organization_in(0), organization_in(1)]
    for organization_id in (mine, *others):
        await metering.record_batch([usage(organization_id, f"{organization_id}/{n}") for n in range(5)])

    listed: list[str] = []
    request = usage_pb2.ListUsageRequest(organization_id=mine, page_size=2)
    while True:
        page = await metering.usage.ListUsage(request, metadata=metering.operator)
        listed += [record.operation_id for record in page.usages]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        for stranger in others:
            foreign = usage_pb2.ListUsageRequest(organization_id=stranger, page_size=2, page_token=request.page_token)
            code, _ = await refused(metering.usage.ListUsage(foreign, metadata=metering.operator))
            assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert sorted(listed) == [f"{mine}/{number}" for number in range(5)]

    for stranger in others:
        code, _ = await refused(metering.get(stranger, f"{mine}/0"))
        assert code == grpc.StatusCode.NOT_FOUND


async def test_own_price_is_audited_in_the_trail_of_its_organization(metering: Metering, admin_url: str) -> None:
    organizations = one_in_each()
    before = len(await events(metering, ""))
    for organization_id in organizations:
        version = await metering.set_price(organization_id=organization_id, price_in="1", price_out="1")

        (event,) = await events(metering, organization_id)
        assert (event.action, event.resource_id) == ("SetPrice", version.price_version_id)
        assert event.organization_id == organization_id
        stored = "SELECT count(*) FROM metering.audit_events"
        assert await value_in_shard_of(organization_id, admin_url, stored) == 1
    assert len(await events(metering, "")) == before


async def test_own_price_that_cannot_be_audited_is_not_kept(platform: Platform, metering: Metering) -> None:
    organization_id = organization_in(1)
    await platform.execute(
        f"ALTER TABLE metering.audit_events ADD CONSTRAINT refused CHECK (organization_id <> '{organization_id}')"
    )
    request = model_pb2.SetPriceRequest(
        request_id=new_id(),
        model_id="gpt-4o",
        organization_id=organization_id,
        currency_code="USD",
        prices=model_pb2.TokenPrices(input="1", output="1"),
        effective_time=stamp(hours=-1),
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await metering.models.SetPrice(request, metadata=metering.operator)

    owned = "SELECT count(*) FROM metering.price_versions WHERE organization_id = $1"
    assert await platform.value(owned, organization_id) == 0
    assert await events(metering, organization_id) == []

    await platform.execute("ALTER TABLE metering.audit_events DROP CONSTRAINT refused")
    await metering.models.SetPrice(request, metadata=metering.operator)
    again = await metering.models.SetPrice(request, metadata=metering.operator)
    assert again.replayed
    assert await platform.value(owned, organization_id) == 1
    assert len(await events(metering, organization_id)) == 1


def authorization(organization_id: str, operation_id: str) -> admission_pb2.AuthorizeRequest:
    return admission_pb2.AuthorizeRequest(
        operation_id=operation_id,
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=1000,
        max_output_tokens=1000,
    )


async def test_locked_shard_delays_no_call_of_another(platform: Platform, metering: Metering, admin_url: str) -> None:
    """The callers of the locked shard keep coming, so that every batch that may run beside another does run."""
    stuck, *others = one_in_each()
    for organization_id in others:
        await platform.fund(organization_id)
        await metering.record(usage(organization_id, "first"))
    async with locked(admin_url, "metering", 0, TABLES):
        waiting: list[asyncio.Task[None]] = []
        for turn in range(15):
            calls = [metering.record(usage(stuck, f"stuck-{turn}-{number}")) for number in range(10)]
            waiting += [asyncio.create_task(answered(call)) for call in calls]
            await asyncio.sleep(0.06)
        for turn in range(3):
            for organization_id in others:
                await soon(*(metering.record(usage(organization_id, f"call-{turn}-{n}")) for n in range(20)))
                await soon(metering.authorize(authorization(organization_id, f"work-{turn}")))
                await soon(metering.get(organization_id, "first"))
                request = usage_pb2.ListUsageRequest(organization_id=organization_id)
                await soon(metering.usage.ListUsage(request, metadata=metering.operator))
        assert not all(call.done() for call in waiting)
    await asyncio.gather(*waiting)
    outcomes = await metering.record_batch([usage(stuck, f"stuck-{t}-{n}") for t in range(15) for n in range(10)])
    assert {outcome.WhichOneof("outcome") for outcome in outcomes} == {"recorded"}
    await platform.settled()
    assert await posted(platform, [stuck]) == [-150 * COST]
    assert await metering.charges() == await platform.billing_charges()


async def test_items_of_a_locked_shard_fail_alone_in_a_batch(
    platform: Platform, metering: Metering, admin_url: str
) -> None:
    stuck, *others = one_in_each()
    late = usage(stuck, "late", occur_time=stamp(days=-40))
    batch = [usage(others[0], "a"), usage(stuck, "b"), usage(others[1], "c"), late]
    async with locked(admin_url, "metering", 0, TABLES):
        outcomes = await metering.record_batch(batch)

    assert [o.WhichOneof("outcome") for o in outcomes] == ["recorded", "refused", "recorded", "refused"]
    passing = {code.value[0] for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)}
    assert {outcome.refused.code for outcome in outcomes if outcome.HasField("refused")} <= passing
    again = await metering.record_batch(batch)
    assert [o.WhichOneof("outcome") for o in again] == ["recorded", "recorded", "recorded", "refused"]
    assert again[3].refused.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_relay_makes_the_charges_beside_a_locked_shard(
    platform: Platform, metering: Metering, admin_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "BACKOFF_MAX_S", 1.0)
    organizations = one_in_each()
    for organization_id in organizations:
        await platform.fund(organization_id, "10")
    await platform.stop_billing()
    for organization_id in organizations:
        await metering.record_batch([usage(organization_id, f"call-{number}") for number in range(10)])
    async with locked(admin_url, "metering", 0, TABLES):
        await platform.start_billing()
        for organization_id in organizations[1:]:
            await eventually(
                lambda one=organization_id: platform.posted(one),  # type: ignore[misc]
                lambda amount: amount == 10 - 10 * COST,
            )
    await platform.settled()
    assert await posted(platform, organizations) == [10 - 10 * COST] * SHARDS


async def test_locked_shard_of_billing_delays_no_usage_of_another(
    platform: Platform, metering: Metering, admin_url: str
) -> None:
    """Usage is acknowledged while billing cannot charge it, and charged once when billing can."""
    organizations = one_in_each()
    for organization_id in organizations:
        await platform.fund(organization_id, "10")
    async with locked(admin_url, "billing", 0, ("accounts", "transactions")):
        waiting = [asyncio.create_task(metering.record(usage(organizations[0], f"stuck-{n}"))) for n in range(20)]
        await asyncio.sleep(0.1)
        for turn in range(3):
            for organization_id in organizations[1:]:
                await soon(*(metering.record(usage(organization_id, f"call-{turn}-{n}")) for n in range(20)))
        for answer in await asyncio.gather(*waiting):
            assert answer.usage.settlement == usage_pb2.SETTLEMENT_PENDING
    await platform.settled()
    assert await posted(platform, organizations) == [10 - 20 * COST, *[10 - 60 * COST] * 2]
    assert await metering.charges() == await platform.billing_charges()
