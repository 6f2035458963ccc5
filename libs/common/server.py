"""The gRPC server of one context: its servicers, health, reflection, background work and graceful shutdown."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final, TypeVar

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from libs.common.authentication import Authenticator, TrustBundle
from libs.common.callers import Directory
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.deadline import STREAM_LIFE_S
from libs.common.errors import Refusal
from libs.common.health import HealthServicer
from libs.common.pipeline import Handler, Limits, Pipeline, WrappedHandler
from libs.common.reflection import add_reflection
from libs.common.rpc_method import Recall
from libs.common.settings import ServiceSettings
from libs.common.shards import Shards, ShardsDiffer
from libs.common.telemetry import Telemetry
from libs.common.trust_file import TrustFile
from libs.common.validation import Reader

_log = structlog.get_logger("server")
_S = TypeVar("_S")

RECEIVE_MAX_BYTES: Final = 4 * 1024 * 1024
SEND_MAX_BYTES: Final = 4 * 1024 * 1024
CONNECTION_AGE_MAX_S = 300.0
CONNECTION_AGE_GRACE_S = 2 * STREAM_LIFE_S
_METADATA_MAX_BYTES: Final = 16 * 1024
_READINESS_EVERY_S: Final = 1.0
_READINESS_WITHIN_S: Final = 2.0
_DRAIN_NOTICE_S: Final = 0.2
_IDLE_LOOK_EVERY_S: Final = 0.02
_IDLE_LOOKS: Final = 5
_CLOSING_GRACE_S: Final = 0.5
_RESTART_DELAY_MAX_S: Final = 30.0


class PortTaken(Exception):
    """Another process listens on the port already."""


class _Registrar:
    """Collects the handlers from a generated `add_…_to_server` function, in place of the server."""

    def __init__(self) -> None:
        self.handlers: dict[str, dict[str, grpc.RpcMethodHandler[Message, Message]]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignore them: the same handlers are registered by name as well."""

    def add_registered_method_handlers(
        self, service_name: str, handlers: "dict[str, grpc.RpcMethodHandler[Message, Message]]"
    ) -> None:
        self.handlers[service_name] = handlers


class _Handlers(grpc.GenericRpcHandler):
    """The handlers of all RPCs, by their paths, such as `/tollhouse.billing.v1.LedgerService/Debit`.

    gRPC's server is told of no method by its name. Of those that it is told of it awaits the next call separately, and
    it begins to wait for all of them anew with each call: a call costs the more, the more RPCs a service has.
    """

    def __init__(self) -> None:
        self._by_path: dict[str, Handler | WrappedHandler] = {}

    def add(self, service_name: str, handlers: "Mapping[str, Handler] | Mapping[str, WrappedHandler]") -> None:
        self._by_path.update((f"/{service_name}/{method}", handler) for method, handler in handlers.items())

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | WrappedHandler | None":
        return self._by_path.get(handler_call_details.method)


