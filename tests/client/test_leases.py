"""A metered block within a lease asks nobody, is charged once, and gives back what it has not used."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from tests.client.conftest import House
from tests.client.test_meter import CHAT, COST, MODEL, BrokenStreamError
from tollhouse.metering.v1 import admission_pb2, lease_pb2, usage_pb2
from tollhouse.metering.v1.quota_pb2 import QuotaAmount
from tollhouse_client import Client, Lease
from tollhouse_client.call import Quantities
from tollhouse_client.errors import FailedPrecondition, TollhouseError, Unavailable, UsageMissing

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


class Relay:
    """The way to metering, which can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, to]
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass_on(reader, to), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)


@asynccontextmanager
async def relayed(house: House) -> AsyncIterator[tuple[Client, Relay]]:
    """Give a client, and the way by which it reaches metering."""
    relay = Relay(house.platform.metering_port)
    await relay.mend()
    try:
        async with house.client(metering=f"127.0.0.1:{relay.port}") as client:
            yield client, relay
    finally:
        await relay.cut()


async def _serve_while_cut(client: Client, relay: Relay, lease: Lease, prefix: str) -> None:
    """Let a lease decide about three calls while metering is away."""
    await relay.cut()
    for number in range(3):
        async with client.meter.authorize(
            operation_id=f"{prefix}-{number}", on_replay="allow", model=MODEL, lease=lease, most=MOST
        ) as call:
            call.used(CHAT)


async def test_usage_of_a_lease_that_ends_while_metering_is_away_is_brought_when_it_is_back(house: House) -> None:
    async with relayed(house) as (client, relay):

        async def mend_later() -> None:
            await asyncio.sleep(0.3)
            await relay.mend()

        async with client.meter.lease(request(house), on_refused=refuse) as lease:
            await _serve_while_cut(client, relay, lease, "brought")
            mending = asyncio.create_task(mend_later())
        await mending
    charges = await house.charges()
    assert {operation: value for operation, value in charges.items() if operation.startswith("brought-")} == {
        f"brought-{number}": COST for number in range(3)
    }


async def test_usage_of_a_lease_that_cannot_be_settled_at_its_end_is_handed_over(house: House) -> None:
    told: list[str] = []

    def tell(usage: usage_pb2.RecordUsageRequest, error: TollhouseError) -> None:
        told.append(usage.operation_id)
        raise BrokenStreamError

    async with relayed(house) as (client, relay):
        client.meter.settle_within_s = 0.2
        with pytest.raises(Unavailable):
            async with client.meter.lease(request(house), on_refused=tell) as lease:
                await _serve_while_cut(client, relay, lease, "handed-over")
    assert told == [f"handed-over-{number}" for number in range(3)]


async def test_error_of_the_block_itself_is_not_taken_for_one_of_the_lease(house: House) -> None:
    nothing = grpc.aio.Metadata()
    other = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "of another service")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with house.gateway.meter.lease(request(house), on_refused=refuse):
            raise other
    assert error.value is other


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
