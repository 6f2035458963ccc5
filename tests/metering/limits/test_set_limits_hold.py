"""What SetLimit sets holds for the next call, and GetUsageAgainstLimits says what the calls are told.

A call of `ask` is for 1,000 input and 1,000 output tokens.
"""

import time

from libs.common.ids import new_id
from tests.metering.limits.support_rpc import (
    CALL,
    DAY,
    LABEL,
    LIFETIME,
    MODEL,
    MONTH,
    NO_WINDOW,
    SOFT,
    USER,
    WEEK,
    change_limit,
    delete_limit,
    set_limit,
    usage_of,
)
from tests.metering.support import Metering, Platform, eventually, settlement
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask
from tollhouse.metering.v1 import admission_pb2, model_pb2
from tollhouse.metering.v1 import quota_pb2 as pb


def told(one: pb.LimitStatus) -> tuple[object, ...]:
    """Return all of a status that does not depend on when it was asked for, without what only a refusal tells."""
    times = () if one.sliding else (one.window_start_time.seconds, one.reset_time.seconds)
    return (
        *(one.name, one.limit_id, one.metric, one.currency_code, one.window, one.scope, one.scope_value),
        *(one.max, one.used, one.reserved, one.remaining, one.enforcement, one.exceeded, *times),
    )


async def decision(metering: Metering, organization_id: str, **fields: object) -> admission_pb2.Decision.ValueType:
    return (await metering.authorize(ask(organization_id, f"op-{new_id()}", **fields))).decision


async def test_usage_is_what_authorize_tells(platform: Platform, metering: Metering, organization_id: str) -> None:
    await platform.fund(organization_id)
    user = new_id()
    await set_limit(metering, organization_id, "burst", window=DAY, burst="50", value="7", time_zone="Asia/Tokyo")
    await set_limit(metering, organization_id, "call", metric="output_tokens", window=CALL, value="1000")
    await set_limit(metering, organization_id, "concurrent", metric="concurrent_calls", window=NO_WINDOW, value="40")
    await set_limit(metering, organization_id, "label", scope=LABEL, label="team", window=LIFETIME, unlimited=True)
    await set_limit(metering, organization_id, "model", scope=MODEL, scope_value="gpt-4o", window=WEEK, value="5000")
    await set_limit(metering, organization_id, "sliding", sliding=True, window=DAY, metric="total_tokens", value="9000")
    await set_limit(
        *(metering, organization_id, "spend"), metric="spend", currency_code="USD", window=MONTH, value="0.01"
    )
    await change_limit(metering, organization_id, "spend", enforcement=SOFT)
    await set_limit(metering, organization_id, "user", scope=USER, window=WEEK, week_start=7, value="3.5")
    principal = admission_pb2.Principal(organization_id=organization_id, user_id=user)

    for number in range(4):
        operation_id = f"call-{number}"
        answer = await metering.authorize(
            ask(organization_id, operation_id, principal=principal, labels={"team": "red"})
        )
        assert (answer.decision, len(answer.limits)) == (ALLOWED if number < 3 else DENIED, 8)
        asked = await usage_of(metering, organization_id)
        assert [told(one) for one in asked if one.name != "call"] == sorted(
            (told(one) for one in answer.limits if one.name != "call"), key=lambda one: str(one[0])
        )
        if number == 1:
            tokens = model_pb2.TokenCounts(input=1000, output=10)
            await metering.settle(settlement(organization_id, operation_id, user_id=user, tokens=tokens))
    (refusing,) = await usage_of(metering, organization_id, name="user", scope=USER, scope_value=user)
    assert (refusing.used, refusing.reserved, refusing.remaining) == ("1", "2", "0.5")


async def test_call_that_may_use_too_much_is_refused_and_what_it_did_not_use_is_given_back(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(metering, organization_id, metric="total_tokens", window=DAY)

    async def standing() -> tuple[str, str, str]:
        (one,) = await usage_of(metering, organization_id)
        return one.used, one.reserved, one.remaining

    assert await decision(metering, organization_id, input_tokens=100, max_output_tokens=15_900) == DENIED
    call = ask(organization_id, "call-1", input_tokens=20, max_output_tokens=40)
    assert (await metering.authorize(call)).decision == ALLOWED
    assert await standing() == ("0", "60", "40")
    tokens = model_pb2.TokenCounts(input=20, output=10)
    await metering.settle(settlement(organization_id, "call-1", tokens=tokens))
    assert await standing() == ("30", "0", "70")
    call.operation_id = "call-2"
    await metering.authorize(call)
    cancel = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="call-2")
    await metering.admission.Cancel(cancel, metadata=metering.gateway)
    assert await standing() == ("30", "0", "70")
    await change_limit(metering, organization_id, "requests", value="20")
    assert await standing() == ("30", "0", "0")
    assert await decision(metering, organization_id, input_tokens=1, max_output_tokens=1) == DENIED


async def test_limit_that_is_taken_away_is_gone_at_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(metering, organization_id, value="0", window=DAY)
    assert await decision(metering, organization_id) == DENIED
    await change_limit(metering, organization_id, "requests", "enforcement")
    assert await decision(metering, organization_id) == DENIED
    await change_limit(metering, organization_id, "requests", "max")
    assert await decision(metering, organization_id) == ALLOWED
    await set_limit(metering, organization_id, value="0", window=DAY)
    assert await decision(metering, organization_id) == DENIED
    await delete_limit(metering, organization_id)
    assert await decision(metering, organization_id) == ALLOWED


async def test_change_holds_in_another_process_within_two_seconds(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    first, other = platform.metering_service, await platform.start_metering()
    try:
        for value, expected in (("0", DENIED), ("100", ALLOWED)):
            await decision(other, organization_id)
            await set_limit(metering, organization_id, value=value, window=DAY)
            began_s = time.monotonic()
            await eventually(lambda: decision(other, organization_id), [expected].__contains__)
            assert time.monotonic() - began_s < 2
    finally:
        assert first is not None
        await first.stop(0)
