"""Credits for a replay, which also store the time to which the trace is shifted.

A trace is shifted so that it ends at the time of its first replay. That time is stored in the metadata of the first
organization's credit, under an operation id made from the replay's prefix. A later replay of the same trace, after a
crash or from another machine, reads it and so sends every call exactly as before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Final

import grpc

from libs.cli.failures import WrongUse
from libs.cli.terminal.connection import Channels
from libs.cli.traces.population import Population, models
from libs.cli.traces.trace import Row, Trace
from libs.common.amount import format_amount
from libs.common.status import reason_of
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

CURRENCY: Final = "USD"
_TIER: Final = "standard"
_SMALLEST: Final = Decimal("0.000000001")
# Holds take the estimate before the work, which may be more than the cost.
_RESERVE: Final = Decimal("1.2")
_LEAST: Final = Decimal(100)
_KEPT: Final = "kept"


@dataclass(frozen=True, slots=True)
class Price:
    """What input and output tokens cost in the standard tier, each as a threshold of the input and a price per token.

    The thresholds increase. A price holds for the whole call while its input is greater than the threshold.
    """

    input: Sequence[tuple[int, Decimal]]
    output: Sequence[tuple[int, Decimal]]

    def cost_of(self, row: Row) -> Decimal:
        sides = ((self.input, row.input_tokens), (self.output, row.output_tokens))
        cost = sum((_at(rates, row.input_tokens) * tokens for rates, tokens in sides), Decimal(0))
        return cost.quantize(_SMALLEST, ROUND_HALF_EVEN)


def _at(rates: Sequence[tuple[int, Decimal]], input_tokens: int) -> Decimal:
    return [price for above, price in rates if above == 0 or above < input_tokens][-1]


def _price_of(version: model_pb2.PriceVersion) -> Price:
    card = version.rate_card
    factor = Decimal(card.factor or "1")

    def rates(unit: str) -> list[tuple[int, Decimal]]:
        # Rates for hours are left out: the demonstration's prices have none, and other replays have the reserve.
        held = [rate for rate in card.rates if (rate.unit, rate.service_tier, rate.hours) == (unit, _TIER, "")]
        return [(rate.above, factor * Decimal(rate.price) / rate.per) for rate in held]

    return Price(rates("input_tokens"), rates("output_tokens"))


async def list_prices(channels: Channels) -> dict[str, Price]:
    """Return the price in force of every model that replays use."""
    stub = model_pb2_grpc.ModelServiceStub(channels.metering)
    prices: dict[str, Price] = {}
    for model in models():
        answer = await stub.ListPrices(model_pb2.ListPricesRequest(model_id=model, page_size=1))
        if answer.price_versions:
            prices[model] = _price_of(answer.price_versions[0])
    return {model: price for model, price in prices.items() if price.input and price.output}


def costs(rows: Iterable[Row], population: Population, prices: Mapping[str, Price]) -> dict[str, Decimal]:
    """Return what the rows cost, by organization, computed here and not asked of the services."""
    sums = {organization.organization_id: Decimal(0) for organization in population.organizations}
    for row in rows:
        seat, model = population.maker_of(row.number)
        if model in prices:
            sums[seat.organization_id] += prices[model].cost_of(row)
    return sums


async def fund(
    channels: Channels, population: Population, trace: Trace, *, prefix: str, keep_times: bool, now: datetime
) -> datetime | None:
    """Credit each organization once for its calls; return when the shifted trace ends, or None to keep its times.

    Raises:
        WrongUse: the prefix was used for another trace, or for this one with its times treated differently.
    """
    stub = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
    amounts = costs(trace.rows, population, await list_prices(channels))
    note = {"trace": trace.digest, "end_time": _KEPT if keep_times else now.isoformat()}
    for organization in population.organizations:
        amount = (amounts[organization.organization_id] * _RESERVE + _LEAST).to_integral_value(ROUND_CEILING)
        request = ledger_pb2.CreditRequest(
            organization_id=organization.organization_id,
            operation_id=f"{prefix}:funds",
            amount=amount_pb2.Amount(currency_code=CURRENCY, value=format_amount(amount)),
            source=ledger_pb2.CREDIT_SOURCE_PAYMENT,
            description=f"Prepaid for the calls of {trace.name}"[:256],
            metadata=note,
        )
        note = await _credit_once(stub, request)
    if note["trace"] != trace.digest:
        raise WrongUse(f"The prefix {prefix} was used for another trace; choose another with --operation-prefix.")
    if (note["end_time"] == _KEPT) != keep_times:
        raise WrongUse(
            f"The prefix {prefix} was used {'without' if keep_times else 'with'} --keep-times; give the command as it "
            "was given then, or another --operation-prefix."
        )
    return None if keep_times else datetime.fromisoformat(note["end_time"])


async def _credit_once(stub: ledger_pb2_grpc.LedgerServiceStub, request: ledger_pb2.CreditRequest) -> dict[str, str]:
    """Credit once; return the metadata of the first credit with this operation id."""
    try:
        await stub.Credit(request)
    except grpc.aio.AioRpcError as error:
        if reason_of(error) != "OPERATION_ID_REUSED":
            raise
    else:
        return dict(request.metadata)
    stored = await stub.GetTransaction(
        ledger_pb2.GetTransactionRequest(organization_id=request.organization_id, operation_id=request.operation_id)
    )
    return dict(stored.transaction.metadata)
