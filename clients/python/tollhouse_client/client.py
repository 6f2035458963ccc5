"""The asynchronous client."""

import os
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import grpc

from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, admission_pb2_grpc, usage_pb2
from tollhouse_client import routes
from tollhouse_client.batching import Batcher, Batching
from tollhouse_client.channel import CredentialChannel, StubChannel, as_channel
from tollhouse_client.connection import Connection, Tls, closed
from tollhouse_client.credentials import Credentials, credentials_from_environment
from tollhouse_client.meter import Meter
from tollhouse_client.ordering import Turns
from tollhouse_client.retries import Retries
from tollhouse_client.routes import Answer, Request, Route

CONTEXTS: Final = ("identity", "billing", "metering")
TIMEOUT_S: Final = 10.0
_TIMEOUT_MAX_S: Final = 3600.0

_ADDRESS: Final = re.compile(r"(?!https?:)[\x21-\x7e]{1,990}:\d{1,5}|(unix|unix-abstract|xds):[\x21-\x7e]{1,990}")

_Stub = TypeVar("_Stub")
# Batchers of all kinds are in one table; the route by which one is looked up says of which kind it is.
_AnyBatcher: TypeAlias = Batcher[Any, Any]


class Client:
    """Calls Tollhouse's three services. Use it as an async context, within one event loop.

    Calls of `authorize`, `settle`, `record_usage`, `debit` and `verify_api_key` that are made at the same time travel
    together. Each has an outcome of its own: an exception of `tollhouse_client.errors`, or the answer. In a batch the
    services tell the state of a limit once and not with each answer: `limits` of settled and recorded usage may be
    empty. What fails for now is sent again with the same operation id until the call's time is over.
    """

    def __init__(
        self,
        *,
        identity: str | None = None,
        billing: str | None = None,
        metering: str | None = None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
        timeout_s: float = TIMEOUT_S,
        batching: bool | Batching = True,
        retries: Retries | None = None,
    ) -> None:
        """Addresses are `host:port`; those left out come from the environment, such as TOLLHOUSE_IDENTITY_ADDRESS.

        Without `credentials` they come from the environment: TOLLHOUSE_API_KEY, TOLLHOUSE_TOKEN or
        TOLLHOUSE_SIGNING_KEY_FILE. Without `tls` nothing is encrypted: credentials and keys can be read on the way, so
        leave it out within one machine or a protected network alone. `timeout_s` is for calls that give none.
        `batching=False` sends each call by itself.

        Raises:
            ValueError: there is no address at all, or something given is wrong.
            OSError: a file cannot be read.
        """
        given = dict(zip(CONTEXTS, (identity, billing, metering), strict=True))
        self._addresses = {context: _address(context, address) for context, address in given.items()}
        if not any(self._addresses.values()):
            names = ", ".join(map(_variable, CONTEXTS))
            raise ValueError(f"The client has no address to call: give one, or set one of {names}.")
        self._credentials = credentials or credentials_from_environment()
        self._tls = tls
        self._timeout_s = checked_timeout_s(timeout_s)
        self._batching = batching if isinstance(batching, Batching) else Batching() if batching else Batching(1)
        self._retries = retries or Retries()
        self._connections: dict[str, Connection] = {}
        self._turns: dict[str, Turns] = {context: Turns() for context in CONTEXTS}
        self._batchers: dict[str, _AnyBatcher] = {}
        self._is_closed = False
        self.meter = Meter(self, lambda: as_channel(CredentialChannel(self._connection("metering"))))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Settle what `meter` has begun to settle, and close the connections. Safe to repeat.

        Calls that still wait then fail with `ClientClosed`.
        """
        await self.meter.close()
        self._is_closed = True
        for batcher in self._batchers.values():
            batcher.close()
        for connection in self._connections.values():
            await connection.close()

    async def authorize(
        self,
        request: admission_pb2.AuthorizeRequest,
        *,
        timeout_s: float | None = None,
        unclaimed: Callable[[admission_pb2.AuthorizeResponse], None] | None = None,
    ) -> admission_pb2.AuthorizeResponse:
        """Ask whether a call may begin. A denial is an answer. `client.meter` does this and what follows it.

        `unclaimed` gets an answer that comes when the caller was cancelled, or its time was over.

        Raises:
            TollhouseError: the call failed.
        """
        return await self._calls(routes.AUTHORIZE).call(request, self._within(timeout_s), unclaimed)

    async def settle(
        self, request: admission_pb2.SettleRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.SettleResponse:
        """Record what an authorized call has used, and charge it.

        Raises:
            TollhouseError: the call failed. Repeat it with the same operation id until it succeeds.
        """
        return await self._calls(routes.SETTLE).call(request, self._within(timeout_s))

    async def record_usage(
        self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
    ) -> usage_pb2.RecordUsageResponse:
        """Record what was used without an authorization, and charge it.

        Raises:
            TollhouseError: the call failed. Repeat it with the same operation id until it succeeds.
        """
        return await self._calls(routes.RECORD_USAGE).call(request, self._within(timeout_s))

    async def debit(
        self, request: ledger_pb2.DebitRequest, *, timeout_s: float | None = None
    ) -> ledger_pb2.DebitResponse:
        """Charge an amount.

        Raises:
            InsufficientBalance: the account has less available.
            TollhouseError: the call failed.
        """
        return await self._calls(routes.DEBIT).call(request, self._within(timeout_s))

    async def verify_api_key(
        self, request: api_key_pb2.VerifyApiKeyRequest, *, timeout_s: float | None = None
    ) -> api_key_pb2.VerifyApiKeyResponse:
        """Ask whether a key is good. That it is not is an answer. `KeyCache` answers most such questions by itself.

        Raises:
            TollhouseError: the call failed.
        """
        return await self._calls(routes.VERIFY_API_KEY).call(request, self._within(timeout_s))

    async def cancel(
        self, request: admission_pb2.CancelRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.CancelResponse:
        """End an authorized call that did no work, and release what is held for it.

        Raises:
            TollhouseError: the call failed.
        """
        admission = self.stub(admission_pb2_grpc.AdmissionServiceStub)
        return await admission.Cancel(request, timeout=self._within(timeout_s))

    async def extend(
        self, request: admission_pb2.ExtendAuthorizationRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.ExtendAuthorizationResponse:
        """Keep the money of an authorized call held for longer, or hold more of it.

        Raises:
            TollhouseError: the call failed.
        """
        admission = self.stub(admission_pb2_grpc.AdmissionServiceStub)
        return await admission.ExtendAuthorization(request, timeout=self._within(timeout_s))

    def stub(self, stub_class: Callable[[grpc.aio.Channel], _Stub], *, context: str = "") -> _Stub:
        """Return a generated stub whose calls have this client's credentials, deadline, retries and errors.

        `client.stub(model_pb2_grpc.ModelServiceStub)` calls metering, as the stub's name says. A service that all three
        have, such as AuditService, needs a `context`: `identity`, `billing` or `metering`.

        Raises:
            ValueError: the client has no address of that service.
        """

        def connection_of(path: str) -> Connection:
            return self._connection(context or context_of(path))

        return stub_class(as_channel(StubChannel(connection_of, self._timeout_s, self._retries)))

    def _calls(self, route: Route[Request, Answer]) -> Batcher[Request, Answer]:
        batcher = self._batchers.get(route.path)
        if batcher is None:
            connection, turns = self._connection(route.context), self._turns[route.context]
            batcher = Batcher(route, connection, turns, self._retries, self._batching)
            self._batchers[route.path] = batcher
        return batcher

    def _connection(self, context: str) -> Connection:
        connection = self._connections.get(context)
        if connection is None:
            if self._is_closed:
                raise closed()
            address = self._addresses.get(context)
            if address is None:
                raise ValueError(f"The client has no address of {context}: give it, or set {_variable(context)}.")
            connection = self._connections[context] = Connection(context, address, self._credentials, self._tls)
        return connection

    def _within(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)


def checked_timeout_s(timeout_s: float) -> float:
    """Return a time limit of a call.

    Raises:
        ValueError: it is not between 0 and an hour.
    """
    if not 0 < timeout_s <= _TIMEOUT_MAX_S:
        raise ValueError(f"A time limit must be above 0 and at most {_TIMEOUT_MAX_S:g} seconds, not {timeout_s}.")
    return timeout_s


def context_of(path: str) -> str:
    """Return the service that has an RPC: `billing` for `/tollhouse.billing.v1.LedgerService/Debit`."""
    return path.removeprefix("/tollhouse.").partition(".")[0]


def _variable(context: str) -> str:
    return f"TOLLHOUSE_{context.upper()}_ADDRESS"


def _address(context: str, given: str | None) -> str | None:
    address = given or os.environ.get(_variable(context)) or None
    if address is not None and not _ADDRESS.fullmatch(address):
        raise ValueError(f"The address of {context} must be host:port, such as localhost:7001, not {address!r}.")
    return address
