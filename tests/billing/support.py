"""Billing for tests: a real server, real stubs, and a method of one line for each request."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr

from libs.common.authentication import mint_token
from libs.common.clock import Clock
from libs.common.ids import new_id
from libs.common.status import error_info
from services.billing.__main__ import build
from services.billing.settings import BillingSettings
from tests.support.callers import Callers, Metadata, bearer
from tollhouse.billing.v1 import (
    account_pb2,
    account_pb2_grpc,
    charge_pb2_grpc,
    credit_pb2,
    credit_pb2_grpc,
    invoice_pb2_grpc,
    ledger_pb2_grpc,
    payment_pb2_grpc,
    plan_pb2_grpc,
    subscription_pb2_grpc,
)
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

_T = TypeVar("_T")

MINUTE = Duration(seconds=60)

Refused = tuple[grpc.StatusCode, str, dict[str, str]]


def usd(value: str | int | Decimal) -> Amount:
    return Amount(currency_code="USD", value=str(value))


class Ledger:
    """A server of billing with stubs that call it as an operator."""

    def __init__(self, channel: grpc.aio.Channel, credentials: Callable[[], Metadata], target: str = "") -> None:
        self._credentials = credentials
        self.target = target
        """The server's address, where a test needs another channel."""
        self.channel = channel
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.accounts = account_pb2_grpc.AccountServiceStub(channel)
        self.credits = credit_pb2_grpc.CreditServiceStub(channel)
        self.charge = charge_pb2_grpc.ChargeServiceStub(channel)
        self.payments = payment_pb2_grpc.PaymentServiceStub(channel)
        self.invoices = invoice_pb2_grpc.InvoiceServiceStub(channel)
        self.plans = plan_pb2_grpc.PlanServiceStub(channel)
        self.subscriptions = subscription_pb2_grpc.SubscriptionServiceStub(channel)
        self.integrity = integrity_pb2_grpc.IntegrityServiceStub(channel)

    @property
    def metadata(self) -> Metadata:
        return self._credentials()

    async def debit(self, organization_id: str, operation_id: str, value: str, **fields: object) -> pb.DebitResponse:
        request = pb.DebitRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            **fields,  # type: ignore[arg-type]
        )
        return await self.ledger.Debit(request, metadata=self.metadata, timeout=20)

    async def credit(self, organization_id: str, operation_id: str, value: str, **fields: object) -> pb.CreditResponse:
        request = pb.CreditRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            **fields,  # type: ignore[arg-type]
        )
        return await self.ledger.Credit(request, metadata=self.metadata, timeout=20)

    async def hold(
        self, organization_id: str, operation_id: str, value: str, **fields: object
    ) -> pb.CreateHoldResponse:
        request = pb.CreateHoldRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            **fields,  # type: ignore[arg-type]
        )
        return await self.ledger.CreateHold(request, metadata=self.metadata, timeout=20)

    async def capture(
        self, organization_id: str, operation_id: str, value: str, **fields: object
    ) -> pb.CaptureHoldResponse:
        request = pb.CaptureHoldRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            **fields,  # type: ignore[arg-type]
        )
        return await self.ledger.CaptureHold(request, metadata=self.metadata, timeout=20)

    async def extend(
        self, organization_id: str, operation_id: str, value: str | None = None, *, seconds: int = 1
    ) -> pb.ExtendHoldResponse:
        request = pb.ExtendHoldRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            ttl=Duration(seconds=seconds),
            amount=None if value is None else usd(value),
        )
        return await self.ledger.ExtendHold(request, metadata=self.metadata, timeout=20)

    async def release(self, organization_id: str, operation_id: str) -> pb.ReleaseHoldResponse:
        request = pb.ReleaseHoldRequest(organization_id=organization_id, operation_id=operation_id)
        return await self.ledger.ReleaseHold(request, metadata=self.metadata, timeout=20)

    async def grant(
        self, organization_id: str, operation_id: str, value: str, **fields: object
    ) -> credit_pb2.GrantCreditsResponse:
        request = credit_pb2.GrantCreditsRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            **fields,  # type: ignore[arg-type]
        )
        return await self.credits.GrantCredits(request, metadata=self.metadata, timeout=20)

    async def void(self, organization_id: str, grant_id: str, reason: str = "test") -> credit_pb2.VoidGrantResponse:
        request = credit_pb2.VoidGrantRequest(organization_id=organization_id, grant_id=grant_id, reason=reason)
        return await self.credits.VoidGrant(request, metadata=self.metadata, timeout=20)

    async def grants(self, organization_id: str, **fields: object) -> list[credit_pb2.Grant]:
        """All of an organization's grants, the oldest first."""
        request = credit_pb2.ListGrantsRequest(
            organization_id=organization_id,
            page_size=1000,
            **fields,  # type: ignore[arg-type]
        )
        response = await self.credits.ListGrants(request, metadata=self.metadata, timeout=20)
        return list(reversed(response.grants))

    async def explain(self, organization_id: str, operation_id: str) -> credit_pb2.ExplainChargeResponse:
        request = credit_pb2.ExplainChargeRequest(organization_id=organization_id, operation_id=operation_id)
        return await self.credits.ExplainCharge(request, metadata=self.metadata, timeout=20)

    async def credit_summary(self, organization_id: str, **fields: str) -> credit_pb2.GetCreditSummaryResponse:
        request = credit_pb2.GetCreditSummaryRequest(organization_id=organization_id, **fields)
        return await self.credits.GetCreditSummary(request, metadata=self.metadata, timeout=20)

    async def transfer(
        self, organization_id: str, operation_id: str, value: str, source: str, destination: str
    ) -> pb.TransferResponse:
        request = pb.TransferRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            amount=usd(value),
            source_project_id=source,
            destination_project_id=destination,
        )
        return await self.ledger.Transfer(request, metadata=self.metadata, timeout=20)

    async def reverse(
        self, organization_id: str, operation_id: str, transaction_id: str, value: str | None = None
    ) -> pb.ReverseTransactionResponse:
        request = pb.ReverseTransactionRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            transaction_id=transaction_id,
            amount=None if value is None else usd(value),
        )
        return await self.ledger.ReverseTransaction(request, metadata=self.metadata, timeout=20)

    async def findings(self) -> list[str]:
        """What VerifyInvariants finds; the summary must come last and cover every check."""
        pieces = [
            piece
            async for piece in self.integrity.VerifyInvariants(
                integrity_pb2.VerifyInvariantsRequest(), metadata=self.metadata, timeout=60
            )
        ]
        assert pieces[-1].WhichOneof("piece") == "summary"
        assert all(check.invariant for check in pieces[-1].summary.checks)
        return [
            f"{p.finding.invariant}: {p.finding.resource}: {p.finding.detail}" for p in pieces if p.HasField("finding")
        ]


