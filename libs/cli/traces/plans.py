"""Plans for the organizations of the demonstration: what a month costs, what it includes, and what was used of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rich.console import Console
from rich.table import Table

from libs.cli.terminal.connection import Channels
from libs.cli.traces.funding import CURRENCY
from libs.cli.traces.population import Organization
from libs.common.amount import render_amount
from tollhouse.billing.v1 import (
    credit_pb2,
    credit_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    plan_pb2,
    plan_pb2_grpc,
    subscription_pb2,
    subscription_pb2_grpc,
)

_PREFIX: Final = "tollhouse-demo"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A plan of the demonstration; amounts in `CURRENCY`."""

    plan_code: str
    name: str
    price: Decimal
    included: Decimal
    requests_max: int
    """How many calls a month may be made."""


# The limits are in force for every call of the trace, and refuse none.
_TEAM: Final = _Plan("demo-team", "Team", Decimal("19.90"), Decimal(25), 10_000_000)
_STARTER: Final = _Plan("demo-starter", "Starter", Decimal(0), Decimal(1), 1_000_000)
# The first organizations make most of the calls.
_TEAMS: Final = 2


@dataclass(frozen=True, slots=True)
class PlanBill:
    """What one organization's plan cost and included, and what its usage took of that."""

    name: str
    plan_name: str
    price: Decimal
    included: Decimal
    included_used: Decimal
    beyond: Decimal
    """What its usage cost beyond the included credits."""


async def subscribe(channels: Channels, organizations: Sequence[Organization]) -> None:
    """Make the plans, pay in their prices, and subscribe each organization. Doing it again changes nothing."""
    for plan in (_TEAM, _STARTER):
        await _publish(channels, plan)
    for place, organization in enumerate(organizations):
        plan = _plan_at(place)
        if plan.price:
            await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(
                ledger_pb2.CreditRequest(
                    organization_id=organization.organization_id,
                    operation_id=f"{_PREFIX}:plan",
                    amount=render_amount(CURRENCY, plan.price),
                    source=ledger_pb2.CREDIT_SOURCE_PAYMENT,
                    description=f"Payment for the plan {plan.name}",
                )
            )
        await subscription_pb2_grpc.SubscriptionServiceStub(channels.billing).CreateSubscription(
            subscription_pb2.CreateSubscriptionRequest(
                request_id=f"{_PREFIX}:plan", organization_id=organization.organization_id, plan_code=plan.plan_code
            )
        )


def _plan_at(place: int) -> _Plan:
    return _TEAM if place < _TEAMS else _STARTER


async def _publish(channels: Channels, plan: _Plan) -> None:
    stub = plan_pb2_grpc.PlanServiceStub(channels.billing)
    terms = plan_pb2.PlanTerms(
        price=render_amount(CURRENCY, plan.price),
        billing_interval=plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_MONTH, count=1),
        credits=[plan_pb2.IncludedCredits(amount=render_amount(CURRENCY, plan.included))],
        entitlements=[
            plan_pb2.Entitlement(
                entitlement_code="requests_per_month",
                limit=plan_pb2.EntitledLimit(
                    metric="requests", window=plan_pb2.LIMIT_WINDOW_MONTH, value=str(plan.requests_max)
                ),
            )
        ],
    )
    created = await stub.CreatePlan(
        plan_pb2.CreatePlanRequest(
            request_id=f"{_PREFIX}:{plan.plan_code}", plan_code=plan.plan_code, name=plan.name, terms=terms
        )
    )
    await stub.PublishPlanVersion(plan_pb2.PublishPlanVersionRequest(plan_id=created.plan.plan_id, version=1))


async def read_plan_bills(
    channels: Channels, organizations: Sequence[Organization], charged: Sequence[Decimal]
) -> list[PlanBill]:
    """Read what became of the included credits; `charged` is what the usage of each organization cost."""
    stub = credit_pb2_grpc.CreditServiceStub(channels.billing)
    bills = []
    for place, (organization, cost) in enumerate(zip(organizations, charged, strict=True)):
        summary = await stub.GetCreditSummary(
            credit_pb2.GetCreditSummaryRequest(organization_id=organization.organization_id, currency_code=CURRENCY)
        )
        (included,) = [one for one in summary.granted if one.kind == credit_pb2.GRANT_KIND_INCLUDED]
        amount, remaining = Decimal(included.amount.value), Decimal(included.remaining_amount.value)
        plan = _plan_at(place)
        used = amount - remaining
        bills.append(PlanBill(organization.name, plan.name, plan.price, amount, used, cost - used))
    return bills


def plan_problems(bills: Sequence[PlanBill]) -> list[str]:
    """Return what does not follow from the plans: all that is included is used before anything is charged beyond it."""
    wrong = []
    for place, bill in enumerate(bills):
        plan = _plan_at(place)
        cost = bill.included_used + bill.beyond
        expected = plan.included, min(plan.included, cost), max(cost - plan.included, Decimal(0))
        if (bill.included, bill.included_used, bill.beyond) != expected:
            wrong.append(f"included credits of {bill.name}: {bill} instead of {expected}")
    return wrong


def print_plans(console: Console, bills: Sequence[PlanBill]) -> None:
    """Print one line for each organization's plan."""
    table = Table(title=f"Plans, {CURRENCY}", title_justify="left")
    rows = [_row(bill) for bill in bills]
    headings = ("organization", "plan", "price", "included", "used of it", "charged beyond")
    for place, heading in enumerate(headings):
        # In a narrow terminal names are cut, figures never.
        width = max(len(heading), *(len(row[place]) for row in rows)) if place else None
        table.add_column(heading, justify="right" if place > 1 else "left", no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _row(bill: PlanBill) -> tuple[str, ...]:
    prices = (f"{amount:,.2f}" for amount in (bill.price, bill.included))
    return bill.name, bill.plan_name, *prices, f"{bill.included_used:,.6f}", f"{bill.beyond:,.6f}"
