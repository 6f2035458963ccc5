"""A year of one organization, driven by the clock: its statement, invoices and payments line by line.

It subscribes, uses more than the plan includes, pays in by bank transfer, gets a part back, has an invoice voided and
another credited, falls into debt and out of it, and leaves at the end of the year.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.shards import Shards
from tests.billing.invoice_calls import credit, list_all, set_issuer, set_paid, void
from tests.billing.subscription_calls import PERIOD_END, Subscriptions, add_plan
from tests.billing.support import BillingServer, Ledger, organization, usd
from tests.billing.test_automatic_invoices import automatic, sweep
from tests.billing.test_payments import listed, record, refund
from tests.billing.test_run_periods import run
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import invoice_pb2, ledger_pb2, payment_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.billing.v1.plan_pb2 import PAST_DUE_END_CANCEL, PastDuePolicy

MUST_POST: Final = ledger_pb2.DEBIT_MODE_MUST_POST
USAGE: Final = {
    "01-15": "12.5",
    "02-15": "4",
    "03-15": "30",
    "05-15": "10",
    "06-15": "22.75",
    "07-15": "15",
    "08-15": "20",
    "09-15": "18",
    "10-15": "160",
    "11-15": "11",
    "12-15": "9",
}
"""What was charged for usage, by day."""
STATEMENT: Final = [
    # The day, what it is, the amount and the balance. The plan costs 50 a month, and asks for usage of 10.
    ("01-01", "transfer-1", "300", "300"),
    ("01-01", "renewed", "-50", "250"),
    ("01-15", "usage", "-12.5", "237.5"),
    ("02-01", "renewed", "-50", "187.5"),
    ("02-15", "usage", "-4", "183.5"),
    ("03-01", "minimum", "-6", "177.5"),
    ("03-01", "renewed", "-50", "127.5"),
    ("03-15", "usage", "-30", "97.5"),
    ("04-01", "renewed", "-50", "47.5"),
    ("04-20", "transfer-2", "300", "347.5"),
    ("05-01", "minimum", "-10", "337.5"),
    ("05-01", "renewed", "-50", "287.5"),
    ("05-10", "refund", "-40", "247.5"),
    ("05-15", "usage", "-10", "237.5"),
    ("06-01", "renewed", "-50", "187.5"),
    ("06-15", "usage", "-22.75", "164.75"),
    ("07-01", "renewed", "-50", "114.75"),
    ("07-15", "usage", "-15", "99.75"),
    ("08-01", "renewed", "-50", "49.75"),
    ("08-15", "usage", "-20", "29.75"),
    ("08-20", "reversal", "15", "44.75"),
    ("08-28", "transfer-3", "200", "244.75"),
    ("09-01", "minimum", "-5", "239.75"),
    ("09-01", "renewed", "-50", "189.75"),
    ("09-15", "usage", "-18", "171.75"),
    ("10-01", "renewed", "-50", "121.75"),
    ("10-10", "goodwill", "5", "126.75"),
    ("10-15", "usage", "-160", "-33.25"),
    # November cannot be paid on the 1st, nor three days later; the transfer of the 6th pays it a week after the 1st.
    ("11-06", "transfer-4", "300", "266.75"),
    ("11-08", "paid", "-50", "216.75"),
    ("11-15", "usage", "-11", "205.75"),
    ("12-01", "renewed", "-50", "155.75"),
    ("12-15", "usage", "-9", "146.75"),
    ("01-01", "minimum", "-1", "145.75"),
]
INVOICES: Final = [
    # The number, the state, the month's end, the amounts of the lines, and what was left to pay at its issue.
    ("INV-000001", "ISSUED", "02-01", ["50", "12.5"], "0"),
    ("INV-000002", "ISSUED", "03-01", ["50", "6", "4"], "0"),
    ("INV-000003", "ISSUED", "04-01", ["50", "30"], "0"),
    ("INV-000004", "ISSUED", "05-01", ["50", "10"], "0"),
    ("INV-000005", "ISSUED", "06-01", ["50", "10"], "0"),
    ("INV-000006", "VOID", "07-01", ["50", "22.75"], "0"),
    ("INV-000007", "CREDIT NOTE", "", ["50", "22.75"], ""),
    # June again, and July.
    ("INV-000008", "ISSUED", "08-01", ["50", "50", "22.75", "15"], "0"),
    ("INV-000009", "ISSUED", "09-01", ["50", "5", "20", "-15"], "0"),
    ("INV-000010", "ISSUED", "10-01", ["50", "18"], "0"),
    ("INV-000011", "CREDIT NOTE", "", ["5"], ""),
    ("INV-000012", "PAID", "11-01", ["50", "160"], "33.25"),
    ("INV-000013", "ISSUED", "12-01", ["50", "11"], "0"),
    ("INV-000014", "ISSUED", "01-01", ["50", "1", "9"], "0"),
]
PAYMENTS: Final = [
    # What was paid and refunded.
    ("01-01", "300", "0", "COMPLETED"),
    ("04-20", "300", "40", "PARTIALLY_REFUNDED"),
    ("08-28", "200", "0", "COMPLETED"),
    ("11-06", "300", "0", "COMPLETED"),
]


def day(text: str) -> datetime:
    return datetime.fromisoformat(text if len(text) > 5 else f"2026-{text}").replace(tzinfo=UTC)


@pytest.fixture
async def ledger(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    clock.set(day("01-01"))
    async with server.start(clock, sweep_every_s=3600, invoices_every_s=3600, period_run_every_s=3600) as ledger:
        yield ledger
        assert await ledger.findings() == []


Happening = Callable[[], Awaitable[None]]


async def begin(ledger: Ledger, clock: FixedClock, org: str) -> tuple[pb.Subscription, dict[str, Happening]]:
    """Subscribe an organization; return what happens to it later, by day."""
    await set_issuer(ledger, grace_days=3, due_days=14, automatic=True)
    retries = PastDuePolicy(retry_after=[Duration(seconds=n * 86_400) for n in (3, 7)], end=PAST_DUE_END_CANCEL)
    await add_plan(ledger, "team", "50", minimum=usd("10"), past_due=retries)
    subscriptions = Subscriptions(ledger)
    paid = [await record(ledger, org, "transfer-1", amount=usd("300"), description="transfer-1")]
    subscribed = await subscriptions.create(org, "team")

    async def use() -> None:
        value = USAGE[clock.now().strftime("%m-%d")]
        await ledger.debit(org, f"usage-{clock.now():%m}", value, description="usage", mode=MUST_POST)

    async def transfer() -> None:
        name, value = f"transfer-{len(paid) + 1}", "200" if clock.now().month == 8 else "300"
        paid.append(await record(ledger, org, name, amount=usd(value), description=name))

    async def give_back() -> None:
        await refund(ledger, paid[1], "refund-1", "40")

    async def reverse() -> None:
        request = ledger_pb2.GetTransactionRequest(organization_id=org, operation_id="usage-08")
        charge = (await ledger.ledger.GetTransaction(request, metadata=ledger.metadata)).transaction
        await ledger.reverse(org, "reversal", charge.transaction_id, "15")

    async def void_june() -> None:
        await void(ledger, (await list_all(ledger, org))[-1])

    async def credit_september() -> None:
        note = await credit(
            ledger, (await list_all(ledger, org))[-1], invoice_pb2.CreditedLine(line_number=2, amount=usd("5"))
        )
        of_note = {"credit_note_id": note.credit_note.invoice_id}
        await ledger.credit(org, "goodwill", "5", source=ledger_pb2.CREDIT_SOURCE_ADJUSTMENT, metadata=of_note)

    async def pay_october() -> None:
        await transfer()
        await set_paid(ledger, (await list_all(ledger, org))[-1], payment_id=paid[-1].payment_id)

    async def leave() -> None:
        await subscriptions.cancel(subscribed, PERIOD_END)

    return subscribed, {
        **dict.fromkeys(USAGE, use),
        "04-20": transfer,
        "05-10": give_back,
        "07-10": void_june,
        "08-20": reverse,
        "08-28": transfer,
        "10-10": credit_september,
        "11-06": pay_october,
        "12-20": leave,
    }


async def test_a_year_comes_out_as_the_tables_say(ledger: Ledger, clock: FixedClock, billing_shards: Shards) -> None:
    org = organization()
    subscribed, happens = await begin(ledger, clock, org)
    worker = automatic(billing_shards, clock)
    ends = [f"{month:02}-{number}" for month in range(2, 13) for number in ("01", "04")]
    for moment in [*sorted({*happens, *ends, "11-08"}), "2027-01-01", "2027-01-04"]:
        clock.set(day(moment))
        await run(ledger)
        await sweep(billing_shards, worker)
        if moment in happens:
            await happens[moment]()

    assert await statement(ledger, org) == STATEMENT
    assert [told(one) for one in await with_lines(ledger, org)] == INVOICES
    assert [
        (
            one.processed_time.ToDatetime(UTC).strftime("%m-%d"),
            one.amount.value,
            one.refunded_amount.value or "0",
            payment_pb2.PaymentStatus.Name(one.status).removeprefix("PAYMENT_STATUS_"),
        )
        for one in reversed(await listed(ledger, org))
    ] == PAYMENTS
    # What was charged is on the invoices that count, and what is left is what came in less what was charged.
    charged = sum(
        Decimal(amount)
        for number, state, _, lines, _ in INVOICES
        for amount in lines
        if state not in ("VOID", "CREDIT NOTE")
    )
    came_in = sum(Decimal(amount) - Decimal(refunded) for _, amount, refunded, _ in PAYMENTS)
    assert came_in + 5 - charged == Decimal(STATEMENT[-1][3])
    assert (await Subscriptions(ledger).kinds(subscribed))[-2:] == ["MINIMUM_CHARGED", "CANCELLED"]


async def statement(ledger: Ledger, org: str) -> list[tuple[str, str, str, str]]:
    request = ledger_pb2.ListTransactionsRequest(organization_id=org, page_size=1000)
    found = (await ledger.ledger.ListTransactions(request, metadata=ledger.metadata, timeout=20)).transactions
    return [
        (
            one.create_time.ToDatetime(UTC).strftime("%m-%d"),
            name_of(one),
            one.amount.value if one.direction == ledger_pb2.DIRECTION_CREDIT else f"-{one.amount.value}",
            one.balance_after.value,
        )
        for one in sorted(found, key=lambda one: one.sequence)
    ]


def name_of(one: ledger_pb2.Transaction) -> str:
    """What a movement is, in one word."""
    words = {
        "plan team: minimum": "minimum",
        "plan team: renewed": "renewed",
        "plan team: it began": "renewed",
        "plan team: what was owed": "paid",
        "usage": "usage",
        "transfer": one.description,
    }
    found = [name for beginning, name in words.items() if one.description.startswith(beginning)]
    return found[0] if found else one.operation_id if one.operation_id in ("reversal", "goodwill") else "refund"


async def with_lines(ledger: Ledger, org: str) -> list[invoice_pb2.Invoice]:
    stub, found = ledger.invoices, []
    for one in await list_all(ledger, org):
        request = invoice_pb2.GetInvoiceRequest(organization_id=org, invoice_id=one.invoice_id)
        found.append((await stub.GetInvoice(request, metadata=ledger.metadata, timeout=20)).invoice)
    return found


def told(one: invoice_pb2.Invoice) -> tuple[str, str, str, list[str], str]:
    if one.kind == invoice_pb2.INVOICE_KIND_CREDIT_NOTE:
        return one.number, "CREDIT NOTE", "", [line.amount.value for line in one.lines], ""
    return (
        one.number,
        invoice_pb2.InvoiceState.Name(one.state).removeprefix("INVOICE_STATE_"),
        one.end_time.ToDatetime(UTC).strftime("%m-%d"),
        [line.amount.value for line in one.lines],
        one.amount_due.value,
    )
