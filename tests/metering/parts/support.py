"""Calls that are settled in parts, in one line each."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from tests.metering.support import Metering, Platform, usd
from tests.metering.test_admission import ask
from tests.metering.test_quantities import of
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import model_pb2

TIERED: Final = model_pb2.RateCard(
    rates=[
        model_pb2.Rate(unit="input_tokens", price="5", per=1_000_000),
        model_pb2.Rate(unit="input_tokens", price="1", per=1_000_000, above=2_000),
        model_pb2.Rate(unit="output_tokens", price="10", per=1_000_000),
        model_pb2.Rate(unit="requests", price="0.5", per=1, service_tier="any"),
    ]
)
"""Input is cheaper above 2,000 tokens, and a request costs half a dollar."""


async def add_models(metering: Metering) -> None:
    """Add `free`, `mini`, `tiered` and, in another currency, `euro`, unless they are there."""
    models = (await metering.models.ListModels(model_pb2.ListModelsRequest(), metadata=metering.operator)).models
    if "tiered" in {model.model_id for model in models}:
        return
    for model, price in (("free", "0"), ("mini", "0.1")):
        await metering.add_model(model)
        await metering.set_price(model, price_in=price, price_out=price)
    await metering.add_model("tiered")
    request = model_pb2.SetPriceRequest(model_id="tiered", currency_code="USD", rate_card=TIERED)
    request.effective_time.seconds = 1
    await metering.models.SetPrice(request, metadata=metering.operator)


def settlement_of(
    organization_id: str,
    operation_id: str,
    read: int,
    made: int = 0,
    *,
    last: bool = False,
    quantities: Mapping[str, str] | None = None,
    **fields: object,
) -> pb.SettleRequest:
    """Return a settlement of so many input and output tokens since the call began: a part, unless it is the last."""
    request = pb.SettleRequest(
        organization_id=organization_id,
        operation_id=operation_id,
        model="gpt-4o",
        tokens=model_pb2.TokenCounts(input=read, output=made),
        quantities=of(**quantities or {}),
    )
    request.MergeFrom(pb.SettleRequest(**fields))  # type: ignore[arg-type]
    if not last:
        request.final = False
    return request


class Call:
    """One call of an organization."""

    def __init__(self, metering: Metering, organization_id: str, operation_id: str = "call-1") -> None:
        self.metering = metering
        self.organization_id = organization_id
        self.operation_id = operation_id

    async def authorize(self, **fields: object) -> pb.AuthorizeResponse:
        answer = await self.metering.authorize(ask(self.organization_id, self.operation_id, **fields))
        assert answer.decision == pb.DECISION_ALLOWED
        return answer

    async def part(self, read: int, made: int = 0, **fields: object) -> pb.SettleResponse:
        return await self.settle(read, made, last=False, **fields)

    async def last(self, read: int, made: int = 0, **fields: object) -> pb.SettleResponse:
        return await self.settle(read, made, last=True, **fields)

    async def settle(self, read: int, made: int, **fields: object) -> pb.SettleResponse:
        request = settlement_of(self.organization_id, self.operation_id, read, made, **fields)  # type: ignore[arg-type]
        return await self.metering.settle(request)

    async def cancel(self) -> pb.CancelResponse:
        request = pb.CancelRequest(organization_id=self.organization_id, operation_id=self.operation_id)
        return await self.metering.admission.Cancel(request, metadata=self.metering.gateway)

    async def hold(self, platform: Platform) -> ledger_pb2.Hold:
        request = ledger_pb2.GetHoldRequest(organization_id=self.organization_id, operation_id=self.operation_id)
        return (await platform.ledger.ledger.GetHold(request, metadata=platform.ledger.metadata)).hold


async def assert_spent(platform: Platform, organization_id: str, cost: Decimal | str) -> None:
    """The organization was charged just that, by charges that both services know alike, and nothing is wrong."""
    await platform.settled()
    assert Decimal(100) - await platform.posted(organization_id) == Decimal(cost)
    ours, theirs = await platform.metering.charges(), await platform.billing_charges()
    assert ours == {key: amount for key, amount in theirs.items() if amount}
    assert await platform.verify() == []


async def put_off_charges(platform: Platform) -> Metering:
    """Let no charge that waits be sent within the hour, also none that is on its way; return metering started anew."""
    await platform.stop_metering()
    await platform.execute("UPDATE metering.outbox SET next_attempt_time = now() + interval '1 hour'")
    return await platform.start_metering()


def amounts(charges: Mapping[tuple[str, str], Decimal], organization_id: str) -> list[Decimal]:
    """Return what an organization was charged, the smallest first."""
    return sorted(amount for (organization, _), amount in charges.items() if organization == organization_id)


def captured(answer: pb.SettleResponse) -> str:
    assert answer.captured_amount == usd(answer.captured_amount.value)
    return answer.captured_amount.value
