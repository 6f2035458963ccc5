"""What plans charge for the usage of a period, through the calls of billing and metering, to the invoice."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.timestamps import render_time
from tests.billing.invoice_calls import NOW, issue, set_issuer
from tests.billing.subscription_calls import Subscriptions, add_plan
from tests.billing.support import BillingServer, Ledger, refusal
from tests.metering.corrections.calls import amend, restore, void
from tests.metering.support import Platform, eventually, usage
from tests.support.callers import Callers
from tollhouse.billing.v1 import invoice_pb2, plan_pb2, subscription_pb2
from tollhouse.metering.v1 import charge_pb2, model_pb2, unit_pb2, usage_pb2

DAY = plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_DAY, count=1)
GRADUATED, VOLUME = plan_pb2.USAGE_CHARGE_MODE_GRADUATED, plan_pb2.USAGE_CHARGE_MODE_VOLUME
FREE_250 = [plan_pb2.UsageStep(up_to="250", price="0"), plan_pb2.UsageStep(price="0.02")]
FROM_101 = [plan_pb2.UsageStep(up_to="100", price="3"), plan_pb2.UsageStep(price="1")]
CASES: Mapping[str, tuple[plan_pb2.UsageCharge, str, str]] = {
    # Acceptance case 7: the charge, what was used, and what it comes to.
    "steps-250": (plan_pb2.UsageCharge(mode=GRADUATED, steps=FREE_250), "250", "0"),
    "steps-251": (plan_pb2.UsageCharge(mode=GRADUATED, steps=FREE_250), "251", "0.02"),
    "graduated": (plan_pb2.UsageCharge(mode=GRADUATED, steps=FROM_101), "101", "301"),
    "volume": (plan_pb2.UsageCharge(mode=VOLUME, steps=FROM_101), "101", "101"),
    "nothing": (plan_pb2.UsageCharge(mode=GRADUATED, steps=FROM_101), "0", "0"),
    "fee-of-usage": (plan_pb2.UsageCharge(mode=VOLUME, steps=FROM_101, flat_fee="5"), "0", "0"),
    "fee-always": (
        plan_pb2.UsageCharge(mode=VOLUME, steps=FROM_101, flat_fee="5", flat_fee_without_usage=True),
        *("0", "5"),
    ),
}


@pytest.fixture
async def billing(platform: Platform, callers: Callers, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A process of billing beside the platform's, which knows where metering is."""
    target = f"127.0.0.1:{platform.metering_port}"
    key = callers.signing_key_file("billing", tmp_path)
    server = BillingServer(callers, platform.urls["billing"])
    async with server.start(metering_target=target, signing_key_file=key, period_run_every_s=0.1) as ledger:
        yield ledger


def pages(quantity: str) -> list[unit_pb2.Quantity]:
    return [unit_pb2.Quantity(unit="pages", value=quantity)]


async def quantity(platform: Platform, organization_id: str, subscription_id: str, **fields: object) -> str:
    request = charge_pb2.GetUsedQuantityRequest(
        organization_id=organization_id,
        subscription_id=subscription_id,
        **({"unit": "pages"} | fields),  # type: ignore[arg-type]
    )
    metering = platform.metering
    return (await metering.charge.GetUsedQuantity(request, metadata=metering.operator)).quantity