class _NoSuchRpc(grpc.GenericRpcHandler):
    """Answers what no other handler serves, such as an RPC of another service at this one's port."""

    def __init__(self, context: str) -> None:
        self._context = context

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        message = f"There is no such RPC at the port of {self._context}; each service has a port of its own."

        async def refuse(_: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

        return grpc.stream_unary_rpc_method_handler(refuse)


class Service:
    """A context's server. Plain constructors build it; `start` opens the port, `stop` drains."""

    def __init__(
        self,
        context: str,
        settings: ServiceSettings,
        database: Database,
        clock: Clock,
        telemetry: Telemetry | None = None,
        directory: Directory | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Build the server; without a `directory` no user and no key is accepted."""
        self.context = context
        self.domain = f"{context}.tollhouse"
        self.database = database
        self._shards = shards
        self._settings = settings
        self._trust_file = TrustFile(settings.trust_bundle_file)
        self._authenticator = Authenticator(self._trust_file.bundle, audience=self.domain, clock=clock)
        self._pipeline = Pipeline(
            domain=self.domain,
            authenticator=self._authenticator,
            limits=Limits(calls_max=settings.calls_max, deadline_default_s=settings.default_deadline_ms / 1000),
            telemetry=telemetry,
            directory=directory,
            proxies=settings.trusted_proxies,
        )
        self._telemetry = telemetry
        self._handlers = _Handlers()
        self._server = grpc.aio.server(handlers=(self._handlers,), options=_options(settings))
        self._health = HealthServicer()
        self._names: list[str] = []
        self._background: list[tuple[str, Callable[[], Coroutine[None, None, None]]]] = []
        self._before_drain: list[Callable[[], Awaitable[None]]] = []
        self._on_drain: list[Callable[[], Awaitable[None]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._asked_to_stop = asyncio.Event()
        self._unfit: ShardsDiffer | None = None

    @property
    def trusted(self) -> TrustBundle:
        """The trust bundle in force: the last good one of its file."""
        return self._trust_file.bundle

    def add(
        self,
        add_servicer_to_server: Callable[[_S, grpc.aio.Server], None],
        servicer: _S,
        recalls: Mapping[str, Recall] | None = None,
    ) -> None:
        """Register a servicer with the pipeline around each of its methods.

        `recalls` maps names of RPCs to caches that may answer without parsing, once the caller is authenticated.

        A servicer may have `readers`, a mapping from the names of RPCs: they find what annotations cannot say. They
        are asked only about a request that breaks annotations, so that its caller learns of all mistakes at once.

        Raises:
            UndeclaredAccess: one of its RPCs does not say who may call it.
        """
        registrar = _Registrar()
        add_servicer_to_server(servicer, registrar)  # type: ignore[arg-type]  # it only takes the handlers over.
        readers: Mapping[str, Reader] = getattr(servicer, "readers", {})
        for name, handlers in registrar.handlers.items():
            descriptor = descriptor_pool.Default().FindServiceByName(name)
            wrapped = self._pipeline.wrap(descriptor, handlers, recalls or {}, readers)
            self._handlers.add(name, wrapped)
            self._names.append(name)

    def background(self, run: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        """Run a loop while the server runs. If it fails it is restarted, with growing delays."""
        self._background.append((name, run))

    def before_drain(self, end: Callable[[], Awaitable[None]]) -> None:
        """Call `end` when shutdown begins, to end streams that would otherwise last for the whole grace period."""
        self._before_drain.append(end)

    def on_drain(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` when the last call has finished."""
        self._on_drain.append(close)

    async def start(self) -> int:
        """Open the port and begin to serve; return the port.

        Raises:
            PortTaken: another process listens there already.
            ShardsDiffer: the database has other shards than this process expects.
        """
        self._add_health()
        if self._settings.reflection:
            add_reflection(self._server, [*self._names, health.SERVICE_NAME])
        self._server.add_generic_rpc_handlers((_NoSuchRpc(self.context),))
        # Health is known before the port opens, so that a process that shares the port never answers NOT_SERVING just
        # because it is new.
        await self._check_readiness()
        port = self._bind()
        await self._server.start()
        self._tasks = [asyncio.create_task(self._watch_readiness(), name="readiness")]
        for name, run in (("trust bundle", self._follow_trust), *self._background):
            self._tasks.append(asyncio.create_task(_keep_running(name, run), name=name))
        _log.info("serving", context=self.context, host=self._settings.host, port=port)
        return port

    def _add_health(self) -> None:
        registrar = _Registrar()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)  # type: ignore[arg-type]  # as in `add`.
        for name, handlers in registrar.handlers.items():
            self._handlers.add(name, handlers)

    def _bind(self) -> int:
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            if self._settings.tls is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, _server_credentials(*self._settings.tls))
        except RuntimeError:
            raise PortTaken(
                f"{self.context} cannot listen on {address}: the port is taken. Choose another with "
                f"TOLLHOUSE_{self.context.upper()}_PORT, or 0 for a free one."
            ) from None

    async def serve_until_signal(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises:
            ShardsDiffer: the database, which could not be reached at the start, has other shards than expected.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop.set)
        await self._asked_to_stop.wait()
        await self.stop(self._settings.drain_grace_s)
        if self._unfit is not None:
            raise self._unfit

    async def stop(self, grace_s: float = 10) -> None:
        """Refuse new calls, let those in progress finish for at most `grace_s` seconds, and close everything."""
        await self._health.enter_graceful_shutdown()
        for end in self._before_drain:
            await end()
        if self._pipeline.calls:
            await asyncio.sleep(_DRAIN_NOTICE_S)
        # New calls get SHUTTING_DOWN, which clients retry elsewhere, instead of a broken connection.
        self._pipeline.turn_away()
        await self._stop_transport(grace_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for close in self._on_drain:
            await close()
        await self.database.close()
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.shutdown)
        _log.info("stopped", context=self.context)

    async def _stop_transport(self, grace_s: float) -> None:
        """Stop the transport once every call that reached a handler is answered.

        While gRPC closes it may accept a call that it never passes to a handler. Nothing was done for such a call, so
        it is cut after half a second rather than after the whole grace period, and its caller retries it.
        """
        if grace_s:
            await self._idle(grace_s)
        await self._server.stop(min(grace_s, _CLOSING_GRACE_S))

    async def _idle(self, within_s: float) -> None:
        """Return when no call has been under way for a moment, and after `within_s` seconds at the latest."""
        until_s = time.monotonic() + within_s
        idle_looks = 0
        while idle_looks < _IDLE_LOOKS and time.monotonic() < until_s:
            await asyncio.sleep(_IDLE_LOOK_EVERY_S)
            idle_looks = 0 if self._pipeline.calls else idle_looks + 1

    async def _follow_trust(self) -> None:
        await self._trust_file.follow(self._authenticator.trust)

    async def _watch_readiness(self) -> None:
        while True:
            await asyncio.sleep(_READINESS_EVERY_S)
            try:
                await self._check_readiness()
            except ShardsDiffer as error:
                self._unfit = error
                self._asked_to_stop.set()
                return

    async def _check_readiness(self) -> None:
        """Say SERVING while the database answers, NOT_SERVING while it does not."""
        try:
            async with asyncio.timeout(_READINESS_WITHIN_S):
                await self.database.ping()
                if self._shards is not None:
                    await self._shards.open()
        except ShardsDiffer:
            raise
        except (Refusal, TimeoutError, OSError):
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        else:
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def _set_health(self, status: int) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


