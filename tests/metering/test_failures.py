from decimal import Decimal

import grpc
import pytest

from tests.metering.support import Metering, Platform, eventually, refused, settlement, usage
from tollhouse.billing.v1 import account_pb2
from tollhouse.metering.v1 import admission_pb2, charge_pb2, usage_pb2

pytestmark = [pytest.mark.own_database, pytest.mark.shards]


async def test_usage_is_recorded_while_billing_is_down_and_charged_once_when_it_is_back(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await platform.stop_billing()

    pending = [await metering.record(usage(organization_id, f"call-{number}")) for number in range(5)]
    assert {answer.usage.settlement for answer in pending} == {usage_pb2.SETTLEMENT_PENDING}
    assert not any(answer.HasField("balance") for answer in pending)
    await platform.start_billing()
    await platform.settled()

    repeat = await metering.record(usage(organization_id, "call-0"))
    assert (repeat.replayed, repeat.usage.settlement) == (True, usage_pb2.SETTLEMENT_SETTLED)
    assert await platform.posted(organization_id) == Decimal(10) - 5 * Decimal("0.0035")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_crash_between_the_commit_and_the_charge_ends_in_one_charge(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.stop_billing()
    await metering.record(usage(organization_id, "call-1"))
    await platform.stop_metering()
    await platform.start_billing()

    await platform.start_metering()
    await platform.settled()

    assert await platform.posted(organization_id) == Decimal("-0.0035")
    assert await platform.metering.findings() == []


async def test_charge_whose_confirmation_was_lost_is_not_made_twice(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call-1"))
    await platform.settled()
    await platform.execute(
        "INSERT INTO metering.outbox SELECT organization_id, operation_id, 'DEBIT', 'PENDING', cost, currency_code,"
        " project_id, model, 0, NULL, now(), now() FROM metering.usage_records"
    )

    await platform.settled()

    assert await platform.posted(organization_id) == Decimal("-0.0035")
    assert await metering.findings() == []


async def test_refused_charge_is_answered_listed_and_charged_once_the_cause_is_gone(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.set_price(price_in="1", price_out="1", currency_code="CREDIT", organization_id=organization_id)
    await platform.fund(organization_id, "10")

    answers = [
        await metering.record(usage(organization_id, "call-1")),
        await metering.record(usage(organization_id, "call-1")),
    ]
    stored = await metering.get(organization_id, "call-1")

    for told in (*(answer.usage for answer in answers), stored):
        assert (told.settlement, told.settlement_reason) == (usage_pb2.SETTLEMENT_REFUSED, "CURRENCY_MISMATCH")
    assert [answer.replayed for answer in answers] == [False, True]
    (refused,) = await _refused(metering)
    assert (refused.operation_id, refused.last_error_reason) == ("call-1", "CURRENCY_MISMATCH")
    assert [finding.split(" ")[0] for finding in await metering.findings()] == ["charges_come_from_usage"]
    await _retry(metering, organization_id)
    await eventually(lambda: _refused(metering), lambda charges: len(charges) == 1)

    await platform.ledger.accounts.OpenAccount(
        account_pb2.OpenAccountRequest(request_id="credits", organization_id=organization_id, currency_code="CREDIT"),
        metadata=platform.ledger.metadata,
    )
    # The relay asks again by itself; the test brings its next attempt forward.
    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now()")
    await platform.settled()

    assert (await metering.get(organization_id, "call-1")).settlement == usage_pb2.SETTLEMENT_SETTLED
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_charge_that_a_process_of_the_version_before_set_aside_is_listed_as_refused(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.set_price(price_in="1", price_out="1", currency_code="CREDIT", organization_id=organization_id)
    await platform.fund(organization_id, "10")
    await metering.record(usage(organization_id, "call-1"))
    await platform.execute("UPDATE metering.outbox SET state = 'DEAD', next_attempt_time = now() + interval '1 hour'")

    (refused,) = await _refused(metering)

    assert refused.state == charge_pb2.CHARGE_STATE_REFUSED
    assert (await metering.get(organization_id, "call-1")).settlement == usage_pb2.SETTLEMENT_REFUSED
    await _retry(metering, organization_id)


async def _retry(metering: Metering, organization_id: str) -> None:
    request = charge_pb2.RetryChargesRequest(organization_id=organization_id)
    assert (await metering.charge.RetryCharges(request, metadata=metering.operator)).charge_count == 1


async def _refused(metering: Metering) -> list[charge_pb2.PendingCharge]:
    request = charge_pb2.ListPendingChargesRequest(refused_only=True)
    return list((await metering.charge.ListPendingCharges(request, metadata=metering.operator)).pending_charges)


async def test_capture_without_a_hold_becomes_a_debit(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    request = admission_pb2.AuthorizeRequest(
        operation_id="call-1",
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=1000,
    )
    denied = await metering.authorize(request)
    assert denied.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE

    settled = await metering.settle(settlement(organization_id, "call-1"))

    assert settled.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert await platform.posted(organization_id) == Decimal("-0.0035")
    assert await metering.findings() == []


async def test_authorize_fails_closed_while_a_peer_is_down(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    with_key = admission_pb2.AuthorizeRequest(operation_id="a", api_key="th_live_x", model="gpt-4o")
    with_principal = admission_pb2.AuthorizeRequest(
        operation_id="b",
        principal=admission_pb2.Principal(organization_id=organization_id),
        model="gpt-4o",
        input_tokens=10,
    )

    no_identity = await refused(metering.authorize(with_key))
    await platform.stop_billing()
    no_billing = await refused(metering.authorize(with_principal))

    assert no_identity == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert no_billing == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_two_processes_with_the_same_operations_charge_each_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    service = platform.metering_service
    assert service is not None
    other = await platform.start_metering()
    try:
        requests = [usage(organization_id, f"call-{number}") for number in range(100)]

        outcomes = await metering.record_batch(requests), await other.record_batch(requests[::-1])

        assert all(outcome.HasField("recorded") for batch in outcomes for outcome in batch)
        await platform.settled()
        assert await platform.posted(organization_id) == -100 * Decimal("0.0035")
        assert await metering.findings() == []
    finally:
        await service.stop(0)
