"""One operation id in the hands of several callers."""

import asyncio

import asyncpg
import grpc
import pytest

from libs.common.database_url import plain_url
from libs.common.status import reason_of
from tests.metering.support import Metering, Platform, eventually, refused, settlement, usage
from tests.metering.test_admission import ask
from tests.support.sharded import in_shard_of
from tollhouse.metering.v1 import admission_pb2, usage_pb2

ALLOWED = admission_pb2.DECISION_ALLOWED
IN_USE = (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_IN_USE")


async def outcome(metering: Metering, request: admission_pb2.AuthorizeRequest) -> str:
    """Return the decision, or the reason of the refusal."""
    try:
        answer = await metering.authorize(request)
    except grpc.aio.AioRpcError as error:
        return reason_of(error) or error.code().name
    return admission_pb2.Decision.Name(answer.decision)


@pytest.mark.own_database
async def test_of_many_callers_with_one_operation_id_exactly_one_is_allowed(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    other = await platform.start_metering()
    requests = [ask(organization_id, f"call-{number % 3}", fail_if_replayed=True) for number in range(60)]

    outcomes = await asyncio.gather(
        *(outcome((metering, other)[number % 2], request) for number, request in enumerate(requests))
    )

    assert sorted(outcomes) == ["DECISION_ALLOWED"] * 3 + ["OPERATION_ID_IN_USE"] * 57
    await metering.service.stop(0)


async def test_twenty_at_once_in_one_process_are_one_authorization(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    request = ask(organization_id, "call-1", fail_if_replayed=True)

    outcomes = await asyncio.gather(*(outcome(metering, request) for _ in range(20)))

    assert sorted(outcomes) == ["DECISION_ALLOWED"] + ["OPERATION_ID_IN_USE"] * 19


async def test_refusal_of_repeats_is_no_part_of_what_a_repeat_says_again(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    first = await metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True))

    repeat = await metering.authorize(ask(organization_id, "call-1"))
    again = await refused(metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True)))
    differs = await refused(metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True, endpoint="/x")))

    assert (first.replayed, repeat.replayed, repeat.hold_id) == (False, True, first.hold_id)
    assert again == IN_USE
    assert differs == (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED")


async def test_operation_that_was_denied_settled_or_cancelled_is_in_use(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.authorize(ask(organization_id, "denied"))
    await platform.fund(organization_id, "1")
    for operation_id in ("settled", "cancelled"):
        assert (await metering.authorize(ask(organization_id, operation_id))).decision == ALLOWED
    await metering.settle(settlement(organization_id, "settled"))
    cancel = admission_pb2.CancelRequest(organization_id=organization_id, operation_id="cancelled")
    await metering.admission.Cancel(cancel, metadata=metering.gateway)
    recorded = await metering.record(usage(organization_id, "recorded"))
    assert recorded.usage.settlement == usage_pb2.SETTLEMENT_SETTLED

    for operation_id in ("denied", "settled", "cancelled", "recorded"):
        request = ask(organization_id, operation_id, fail_if_replayed=True)
        assert await refused(metering.authorize(request)) == IN_USE, operation_id


@pytest.mark.own_database
async def test_attempt_that_billing_did_not_answer_is_no_repeat_of_itself(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    # What the organization is entitled to is known from now on, so that the hold alone needs billing.
    await metering.authorize(ask(organization_id, "call-0"))
    await platform.stop_billing()

    away = await refused(metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True)))
    await platform.start_billing()
    again = await eventually(
        lambda: refused(metering.authorize(ask(organization_id, "call-1", fail_if_replayed=True))),
        lambda found: found[1] != "DEPENDENCY_UNAVAILABLE",
    )
    plain = await eventually(
        lambda: outcome(metering, ask(organization_id, "call-1")), lambda found: found != "DEPENDENCY_UNAVAILABLE"
    )

    assert away == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert again == IN_USE
    assert plain == "DECISION_ALLOWED"


@pytest.mark.own_database
async def test_attempt_that_failed_after_it_was_written_is_no_repeat_of_itself(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "1")
    connection = await asyncpg.connect(plain_url(platform.admin_url))
    try:
        async with connection.transaction():
            # The authorization can be written; the question whether usage is recorded waits for longer than it may.
            lock = "LOCK TABLE metering.usage_operations IN ACCESS EXCLUSIVE MODE"
            await connection.execute(in_shard_of(organization_id, lock))
            answer = asyncio.create_task(outcome(metering, ask(organization_id, "call-1", fail_if_replayed=True)))
            await eventually(
                lambda: platform.value("SELECT count(*) FROM metering.authorizations"), lambda count: count == 1
            )
            await asyncio.sleep(0.7)
    finally:
        await connection.close()

    assert await answer == "DECISION_ALLOWED"
    assert await outcome(metering, ask(organization_id, "call-1", fail_if_replayed=True)) == IN_USE[1]