async def _keep_running(name: str, run: Callable[[], Coroutine[None, None, None]]) -> None:
    delay_s = 0.1
    while True:
        try:
            await run()
            return
        except Exception as error:  # noqa: BLE001 -- one failed round must not end the loop.
            _log.error("background work failed", work=name, again_in_s=delay_s, exc_info=error)
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _RESTART_DELAY_MAX_S)


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_receive_message_length", RECEIVE_MAX_BYTES),
        ("grpc.max_send_message_length", SEND_MAX_BYTES),
        ("grpc.max_metadata_size", _METADATA_MAX_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients reconnect every five minutes, without losing a call, so that new processes get their share of the
        # load. A stream on the old connection may go on for the grace period; then the transport cuts it off.
        ("grpc.max_connection_age_ms", int(CONNECTION_AGE_MAX_S * 1000)),
        ("grpc.max_connection_age_grace_ms", int(CONNECTION_AGE_GRACE_S * 1000)),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_ping_strikes", 2),
        # A burst is queued here. Otherwise the transport would cancel calls, which a caller takes for an answer.
        ("grpc.server.max_pending_requests", 16_384),
        ("grpc.server.max_pending_requests_hard_limit", 32_768),
    ]


def _server_credentials(certificate: Path, key: Path, client_ca: Path) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=client_ca.read_bytes(),
        require_client_auth=True,
    )
