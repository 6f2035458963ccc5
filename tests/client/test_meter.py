"""A metered block charges what its work used, once, however it ends; and one operation id is never served twice."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

import pytest

from libs.common.ids import new_id
from tests.client.conftest import House
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, usage_pb2, usage_pb2_grpc
from tollhouse.metering.v1.provider_usage import UsageRefused, openai_chat
from tollhouse_client import AuthorizedCall, Client
from tollhouse_client.errors import (
    BalanceDenied,
    InsufficientBalance,
    KeyDenied,
    NotFound,
    Replayed,
    TollhouseError,
    UsageMissing,
)
from tollhouse_client.usage import UsageObject

MODEL = "gpt-4o"
CHAT = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
COST = Decimal("0.0035")


class BrokenStreamError(Exception):
    """What a provider's library raises in the middle."""


async def usage_of(client: Client, house: House, operation_id: str) -> usage_pb2.UsageRecord:
    usages = client.stub(usage_pb2_grpc.UsageServiceStub)
    request = usage_pb2.GetUsageRequest(organization_id=house.organization_id, operation_id=operation_id)
    return (await usages.GetUsage(request)).usage


async def test_block_charges_what_the_usage_object_says(house: House) -> None:
    async with house.gateway.meter.authorize(
        api_key=house.secret, model=MODEL, input_tokens=1000, max_output_tokens=500
    ) as call:
        assert call.principal.organization_id == house.organization_id
        assert await house.held() > 0
        call.used(CHAT)
    assert call.settlement is not None
    assert Decimal(call.settlement.usage.cost.value) == COST
    assert (await house.charges())[call.operation_id] == COST
    assert await house.held() == 0


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        (CHAT, {"input_tokens": 1000, "output_tokens": 100}),
        (openai_chat(CHAT), {"input_tokens": 1000, "output_tokens": 100}),
        (
            {
                "input_tokens": 50,
                "input_tokens_details": {"cached_tokens": 20},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 55,
            },
            {"input_tokens": 30, "cache_read_tokens": 20, "output_tokens": 5},
        ),
        ({"input_tokens": 12, "output_tokens": 3}, {"input_tokens": 12, "output_tokens": 3}),
        (
            {"promptTokenCount": 8, "candidatesTokenCount": 4, "totalTokenCount": 12},
            {"input_tokens": 8, "output_tokens": 4},
        ),
        ({"inputTokens": 7, "outputTokens": 2, "totalTokens": 9}, {"input_tokens": 7, "output_tokens": 2}),
    ],
    ids=["openai", "read before", "openai responses", "anthropic", "gemini", "bedrock"],
)
async def test_usage_objects_of_every_provider_are_read(
    house: House, usage: UsageObject, units: dict[str, int]
) -> None:
    async with house.gateway.meter.authorize(api_key=house.secret, model=MODEL, input_tokens=1000) as call:
        call.used(usage)
    recorded = await usage_of(house.gateway, house, call.operation_id)
    assert {quantity.unit: int(quantity.value) for quantity in recorded.quantities} == units
    assert recorded.total_tokens == sum(units.values())


async def test_failure_before_the_work_cancels_and_charges_nothing(house: House) -> None:
    with pytest.raises(BrokenStreamError):
        async with house.gateway.meter.authorize(
            operation_id="failed-before", api_key=house.secret, model=MODEL, input_tokens=10
        ):
            raise BrokenStreamError
    assert await house.held() == 0
    assert "failed-before" not in await house.charges()


async def test_broken_stream_charges_what_was_streamed_as_partial(house: House) -> None:
    with pytest.raises(BrokenStreamError):  # noqa: PT012 -- the block as a whole is what fails.
        async with house.gateway.meter.authorize(
            operation_id="broken", api_key=house.secret, model=MODEL, input_tokens=1000
        ) as call:
            call.partial(quantities={"input_tokens": 1000})
            call.partial(quantities={"input_tokens": 1000, "output_tokens": 100})
            raise BrokenStreamError
    recorded = await usage_of(house.gateway, house, "broken")
    assert recorded.partial
    assert recorded.error_message == "BrokenStreamError"
    assert (await house.charges())["broken"] == COST


async def test_cancelled_block_is_settled_all_the_same(house: House) -> None:
    began = asyncio.Event()

    async def serve() -> None:
        async with house.gateway.meter.authorize(
            operation_id="client-left", api_key=house.secret, model=MODEL, input_tokens=1000
        ) as call:
            call.partial(quantities={"input_tokens": 1000, "output_tokens": 100})
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await began.wait()
    task.cancel()
    # A second cancellation, in the middle of the settlement, tears nothing either.
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await house.gateway.meter.close()
    assert (await house.charges())["client-left"] == COST