async def refusal(call: Awaitable[_T]) -> Refused:
    """The status, reason and facts with which a call is refused."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        info = error_info(error)
        return error.code(), info.reason if info else "", dict(info.metadata) if info else {}
    raise AssertionError(f"not refused: {answer}")


async def until_answered(call: Callable[[], Awaitable[_T]]) -> _T:
    """Repeats a keyed call while its outcome is unknown, as callers are told to."""
    unknown = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)
    for _ in range(50):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in unknown:
                raise
    raise AssertionError("no definite answer after fifty tries")


@dataclass(frozen=True, slots=True)
class BillingServer:
    """Starts servers of billing, also several on one database, on a clock that tests may move."""

    callers: Callers
    database_url: str

    @asynccontextmanager
    async def start(self, clock: Clock | None = None, **changes: object) -> AsyncIterator[Ledger]:
        settings = BillingSettings(
            database_url=SecretStr(self.database_url),
            trust_bundle_file=self.callers.bundle_file,
            event_keys_file=self.callers.event_keys_file,
            **changes,  # type: ignore[arg-type]  # the settings validate them.
        )
        service = await build(settings, clock)
        port = await service.start()
        try:
            target = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(target) as channel:
                standing = self.callers.operator()
                yield Ledger(channel, lambda: standing if clock is None else self._credentials_at(clock), target)
        finally:
            await service.stop(grace_s=0)

    def _credentials_at(self, clock: Clock) -> Metadata:
        """An operator's credentials that are valid at the time of the server's clock."""
        audiences = ["billing.tollhouse"]
        return bearer(
            mint_token(self.callers.operator_key, audiences=audiences, lifetime=timedelta(minutes=5), clock=clock)
        )


def organization() -> str:
    return new_id()


async def funded(ledger: Ledger, value: str = "10", *, hold: str | None = "5") -> str:
    """An organization with money, and with a hold `call` on it."""
    org = organization()
    await ledger.credit(org, "top-up", value)
    if hold is not None:
        await ledger.hold(org, "call", hold, ttl=MINUTE)
    return org


async def hold_of(ledger: Ledger, org: str, operation_id: str = "call") -> pb.Hold:
    request = pb.GetHoldRequest(organization_id=org, operation_id=operation_id)
    return (await ledger.ledger.GetHold(request, metadata=ledger.metadata)).hold


async def balance_of(ledger: Ledger, org: str, **fields: object) -> pb.Balance:
    request = account_pb2.GetBalanceRequest(organization_id=org, **fields)  # type: ignore[arg-type]
    return (await ledger.accounts.GetBalance(request, metadata=ledger.metadata)).balance


async def parts_of(ledger: Ledger, org: str, operation_id: str = "call", **fields: object) -> list[pb.Transaction]:
    """The parts of a hold, read in short pages."""
    request = pb.ListTransactionsRequest(organization_id=org, hold_operation_id=operation_id, page_size=2, **fields)  # type: ignore[arg-type]
    found: list[pb.Transaction] = []
    while True:
        page = await ledger.ledger.ListTransactions(request, metadata=ledger.metadata)
        found += page.transactions
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
