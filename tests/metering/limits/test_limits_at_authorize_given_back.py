"""What a call has reserved of limits is given back once, whenever no work is done for it.

A call of `ask` is for 1,000 input and 1,000 output tokens, for which 0.0125 dollars are held.
"""

import asyncio
from datetime import timedelta

import grpc
import pytest

from libs.common.ids import new_id
from services.metering.quota.domain import Window
from tests.metering.lapses.support import LONG, Worker, checks
from tests.metering.limits.support import reserved, set_limit
from tests.metering.policy_calls import INPUT, charge_input, updated
from tests.metering.support import Metering, Platform, eventually, refused, stamp
from tests.metering.test_authorizations import cancel
from tests.metering.test_batch_admission import ALLOWED, ask, ends, held_amount
from tests.support.clock import ShiftedClock
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2

pytestmark = pytest.mark.shards

NOT_OPEN = (grpc.StatusCode.FAILED_PRECONDITION, "AUTHORIZATION_NOT_OPEN")


async def test_declined_hold_gives_back_what_its_call_reserved(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.02")
    limits = [
        await set_limit(platform, organization_id, "calls", "5"),
        await set_limit(platform, organization_id, "tokens", "10000", metric="total_tokens", window=Window.LIFETIME),
    ]
    outcomes = await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(4)])

    assert ends(outcomes) == ["ALLOWED", *["INSUFFICIENT_BALANCE"] * 3]
    assert await reserved(platform, organization_id, *limits) == [1, 2000]
    again = await metering.authorize(ask(organization_id, "call-1"))
    assert again.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
    assert await reserved(platform, organization_id, *limits) == [1, 2000]


async def test_declined_call_is_told_of_limits_without_what_it_had_reserved(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "0.001")
    await set_limit(platform, organization_id, "calls", "5")

    declined = await metering.authorize(ask(organization_id, "call-1"))

    assert declined.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
    assert [(one.reserved, one.remaining) for one in declined.limits] == [("0", "5")]


async def test_hold_that_billing_does_not_answer_keeps_its_reservation_for_the_repeat(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "1")
    # What the caller is entitled to is known from then on.
    await metering.authorize(ask(organization_id, "call-0"))
    await cancel(metering, organization_id, "call-0")
    await platform.stop_billing()
    assert (await refused(metering.authorize(ask(organization_id, "call-1"))))[0] is grpc.StatusCode.UNAVAILABLE
    assert await reserved(platform, organization_id, limit) == [1]
    await platform.start_billing()

    async def decided() -> admission_pb2.AuthorizeResponse | None:
        try:
            return await metering.authorize(ask(organization_id, "call-1"))
        except grpc.aio.AioRpcError:
            return None

    answer = await eventually(decided, lambda one: one is not None)
    assert answer is not None
    assert (answer.decision, answer.replayed) == (ALLOWED, True)
    assert (await metering.authorize(ask(organization_id, "call-2"))).denial.facts["limit"] == "calls"
    assert await reserved(platform, organization_id, limit) == [1]


async def test_cancelling_many_times_at_once_gives_back_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "tokens", "100000", metric="total_tokens")
    await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(3)])

    await asyncio.gather(*(cancel(metering, organization_id, "call-1") for _ in range(10)))

    assert await reserved(platform, organization_id, limit) == [4000]
    await asyncio.gather(*(cancel(metering, organization_id, f"call-{number}") for number in (0, 1, 2)))
    assert await reserved(platform, organization_id, limit) == [0]


@pytest.mark.parametrize("charges", [False, True], ids=["without a policy", "with lapses charged an hour later"])
async def test_lapsed_call_gives_back_as_soon_as_its_hold_has_ended_and_once(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker, charges: bool
) -> None:
    await platform.fund(organization_id)
    if charges:
        await charge_input(metering, organization_id, lapse_after_s=3600)
    limits = [
        await set_limit(platform, organization_id, "at-once", "9", metric="concurrent_calls", window=Window.NONE),
        await set_limit(platform, organization_id, "tokens", "60000", metric="total_tokens", window=Window.LIFETIME),
    ]
    await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(5)])
    await cancel(metering, organization_id, "call-0")
    assert await reserved(platform, organization_id, *limits) == [4, 8000]

    await looking.look_later(timedelta(minutes=5))
    assert await reserved(platform, organization_id, *limits) == [4, 8000]
    await looking.look_later(LONG)
    assert await reserved(platform, organization_id, *limits) == [0, 0]
    await looking.look_later(LONG)
    assert await reserved(platform, organization_id, *limits) == [0, 0]

    ended = await metering.authorize(ask(organization_id, "call-1"))
    assert ended.denial.reason == admission_pb2.DENIAL_REASON_AUTHORIZATION_ENDED
    await looking.look_later(timedelta(hours=2))
    assert await checks(platform) == []
    assert await reserved(platform, organization_id, *limits) == [0, 0]


