"""The three services in one process, each on its port, with stubs and requests in one line each."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from libs.cli.comparison import Scope
from libs.cli.reconciliation import verify
from libs.cli.terminal.connection import Connection
from libs.cli.terminal.progress import Progress
from libs.common.channel import open_channel
from libs.common.clock import Clock, SystemClock
from libs.common.ids import new_id
from libs.common.ports import free_port
from libs.common.server import Service
from libs.common.status import reason_of
from services.billing.__main__ import build as build_billing
from services.billing.settings import BillingSettings
from services.identity.__main__ import build as build_identity
from services.identity.api_key.secret import new_secret
from services.metering.__main__ import build as build_metering
from services.metering.settings import MeteringSettings
from tests.billing.support import Ledger
from tests.identity.support import PEPPERS, Identity, identity_settings
from tests.support.callers import Callers
from tests.support.sharded import execute_in_shards, value_over_shards
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import charge_pb2 as billing_charge_pb2
from tollhouse.common.v1 import audit_pb2_grpc, integrity_pb2, integrity_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import (
    admission_pb2,
    admission_pb2_grpc,
    charge_pb2,
    charge_pb2_grpc,
    ingest_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    quota_pb2_grpc,
    retention_pb2_grpc,
    unit_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

_T = TypeVar("_T")
WITHIN_S = 20.0


class Metering:
    """Stubs to metering; every call is an operator's unless it says otherwise."""

    def __init__(self, service: Service, channel: grpc.aio.Channel, callers: Callers) -> None:
        self.service = service
        self.channel = channel
        self.callers = callers
        self.operator = callers.operator()
        self.gateway = callers.service("gateway")
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.units = unit_pb2_grpc.UnitServiceStub(channel)
        self.usage = usage_pb2_grpc.UsageServiceStub(channel)
        self.admission = admission_pb2_grpc.AdmissionServiceStub(channel)
        self.charge = charge_pb2_grpc.ChargeServiceStub(channel)
        self.retention = retention_pb2_grpc.RetentionServiceStub(channel)
        self.quota = quota_pb2_grpc.QuotaServiceStub(channel)
        self.ingest = ingest_pb2_grpc.IngestServiceStub(channel)
        self.integrity = integrity_pb2_grpc.IntegrityServiceStub(channel)
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)

    async def add_model(self, model_id: str = "gpt-4o", **fields: object) -> model_pb2.Model:
        request = model_pb2.CreateModelRequest(request_id=new_id(), model_id=model_id, **fields)  # type: ignore[arg-type]
        return (await in_time(lambda: self.models.CreateModel(request, metadata=self.operator))).model

    async def set_price(
        self,
        model_id: str = "gpt-4o",
        *,
        price_in: str = "2.5",
        price_out: str = "10",
        currency_code: str = "USD",
        organization_id: str = "",
        effective_time: Timestamp | None = None,
        **prices: str,
    ) -> model_pb2.PriceVersion:
        request = model_pb2.SetPriceRequest(
            request_id=new_id(),
            model_id=model_id,
            organization_id=organization_id,
            currency_code=currency_code,
            prices=model_pb2.TokenPrices(input=price_in, output=price_out, **prices),
            effective_time=effective_time or Timestamp(seconds=1),
        )
        return (await in_time(lambda: self.models.SetPrice(request, metadata=self.operator))).price_version

    async def record(self, request: usage_pb2.RecordUsageRequest) -> usage_pb2.RecordUsageResponse:
        return await self.usage.RecordUsage(request, metadata=self.operator)

    async def record_batch(self, requests: Sequence[usage_pb2.RecordUsageRequest]) -> list[usage_pb2.UsageOutcome]:
        request = usage_pb2.BatchRecordUsageRequest(usages=requests)
        return list((await self.usage.BatchRecordUsage(request, metadata=self.operator)).outcomes)

    async def get(self, organization_id: str, operation_id: str) -> usage_pb2.UsageRecord:
        request = usage_pb2.GetUsageRequest(organization_id=organization_id, operation_id=operation_id)
        return (await self.usage.GetUsage(request, metadata=self.operator)).usage

    async def authorize(self, request: admission_pb2.AuthorizeRequest) -> admission_pb2.AuthorizeResponse:
        return await self.admission.Authorize(request, metadata=self.gateway)

    async def authorize_batch(
        self, requests: Sequence[admission_pb2.AuthorizeRequest]
    ) -> list[admission_pb2.AuthorizeOutcome]:
        request = admission_pb2.BatchAuthorizeRequest(requests=requests)
        return list((await self.admission.BatchAuthorize(request, metadata=self.gateway)).outcomes)

    async def settle_batch(self, requests: Sequence[admission_pb2.SettleRequest]) -> list[admission_pb2.SettleOutcome]:
        request = admission_pb2.BatchSettleRequest(requests=requests)
        return list((await self.admission.BatchSettle(request, metadata=self.gateway)).outcomes)

    async def authorizations(self, organization_id: str, **fields: object) -> list[admission_pb2.Authorization]:
        """Return all authorizations of a list, a small page at a time."""
        request = admission_pb2.ListAuthorizationsRequest(organization_id=organization_id, page_size=7)
        request.MergeFrom(admission_pb2.ListAuthorizationsRequest(**fields))  # type: ignore[arg-type]
        found: list[admission_pb2.Authorization] = []
        while True:
            page = await self.admission.ListAuthorizations(request, metadata=self.operator)
            found += page.authorizations
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def extend(
        self, organization_id: str, operation_id: str, expire_time: Timestamp | None = None, **more: object
    ) -> admission_pb2.Authorization:
        request = admission_pb2.ExtendAuthorizationRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            expire_time=expire_time,
            **more,  # type: ignore[arg-type]
        )
        return (await self.admission.ExtendAuthorization(request, metadata=self.gateway)).authorization

    async def settle(self, request: admission_pb2.SettleRequest) -> admission_pb2.SettleResponse:
        return await self.admission.Settle(request, metadata=self.gateway)

    async def findings(self) -> list[str]:
        """What VerifyInvariants finds, as `invariant resource`."""
        request = integrity_pb2.VerifyInvariantsRequest()
        found, summarized = [], False
        async for piece in self.integrity.VerifyInvariants(request, metadata=self.operator):
            summarized = piece.HasField("summary")
            if piece.HasField("finding"):
                found.append(f"{piece.finding.invariant} {piece.finding.resource}: {piece.finding.detail}")
        assert summarized
        return found

    async def charges(self) -> dict[tuple[str, str], Decimal]:
        """All charges metering has asked for."""
        result: dict[tuple[str, str], Decimal] = {}
        token = ""
        while True:
            request = charge_pb2.ListChargesRequest(page_size=7, page_token=token)
            page = await self.charge.ListCharges(request, metadata=self.operator)
            for charge in page.charges:
                result[charge.organization_id, charge.operation_id] = Decimal(charge.amount.value)
            token = page.next_page_token
            if not token:
                return result


