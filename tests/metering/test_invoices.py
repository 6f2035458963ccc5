"""Invoices say what usage was, at which rates, and when it happened, and equal what it cost."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from libs.common.timestamps import render_time
from tests.billing.invoice_calls import NOW, issue, set_issuer
from tests.billing.support import BillingServer, Ledger, refusal
from tests.metering.corrections.calls import amend, tokens, void
from tests.metering.parts.support import Call
from tests.metering.support import Platform, usage
from tests.support.callers import Callers
from tollhouse.billing.v1 import invoice_pb2 as pb
from tollhouse.metering.v1 import charge_pb2, charge_pb2_grpc

MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
LAST_DAY = MONTH.isoformat()[:10]
COST = Decimal("0.0035")


@pytest.fixture
async def billing(platform: Platform, callers: Callers, tmp_path: Path) -> AsyncIterator[Ledger]:
    """A process of billing beside the platform's, which knows where metering is."""
    server = BillingServer(callers, platform.urls["billing"])
    target = f"127.0.0.1:{platform.metering_port}"
    key = callers.signing_key_file("billing", tmp_path)
    async with server.start(metering_target=target, signing_key_file=key) as ledger:
        await set_issuer(ledger, prefix="USE-")
        yield ledger


async def used(platform: Platform, organization_id: str, moment: datetime) -> None:
    """Record a usage of a moment, and wait until it is charged."""
    request = usage(organization_id, occur_time=render_time(moment))
    await platform.metering.record(request)
    await platform.settled()


def summed(invoice: pb.Invoice) -> Decimal:
    return sum((Decimal(line.amount.value) for line in invoice.lines), Decimal(0))


async def test_usage_after_the_invoice_is_on_the_next_with_its_own_date(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    """Acceptance case 8, without days of grace."""
    await platform.fund(organization_id)
    await used(platform, organization_id, MONTH - timedelta(days=2))
    first = await issue(billing, organization_id, LAST_DAY)
    await used(platform, organization_id, MONTH - timedelta(microseconds=1))
    await used(platform, organization_id, MONTH)
    second = await issue(billing, organization_id, NOW)
    assert summed(first) == COST
    assert [line.start_time for line in second.lines] == [
        render_time(MONTH - timedelta(microseconds=1)),
        render_time(MONTH),
    ]
    assert summed(first) + summed(second) == 3 * COST
    assert (await refusal(issue(billing, organization_id, NOW)))[1] == "NOTHING_TO_INVOICE"
    assert await billing.findings() == []


async def test_usage_within_the_days_of_grace_is_on_the_invoice_of_its_month(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    """Acceptance case 8, with days of grace: what was used since is charged already, and is on the next."""
    await platform.fund(organization_id)
    for moment in (MONTH, MONTH - timedelta(days=2), MONTH + timedelta(hours=1), MONTH - timedelta(microseconds=1)):
        await used(platform, organization_id, moment)
    first = await issue(billing, organization_id, LAST_DAY)
    assert summed(first) == 2 * COST
    await used(platform, organization_id, MONTH - timedelta(days=1))
    second = await issue(billing, organization_id, NOW)
    assert [(line.movement_count, line.end_time) for line in second.lines] == [
        (1, render_time(MONTH - timedelta(days=1))),
        (2, render_time(MONTH + timedelta(hours=1))),
    ]
    assert summed(second) == 3 * COST
    assert await billing.findings() == []


async def test_usage_on_an_issued_invoice_is_corrected_on_the_next_with_its_own_date(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    """Acceptance case 8, with corrections: what is issued stays, and each movement is on one invoice."""
    await platform.fund(organization_id)
    last_month = render_time(MONTH - timedelta(days=2))
    for name in ("amended", "voided"):
        await platform.metering.record(usage(organization_id, name, occur_time=last_month))
    await platform.settled()
    first = await issue(billing, organization_id, LAST_DAY)
    await amend(platform.metering, organization_id, "amended", tokens=tokens(3000, 100))
    await void(platform.metering, organization_id, "voided")
    await used(platform, organization_id, MONTH)
    second = await issue(billing, organization_id, NOW)
    assert summed(first) == 2 * COST
    usage_line, correction = second.lines
    assert (usage_line.kind, usage_line.movement_count) == (pb.INVOICE_LINE_KIND_USAGE, 1)
    assert (correction.kind, correction.movement_count) == (pb.INVOICE_LINE_KIND_CORRECTION, 2)
    assert (correction.start_time, correction.description) == (last_month, "gpt-4o")
    assert Decimal(correction.amount.value) == Decimal("0.005") - COST
    assert [(one.unit, one.value) for one in correction.quantities] == [
        ("input_tokens", "1000"),
        ("output_tokens", "-100"),
    ]
    assert summed(first) + summed(second) == Decimal("0.0085") + COST
    assert await billing.findings() == []


async def test_line_has_quantities_and_rates_by_model_and_unit(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    await platform.fund(organization_id)
    for _ in range(3):
        await platform.metering.record(usage(organization_id))
    await platform.settled()
    (line,) = (await issue(billing, organization_id, NOW)).lines
    assert (line.kind, line.model, line.service_tier) == (pb.INVOICE_LINE_KIND_USAGE, "gpt-4o", "standard")
    assert [(one.unit, one.value, list(one.rates)) for one in line.quantities] == [
        ("input_tokens", "3000", ["2.5 per 1000000"]),
        ("output_tokens", "300", ["10 per 1000000"]),
    ]
    assert line.price_version_id
    assert (line.movement_count, Decimal(line.amount.value)) == (3, 3 * COST)


@pytest.mark.own_database
async def test_invoice_is_refused_while_metering_is_away_and_takes_no_number(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await used(platform, organization_id, MONTH)
    await platform.stop_metering()
    code, reason, facts = await refusal(
        billing.invoices.IssueInvoice(
            pb.IssueInvoiceRequest(organization_id=organization_id, end_time=render_time(datetime.now(UTC))),
            metadata=billing.metadata,
            timeout=25,
        )
    )
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert facts == {"dependency": "metering"}
    assert await billing.findings() == []


async def test_usage_comes_with_charges_of_named_operations_only(platform: Platform, organization_id: str) -> None:
    await platform.fund(organization_id)
    await platform.metering.record(usage(organization_id, "one"))
    channel_stub = charge_pb2_grpc.ChargeServiceStub(platform.metering.channel)
    request = charge_pb2.ListChargesRequest(organization_id=organization_id, with_usage=True)
    code, reason, _ = await refusal(channel_stub.ListCharges(request, metadata=platform.callers.operator()))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    request.operation_ids.append("one")
    answer = await channel_stub.ListCharges(request, metadata=platform.callers.operator())
    assert [(one.operation_id, one.usage.model) for one in answer.charges] == [("one", "gpt-4o")]


async def test_parts_of_a_call_are_in_its_line_with_its_quantities_once(
    platform: Platform, billing: Ledger, organization_id: str
) -> None:
    await platform.fund(organization_id)
    call = Call(platform.metering, organization_id)
    await call.authorize()
    await call.part(1000, 50)
    await call.last(1000, 100)
    await platform.settled()
    (line,) = (await issue(billing, organization_id, NOW)).lines
    assert [(one.unit, one.value) for one in line.quantities] == [("input_tokens", "1000"), ("output_tokens", "100")]
    assert (line.movement_count, Decimal(line.amount.value)) == (2, COST)
