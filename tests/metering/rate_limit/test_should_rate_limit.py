"""ShouldRateLimit lets a request pass exactly as far as limits allow, and answers each descriptor."""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from envoy.service.ratelimit.v3 import rls_pb2_grpc as rpc
from google.protobuf.message import Message
from pydantic import SecretStr, ValidationError

from libs.common.ids import new_id
from services.metering.quota.domain import Enforcement, Scope, Window
from services.metering.settings import MeteringSettings
from tests.metering.allocations.support import Limits, allocate, at_the_start_of_a_minute, state, total
from tests.metering.limits.support_rpc import LIFETIME, set_limit
from tests.metering.rate_limit.support import OK, OVER_LIMIT, Unit, ask, codes, descriptor
from tests.metering.support import Metering, Platform, refused
from tests.support.clock import ShiftedClock
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import variants
from tollhouse.metering.v1 import quota_pb2

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_requests_pass_until_the_limit_and_the_answer_says_what_is_left_and_when_it_ends(
    metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    await limits.set(organization_id, "3.5", name="three", window=Window.MINUTE)
    await limits.set(organization_id, "5", name="five", window=Window.DAY)

    answers = [await ask(metering, descriptor(organization_id)) for _ in range(4)]

    assert [answer.overall_code for answer in answers] == [OK, OK, OK, OVER_LIMIT]
    assert [answer.statuses[0].limit_remaining for answer in answers] == [2, 1, 0, 0]
    last = answers[-1].statuses[0]
    assert last.current_limit == Unit(name="three", requests_per_unit=3, unit=Unit.MINUTE)
    assert timedelta(seconds=30) < last.duration_until_reset.ToTimedelta() <= timedelta(seconds=60)
    clock.advance(timedelta(seconds=60))
    again = [await ask(metering, descriptor(organization_id)) for _ in range(3)]
    assert [answer.overall_code for answer in again] == [OK, OK, OVER_LIMIT]
    assert again[-1].statuses[0].current_limit == Unit(name="five", requests_per_unit=5, unit=Unit.DAY)


async def test_threshold_that_requests_reach_is_alerted_once(metering: Metering, organization_id: str) -> None:
    await set_limit(metering, organization_id, window=LIFETIME, value="4", thresholds=[50, 100])
    for _ in range(4):
        assert (await ask(metering, descriptor(organization_id))).overall_code == OK
    assert (await ask(metering, descriptor(organization_id))).overall_code == OVER_LIMIT
    request = quota_pb2.ListLimitAlertsRequest(organization_id=organization_id)
    found = await metering.quota.ListLimitAlerts(request, metadata=metering.operator)
    assert [(alert.threshold, alert.used) for alert in found.alerts] == [(100, "4"), (50, "2")]


async def test_sliding_limit_says_when_it_leaves_enough(
    metering: Metering, limits: Limits, organization_id: str, clock: ShiftedClock
) -> None:
    await limits.set(organization_id, "2", name="two", window=Window.MINUTE, sliding=True)
    first = await ask(metering, descriptor(organization_id))
    clock.advance(timedelta(seconds=30))
    await ask(metering, descriptor(organization_id))
    over = await ask(metering, descriptor(organization_id))

    assert (first.overall_code, over.overall_code) == (OK, OVER_LIMIT)
    wait = over.statuses[0].duration_until_reset.ToTimedelta()
    assert timedelta(seconds=25) < wait <= timedelta(seconds=31)
    clock.advance(wait)
    assert (await ask(metering, descriptor(organization_id))).overall_code == OK
    assert (await ask(metering, descriptor(organization_id))).overall_code == OVER_LIMIT


@pytest.mark.own_database
async def test_descriptors_of_a_request_are_decided_together_and_take_nothing_if_one_is_over(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    ada, bob = new_id(), new_id()
    await limits.set(organization_id, "100", name="team", scope=Scope.LABEL, label="team")
    await limits.set(organization_id, "1", name="user", scope=Scope.USER)

    def both(user_id: str) -> list[ratelimit_pb2.RateLimitDescriptor]:
        return [descriptor(organization_id, team="red"), descriptor(organization_id, user=user_id)]

    first, second = await ask(metering, *both(ada)), await ask(metering, *both(ada.upper()))

    assert codes(first) == (OK, [OK, OK])
    assert codes(second) == (OVER_LIMIT, [OK, OVER_LIMIT])
    assert [status.limit_remaining for status in second.statuses] == [99, 0]
    assert await total(platform) == "2"
    assert codes(await ask(metering, *both(bob))) == (OK, [OK, OK])
    # Descriptors that meet the same limit take of it one after another.
    twice = await ask(
        metering, descriptor(organization_id, 60, team="red"), descriptor(organization_id, 60, team="red")
    )
    assert codes(twice) == (OVER_LIMIT, [OK, OVER_LIMIT])
    assert await total(platform) == "4"


@pytest.mark.own_database
async def test_hits_are_those_of_the_descriptor_else_of_the_request_else_one(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "100", name="requests")
    await limits.set(organization_id, "1000", "total_tokens", name="tokens")
    tokens = descriptor(organization_id, 700, generic_key="tokens")

    answer = await ask(metering, descriptor(organization_id), tokens, hits=5)

    assert codes(answer) == (OK, [OK, OK])
    assert [status.limit_remaining for status in answer.statuses] == [95, 300]
    assert [status.current_limit.unit for status in answer.statuses] == [Unit.UNKNOWN, Unit.UNKNOWN]
    over = await ask(metering, descriptor(organization_id), tokens)
    assert codes(over) == (OVER_LIMIT, [OK, OVER_LIMIT])
    only_asked = await ask(metering, descriptor(organization_id, 0))
    assert only_asked.statuses[0].limit_remaining == 95
    most = await ask(metering, descriptor(organization_id, 2**64 - 1))
    assert codes(most) == (OVER_LIMIT, [OVER_LIMIT])
    assert not most.statuses[0].HasField("duration_until_reset")
    assert await total(platform) == "705"


@pytest.mark.own_database
async def test_soft_and_shadow_limits_and_those_of_others_let_requests_pass(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "1", name="soft", enforcement=Enforcement.SOFT)
    await limits.set(organization_id, "0", name="shadow", enforcement=Enforcement.SHADOW)
    await limits.set(organization_id, "0", "items", name="items")
    await limits.set(new_id(), "0", name="of another tenant")
    await limits.set(organization_id, None, "total_tokens", name="any")

    answers = [await ask(metering, descriptor(organization_id)) for _ in range(3)]

    assert all(codes(answer) == (OK, [OK]) for answer in answers)
    assert not any(answer.statuses[0].HasField("current_limit") for answer in answers)
    assert (await state(metering, organization_id, "soft"))[0] == "3"
    # What has no maximum is counted as far as there is room.
    huge = await ask(metering, descriptor(organization_id, 10**18, generic_key="tokens"))
    assert huge.overall_code == OK
    assert (await ask(metering, descriptor(organization_id, 1, generic_key="tokens"))).overall_code == OVER_LIMIT
    assert await total(platform) == str(10**18 + 6)


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize(("unknown", "code"), [("ALLOW", OK), ("DENY", OVER_LIMIT)])
async def test_unknown_descriptor_gets_the_configured_answer(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str, code: int
) -> None:
    await limits.set(organization_id, "5", name="five")
    await platform.start_identity()
    known, _ = await platform.identity.create_organization()
    await limits.set(known, "5", name="five")
    strange = [
        descriptor("acme"),
        descriptor("", generic_key="x"),
        descriptor(known, planet="mars"),
        descriptor(known, team="x" * 257),
        descriptor(new_id()),
    ]
    for one in strange:
        assert codes(await ask(metering, one)) == (code, [code])
        beside = await ask(metering, descriptor(known), one)
        assert codes(beside) == (code, [OK, code])
    assert codes(await ask(metering, descriptor(known), domain="elsewhere")) == (code, [code])

    used = "5" if code == OK else "0"
    assert (await state(metering, known, "five"))[0] == used


async def test_requests_that_make_no_sense_are_refused(metering: Metering, organization_id: str) -> None:
    with_limit = descriptor(organization_id)
    with_limit.limit.requests_per_unit = 1
    assert await refused(ask(metering, with_limit)) == INVALID
    assert await refused(ask(metering)) == INVALID
    assert await refused(ask(metering, descriptor(organization_id), domain="")) == INVALID
    assert await refused(ask(metering, descriptor(organization_id), descriptor(new_id()))) == INVALID
    assert await refused(ask(metering, ratelimit_pb2.RateLimitDescriptor())) == INVALID


async def test_nobody_but_services_and_operators_is_answered(metering: Metering, organization_id: str) -> None:
    stub: rpc.RateLimitServiceStub = rpc.RateLimitServiceStub(metering.channel)
    request = pb.RateLimitRequest(domain="edge", descriptors=[descriptor(organization_id)])
    assert await refused(stub.ShouldRateLimit(request)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert (await stub.ShouldRateLimit(request, metadata=metering.operator)).overall_code == OK


@pytest.mark.own_database
async def test_thousand_at_once_from_four_processes_let_exactly_five_hundred_pass(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    await limits.set(organization_id, "500", name="hot")
    servers = [metering, *[await platform.start_metering() for _ in range(3)]]
    try:
        for server in servers:
            await ask(server, descriptor(organization_id, 0))
        answers = await asyncio.gather(
            *(ask(servers[number % 4], descriptor(organization_id)) for number in range(1_000))
        )
        # Allocations count in the same place.
        beyond = await allocate(metering, organization_id, {"requests": "1"})
    finally:
        for server in servers[:-1]:
            await server.service.stop(0)

    assert Counter(answer.overall_code for answer in answers) == {OK: 500, OVER_LIMIT: 500}
    assert not beyond.allocated
    assert await total(platform) == "500"


async def test_odd_requests_are_answered_or_refused_and_fail_no_neighbours_request(
    platform: Platform, metering: Metering, limits: Limits, organization_id: str
) -> None:
    neighbour = new_id()
    for tenant in (organization_id, neighbour):
        await limits.set(tenant, "1000000", name="many")
    request: Message = pb.RateLimitRequest(
        domain="edge", descriptors=[descriptor(organization_id, 2, team="red")], hits_addend=3
    )
    hostile = HostileCalls(metering.channel, metering.gateway)
    method = pb.DESCRIPTOR.services_by_name["RateLimitService"].methods_by_name["ShouldRateLimit"]

    made = await hostile.beside(
        lambda number: ask(metering, descriptor(neighbour)), hostile.send(method, [request, *variants(request)])
    )

    assert "\n".join(hostile.failures) == ""
    assert (await state(metering, neighbour, "many"))[0] == str(made)


async def test_service_is_there_only_with_a_configuration_and_a_wrong_one_keeps_it_from_starting(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    platform.rate_limit_descriptors_file = None
    without = await platform.start_metering()
    try:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await ask(without, descriptor(organization_id))
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await metering.service.stop(0)

    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"unknown": "DENY"}', encoding="utf-8")
    with pytest.raises(ValidationError, match="rules: Field required"):
        MeteringSettings(
            database_url=SecretStr(platform.urls["metering"]),
            trust_bundle_file=platform.callers.bundle_file,
            signing_key_file=platform.callers.signing_key_file("metering", tmp_path),
            billing_target="127.0.0.1:1",
            identity_target="127.0.0.1:1",
            rate_limit_descriptors_file=wrong,
        )