class Platform:
    """The three services, which can be stopped and started again one by one."""

    def __init__(self, callers: Callers, urls: dict[str, str], admin_url: str, folder: Path, clock: Clock) -> None:
        self.callers = callers
        self.clock = clock
        self.urls = urls
        self.admin_url = admin_url
        self.folder = folder
        self.lapses_every_s = 600.0
        """How often each process looks for lapses; by default only when it starts."""
        self.drops_every_s = 0.1
        """How often each process looks for usage to drop."""
        self.rate_limit_descriptors_file: Path | None = None
        """What Envoy's descriptors stand for; without it metering has no rate limit service."""
        self.conversation_keys_file: Path | None = None
        """The keys of contents; without it they are not encrypted."""
        self.external_auth_file: Path | None = None
        """How Envoy's external authorization is decided; without it metering has none."""
        self.billing_port, self.identity_port, self.metering_port = free_port(), free_port(), 0
        self.billing_service: Service | None = None
        self.metering_service: Service | None = None
        self._metering_services: list[Service] = []
        self.ledger: Ledger
        self.metering: Metering
        self.identity: Identity
        self._identity_runs = False
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self.start_billing()
        await self.start_metering()

    async def close(self) -> None:
        """Stop whatever a test has started and not stopped by itself."""
        for service in self._metering_services:
            if not all(task.done() for task in service._tasks):
                await service.stop(0)
        await self.stop_billing()
        await self._stack.aclose()

    def environment(self) -> dict[str, str]:
        """Return the settings of a further process of metering, as its environment."""
        named = {
            "DATABASE_URL": self.urls["metering"],
            "TRUST_BUNDLE_FILE": str(self.callers.bundle_file),
            "SIGNING_KEY_FILE": str(self.callers.signing_key_file("metering", self.folder)),
            "BILLING_TARGET": f"127.0.0.1:{self.billing_port}",
            "IDENTITY_TARGET": f"127.0.0.1:{self.identity_port}",
            "PORT": str(free_port()),
            "RELAY_AFTER_S": "0.3",
        }
        return {f"TOLLHOUSE_METERING_{name}": value for name, value in named.items()}

    async def start_billing(self) -> None:
        settings = BillingSettings(
            database_url=SecretStr(self.urls["billing"]),
            trust_bundle_file=self.callers.bundle_file,
            port=self.billing_port,
            reflection=False,
        )
        self.billing_service = await build_billing(settings, self.clock)
        await self.billing_service.start()
        channel = await self._stack.enter_async_context(self._channel(self.billing_port))
        # Channels of one process with the same address and options share their pauses between attempts to connect.
        tokens = self.callers.token_source("metering")
        async with open_channel(f"127.0.0.1:{self.billing_port}", caller=tokens, audience="billing.tollhouse") as peers:
            await asyncio.wait_for(asyncio.gather(channel.channel_ready(), peers.channel_ready()), WITHIN_S)
        self.ledger = Ledger(channel, self.callers.operator)

    async def stop_billing(self) -> None:
        if self.billing_service is not None:
            await self.billing_service.stop(0)
            self.billing_service = None

    async def start_identity(self) -> Identity:
        """Start identity, or return what leads to it where it runs already."""
        if self._identity_runs:
            return self.identity
        settings = identity_settings(self.callers, self.urls["identity"], self.folder, PEPPERS)
        service = await build_identity(settings.model_copy(update={"port": self.identity_port}), self.clock)
        await service.start()
        self._stack.push_async_callback(service.stop, 0)
        self._identity_runs = True
        channel = await self._stack.enter_async_context(self._channel(self.identity_port))
        self.identity = Identity(service, self.identity_port, channel, self.callers.operator())
        if self.metering_service is not None:
            await eventually(self._metering_reaches_identity, bool)
        return self.identity

    async def _metering_reaches_identity(self) -> bool:
        """Whether metering has connected to identity, which it began to try before identity was there."""
        request = admission_pb2.AuthorizeRequest(operation_id=new_id(), api_key=new_secret(live=True), model="gpt-4o")
        try:
            await self.metering.authorize(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    async def start_metering(self) -> Metering:
        """Start a process's worth of metering; the stubs lead to the last one started."""
        settings = MeteringSettings(
            database_url=SecretStr(self.urls["metering"]),
            trust_bundle_file=self.callers.bundle_file,
            event_keys_file=self.callers.event_keys_file,
            signing_key_file=self.callers.signing_key_file("metering", self.folder),
            billing_target=f"127.0.0.1:{self.billing_port}",
            identity_target=f"127.0.0.1:{self.identity_port}",
            relay_every_s=0.05,
            relay_after_s=0.3,
            lapses_every_s=self.lapses_every_s,
            drops_every_s=self.drops_every_s,
            drop_seal_s=0,
            rate_limit_descriptors_file=self.rate_limit_descriptors_file,
            external_auth_file=self.external_auth_file,
            conversation_keys_file=self.conversation_keys_file,
            reflection=False,
        )
        self.metering_service = await build_metering(settings, self.clock)
        self._metering_services.append(self.metering_service)
        self.metering_port = await self.metering_service.start()
        channel = await self._stack.enter_async_context(self._channel(self.metering_port))
        self.metering = Metering(self.metering_service, channel, self.callers)
        return self.metering

    async def stop_metering(self) -> None:
        if self.metering_service is not None:
            await self.metering_service.stop(0)
            self.metering_service = None

    async def fund(self, organization_id: str, value: str = "1000", *, project_id: str = "") -> None:
        await self.ledger.credit(organization_id, f"fund-{new_id()}", value, project_id=project_id)

    async def posted(self, organization_id: str, project_id: str = "") -> Decimal:
        request = account_pb2.GetBalanceRequest(organization_id=organization_id, project_id=project_id)
        response = await self.ledger.accounts.GetBalance(request, metadata=self.ledger.metadata)
        return Decimal(response.balance.posted.value)

    async def billing_charges(self) -> dict[tuple[str, str], Decimal]:
        """All debits and captures billing knows of."""
        request = billing_charge_pb2.ListChargesRequest(page_size=10_000)
        found: dict[tuple[str, str], Decimal] = {}
        while True:
            page = await self.ledger.charge.ListCharges(request, metadata=self.ledger.metadata)
            found |= {(c.organization_id, c.operation_id): Decimal(c.amount.value) for c in page.charges}
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def execute(self, statement: str, *values: object) -> None:
        """Run a statement as the owner of the schemas, to damage stored data or to make it older."""
        await execute_in_shards(self.admin_url, statement, *values)

    async def value(self, statement: str, *values: object) -> object:
        """Return the value of a query over the rows of all shards."""
        return await value_over_shards(self.admin_url, statement, *values)

    async def verify(self, scope: Scope | None = None, progress: Progress | None = None) -> list[str]:
        """What `tollhouse verify` finds over the three services; identity must run."""
        connection = Connection(
            identity=f"127.0.0.1:{self.identity_port}",
            billing=f"127.0.0.1:{self.billing_port}",
            metering=f"127.0.0.1:{self.metering_port}",
            token=self.callers.token(self.callers.operator_key),
        )
        async with connection.open() as channels:
            verdict = await verify(channels, scope, progress)
        return [f"{one.invariant} {one.subject}: {one.detail}" for one in verdict.violations]

    async def settled(self) -> None:
        """Wait until no charge is pending."""
        await eventually(lambda: self.value("SELECT count(*) FROM metering.outbox"), lambda count: count == 0)

    @asynccontextmanager
    async def _channel(self, port: int) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel


@asynccontextmanager
async def priced(platform: Platform) -> AsyncIterator[Platform]:
    """Run billing and metering, with gpt-4o at 2.5 and 10 dollars, for as long as the context lasts."""
    try:
        await platform.start()
        await platform.metering.add_model()
        await platform.metering.set_price()
        yield platform
    finally:
        await platform.close()


async def eventually(ask: Callable[[], Awaitable[_T]], good: Callable[[_T], bool]) -> _T:
    """Return the first good answer; fail when there is none within 20 seconds."""
    deadline_s = time.monotonic() + WITHIN_S
    for _ in iter(lambda: time.monotonic() < deadline_s, False):
        answer = await ask()
        if good(answer):
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("It did not come about in time.")


async def in_time(call: Callable[[], Awaitable[_T]]) -> _T:
    """Make a call that may be repeated again where it did not finish in time, as its callers would: a machine that
    stands still for a second or two ends the wait for a connection, or a statement. Two tries more at most."""
    for _ in range(2):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise
    return await call()


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str | None]:
    """Return the code and reason a call is refused with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)
    raise AssertionError("The call was not refused.")


def usage(organization_id: str, operation_id: str = "", **fields: object) -> usage_pb2.RecordUsageRequest:
    """Return 1,000 input and 100 output tokens of gpt-4o, which cost 0.0035 at the price of `set_price`."""
    request = usage_pb2.RecordUsageRequest(
        organization_id=organization_id,
        operation_id=operation_id or f"op-{new_id()}",
        model="gpt-4o",
        tokens=model_pb2.TokenCounts(input=1000, output=100),
    )
    request.MergeFrom(usage_pb2.RecordUsageRequest(**fields))  # type: ignore[arg-type]
    return request


def settlement(organization_id: str, operation_id: str, **fields: object) -> admission_pb2.SettleRequest:
    request = admission_pb2.SettleRequest(
        organization_id=organization_id,
        operation_id=operation_id,
        model="gpt-4o",
        tokens=model_pb2.TokenCounts(input=1000, output=100),
    )
    request.MergeFrom(admission_pb2.SettleRequest(**fields))  # type: ignore[arg-type]
    return request


def stamp(clock: Clock | None = None, **delta: float) -> Timestamp:
    """Return the moment that is so far from now."""
    moment = Timestamp()
    moment.FromDatetime((clock or SystemClock()).now() + timedelta(**delta))
    return moment


def usd(value: str) -> Amount:
    return Amount(currency_code="USD", value=value)
