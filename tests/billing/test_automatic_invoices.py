"""Invoices that are issued by themselves: once for each account and month, whatever dies, and none holds up another."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import Unavailable
from libs.common.shards import Shards
from services.billing.invoice.automatic import AutomaticInvoices
from services.billing.invoice.collection import Collection, Wanted
from services.billing.invoice.domain import automatic_end, recipients_tax
from services.billing.invoice.invoices import Claim, Invoices
from services.billing.ledger.engine import Engine
from tests.billing import dying_automatic
from tests.billing.invoice_calls import issue, list_all, set_issuer, set_paid, set_recipient, void
from tests.billing.plan_calls import credit
from tests.billing.subscription_calls import Subscriptions, add_plan
from tests.billing.support import BillingServer, Ledger, funded, organization, usd
from tests.billing.test_run_periods import run
from tests.support.clock import FixedClock
from tests.support.events import announced
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.support.sharded import SHARDS
from tollhouse.billing.v1 import ledger_pb2

pytestmark = [pytest.mark.own_database, pytest.mark.shards]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Failing(Invoices):
    """Invoices of which some cannot be issued."""

    failures: dict[str, Exception]
    tried = 0

    async def issue_due(self, wanted: Wanted, claim: Claim) -> bool:
        self.tried += 1
        if wanted.organization_id in self.failures:
            raise self.failures[wanted.organization_id]
        return await super().issue_due(wanted, claim)


def failing(shards: Shards, clock: FixedClock, failures: dict[str, Exception]) -> Failing:
    invoices = Failing(shards, Collection(shards, Engine(shards, clock), None, clock), recipients_tax, clock)
    invoices.failures = failures
    return invoices


def automatic(shards: Shards, clock: FixedClock, invoices: Invoices | None = None) -> AutomaticInvoices:
    """What a process runs."""
    return AutomaticInvoices(shards, invoices or failing(shards, clock, {}), clock, 3600)


async def sweep(shards: Shards, *processes: AutomaticInvoices) -> None:
    """Let each process go through all shards at once."""
    await asyncio.gather(*(one.sweep(database) for one in processes for database in shards))


@pytest.fixture
async def ledger(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    """Billing whose own workers do not run meanwhile, and an issuer who issues by himself since 20 August."""
    clock.set(utc("2026-08-20"))
    async with server.start(clock, sweep_every_s=3600, invoices_every_s=3600, period_run_every_s=3600) as ledger:
        await set_issuer(ledger, grace_days=3, due_days=14, automatic=True)
        yield ledger
        assert await ledger.findings() == []


async def subtotals(ledger: Ledger, org: str) -> list[tuple[str, str]]:
    return [(one.end_time.ToDatetime(UTC).strftime("%m-%d"), one.subtotal.value) for one in await list_all(ledger, org)]


async def test_each_month_is_issued_once_after_the_days_of_grace_unless_somebody_has(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    worker = automatic(billing_shards, clock)
    org, idle, credits_ = await funded(ledger, "100", hold=None), await funded(ledger, hold=None), organization()
    await ledger.debit(org, "july", "1")
    charge = ledger_pb2.DebitRequest(organization_id=credits_, operation_id="work", amount=credit("9"))
    charge.mode = ledger_pb2.DEBIT_MODE_MUST_POST
    await ledger.ledger.Debit(charge, metadata=ledger.metadata)
    by_hand = await funded(ledger, hold=None)
    await ledger.debit(by_hand, "august", "2")
    clock.set(utc("2026-09-01"))
    await ledger.debit(org, "september", "5")
    await issue(ledger, by_hand, skip_grace=True)
    clock.set(utc("2026-09-03T23:59:59"))
    await sweep(billing_shards, worker)
    assert await list_all(ledger, org) == []
    clock.set(utc("2026-09-04"))
    for _ in range(2):
        await sweep(billing_shards, worker, automatic(billing_shards, clock))
    assert await subtotals(ledger, org) == [("09-01", "1")]
    assert [await list_all(ledger, one) for one in (idle, credits_)] == [[], []]
    # No process runs for two months: what was missed is made up for month by month.
    clock.set(utc("2026-10-20"))
    await ledger.debit(org, "october", "7")
    clock.set(utc("2026-11-10"))
    await sweep(billing_shards, worker)
    assert await subtotals(ledger, org) == [("09-01", "1"), ("10-01", "5"), ("11-01", "7")]
    assert await subtotals(ledger, by_hand) == [("09-01", "2")]


async def test_recipient_whose_invoices_are_issued_by_hand_is_left_out(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    worker = automatic(billing_shards, clock)
    org = await funded(ledger, hold=None)
    await ledger.debit(org, "august", "2")
    await set_recipient(ledger, org, by_hand=True)
    clock.set(utc("2026-09-04"))
    await sweep(billing_shards, worker)
    assert await list_all(ledger, org) == []
    assert (await set_recipient(ledger, org)).by_hand is False
    clock.set(utc("2026-10-04"))
    await sweep(billing_shards, worker)
    assert await subtotals(ledger, org) == [("10-01", "2")]


async def test_processes_at_once_share_the_accounts_and_each_has_one_invoice(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    organizations = [await funded(ledger, hold=None) for _ in range(45)]
    await asyncio.gather(*(ledger.debit(org, "work", "2") for org in organizations))
    clock.set(utc("2026-09-04"))
    await sweep(billing_shards, *(automatic(billing_shards, clock) for _ in range(3)))
    found = [await list_all(ledger, org) for org in organizations]
    assert sorted(one.number for (one,) in found) == [f"INV-{number:06}" for number in range(1, 46)]


async def test_an_account_that_fails_holds_up_no_other_and_is_tried_again(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    bad, good = await funded(ledger, hold=None), await funded(ledger, hold=None)
    for org in (bad, good):
        await ledger.debit(org, "work", "2")
    failures: dict[str, Exception] = {bad: ValueError("a damaged row")}
    worker = automatic(billing_shards, clock, failing(billing_shards, clock, failures))
    clock.set(utc("2026-09-04"))
    await sweep(billing_shards, worker)
    assert (await list_all(ledger, bad), await subtotals(ledger, good)) == ([], [("09-01", "2")])
    async with billing_shards.of(bad).raw_connection() as connection:
        row = await connection.fetchrow("SELECT attempts, error, due_time FROM invoice_dues")
    assert tuple(row or ()) == (1, "ValueError: a damaged row", clock.now() + timedelta(seconds=30))
    failures.clear()
    await sweep(billing_shards, worker)
    assert await list_all(ledger, bad) == []
    clock.advance(timedelta(seconds=30))
    await sweep(billing_shards, worker)
    assert await subtotals(ledger, bad) == [("09-01", "2")]


async def test_all_wait_while_metering_is_away_and_are_issued_when_it_is_back(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    organizations = [await funded(ledger, hold=None) for _ in range(12)]
    for org in organizations:
        await ledger.debit(org, "work", "2")
    failures: dict[str, Exception] = {org: Unavailable(dependency="metering") for org in organizations}
    invoices = failing(billing_shards, clock, failures)
    worker = automatic(billing_shards, clock, invoices)
    clock.set(utc("2026-10-04"))
    for _ in range(3):
        await sweep(billing_shards, worker)
        clock.advance(timedelta(seconds=30))
    assert [await list_all(ledger, org) for org in organizations] == [[]] * 12
    # While it is away, no more are tried than are under way at once.
    assert invoices.tried <= 3 * SHARDS * 4
    failures.clear()
    await sweep(billing_shards, worker)
    for org in organizations:
        assert await subtotals(ledger, org) == [("09-01", "2")]


async def test_a_minimum_is_on_the_invoice_of_its_period(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    await add_plan(ledger, "at-least", "0", minimum=usd("31"))
    org = await funded(ledger, "100", hold=None)
    await Subscriptions(ledger).create(org, "at-least", anchor_time=utc("2026-08-01"))
    await ledger.debit(org, "work", "2")
    worker = automatic(billing_shards, clock)
    clock.set(utc("2026-09-04"))
    # The period has not been worked off, so its invoice waits.
    await sweep(billing_shards, worker)
    assert await list_all(ledger, org) == []
    await run(ledger)
    clock.advance(timedelta(seconds=30))
    await sweep(billing_shards, worker)
    assert await subtotals(ledger, org) == [("09-01", "12")]


async def test_what_is_overdue_is_told_once_if_something_is_left_to_pay(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    debtor, payer, paid, gone = [await funded(ledger, value, hold=None) for value in ("1", "10", "1", "1")]
    for org in (debtor, payer, paid, gone):
        await ledger.debit(org, "work", "5", mode=ledger_pb2.DEBIT_MODE_MUST_POST)
    clock.set(utc("2026-09-04"))
    worker = automatic(billing_shards, clock)
    await sweep(billing_shards, worker)
    await ledger.credit(paid, "transfer", "4")
    await set_paid(ledger, (await list_all(ledger, paid))[0], operation_id="transfer")
    await void(ledger, (await list_all(ledger, gone))[0])
    (invoice,) = await list_all(ledger, debtor)
    assert invoice.due_time.ToDatetime(UTC) == utc("2026-09-18")
    for moment, count in (("2026-09-18", 0), ("2026-09-18T00:00:01", 1), ("2026-09-30", 1)):
        clock.set(utc(moment))
        await sweep(billing_shards, worker, automatic(billing_shards, clock))
        told = [
            (subject, data["amount_due"])
            for org in (debtor, payer, paid, gone)
            for _, subject, data in await announced(
                ledger.channel, ledger.metadata, org, type="tollhouse.invoice.overdue"
            )
        ]
        assert told == [(f"invoice/{invoice.invoice_id}", "4")] * count


async def test_switched_off_nothing_is_issued_and_switched_on_again_the_month_under_way_is_the_first(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    org = await funded(ledger, "100", hold=None)
    await ledger.debit(org, "august", "1")
    worker = automatic(billing_shards, clock)
    off = await set_issuer(ledger, grace_days=3)
    assert (off.automatic, off.HasField("automatic_since_time")) == (False, False)
    clock.set(utc("2026-10-15"))
    await sweep(billing_shards, worker)
    on = await set_issuer(ledger, grace_days=3, automatic=True)
    assert on.automatic_since_time.ToDatetime(UTC) == clock.now()
    await sweep(billing_shards, worker)
    assert await list_all(ledger, org) == []
    clock.set(utc("2026-11-04"))
    await sweep(billing_shards, worker)
    assert await subtotals(ledger, org) == [("11-01", "1")]


@pytest.mark.timeout(300)
async def test_sigkill_at_every_statement_issues_each_once_without_a_gap(
    ledger: Ledger, clock: FixedClock, billing_shards: Shards, database_urls: dict[str, str]
) -> None:
    organizations = [await funded(ledger, "1000", hold=None) for _ in range(3)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.billing.dying_automatic"])
    rounds = 0
    for point in dying_automatic.POINTS * KILLS_AT_EACH_POINT:
        rounds += 1
        for org in organizations:
            await ledger.debit(org, f"work-{rounds}", "2")
        clock.set((clock.now() + timedelta(days=31)).replace(day=4))
        child = context.Process(target=dying_automatic.run, args=(database_urls["billing"], clock.now(), point))
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == -signal.SIGKILL
        clock.advance(timedelta(minutes=11))
        # What the dead process has locked is free once Postgres has noticed.
        deadline = asyncio.get_running_loop().time() + 20
        while not await _all_issued(ledger, clock, billing_shards, organizations, rounds):
            assert asyncio.get_running_loop().time() < deadline, point
            await asyncio.sleep(0.05)
    found = [await list_all(ledger, org) for org in organizations]
    numbers = sorted(one.number for each in found for one in each)
    assert numbers == [f"INV-{number:06}" for number in range(1, 3 * rounds + 1)]


async def _all_issued(ledger: Ledger, clock: FixedClock, shards: Shards, organizations: list[str], rounds: int) -> bool:
    """Sweep, and return whether each account has an invoice of each month then, with what was charged in it."""
    await sweep(shards, automatic(shards, clock))
    found = [[value for _, value in await subtotals(ledger, org)] for org in organizations]
    return found == [["2"] * rounds] * len(organizations)


@given(
    since=st.integers(0, 4_000 * 86_400).map(lambda seconds: utc("2020-01-01") + timedelta(seconds=seconds)),
    months=st.integers(1, 40),
)
def test_every_month_after_the_first_has_its_turn_in_order(since: datetime, months: int) -> None:
    last = None
    for number in range(months):
        end = automatic_end(since, last)
        year, month = divmod(since.year * 12 + since.month + number, 12)
        assert end == datetime(year, month + 1, 1, tzinfo=UTC)
        last = end
