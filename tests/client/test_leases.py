"""A metered block within a lease asks nobody, is charged once, and gives back what it has not used."""

import asyncio
from decimal import Decimal

import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from tests.client.conftest import House
from tests.client.test_meter import CHAT, COST, MODEL, BrokenStreamError
from tollhouse.metering.v1 import admission_pb2, lease_pb2, usage_pb2
from tollhouse.metering.v1.quota_pb2 import QuotaAmount
from tollhouse_client import Lease
from tollhouse_client.call import Quantities
from tollhouse_client.errors import FailedPrecondition, TollhouseError, UsageMissing

MOST: Quantities = {"requests": 1, "total_tokens": 2000, "spend": Decimal("0.01")}


def refuse(usage: usage_pb2.RecordUsageRequest, error: TollhouseError) -> None:
    raise AssertionError(f"{usage.operation_id} was refused: {error}")


def request(house: House, requests: int = 100) -> lease_pb2.AcquireLeaseRequest:
    return lease_pb2.AcquireLeaseRequest(
        organization_id=house.organization_id,
        ttl=Duration(seconds=60),
        amounts=[
            QuotaAmount(metric="requests", value=str(requests)),
            QuotaAmount(metric="total_tokens", value=str(requests * 2000)),
            QuotaAmount(metric="spend", value=str(requests * Decimal("0.01")), currency_code="USD"),
        ],
    )


async def test_leased_calls_are_charged_once_each_and_the_rest_is_given_back(house: House) -> None:
    async def serve(lease: Lease, number: int) -> None:
        async with house.gateway.meter.authorize(
            operation_id=f"leased-{number}", on_replay="allow", model=MODEL, lease=lease, most=MOST
        ) as call:
            call.used(CHAT)
        assert call.settlement is None

    async with house.gateway.meter.lease(request(house), on_refused=refuse) as lease:
        await asyncio.gather(*(serve(lease, number) for number in range(40)))
        assert await house.held() > 0
    charges = await house.charges()
    assert {operation: value for operation, value in charges.items() if operation.startswith("leased-")} == {
        f"leased-{number}": COST for number in range(40)
    }
    assert await house.held() == 0


async def test_call_beyond_the_lease_is_asked_for(house: House) -> None:
    async with house.gateway.meter.lease(request(house, requests=1), on_refused=refuse) as lease:
        blocks = [
            house.gateway.meter.authorize(model=MODEL, lease=lease, most={**MOST, "requests": 2}, input_tokens=1000)
            for _ in range(2)
        ]
        for block in blocks:
            async with block as call:
                call.used(CHAT)
            assert call.settlement is not None


async def test_leased_call_that_breaks_is_partial_and_one_that_did_nothing_is_free(house: House) -> None:
    async with house.gateway.meter.lease(request(house), on_refused=refuse) as lease:
        with pytest.raises(BrokenStreamError):  # noqa: PT012 -- the block as a whole is what fails.
            async with house.gateway.meter.authorize(
                operation_id="leased-broken", on_replay="allow", model=MODEL, lease=lease, most=MOST
            ) as call:
                call.partial(quantities={"input_tokens": 1000, "output_tokens": 100})
                raise BrokenStreamError
        with pytest.raises(BrokenStreamError):
            async with house.gateway.meter.authorize(
                operation_id="leased-free", on_replay="allow", model=MODEL, lease=lease, most=MOST
            ):
                raise BrokenStreamError
        with pytest.raises(UsageMissing):
            async with house.gateway.meter.authorize(model=MODEL, lease=lease, most=MOST):
                pass
        async with house.gateway.meter.authorize(model=MODEL, lease=lease, most=MOST) as call:
            with pytest.raises(FailedPrecondition):
                await call.settle_part(quantities={"input_tokens": 1})
            with pytest.raises(FailedPrecondition):
                await call.extend(max_output_tokens=1)
            call.cancel()
    charges = await house.charges()
    assert charges["leased-broken"] == COST
    assert "leased-free" not in charges


async def test_what_makes_no_sense_with_a_lease_is_refused(house: House) -> None:
    stranger = admission_pb2.Principal(organization_id=new_id())
    async with house.gateway.meter.lease(request(house), on_refused=refuse) as lease:
        authorize = house.gateway.meter.authorize
        for wrong in (
            authorize(model=MODEL, lease=lease, most=MOST, api_key=house.secret),
            authorize(model=MODEL, lease=lease, most=MOST, principal=stranger),
            authorize(model=MODEL, lease=lease, most=MOST, operation_id="chosen"),
            authorize(model=MODEL, lease=lease, most={}),
            authorize(model=MODEL, lease=lease, most={"requests": -1}),
        ):
            with pytest.raises(ValueError, match=r"."):
                async with wrong:
                    raise AssertionError("served")
