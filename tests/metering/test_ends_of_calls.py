"""However a call ends, `tollhouse verify` has nothing to report."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import pytest

from tests.metering.support import Metering, Platform, eventually, refused, settlement, usage
from tests.metering.test_admission import ask
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

pytestmark = pytest.mark.own_database

NOTHING: Final = model_pb2.TokenCounts()


@dataclass
class Call:
    """One call of an organization that identity knows, with a model that nothing else uses and that has no price."""

    platform: Platform
    metering: Metering
    organization_id: str
    operation_id: str

    @property
    def unpriced_model(self) -> str:
        return f"unpriced-{self.operation_id}"

    async def set_price(self, price: str) -> None:
        """Price the unpriced model, and wait until the usage is charged."""
        await self.metering.set_price(self.unpriced_model, price_in=price, price_out=price)
        await eventually(
            lambda: self.metering.get(self.organization_id, self.operation_id),
            lambda stored: stored.settlement == usage_pb2.SETTLEMENT_SETTLED,
        )

    async def authorize(self, **fields: object) -> admission_pb2.AuthorizeResponse:
        return await self.metering.authorize(ask(self.organization_id, self.operation_id, **fields))

    async def lapse(self) -> None:
        """Authorize, and wait until nothing is held any more."""
        assert (await self.authorize(hold_ttl={"seconds": 1})).decision == admission_pb2.DECISION_ALLOWED
        await asyncio.sleep(1.1)

    async def settle(self, **fields: object) -> admission_pb2.SettleResponse:
        return await self.metering.settle(settlement(self.organization_id, self.operation_id, **fields))

    async def settle_nothing(self, model: str = "gpt-4o") -> admission_pb2.SettleResponse:
        request = admission_pb2.SettleRequest(
            organization_id=self.organization_id, operation_id=self.operation_id, model=model, tokens=NOTHING
        )
        return await self.metering.settle(request)

    async def cancel(self) -> admission_pb2.CancelResponse:
        request = admission_pb2.CancelRequest(organization_id=self.organization_id, operation_id=self.operation_id)
        return await self.metering.admission.Cancel(request, metadata=self.metering.gateway)

    async def record(self, **fields: object) -> usage_pb2.RecordUsageResponse:
        return await self.metering.record(usage(self.organization_id, self.operation_id, **fields))


async def settled(call: Call) -> None:
    await call.authorize()
    await call.settle()


async def settled_in_part(call: Call) -> None:
    await call.authorize()
    await call.settle(partial=True)


async def settled_above_the_hold(call: Call) -> None:
    await call.authorize()
    await call.settle(tokens=model_pb2.TokenCounts(output=50_000))


async def settled_for_nothing(call: Call) -> None:
    await call.authorize()
    await call.settle_nothing()


async def settled_late(call: Call) -> None:
    await call.lapse()
    await call.settle()


async def settled_late_for_nothing(call: Call) -> None:
    await call.lapse()
    await call.settle_nothing()


async def lapsed(call: Call) -> None:
    await call.lapse()


async def cancelled(call: Call) -> None:
    await call.authorize()
    await call.cancel()


async def cancelled_late(call: Call) -> None:
    await call.lapse()
    await call.cancel()


async def cancelled_and_settled(call: Call) -> None:
    await cancelled(call)
    await call.settle()


async def cancelled_and_settled_for_nothing(call: Call) -> None:
    await cancelled(call)
    await call.settle_nothing()


async def settled_and_not_cancelled(call: Call) -> None:
    await settled(call)
    assert (await refused(call.cancel()))[1] == "ALREADY_SETTLED"


async def settled_at_another_model(call: Call) -> None:
    await call.authorize()
    await call.settle(model="mini")


async def settled_at_a_free_model(call: Call) -> None:
    await call.authorize()
    await call.settle(model="free")


async def free_model(call: Call) -> None:
    await call.authorize(model="free")
    await call.settle(model="free")


async def free_model_cancelled(call: Call) -> None:
    await call.authorize(model="free")
    await call.cancel()


async def free_model_settled_at_a_paid_one(call: Call) -> None:
    await call.authorize(model="free")
    await call.settle()


async def price_per_request_and_no_tokens(call: Call) -> None:
    await call.authorize(model="flat", input_tokens=0, max_output_tokens=0)
    assert (await call.settle_nothing("flat")).usage.cost.value == "0.25"


async def unpriced_then_priced(call: Call) -> None:
    await call.authorize()
    await call.settle(model=call.unpriced_model)
    await call.set_price("3")


async def unpriced_then_free(call: Call) -> None:
    await call.authorize()
    await call.settle(model=call.unpriced_model)
    await call.set_price("0")


async def unpriced(call: Call) -> None:
    await call.authorize()
    await call.settle(model=call.unpriced_model)


async def denied(call: Call) -> None:
    assert (await call.authorize(max_output_tokens=10**9)).decision == admission_pb2.DECISION_DENIED


async def denied_and_settled(call: Call) -> None:
    await denied(call)
    await call.settle()


async def denied_and_settled_for_nothing(call: Call) -> None:
    await denied(call)
    await call.settle_nothing()


async def settled_without_authorization(call: Call) -> None:
    await call.settle()


async def settled_for_nothing_without_authorization(call: Call) -> None:
    await call.settle_nothing()


async def recorded_without_authorization(call: Call) -> None:
    await call.record()


async def recorded_though_authorized(call: Call) -> None:
    await call.authorize()
    await call.record()


async def recorded_free_though_authorized(call: Call) -> None:
    await call.authorize()
    await call.record(model="free")


async def recorded_though_authorized_then_priced(call: Call) -> None:
    await call.authorize()
    await call.record(model=call.unpriced_model)
    await call.set_price("3")


async def authorized_after_recorded(call: Call) -> None:
    await call.record()
    await call.authorize()


async def everything_repeated(call: Call) -> None:
    for _ in range(2):
        await call.authorize()
    for _ in range(2):
        await call.settle()
    await call.authorize()


async def settled_for_nothing_twice(call: Call) -> None:
    await call.authorize()
    for _ in range(2):
        await call.settle_nothing()


ENDS: Final[tuple[Callable[[Call], Awaitable[None]], ...]] = (
    settled,
    settled_in_part,
    settled_above_the_hold,
    settled_for_nothing,
    settled_late,
    settled_late_for_nothing,
    lapsed,
    cancelled,
    cancelled_late,
    cancelled_and_settled,
    cancelled_and_settled_for_nothing,
    settled_and_not_cancelled,
    settled_at_another_model,
    settled_at_a_free_model,
    free_model,
    free_model_cancelled,
    free_model_settled_at_a_paid_one,
    price_per_request_and_no_tokens,
    unpriced_then_priced,
    unpriced_then_free,
    unpriced,
    denied,
    denied_and_settled,
    denied_and_settled_for_nothing,
    settled_without_authorization,
    settled_for_nothing_without_authorization,
    recorded_without_authorization,
    recorded_though_authorized,
    recorded_free_though_authorized,
    recorded_though_authorized_then_priced,
    authorized_after_recorded,
    everything_repeated,
    settled_for_nothing_twice,
)


@pytest.fixture
async def organization_id(platform: Platform) -> str:
    """An organization that identity knows, with money and with models of every kind of price."""
    organization_id, _ = await (await platform.start_identity()).create_organization()
    await platform.fund(organization_id, "100")
    for model, price, per_request in (("mini", "0.1", ""), ("free", "0", ""), ("flat", "0", "0.25")):
        await platform.metering.add_model(model)
        await platform.metering.set_price(model, price_in=price, price_out=price, per_request=per_request)
    return organization_id


async def test_verify_reports_nothing_whatever_the_legal_end_of_a_call(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    calls = {end: Call(platform, metering, organization_id, end.__name__) for end in ENDS}
    for call in calls.values():
        await metering.add_model(call.unpriced_model)

    await asyncio.gather(*(end(call) for end, call in calls.items()))
    await platform.settled()

    assert await platform.verify() == []


async def test_verify_reports_nothing_after_a_settlement_for_nothing_while_billing_is_away(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    call = Call(platform, metering, organization_id, "call-1")
    await call.authorize()
    await platform.stop_billing()
    await call.settle_nothing()
    await platform.start_billing()
    await platform.settled()

    assert await platform.verify() == []