@pytest.mark.own_database
async def test_steps_of_the_acceptance_cases_come_out_on_the_invoice(platform: Platform, billing: Ledger) -> None:
    """Acceptance case 7, in periods that end some seconds from now, in the middle of an hour."""
    metering, subscriptions = platform.metering, Subscriptions(billing)
    await set_issuer(billing, prefix="STEPS-")
    await metering.add_model("reader")
    card = model_pb2.RateCard(rates=[model_pb2.Rate(unit="pages", price="0"), model_pb2.Rate(unit="images", price="2")])
    request = model_pb2.SetPriceRequest(
        model_id="reader", currency_code="USD", rate_card=card, effective_time=Timestamp(seconds=1)
    )
    await metering.models.SetPrice(request, metadata=metering.operator)
    anchor = datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=6)
    made: dict[str, subscription_pb2.Subscription] = {}
    for case, (charge, used, _) in CASES.items():
        charge.MergeFrom(plan_pb2.UsageCharge(usage_charge_code="pages", name="Pages", unit="pages"))
        await add_plan(billing, case, "0", billing_interval=DAY, usage_charges=[charge])
        org = f"0197c5a8-0000-7000-8000-{len(made):012}"
        made[case] = await subscriptions.create(org, case, start_time=anchor, anchor_time=anchor)
        if used != "0":
            await metering.record(read(org, f"read-{case}", used))
    preview = invoice_pb2.PreviewInvoiceRequest(organization_id=made["steps-251"].organization_id)
    forecast = await billing.invoices.PreviewInvoice(preview, metadata=billing.metadata)
    assert not forecast.HasField("invoice")
    assert [(one.quantity, one.amount.value) for one in forecast.usage_forecasts] == [("251", "0.02")]

    async def ended() -> bool:
        found = [await subscriptions.get(s) for s in made.values()]
        return all(s.period_start_time.ToDatetime(UTC) >= anchor + timedelta(days=1) for s in found)

    await eventually(ended, bool)
    for case, (_, used, amount) in CASES.items():
        org = made[case].organization_id
        if amount == "0":
            continue
        invoice = await eventually(partial(issued, billing, org), bool)
        assert invoice is not None
        (line,) = invoice.lines
        assert (invoice.subtotal.value, line.description, line.plan_code) == (amount, "Pages", case)
        assert [(one.unit, one.value) for one in line.quantities] == [("pages", used)]
    for case, (_, _, amount) in CASES.items():
        if amount == "0":
            assert (await refusal(issue(billing, made[case].organization_id, NOW)))[1] in (
                "NOTHING_TO_INVOICE",
                "ACCOUNT_NOT_FOUND",
            )
    assert await billing.findings() == []


async def issued(billing: Ledger, organization_id: str) -> invoice_pb2.Invoice | None:
    """Issue an invoice, as soon as there is something to invoice."""
    try:
        return await issue(billing, organization_id, NOW)
    except grpc.aio.AioRpcError:
        return None


def read(organization_id: str, operation_id: str, used: str) -> usage_pb2.RecordUsageRequest:
    return usage_pb2.RecordUsageRequest(
        organization_id=organization_id, operation_id=operation_id, model="reader", quantities=pages(used)
    )


async def test_a_quantity_is_exact_at_times_that_are_no_full_hours_and_after_corrections(
    platform: Platform, organization_id: str
) -> None:
    metering = platform.metering
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
    start, end = hour + timedelta(minutes=20), hour + timedelta(hours=3, minutes=20)
    moments = [
        start - timedelta(microseconds=1),
        start,
        hour + timedelta(minutes=59),
        hour + timedelta(hours=1),
        hour + timedelta(hours=3),
        end - timedelta(microseconds=1),
        end,
    ]
    for number, moment in enumerate(moments):
        await metering.record(
            usage(organization_id, f"at-{number}", occur_time=render_time(moment), quantities=pages(str(10**number)))
        )
    times = {"start_time": render_time(start), "end_time": render_time(end), "with_unsubscribed": True}
    under = "0197c5a8-0000-7000-8000-00000000cafe"

    async def used(**fields: object) -> str:
        return await quantity(platform, organization_id, under, **(times | fields))

    assert await used() == "111110"
    assert await used(with_unsubscribed=False) == "0"
    assert await used(models=["gpt-4o"]) == "111110"
    assert await used(models=["another"]) == "0"
    assert await used(unit="requests") == "5"
    assert await used(unit="input_tokens") == "5000"
    short = {"start_time": render_time(moments[2]), "end_time": render_time(moments[2] + timedelta(microseconds=1))}
    assert await used(**short) == "100"
    await void(metering, organization_id, "at-1")
    await void(metering, organization_id, "at-2")
    await restore(metering, organization_id, "at-2")
    await amend(metering, organization_id, "at-5", quantities=pages("300000"))
    await amend(metering, organization_id, "at-6", occur_time=render_time(moments[3]))
    assert Decimal(await used()) == 100 + 1000 + 10000 + 300000 + 1000000
    assert await used(unit="requests") == "5"