async def test_caller_who_leaves_before_the_call_is_allowed_leaves_nothing_held(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_allowed, has_left = asyncio.Event(), asyncio.Event()

    async def serve(client: Client) -> None:
        async with client.meter.authorize(api_key=house.secret, model=MODEL, input_tokens=1000):
            raise AssertionError("served")

    async with house.client() as client:
        connection = client._connection("metering")
        exchange = connection.exchange

        async def exchange_slowly(path: str, request: bytes, timeout_s: float) -> bytes:
            answer = await exchange(path, request, timeout_s)
            is_allowed.set()
            await has_left.wait()
            return answer

        monkeypatch.setattr(connection, "exchange", exchange_slowly)
        task = asyncio.create_task(serve(client))
        await is_allowed.wait()
        assert await house.held() > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        has_left.set()
        async with asyncio.timeout(10):
            while await house.held() > 0:  # noqa: ASYNC110 -- billing has no event for it.
                await asyncio.sleep(0.01)


async def test_text_of_megabytes_does_not_keep_a_call_from_being_charged(house: House) -> None:
    async with house.gateway.meter.authorize(api_key=house.secret, model=MODEL, input_tokens=1000) as call:
        call.described.error_message = "x" * 5_000_000
        call.described.labels = {"team": "y" * 5_000_000}
        call.used(CHAT)
    assert (await house.charges())[call.operation_id] == COST


async def test_exception_after_the_whole_usage_is_known_charges_the_whole(house: House) -> None:
    with pytest.raises(BrokenStreamError):  # noqa: PT012 -- the block as a whole is what fails.
        async with house.gateway.meter.authorize(
            operation_id="late", api_key=house.secret, model=MODEL, input_tokens=1000
        ) as call:
            call.used(CHAT)
            raise BrokenStreamError
    assert not (await usage_of(house.gateway, house, "late")).partial
    assert (await house.charges())["late"] == COST


async def test_block_that_says_nothing_is_an_error_and_keeps_the_hold(house: House) -> None:
    with pytest.raises(UsageMissing):
        async with house.gateway.meter.authorize(
            operation_id="silent", api_key=house.secret, model=MODEL, input_tokens=10
        ):
            pass
    assert await house.held() > 0
    cancel = admission_pb2.CancelRequest(organization_id=house.organization_id, operation_id="silent")
    await house.gateway.cancel(cancel)


async def test_usage_that_does_not_add_up_is_refused_and_the_call_is_not_given_away(house: House) -> None:
    with pytest.raises(UsageRefused, match="total_tokens"):
        async with house.gateway.meter.authorize(
            operation_id="odd", api_key=house.secret, model=MODEL, input_tokens=10
        ) as call:
            call.used({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 11})
    assert await house.held() > 0
    cancel = admission_pb2.CancelRequest(organization_id=house.organization_id, operation_id="odd")
    await house.gateway.cancel(cancel)


@pytest.mark.parametrize(
    "say",
    [
        lambda call: call.used(),
        lambda call: call.used({"a": 1}),
        lambda call: call.used({}, quantities={"input_tokens": 1}),
        lambda call: call.used(quantities={}),
        lambda call: call.used(quantities={"input_tokens": -1}),
        lambda call: call.used(quantities={"input_tokens": 0.5}),
        lambda call: call.used(quantities={"input_tokens": True}),
        lambda call: call.used(quantities={"input_tokens": Decimal("NaN")}),
        lambda call: call.used(["input_tokens"]),
        lambda call: call.used(CHAT, kind="anthropic_messages"),
    ],
)
async def test_what_is_no_usage_is_refused_with_a_reason(house: House, say: Callable[[object], None]) -> None:
    async with house.gateway.meter.authorize(api_key=house.secret, model=MODEL, input_tokens=10) as call:
        with pytest.raises(ValueError, match=r"."):
            say(call)
        call.cancel()
    assert await house.held() == 0


async def test_call_that_did_nothing_can_be_cancelled(house: House) -> None:
    async with house.gateway.meter.authorize(
        operation_id="no-work", api_key=house.secret, model=MODEL, input_tokens=10
    ) as call:
        call.cancel()
    assert "no-work" not in await house.charges()


async def test_id_is_served_once_unless_asked(house: House) -> None:
    def authorize() -> AbstractAsyncContextManager[AuthorizedCall]:
        return house.gateway.meter.authorize(
            operation_id="chosen", api_key=house.secret, model=MODEL, input_tokens=1000
        )

    async with authorize() as call:
        with pytest.raises(Replayed):
            async with authorize():
                raise AssertionError("served twice")
        call.used(CHAT)
    assert (await house.charges())["chosen"] == COST
    with pytest.raises(TollhouseError):
        async with authorize():
            raise AssertionError("served after it was settled")


async def test_gateway_that_lost_its_own_call_may_go_on_with_it(house: House) -> None:
    lost = admission_pb2.AuthorizeRequest(
        operation_id="own-repeat", api_key=house.secret, model=MODEL, input_tokens=1000
    )
    await house.gateway.authorize(lost)
    async with house.gateway.meter.authorize(
        operation_id="own-repeat", api_key=house.secret, model=MODEL, input_tokens=1000, on_replay="allow"
    ) as call:
        assert call.replayed
        call.used(CHAT)
    assert (await house.charges())["own-repeat"] == COST


async def test_of_many_who_race_for_an_id_one_is_served(house: House) -> None:
    served = 0

    async def serve() -> None:
        nonlocal served
        async with house.gateway.meter.authorize(
            operation_id="raced", api_key=house.secret, model=MODEL, input_tokens=1000
        ) as call:
            served += 1
            call.used(CHAT)

    outcomes = await asyncio.gather(*(serve() for _ in range(20)), return_exceptions=True)
    assert served == 1
    assert {type(one) for one in outcomes if one is not None} == {Replayed}
    assert (await house.charges())["raced"] == COST


async def test_wrong_and_revoked_keys_are_denied_without_their_secret(house: House) -> None:
    key = await house.new_key()
    await house.platform.identity.revoke(key.api_key)
    for secret, reason in ((key.secret, "KEY_REVOKED"), ("thk_live_nobody", "KEY_NOT_FOUND"), ("", "KEY_NOT_FOUND")):
        with pytest.raises(KeyDenied) as denied:
            async with house.gateway.meter.authorize(api_key=secret, model=MODEL, input_tokens=1, min_revision=0):
                raise AssertionError("served")
        assert denied.value.reason == reason
        assert not secret or secret not in f"{denied.value!r}{denied.value}{json.dumps(dict(denied.value.facts))}"


async def test_denial_for_money_says_how_much_is_missing(house: House) -> None:
    poor = await house.platform.identity.create_key()
    with pytest.raises(BalanceDenied) as denied:
        async with house.gateway.meter.authorize(api_key=poor.secret, model=MODEL, input_tokens=1000):
            raise AssertionError("served")
    assert isinstance(denied.value, InsufficientBalance)
    assert Decimal(denied.value.facts["needed"]) > 0


async def test_verified_principal_stands_for_its_key(house: House) -> None:
    principal = admission_pb2.Principal(organization_id=house.organization_id)
    async with house.gateway.meter.authorize(principal=principal, model=MODEL, input_tokens=1000) as call:
        call.used(CHAT)
    assert (await house.charges())[call.operation_id] == COST


async def test_long_call_is_charged_in_parts_and_once_in_all(house: House) -> None:
    async with house.gateway.meter.authorize(
        api_key=house.secret, model=MODEL, input_tokens=1000, max_output_tokens=1000
    ) as call:
        await call.settle_part(quantities={"input_tokens": 1000})
        part = await call.settle_part(quantities={"input_tokens": 1000, "output_tokens": 50})
        assert Decimal(part.captured_amount.value) == Decimal("0.003")
        extended = await call.extend(max_output_tokens=2000)
        assert extended.max_output_tokens == 2000
        call.used(CHAT)
    assert call.settlement is not None
    assert Decimal(call.settlement.captured_amount.value) == COST


async def test_settlement_that_cannot_be_made_reaches_the_caller(house: House) -> None:
    with pytest.raises(NotFound):  # noqa: PT012 -- the block as a whole is what fails.
        async with house.gateway.meter.authorize(
            operation_id="astray", api_key=house.secret, model=MODEL, input_tokens=10
        ) as call:
            call.answer.principal.organization_id = new_id()
            call.used(CHAT)
    cancel = admission_pb2.CancelRequest(organization_id=house.organization_id, operation_id="astray")
    await house.gateway.cancel(cancel)


async def test_neither_key_nor_principal_is_refused_before_anything_is_sent(house: House) -> None:
    with pytest.raises(ValueError, match="principal"):
        async with house.gateway.meter.authorize(model=MODEL):
            raise AssertionError("served")
    for wrong in ("", "thk"):
        assert (
            await house.gateway.verify_api_key(api_key_pb2.VerifyApiKeyRequest(key=wrong))
        ).code == api_key_pb2.VERIFY_API_KEY_CODE_NOT_FOUND
