"""The bill of the organizations: usage from metering, money from billing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from libs.cli.terminal.connection import Channels
from libs.cli.traces.funding import CURRENCY
from libs.cli.traces.population import Organization
from tollhouse.billing.v1 import (
    account_pb2,
    account_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
)
from tollhouse.metering.v1 import usage_pb2, usage_pb2_grpc

_PAGE_SIZE = 1000
_OF_PLANS = ("subscription/", "usage-charge/", "usage-minimum/")
"""How the operation ids of charges begin that a plan makes, and not usage."""


@dataclass(frozen=True, slots=True)
class Line:
    """One organization's use of one model."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class OrganizationBill:
    """One organization's lines and the state of its account."""

    name: str
    lines: Sequence[Line]
    paid_in: Decimal
    charged: Decimal
    balance: Decimal

    @property
    def cost(self) -> Decimal:
        return sum((line.cost for line in self.lines), Decimal(0))


@dataclass(frozen=True, slots=True)
class Bill:
    """All organizations' bills."""

    organizations: Sequence[OrganizationBill]

    @property
    def requests(self) -> int:
        return sum(line.requests for one in self.organizations for line in one.lines)

    @property
    def input_tokens(self) -> int:
        return sum(line.input_tokens for one in self.organizations for line in one.lines)

    @property
    def output_tokens(self) -> int:
        return sum(line.output_tokens for one in self.organizations for line in one.lines)

    @property
    def cost(self) -> Decimal:
        return sum((one.cost for one in self.organizations), Decimal(0))

    @property
    def charged(self) -> Decimal:
        return sum((one.charged for one in self.organizations), Decimal(0))

    @property
    def paid_in(self) -> Decimal:
        return sum((one.paid_in for one in self.organizations), Decimal(0))

    @property
    def balance(self) -> Decimal:
        return sum((one.balance for one in self.organizations), Decimal(0))


async def read_bill(
    channels: Channels, organizations: Sequence[Organization], *, start: datetime, end: datetime, prefix: str
) -> Bill:
    """Read all usage from `start` to `end`, and the payments, charges and balances in the ledger."""
    return Bill([await _read_one(channels, one, start, end, prefix) for one in organizations])


async def _read_one(
    channels: Channels, organization: Organization, start: datetime, end: datetime, prefix: str
) -> OrganizationBill:
    organization_id = organization.organization_id
    funds = await ledger_pb2_grpc.LedgerServiceStub(channels.billing).GetTransaction(
        ledger_pb2.GetTransactionRequest(organization_id=organization_id, operation_id=f"{prefix}:funds")
    )
    balance = await account_pb2_grpc.AccountServiceStub(channels.billing).GetBalance(
        account_pb2.GetBalanceRequest(organization_id=organization_id, currency_code=CURRENCY)
    )
    return OrganizationBill(
        name=organization.name,
        lines=await _read_lines(channels, organization_id, start, end),
        paid_in=Decimal(funds.transaction.amount.value),
        charged=await _read_charged(channels, organization_id),
        balance=Decimal(balance.balance.posted.value),
    )


async def _read_lines(channels: Channels, organization_id: str, start: datetime, end: datetime) -> list[Line]:
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    request = usage_pb2.QueryUsageRequest(
        organization_id=organization_id, group_by=[usage_pb2.USAGE_DIMENSION_MODEL], page_size=_PAGE_SIZE
    )
    request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end + timedelta(microseconds=1))
    lines: list[Line] = []
    while True:
        page = await stub.QueryUsage(request)
        lines += [
            Line(
                model=summary.model,
                requests=summary.request_count,
                input_tokens=summary.tokens.input,
                output_tokens=summary.tokens.output,
                cost=Decimal(summary.cost.value or "0"),
            )
            for summary in page.summaries
        ]
        request.page_token = page.next_page_token
        if not request.page_token:
            return sorted(lines, key=lambda line: line.cost, reverse=True)


async def _read_charged(channels: Channels, organization_id: str) -> Decimal:
    """Return the sum of all charges in the ledger, without what plans cost."""
    stub = charge_pb2_grpc.ChargeServiceStub(channels.billing)
    request = charge_pb2.ListChargesRequest(organization_id=organization_id, page_size=5 * _PAGE_SIZE)
    charged = Decimal(0)
    while True:
        page = await stub.ListCharges(request)
        usage = [charge for charge in page.charges if not charge.operation_id.startswith(_OF_PLANS)]
        charged += sum((Decimal(charge.amount.value) for charge in usage), Decimal(0))
        request.page_token = page.next_page_token
        if not request.page_token:
            return charged


def print_bill(console: Console, bill: Bill) -> None:
    """Print a line for each model of each organization, then the state of the accounts."""
    table = Table(title="Bill", title_justify="left")
    table.add_column("organization, model", no_wrap=True)
    totals = _numbers([line for one in bill.organizations for line in one.lines])
    for heading, total in zip(("calls", "input tokens", "output tokens", f"cost, {CURRENCY}"), totals, strict=True):
        # In a narrow terminal names are cut, figures never.
        table.add_column(heading, justify="right", no_wrap=True, min_width=max(len(heading), len(total)))
    for organization in bill.organizations:
        table.add_row(organization.name, *_numbers(organization.lines), style="bold")
        for line in organization.lines:
            table.add_row(f"  {line.model}", *_numbers([line]))
        table.add_section()
    table.add_row("all", *totals, style="bold")
    console.print(table)
    ledger = Table(title=f"Ledger, {CURRENCY}", title_justify="left")
    ledger.add_column("organization", no_wrap=True)
    for heading in ("paid in", "charged", "balance"):
        ledger.add_column(heading, justify="right", no_wrap=True)
    for organization in bill.organizations:
        ledger.add_row(organization.name, *_exact(organization.paid_in, organization.charged, organization.balance))
    ledger.add_section()
    ledger.add_row("all", *_exact(bill.paid_in, bill.charged, bill.balance), style="bold")
    console.print(ledger)


def _numbers(lines: Sequence[Line]) -> tuple[str, str, str, str]:
    return (
        f"{sum(line.requests for line in lines):,}",
        f"{sum(line.input_tokens for line in lines):,}",
        f"{sum(line.output_tokens for line in lines):,}",
        f"{sum((line.cost for line in lines), Decimal(0)):,.6f}",
    )


def _exact(*amounts: Decimal) -> list[str]:
    return [f"{amount:,.9f}" for amount in amounts]
