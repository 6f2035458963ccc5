"""Usage whose charge billing refused is put right by corrections: it is charged as it is then, or not at all."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.corrections.calls import amend, charged, found, moved, restore, tokens, void
from tests.metering.corrections.test_corrections import summed
from tests.metering.rerates.calls import done, later, rerate
from tests.metering.support import Metering, Platform, eventually, refused, usage, usd
from tollhouse.billing.v1.account_pb2 import OpenAccountRequest
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import charge_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

_OTHER_CURRENCY = (grpc.StatusCode.FAILED_PRECONDITION, "AMOUNT_OF_ANOTHER_CURRENCY")


def eur(value: str) -> Amount:
    return Amount(currency_code="EUR", value=value)


async def record_refused(platform: Platform, metering: Metering, organization_id: str) -> None:
    """Record usage with a cost in EUR in an organization whose account is in USD."""
    await platform.fund(organization_id, "10")
    answer = await metering.record(usage(organization_id, "call", stated_amount=eur("1.5")))
    assert answer.usage.settlement == pb.SETTLEMENT_REFUSED


async def retry(metering: Metering, organization_id: str, operation_ids: Sequence[str] = ()) -> int:
    request = charge_pb2.RetryChargesRequest(organization_id=organization_id, operation_ids=operation_ids)
    return (await metering.charge.RetryCharges(request, metadata=metering.operator)).charge_count


async def pending(metering: Metering, organization_id: str) -> list[str]:
    answer = await metering.charge.ListPendingCharges(
        charge_pb2.ListPendingChargesRequest(), metadata=metering.operator
    )
    return [one.operation_id for one in answer.pending_charges if one.organization_id == organization_id]


async def nothing_waits(metering: Metering, organization_id: str) -> None:
    await eventually(lambda: pending(metering, organization_id), lambda waiting: not waiting)


async def test_stated_amount_stays_in_the_currency_that_was_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await metering.record(usage(organization_id, "call", stated_amount=usd("1.5")))
    for trial in (True, False):
        other = amend(metering, organization_id, "call", stated_amount=eur("1"), validate_only=trial)
        assert await refused(other) == _OTHER_CURRENCY
    # Nor does it change when all was given back: the usage was charged in USD.
    await amend(metering, organization_id, "call", stated_amount=usd("0"))
    assert await refused(amend(metering, organization_id, "call", stated_amount=eur("1"))) == _OTHER_CURRENCY
    assert (await found(metering, organization_id, "call")).usage.correction_count == 1
    assert await charged(platform, organization_id) == Decimal(0)
    assert await metering.findings() == []


async def test_voided_usage_whose_charge_was_refused_is_clean(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await record_refused(platform, metering, organization_id)
    assert len(await metering.findings()) == 1

    voided = await void(metering, organization_id, "call", "void")

    assert moved(voided.correction) == []
    assert await metering.findings() == []
    assert await pending(metering, organization_id) == []
    assert await retry(metering, organization_id) == 0
    again = await void(metering, organization_id, "call", "void")
    assert (again.replayed, again.correction) == (True, voided.correction)
    stored = (await found(metering, organization_id, "call")).usage
    assert (stored.settlement, stored.voided) == (pb.SETTLEMENT_REFUSED, True)
    assert await summed(metering, organization_id) == (0, 0, Decimal(0))
    assert await charged(platform, organization_id) == Decimal(0)
    assert await platform.ledger.findings() == []
    # Sent again by name, and refused again, it is given up again.
    assert await retry(metering, organization_id, ["call"]) == 1
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(0)
    assert await metering.findings() == []


async def test_usage_whose_charge_was_refused_is_charged_in_full_when_it_is_amended(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await record_refused(platform, metering, organization_id)
    trial = await amend(metering, organization_id, "call", stated_amount=usd("2"), validate_only=True)
    assert moved(trial.correction) == [("2", False)]

    amended = await amend(metering, organization_id, "call", stated_amount=usd("2"))

    assert moved(amended.correction) == [("2", False)]
    assert amended.balance.posted.value == "8"
    cheaper = await amend(metering, organization_id, "call", stated_amount=usd("0.5"))
    assert moved(cheaper.correction) == [("1.5", True)]
    assert await refused(amend(metering, organization_id, "call", stated_amount=eur("1"))) == _OTHER_CURRENCY
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal("0.5")
    assert await summed(metering, organization_id) == (1, 1000, Decimal("0.5"))
    assert await metering.findings() == []


async def test_charge_of_a_correction_that_was_refused_is_given_up_by_the_next(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await record_refused(platform, metering, organization_id)
    still = await amend(metering, organization_id, "call", stated_amount=eur("3"))
    assert [(one.amount.value, one.settlement) for one in still.correction.charges] == [("3", pb.SETTLEMENT_REFUSED)]
    await void(metering, organization_id, "call")
    assert await metering.findings() == []
    restored = await restore(metering, organization_id, "call")
    assert restored.correction.charges[0].settlement == pb.SETTLEMENT_REFUSED
    assert len(await metering.findings()) == 1
    await amend(metering, organization_id, "call", stated_amount=usd("1"))
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(1)
    assert await metering.findings() == []


async def test_damage_to_what_was_given_up_is_found(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await record_refused(platform, metering, organization_id)
    await void(metering, organization_id, "call")
    for change, back in (
        ("SET amount = amount + 1 WHERE kind = 'DEBIT'", "SET amount = amount - 1 WHERE kind = 'DEBIT'"),
        (
            "SET reverses_operation_id = 'nothing' WHERE kind = 'REVERSAL'",
            "SET reverses_operation_id = 'call' WHERE kind = 'REVERSAL'",
        ),
        (
            "SET next_attempt_time = now() + interval '1 hour' WHERE kind = 'REVERSAL'",
            "SET next_attempt_time = 'infinity' WHERE kind = 'REVERSAL'",
        ),
    ):
        of_it = f" AND organization_id = '{organization_id}'"
        await platform.execute(f"UPDATE metering.outbox {change}{of_it}")
        assert {one.split(" ")[0] for one in await metering.findings()} == {"charges_come_from_usage"}, change
        await platform.execute(f"UPDATE metering.outbox {back}{of_it}")
    assert await metering.findings() == []


async def test_charge_that_is_refused_after_it_was_reversed_is_given_up(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """The correction was made while nobody knew whether the charge was made."""
    await platform.fund(organization_id, "10")
    await platform.stop_billing()
    await metering.record(usage(organization_id, "call", stated_amount=eur("1.5")))
    assert await refused(amend(metering, organization_id, "call", stated_amount=usd("1"))) == _OTHER_CURRENCY
    voided = await void(metering, organization_id, "call")
    assert [one.settlement for one in voided.correction.charges] == [pb.SETTLEMENT_PENDING]
    await platform.start_billing()
    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now() WHERE next_attempt_time < 'infinity'")
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(0)
    assert await metering.findings() == []


async def test_partly_reversed_charge_that_is_refused_later_is_put_right_by_the_next_correction(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await platform.stop_billing()
    await metering.record(usage(organization_id, "call", stated_amount=eur("1.5")))
    await amend(metering, organization_id, "call", stated_amount=eur("1"))
    await platform.start_billing()
    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now() WHERE next_attempt_time < 'infinity'")
    await eventually(
        lambda: found(metering, organization_id, "call"), lambda one: one.usage.settlement == pb.SETTLEMENT_REFUSED
    )
    amended = await amend(metering, organization_id, "call", stated_amount=usd("2"))
    assert moved(amended.correction) == [("2", False)]
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(2)
    assert await metering.findings() == []


@pytest.mark.parametrize("turn", range(3))
async def test_corrections_and_retries_at_once_leave_money_exact(
    platform: Platform, metering: Metering, organization_id: str, turn: int
) -> None:
    await record_refused(platform, metering, organization_id)
    code, reason = grpc.StatusCode.OK, None

    async def amended() -> None:
        nonlocal code, reason
        await asyncio.sleep(0.003 * turn)
        try:
            await amend(metering, organization_id, "call", stated_amount=usd("2"))
        except grpc.aio.AioRpcError as error:
            code, reason = await refused(_raise(error))

    async def voided() -> None:
        await asyncio.sleep(0.002 * turn)
        await void(metering, organization_id, "call")

    await asyncio.gather(retry(metering, organization_id), amended(), voided(), retry(metering, organization_id))

    assert reason in (None, "USAGE_VOIDED", "AMOUNT_OF_ANOTHER_CURRENCY"), code
    assert (await found(metering, organization_id, "call")).usage.voided
    await nothing_waits(metering, organization_id)
    assert await charged(platform, organization_id) == Decimal(0)
    assert await summed(metering, organization_id) == (0, 0, Decimal(0))
    assert await metering.findings() == []


async def _raise(error: grpc.aio.AioRpcError) -> None:
    raise error


async def test_charge_that_is_accepted_after_all_is_not_given_up(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """A retry that billing accepts comes before the correction, which gives the charge back then."""
    await metering.set_price(price_in="1", price_out="1", currency_code="CREDIT", organization_id=organization_id)
    await platform.fund(organization_id, "10")
    answer = await metering.record(usage(organization_id, "call"))
    assert answer.usage.settlement == pb.SETTLEMENT_REFUSED
    # The process that sends it has taken it, and has not answered yet.
    await platform.execute(
        "UPDATE metering.outbox SET state = 'PENDING', attempt_count = 1, next_attempt_time = now() + interval '1 hour'"
        " WHERE next_attempt_time < 'infinity'"
    )
    voided = await void(metering, organization_id, "call")
    assert moved(voided.correction) == [("0.0011", True)]
    account = OpenAccountRequest(request_id=new_id(), organization_id=organization_id, currency_code="CREDIT")
    await platform.ledger.accounts.OpenAccount(account, metadata=platform.ledger.metadata)
    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now() WHERE next_attempt_time < 'infinity'")
    await nothing_waits(metering, organization_id)
    assert (await found(metering, organization_id, "call")).usage.settlement == pb.SETTLEMENT_SETTLED
    assert {key[1] for key in await platform.billing_charges() if key[0] == organization_id} == {
        "call",
        voided.correction.charges[0].operation_id,
    }
    assert await charged(platform, organization_id) == Decimal(0)
    assert await metering.findings() == []


async def test_rerated_usage_whose_charge_was_refused_is_charged_at_the_new_price(
    platform: Platform, metering: Metering
) -> None:
    organization_id, model = new_id(), f"credits-{new_id()}"
    await metering.add_model(model)
    await metering.set_price(model_id=model, price_in="1", price_out="1", currency_code="CREDIT")
    await platform.fund(organization_id, "10")
    answer = await metering.record(usage(organization_id, "call", model=model))
    assert answer.usage.settlement == pb.SETTLEMENT_REFUSED
    version = await metering.set_price(
        model_id=model, price_in="2", price_out="1", currency_code="CREDIT", effective_time=later(2)
    )
    await done(metering, rerate(organization_id, models=[model], price_version_id=version.price_version_id))
    stored = await found(metering, organization_id, "call")
    assert moved(stored.corrections[0]) == [("0.0021", False)]
    assert (await void(metering, organization_id, "call")).correction.before.tokens == tokens(1000, 100)
    await nothing_waits(metering, organization_id)
    assert await metering.findings() == []