async def test_calls_of_test_keys_and_free_calls_count_and_lapse_like_others_and_spend_nothing(
    platform: Platform, metering: Metering, looking: Worker
) -> None:
    identity = await platform.start_identity()
    organization_id, owner = await identity.create_organization()
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST
        )
    )
    limits = [
        await set_limit(platform, organization_id, "calls", "2", window=Window.LIFETIME),
        await set_limit(
            platform, organization_id, "usd", "0.001", metric="spend", window=Window.LIFETIME, currency_code="USD"
        ),
    ]
    test_call = admission_pb2.AuthorizeRequest(
        operation_id="test", api_key=key.secret, model="gpt-4o", input_tokens=1000, max_output_tokens=1000
    )

    free = ask(organization_id, "free", max_output_tokens=0)
    free.input_tokens = 0

    outcomes = await metering.authorize_batch([test_call, free, ask(organization_id, "third")])

    assert ends(outcomes) == ["ALLOWED", "ALLOWED", "LIMIT_EXCEEDED"]
    assert await reserved(platform, organization_id, *limits) == [2, 0]
    await looking.look_later()
    assert await reserved(platform, organization_id, *limits) == [0, 0]
    again = await metering.authorize_batch([test_call, free])
    assert ends(again) == ["AUTHORIZATION_ENDED"] * 2


async def test_extended_call_keeps_what_it_reserved_until_its_later_end(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker, clock: ShiftedClock
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "tokens", "60000", metric="total_tokens", window=Window.LIFETIME)
    await metering.authorize_batch([ask(organization_id, name) for name in ("longer", "as-it-was")])
    await looking.look_later(timedelta(minutes=5))
    await metering.extend(organization_id, "longer", stamp(clock, minutes=30), max_output_tokens=2000)

    await looking.look_later(LONG)
    assert await reserved(platform, organization_id, limit) == [2000]
    assert await refused(metering.extend(organization_id, "as-it-was", stamp(clock, minutes=30))) == NOT_OPEN
    await looking.look_later(timedelta(minutes=30))
    assert await reserved(platform, organization_id, limit) == [0]


async def test_reservation_that_can_not_be_given_back_keeps_no_other_from_its_turn(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "tokens", "60000", metric="total_tokens", window=Window.LIFETIME)
    await metering.authorize_batch([ask(organization_id, f"call-{number}") for number in range(5)])
    await platform.execute("UPDATE metering.authorizations SET reserved = '{}' WHERE operation_id = 'call-2'")

    await looking.look_later()
    assert await reserved(platform, organization_id, limit) == [2000]

    await platform.execute("UPDATE metering.authorizations SET reserved = '{2000}' WHERE operation_id = 'call-2'")
    await looking.look_after_a_lease()
    assert await reserved(platform, organization_id, limit) == [0]


async def test_reservations_are_given_back_whatever_becomes_of_the_policy(
    platform: Platform, metering: Metering, organization_id: str, looking: Worker
) -> None:
    await platform.fund(organization_id)
    limit = await set_limit(platform, organization_id, "calls", "60000", window=Window.LIFETIME)
    await metering.authorize(ask(organization_id, "counted"))
    await looking.look_later(timedelta(minutes=1))
    await updated(metering, organization_id, lapse_charge=INPUT)
    await looking.look()
    await updated(metering, organization_id, lapse_charge=admission_pb2.LAPSE_CHARGE_RELEASE)
    await metering.authorize(ask(organization_id, "later"))

    await looking.look_later()
    assert await reserved(platform, organization_id, limit) == [0]


async def test_two_organizations_side_by_side_never_count_for_each_other(
    platform: Platform, metering: Metering
) -> None:
    one, other, free = new_id(), new_id(), new_id()
    for organization_id in (one, other, free):
        await platform.fund(organization_id)
    limits = {
        organization_id: await set_limit(platform, organization_id, "calls", "3") for organization_id in (one, other)
    }
    asks = [ask(organization_id, f"call-{number}") for number in range(5) for organization_id in (one, other, free)]

    told = ends(await metering.authorize_batch(asks))

    assert told[0::3] == told[1::3] == ["ALLOWED"] * 3 + ["LIMIT_EXCEEDED"] * 2
    assert told[2::3] == ["ALLOWED"] * 5
    for organization_id, limit in limits.items():
        assert await reserved(platform, organization_id, limit) == [3]
        assert await held_amount(platform, organization_id) == "0.0375"
