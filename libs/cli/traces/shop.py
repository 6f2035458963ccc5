"""A customer of the demonstration who buys what is not counted in tokens: pictures, seconds of speech, and prints.

Everything is created with a fixed request id, so that creating it again returns what exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rich.console import Console
from rich.table import Table

from libs.cli.terminal.connection import Channels
from libs.cli.traces.funding import CURRENCY
from libs.common.amount import render_amount
from tollhouse.billing.v1 import account_pb2, account_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc, user_pb2, user_pb2_grpc
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc, unit_pb2, usage_pb2, usage_pb2_grpc

_NAME: Final = "Lantern Print Shop"
_PREFIX: Final = "shop"
_FUNDS: Final = Decimal(100)


@dataclass(frozen=True, slots=True)
class _Product:
    """What is sold under one name, the price of each unit, and one sale with what it must cost."""

    model: str
    rates: Sequence[tuple[str, str, int]]
    """Unit, price, and how many it is for."""
    sold: Sequence[tuple[str, str]]
    cost: Decimal


_PRODUCTS: Final = (
    _Product("shop/pictures", (("images", "0.04", 1), ("pixels", "2", 1_000_000)), (("images", "3"),), Decimal("0.12")),
    _Product("shop/speech", (("input_seconds", "0.1", 1_000),), (("input_seconds", "754.25"),), Decimal("0.075425")),
    _Product(
        "shop/prints",
        (("products", "4.99", 1), ("pages", "12.5", 1_000)),
        (("products", "2"), ("pages", "48")),
        Decimal("10.58"),
    ),
)


@dataclass(frozen=True, slots=True)
class Sale:
    """One usage as metering recorded it."""

    model: str
    quantities: Sequence[tuple[str, str]]
    cost: Decimal
    expected_cost: Decimal


@dataclass(frozen=True, slots=True)
class Sales:
    """All sales, and what is left on the customer's account."""

    sales: Sequence[Sale]
    balance: Decimal

    @property
    def charged(self) -> Decimal:
        return sum((sale.cost for sale in self.sales), Decimal(0))

    @property
    def problems(self) -> list[str]:
        """What does not add up."""
        wrong = [
            f"cost of {sale.model}: {sale.cost} instead of {sale.expected_cost}"
            for sale in self.sales
            if sale.cost != sale.expected_cost
        ]
        expected = _FUNDS - sum((product.cost for product in _PRODUCTS), Decimal(0))
        if self.balance != expected:
            wrong.append(f"balance of {_NAME}: {self.balance} instead of {expected}")
        return wrong


async def sell(channels: Channels) -> Sales:
    """Price the products, record a sale of each, and return what they cost."""
    organization_id = await _make_customer(channels)
    models = model_pb2_grpc.ModelServiceStub(channels.metering)
    usages = usage_pb2_grpc.UsageServiceStub(channels.metering)
    sales = []
    for product in _PRODUCTS:
        await models.CreateModel(model_pb2.CreateModelRequest(request_id=product.model, model_id=product.model))
        rates = [model_pb2.Rate(unit=unit, price=price, per=per) for unit, price, per in product.rates]
        await models.SetPrice(
            model_pb2.SetPriceRequest(
                request_id=f"{product.model}:price",
                model_id=product.model,
                currency_code=CURRENCY,
                rate_card=model_pb2.RateCard(rates=rates),
            )
        )
        answer = await usages.RecordUsage(
            usage_pb2.RecordUsageRequest(
                organization_id=organization_id,
                operation_id=f"{product.model}:1",
                model=product.model,
                quantities=[unit_pb2.Quantity(unit=unit, value=value) for unit, value in product.sold],
            )
        )
        recorded = [(one.unit, one.value) for one in answer.usage.quantities]
        sales.append(Sale(product.model, recorded, Decimal(answer.usage.cost.value or 0), product.cost))
    balance = await account_pb2_grpc.AccountServiceStub(channels.billing).GetBalance(
        account_pb2.GetBalanceRequest(organization_id=organization_id, currency_code=CURRENCY)
    )
    return Sales(sales, Decimal(balance.balance.posted.value))


async def _make_customer(channels: Channels) -> str:
    """Create the organization with its owner and funds; return its id."""
    user = await user_pb2_grpc.UserServiceStub(channels.identity).CreateUser(
        user_pb2.CreateUserRequest(request_id=_PREFIX, email=f"owner@{_PREFIX}.example", full_name="Owner")
    )
    created = await organization_pb2_grpc.OrganizationServiceStub(channels.identity).CreateOrganization(
        organization_pb2.CreateOrganizationRequest(request_id=_PREFIX, name=_NAME, owner_user_id=user.user.user_id)
    )
    organization_id = str(created.organization.organization_id)
    await ledger_pb2_grpc.LedgerServiceStub(channels.billing).Credit(
        ledger_pb2.CreditRequest(
            organization_id=organization_id,
            operation_id=f"{_PREFIX}:funds",
            amount=render_amount(CURRENCY, _FUNDS),
            source=ledger_pb2.CREDIT_SOURCE_PAYMENT,
        )
    )
    return organization_id


def print_sales(console: Console, sales: Sales) -> None:
    """Print one line for each sale."""
    table = Table(title=f"{_NAME}: what is not counted in tokens", title_justify="left")
    table.add_column("product")
    table.add_column("quantities")
    table.add_column(f"cost, {CURRENCY}", justify="right")
    for sale in sales.sales:
        quantities = ", ".join(f"{value} {unit}" for unit, value in sale.quantities)
        table.add_row(sale.model, quantities, f"{sale.cost:f}")
    console.print(table)
