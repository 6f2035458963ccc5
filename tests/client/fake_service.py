"""A server that answers as a test says, and keeps what it was sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1.amount_pb2 import Amount

Context = grpc.aio.ServicerContext
Respond = Callable[[str, bytes, Context], Awaitable[bytes]]


@dataclass
class Received:
    """One RPC that reached the server."""

    rpc: str
    operation_ids: list[str]
    metadata: dict[str, str]
    left_s: float


@dataclass
class FakeLedger:
    """LedgerService's Debit and BatchDebit. Each debit is posted, unless `refusals` has a status for its id."""

    address: str = ""
    received: list[Received] = field(default_factory=list)
    refusals: dict[str, list[status_pb2.Status]] = field(default_factory=dict)
    """What to answer for an operation id, each once and in this order."""
    failures: list[status_pb2.Status] = field(default_factory=list)
    """What whole RPCs fail with, each once and in this order."""
    respond: Respond | None = None
    """Answers instead, with the bytes it returns."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """RPCs wait for it after they were received."""

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def rpcs(self) -> list[str]:
        return [one.rpc for one in self.received]

    def sent(self) -> list[list[str]]:
        """The operation ids of each RPC."""
        return [one.operation_ids for one in self.received]

    async def debit(self, data: bytes, context: Context) -> bytes:
        request = ledger_pb2.DebitRequest.FromString(data)
        await self._receive("Debit", [request], context)
        if self.respond is not None:
            return await self.respond("Debit", data, context)
        refusal = self._refusal(request.operation_id)
        if refusal is not None:
            await fail(context, refusal)
        return answer_to(request).SerializeToString()

    async def batch_debit(self, data: bytes, context: Context) -> bytes:
        requests = ledger_pb2.BatchDebitRequest.FromString(data).requests
        await self._receive("BatchDebit", requests, context)
        if self.respond is not None:
            return await self.respond("BatchDebit", data, context)
        response = ledger_pb2.BatchDebitResponse()
        for request in requests:
            refusal = self._refusal(request.operation_id)
            if refusal is None:
                response.outcomes.add(response=answer_to(request))
            else:
                response.outcomes.add(error=refusal)
        return response.SerializeToString()

    async def _receive(self, rpc: str, requests: Sequence[ledger_pb2.DebitRequest], context: Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        ids = [request.operation_id for request in requests]
        self.received.append(Received(rpc, ids, metadata, context.time_remaining() or 0.0))
        await self.gate.wait()
        if self.failures:
            await fail(context, self.failures.pop(0))

    def _refusal(self, operation_id: str) -> status_pb2.Status | None:
        refusals = self.refusals.get(operation_id)
        return refusals.pop(0) if refusals else None


@asynccontextmanager
async def fake_ledger(
    credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0"
) -> AsyncIterator[FakeLedger]:
    """Run one for as long as the context lasts."""
    fake = FakeLedger()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Debit": grpc.unary_unary_rpc_method_handler(fake.debit),
        "BatchDebit": grpc.unary_unary_rpc_method_handler(fake.batch_debit),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tollhouse.billing.v1.LedgerService", handlers),)
    )
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    fake.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield fake
    finally:
        fake.gate.set()
        await server.stop(0)


def debit(operation_id: str, value: str = "1", description: str = "") -> ledger_pb2.DebitRequest:
    """Return a request."""
    return ledger_pb2.DebitRequest(
        organization_id="018f0000-0000-7000-8000-000000000001",
        operation_id=operation_id,
        amount=Amount(currency_code="USD", value=value),
        description=description,
    )


def answer_to(request: ledger_pb2.DebitRequest) -> ledger_pb2.DebitResponse:
    """Return the answer of a posted debit."""
    transaction = ledger_pb2.Transaction(operation_id=request.operation_id)
    return ledger_pb2.DebitResponse(transaction=transaction, posted_amount=request.amount)


def status(
    code: grpc.StatusCode, reason: str = "", *, retry_after_ms: int = 0, more: Sequence[Message] = (), **facts: str
) -> status_pb2.Status:
    """Return a status as the services send it."""
    made = status_pb2.Status(code=code.value[0], message=f"refused: {reason}")
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="billing.tollhouse", metadata=facts)]
    if retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_after_ms)
        details.append(retry)
    for detail in (*details, *more):
        packed = AnyMessage()
        packed.Pack(detail)
        made.details.append(packed)
    return made


async def fail(context: Context, refusal: status_pb2.Status) -> None:
    """End an RPC with a status and its details."""
    code = {code.value[0]: code for code in grpc.StatusCode}[refusal.code]
    details = (("grpc-status-details-bin", refusal.SerializeToString()),)
    await context.abort(code, refusal.message, details)
