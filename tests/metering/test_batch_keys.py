"""The keys of a BatchAuthorize: each is verified once, and identity is not flooded."""

import asyncio

import grpc
import pytest

from libs.common.clock import SystemClock
from libs.common.errors import Unavailable
from libs.common.ids import new_id
from services.identity.api_key.secret import new_secret
from services.metering.admission.callers import QUESTIONS_MAX, Caller, Callers
from services.metering.admission.domain import Denied, Request
from services.metering.clients.identity import IdentityClient
from services.metering.clients.organizations import Organizations
from tests.metering.support import Metering, Platform
from tests.metering.test_batch_admission import ask, ends
from tests.metering.test_keys import Gate
from tollhouse.metering.v1 import admission_pb2

pytestmark = pytest.mark.own_database


def ask_by_key(secret: str, operation_id: str, **fields: object) -> admission_pb2.AuthorizeRequest:
    request = ask(new_id(), operation_id, **fields)
    request.api_key = secret
    return request


async def test_keys_of_a_batch_are_decided_one_by_one(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    first, second = await identity.create_key(), await identity.create_key()
    for created in (first, second):
        await platform.fund(created.api_key.organization_id, "1")
    unknown = new_secret(live=True)

    outcomes = await metering.authorize_batch(
        [
            ask_by_key(first.secret, "call-1"),
            ask_by_key(unknown, "call-2"),
            ask_by_key("", "call-3"),
            ask_by_key("\x00" * 3, "call-4"),
            ask_by_key(second.secret, "call-1"),
            ask_by_key(first.secret, "call-5", required_scopes=["no.such.scope"]),
            ask_by_key(first.secret, "call-6"),
            ask(new_id(), "call-7"),
        ]
    )

    assert ends(outcomes) == [
        "ALLOWED",
        *["KEY_NOT_FOUND"] * 3,
        "ALLOWED",
        "KEY_INSUFFICIENT_SCOPE",
        "ALLOWED",
        "ORGANIZATION_NOT_FOUND",
    ]
    organizations = [outcomes[place].decided.principal.organization_id for place in (0, 4, 6)]
    assert organizations == [
        first.api_key.organization_id,
        second.api_key.organization_id,
        first.api_key.organization_id,
    ]
    assert not any(secret in str(outcomes) for secret in (first.secret, second.secret, unknown))


def request_by_key(secret: str, model: str = "gpt-4o", client_address: str = "") -> Request:
    return Request(
        operation_id=new_id(),
        secret=secret,
        principal=None,
        model=model,
        input_tokens=1,
        max_output_tokens=1,
        estimate=None,
        endpoint=None,
        required_scopes=[],
        min_revision=0,
        hold_ttl_ms=1000,
        client_address=client_address,
        fail_if_replayed=False,
        quantities={},
        service_tier="standard",
    )


class BoundedGate(Gate):
    """Notes how many questions are with identity at once; each of them takes a moment."""

    running = 0
    most = 0

    async def intercept_unary_unary(self, continuation, client_call_details, request):  # type: ignore[no-untyped-def]
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        try:
            return await super().intercept_unary_unary(continuation, client_call_details, request)
        finally:
            self.running -= 1


async def test_batches_of_unknown_keys_ask_about_each_once_and_only_so_many_at_a_time(platform: Platform) -> None:
    identity = await platform.start_identity()
    good = (await identity.create_key()).secret
    gate = BoundedGate(platform.callers.service("metering"))
    target = f"127.0.0.1:{platform.identity_port}"
    async with grpc.aio.insecure_channel(target, interceptors=[gate]) as channel:
        client = IdentityClient(channel, SystemClock(), ttl_s=5.0, answers_max=10)
        callers = Callers(client, Organizations(channel))
        unknown = [request_by_key(new_secret(live=True)) for _ in range(80)]
        # Twice each, and once more for another model.
        batch = [*unknown, request_by_key(good), *unknown, *unknown, request_by_key(good, "gpt-4")]

        found = await callers.identify(batch)

        assert gate.asked == len(unknown) + 1
        assert gate.most <= QUESTIONS_MAX
        assert [one.reason for one in found if isinstance(one, Denied)] == ["KEY_NOT_FOUND"] * 240
        assert [place for place, one in enumerate(found) if isinstance(one, Caller)] == [80, 241]

        # While batches wait for identity, a single call with a cached key is answered without it.
        gate.open.clear()
        waiting = [
            asyncio.create_task(callers.identify([request_by_key(new_secret(live=True)) for _ in range(60)]))
            for _ in range(3)
        ]
        gate.reached.clear()
        await gate.reached.wait()
        async with asyncio.timeout(1):
            (cached,) = await callers.identify([request_by_key(good)])
        assert isinstance(cached, Caller)
        assert gate.running <= QUESTIONS_MAX
        for task in waiting:
            task.cancel()
        gate.open.set()


async def test_while_identity_is_away_calls_with_keys_are_refused_and_principals_go_on(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    asks = [ask_by_key(new_secret(live=True), "a"), ask(organization_id, "b"), ask_by_key("th_live_x", "c")]

    outcomes = await metering.authorize_batch(asks)

    assert ends(outcomes) == ["DEPENDENCY_UNAVAILABLE", "ALLOWED", "DEPENDENCY_UNAVAILABLE"]


async def test_keys_known_before_identity_went_away_are_told_as_stale_and_others_fail_alone(platform: Platform) -> None:
    identity = await platform.start_identity()
    known, unknown = (await identity.create_key()).secret, new_secret(live=True)
    gate = Gate(platform.callers.service("metering"))
    target = f"127.0.0.1:{platform.identity_port}"
    async with grpc.aio.insecure_channel(target, interceptors=[gate]) as channel:
        client = IdentityClient(channel, SystemClock(), ttl_s=0.1, answers_max=10, stale_max_s=60)
        callers = Callers(client, Organizations(channel))
        (fresh,) = await callers.identify([request_by_key(known)])
        await identity.service.stop(0)
        await asyncio.sleep(0.2)

        found = await callers.identify([request_by_key(known), request_by_key(unknown), request_by_key(known)])

    assert isinstance(fresh, Caller)
    assert not fresh.stale_key
    assert found[0] == found[2] == Caller(fresh.principal, stale_key=True)
    assert isinstance(found[1], Unavailable)
