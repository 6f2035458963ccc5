"""What invoices ask for is asked for once, and one is paid by enough money alone."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import grpc
import pytest

from libs.common.ids import new_id
from tests.billing.invoice_calls import get, issue, set_issuer, set_paid, void
from tests.billing.support import BillingServer, Ledger, funded, refusal, usd
from tests.billing.test_payments import product, record, refund
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import invoice_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2, payment_pb2

MUST_POST = ledger_pb2.DEBIT_MODE_MUST_POST
PAID = pb.INVOICE_STATE_PAID


@pytest.fixture
async def ledger(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    clock.set(datetime(2026, 8, 20, tzinfo=UTC))
    async with server.start(clock) as ledger:
        await set_issuer(ledger)
        yield ledger
        assert await ledger.findings() == []


async def owing(ledger: Ledger, clock: FixedClock, *values: str) -> list[pb.Invoice]:
    """The invoices of an organization that has used up what it had, one for each further charge."""
    org, found = await funded(ledger, "1", hold=None), list[pb.Invoice]()
    await ledger.debit(org, "begin", "1")
    for number, value in enumerate(values):
        clock.set(datetime(2026, 8 + number, 20, tzinfo=UTC))
        await ledger.debit(org, f"charge-{number}", value, mode=MUST_POST)
        clock.set(datetime(2026, 9 + number, 2, tzinfo=UTC))
        found.append(await issue(ledger, org))
    return found


async def refused(ledger: Ledger, invoice: pb.Invoice, **by: str) -> str:
    """Why nothing of this pays an invoice, which stays as it is."""
    code, reason, facts = await refusal(set_paid(ledger, invoice, **by))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DOES_NOT_PAY_INVOICE")
    assert (await get(ledger, invoice.organization_id, invoice.invoice_id)).state == pb.INVOICE_STATE_ISSUED
    return f"{facts['paid_by']} {facts['found']}"


async def test_invoice_does_not_ask_for_what_a_later_one_will(ledger: Ledger, clock: FixedClock) -> None:
    org = await funded(ledger, "100", hold=None)
    await ledger.debit(org, "august", "100")
    clock.set(datetime(2026, 9, 2, tzinfo=UTC))
    await ledger.debit(org, "september", "50", mode=MUST_POST)
    august = await issue(ledger, org)
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    september = await issue(ledger, org)
    assert [(one.subtotal.value, one.amount_due.value) for one in (august, september)] == [("100", "0"), ("50", "50")]


async def test_what_is_paid_before_it_is_said_to_be_hides_nothing(ledger: Ledger, clock: FixedClock) -> None:
    (august,) = await owing(ledger, clock, "100")
    org = august.organization_id
    transfer = await record(ledger, org, amount=usd("100"))
    await ledger.debit(org, "september", "50", mode=MUST_POST)
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    september = await issue(ledger, org)
    await set_paid(ledger, august, payment_id=transfer.payment_id)
    await ledger.debit(org, "october", "20", mode=MUST_POST)
    clock.set(datetime(2026, 11, 2, tzinfo=UTC))
    october = await issue(ledger, org)
    assert [one.amount_due.value for one in (august, september, october)] == ["100", "50", "20"]


async def test_invoice_again_asks_for_no_more_than_the_voided_one_and_what_came_since(
    ledger: Ledger, clock: FixedClock
) -> None:
    org = await funded(ledger, "40", hold=None)
    await ledger.debit(org, "august", "100", mode=MUST_POST)
    clock.set(datetime(2026, 9, 2, tzinfo=UTC))
    august = await issue(ledger, org)
    await ledger.debit(org, "september", "50", mode=MUST_POST)
    clock.set(datetime(2026, 10, 2, tzinfo=UTC))
    september = await issue(ledger, org)
    await void(ledger, august)
    await ledger.debit(org, "october", "20", mode=MUST_POST)
    clock.set(datetime(2026, 11, 2, tzinfo=UTC))
    again = await issue(ledger, org)
    assert (again.subtotal.value, again.credits_applied.value) == ("120", "40")
    assert [one.amount_due.value for one in (august, september, again)] == ["60", "50", "80"]


async def test_payment_pays_invoices_up_to_its_amount(ledger: Ledger, clock: FixedClock) -> None:
    first, second, third = await owing(ledger, clock, "1000", "500", "7")
    org = first.organization_id
    cent, much = [(await record(ledger, org, value, amount=usd(value))).payment_id for value in ("0.01", "1500")]
    assert await refused(ledger, first, payment_id=cent) == "payment has 0.01 USD left"
    assert (await set_paid(ledger, first, payment_id=much)).state == PAID
    assert (await set_paid(ledger, second, operation_id=f"payment/{much}/0")).state == PAID
    assert await refused(ledger, third, payment_id=much) == "payment has 0 USD left"
    assert await refused(ledger, third, operation_id=f"payment/{much}/0") == "payment has 0 USD left"


async def test_what_was_given_back_pays_nothing_and_a_paid_invoice_stays_paid(
    ledger: Ledger, clock: FixedClock
) -> None:
    first, second = await owing(ledger, clock, "10", "10")
    org = first.organization_id
    whole, part = [await record(ledger, org, name, amount=usd("10")) for name in ("whole", "part")]
    await refund(ledger, part, "some", "0.5")
    assert await refused(ledger, first, payment_id=part.payment_id) == "payment has 9.5 USD left"
    await set_paid(ledger, first, payment_id=whole.payment_id)
    await refund(ledger, whole, "all")
    assert (await get(ledger, org, first.invoice_id)).state == PAID
    assert await refused(ledger, second, payment_id=whole.payment_id) == "payment is REFUNDED"


async def test_credit_pack_and_charge_pay_no_invoice_in_money(ledger: Ledger, clock: FixedClock) -> None:
    (invoice,) = await owing(ledger, clock, "10")
    org = invoice.organization_id
    sold = await product(ledger)
    pack = await record(ledger, org, "pack", type=payment_pb2.PAYMENT_TYPE_CREDIT_PACK, product_code=sold.product_code)
    assert await refused(ledger, invoice, payment_id=pack.payment_id) == "payment has brought no USD to the account"
    assert await refused(ledger, invoice, operation_id="charge-0") == "movement has brought no USD to the account"
    history = await record(
        ledger, org, "history", type=payment_pb2.PAYMENT_TYPE_ADJUSTMENT, brings=payment_pb2.BRINGS_NOTHING
    )
    assert (await set_paid(ledger, invoice, payment_id=history.payment_id)).state == PAID


async def test_movement_pays_what_is_left_of_it_after_reversals_and_other_invoices(
    ledger: Ledger, clock: FixedClock
) -> None:
    first, second, third = await owing(ledger, clock, "6", "4", "1")
    org = first.organization_id
    transfer = await ledger.credit(org, "transfer", "12")
    await ledger.reverse(org, "mistake", transfer.transaction.transaction_id, "2")
    paid = await asyncio.gather(
        *(set_paid(ledger, one, operation_id="transfer") for one in (first, second)), return_exceptions=True
    )
    assert [one.state for one in paid if isinstance(one, pb.Invoice)] == [PAID, PAID]
    assert await refused(ledger, third, operation_id="transfer") == "movement has 0 USD left"


async def test_money_pays_one_of_two_invoices_at_once(ledger: Ledger, clock: FixedClock) -> None:
    invoices = await owing(ledger, clock, "6", "6", "6")
    transfer = await record(ledger, invoices[0].organization_id, amount=usd("10"))
    ways = {"payment_id": transfer.payment_id}, {"operation_id": f"payment/{transfer.payment_id}/0"}
    answers = await asyncio.gather(
        *(set_paid(ledger, one, **way) for one in invoices for way in ways), return_exceptions=True
    )
    states = [(await get(ledger, one.organization_id, one.invoice_id)).state for one in invoices]
    assert states.count(PAID) == 1, answers


async def test_payment_to_the_organizations_account_pays_no_projects_invoice(ledger: Ledger, clock: FixedClock) -> None:
    org, project = await funded(ledger, "1", hold=None), new_id()
    await ledger.credit(org, "begin", "1", project_id=project)
    await ledger.debit(org, "charge", "11", project_id=project, mode=MUST_POST)
    clock.set(datetime(2026, 9, 2, tzinfo=UTC))
    invoice = await issue(ledger, org, project_id=project)
    paid = await record(ledger, org, amount=usd("10"))
    why = "brought no USD to the account"
    assert await refused(ledger, invoice, payment_id=paid.payment_id) == f"payment has {why}"
    assert await refused(ledger, invoice, operation_id=f"payment/{paid.payment_id}/0") == f"movement has {why}"
    await ledger.transfer(org, "to-project", "10", "", project)
    assert (await set_paid(ledger, invoice, operation_id="to-project")).state == PAID
