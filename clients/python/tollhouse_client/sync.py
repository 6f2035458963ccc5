"""The client for programs without asyncio: the same names, with plain calls and `with` instead of `async with`.

A client has one thread of its own, in which an event loop runs. Any number of threads may use the client; their calls
travel together as those of tasks do.

**Forks.** A client does not survive a fork, since neither its thread nor its connections do: make it in the child.
After a fork each use raises `UsedAfterFork`. With gunicorn make it in `post_fork`, or without `--preload`. Where the
parent has used a client before the fork, gRPC does not work in the child: a new client raises it, too.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from tollhouse.billing.v1 import ledger_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2, lease_pb2, model_pb2, usage_pb2
from tollhouse_client import client as asynchronous
from tollhouse_client import key_cache, leases, recorder
from tollhouse_client.batching import Batching
from tollhouse_client.call import AuthorizedCall, Quantities
from tollhouse_client.connection import Tls, closed
from tollhouse_client.credentials import Credentials
from tollhouse_client.errors import UsedAfterFork
from tollhouse_client.key_cache import KeyAnswer
from tollhouse_client.leases import Lease
from tollhouse_client.meter import OnReplay
from tollhouse_client.recorder import OnRefused
from tollhouse_client.retries import Retries
from tollhouse_client.usage import Kind, UsageObject

__all__ = ["Call", "Client", "KeyCache", "Meter", "Recorder", "UsedAfterFork"]

_Result = TypeVar("_Result")
_STOPPED_WITHIN_S: Final = 5.0


class BlockInterrupted(Exception):
    """A metered block was left by KeyboardInterrupt or SystemExit, which go on in the thread they belong to."""


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process_id = os.getpid()
        self._submitting = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="tollhouse client", daemon=True)
        self._thread.start()

    def run(self, make: Callable[[], Awaitable[_Result]]) -> _Result:
        """Make a coroutine in the loop's thread, and return what it returns.

        Raises:
            ClientClosed: the thread was stopped before it had ended.
            RuntimeError: this is the loop's thread, which would wait for itself.
        """
        if os.getpid() != self._process_id:
            raise UsedAfterFork("The client was made before this process was forked: make one in each process.")
        if threading.current_thread() is self._thread:
            raise RuntimeError("This is the client's own thread, as in on_refused: call the client from another one.")

        async def run() -> _Result:
            return await make()

        with self._submitting:
            if self._is_stopped:
                raise closed()
            future = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise closed() from None
        except BaseException:
            # An interrupt of this thread ends the call, too. It changes nothing where the call has ended.
            future.cancel()
            raise

    def stop(self) -> None:
        """Cancel what still runs in the loop, and end the thread."""
        with self._submitting:
            self._is_stopped = True
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        self._thread.join(_STOPPED_WITHIN_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._loop.call_soon(self._loop.stop)


class Client:
    """`tollhouse_client.Client` for threads. Use it as a context, or call `close`."""

    def __init__(
        self,
        *,
        identity: str | None = None,
        billing: str | None = None,
        metering: str | None = None,
        credentials: Credentials | None = None,
        tls: Tls | None = None,
        timeout_s: float = asynchronous.TIMEOUT_S,
        batching: bool | Batching = True,
        retries: Retries | None = None,
    ) -> None:
        """All arguments are those of `tollhouse_client.Client`."""
        self._client = asynchronous.Client(
            identity=identity,
            billing=billing,
            metering=metering,
            credentials=credentials,
            tls=tls,
            timeout_s=timeout_s,
            batching=batching,
            retries=retries,
        )
        self._thread = _LoopThread()
        self._is_closed = False
        self.meter = Meter(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Settle what is being settled, close the connections and end the thread. Safe to repeat."""
        if not self._is_closed:
            self.run(lambda client: client.close())
            self._is_closed = True
            self._thread.stop()

    def run(self, call: Callable[[asynchronous.Client], Awaitable[_Result]]) -> _Result:
        """Do something with the asynchronous client in its thread, for RPCs that have no method here.

        `client.run(lambda client: client.stub(ModelServiceStub).GetModel(request))`
        """
        if self._is_closed:
            raise closed()
        return self._thread.run(lambda: call(self._client))

    def authorize(
        self, request: admission_pb2.AuthorizeRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.AuthorizeResponse:
        """Ask whether a call may begin; see `tollhouse_client.Client`."""
        return self.run(lambda client: client.authorize(request, timeout_s=timeout_s))

    def settle(
        self, request: admission_pb2.SettleRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.SettleResponse:
        """Record what an authorized call has used, and charge it."""
        return self.run(lambda client: client.settle(request, timeout_s=timeout_s))

    def record_usage(
        self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float | None = None
    ) -> usage_pb2.RecordUsageResponse:
        """Record what was used without an authorization, and charge it."""
        return self.run(lambda client: client.record_usage(request, timeout_s=timeout_s))

    def debit(self, request: ledger_pb2.DebitRequest, *, timeout_s: float | None = None) -> ledger_pb2.DebitResponse:
        """Charge an amount."""
        return self.run(lambda client: client.debit(request, timeout_s=timeout_s))

    def verify_api_key(
        self, request: api_key_pb2.VerifyApiKeyRequest, *, timeout_s: float | None = None
    ) -> api_key_pb2.VerifyApiKeyResponse:
        """Ask whether a key is good."""
        return self.run(lambda client: client.verify_api_key(request, timeout_s=timeout_s))

    def cancel(
        self, request: admission_pb2.CancelRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.CancelResponse:
        """End an authorized call that did no work."""
        return self.run(lambda client: client.cancel(request, timeout_s=timeout_s))

    def extend(
        self, request: admission_pb2.ExtendAuthorizationRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.ExtendAuthorizationResponse:
        """Keep the money of an authorized call held for longer, or hold more of it."""
        return self.run(lambda client: client.extend(request, timeout_s=timeout_s))


class Call:
    """A metered call between its authorization and its settlement; see `tollhouse_client.AuthorizedCall`."""

    def __init__(self, client: Client, call: AuthorizedCall) -> None:
        self._client = client
        self.inner = call
        """The asynchronous call, with the answer, the model that is charged and what describes the work."""

    @property
    def operation_id(self) -> str:
        """The id of the work."""
        return self.inner.operation_id

    @property
    def principal(self) -> admission_pb2.Principal:
        """On whose behalf the call is."""
        return self.inner.principal

    @property
    def replayed(self) -> bool:
        """Whether the operation had been authorized before."""
        return self.inner.replayed

    @property
    def settlement(self) -> admission_pb2.SettleResponse | None:
        """The answer to the settlement, after the block."""
        return self.inner.settlement

    def used(
        self, usage: UsageObject | None = None, *, kind: Kind | None = None, quantities: Quantities | None = None
    ) -> None:
        """Say what the whole call has used."""
        self.inner.used(usage, kind=kind, quantities=quantities)

    def partial(
        self, usage: UsageObject | None = None, *, kind: Kind | None = None, quantities: Quantities | None = None
    ) -> None:
        """Say what a stream has used until now."""
        self.inner.partial(usage, kind=kind, quantities=quantities)

    def cancel(self) -> None:
        """Say that no work was done."""
        self.inner.cancel()

    def settle_part(
        self,
        usage: UsageObject | None = None,
        *,
        kind: Kind | None = None,
        quantities: Quantities | None = None,
        timeout_s: float | None = None,
    ) -> admission_pb2.SettleResponse:
        """Charge now what a long call has used until now."""
        settle = self.inner.settle_part
        return self._client.run(lambda _: settle(usage, kind=kind, quantities=quantities, timeout_s=timeout_s))

    def extend(
        self, *, until_s: float | None = None, max_output_tokens: int | None = None, timeout_s: float | None = None
    ) -> admission_pb2.Authorization:
        """Keep the money held for longer, or hold more of it."""
        extend = self.inner.extend
        return self._client.run(
            lambda _: extend(until_s=until_s, max_output_tokens=max_output_tokens, timeout_s=timeout_s)
        )


class Meter:
    """Meters calls; see `tollhouse_client.Meter`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def settle_through(self, recorder: "Recorder") -> None:
        """Let a recorder take the settlements that metering cannot take at the moment."""
        self._client._client.meter.settlements = recorder.inner

    @contextmanager
    def authorize(
        self,
        *,
        model: str,
        operation_id: str = "",
        api_key: str | None = None,
        principal: admission_pb2.Principal | None = None,
        input_tokens: int = 0,
        max_output_tokens: int | None = None,
        estimate: model_pb2.TokenCounts | None = None,
        quantities: Quantities | None = None,
        on_replay: OnReplay = "refuse",
        endpoint: str = "",
        required_scopes: Iterable[str] = (),
        min_revision: int = 0,
        hold_ttl_s: float | None = None,
        client_address: str = "",
        service_tier: str = "",
        items: int = 0,
        labels: Mapping[str, str] | None = None,
        subscription_id: str = "",
        lease: Lease | None = None,
        most: Quantities | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Call]:
        """Authorize a call, and settle it when the block ends: all as with `tollhouse_client.Meter.authorize`."""
        block = self._client._client.meter.authorize(
            model=model,
            operation_id=operation_id,
            api_key=api_key,
            principal=principal,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            estimate=estimate,
            quantities=quantities,
            on_replay=on_replay,
            endpoint=endpoint,
            required_scopes=required_scopes,
            min_revision=min_revision,
            hold_ttl_s=hold_ttl_s,
            client_address=client_address,
            service_tier=service_tier,
            items=items,
            labels=labels,
            subscription_id=subscription_id,
            lease=lease,
            most=most,
            timeout_s=timeout_s,
        )
        with self._within(block) as call:
            yield Call(self._client, call)

    @contextmanager
    def lease(self, request: lease_pb2.AcquireLeaseRequest, *, on_refused: leases.OnRefused) -> Iterator[Lease]:
        """Hold leases for as long as the block lasts; see `tollhouse_client.Meter.lease`.

        Give the lease to `authorize`. What else it can do belongs to the client's thread; `on_refused` is called there.
        """
        with self._within(self._client._client.meter.lease(request, on_refused=on_refused)) as lease:
            yield lease

    @contextmanager
    def _within(self, block: AbstractAsyncContextManager[_Result]) -> Iterator[_Result]:
        """Enter and leave an asynchronous block in the client's thread."""
        entered = self._client.run(lambda _: block.__aenter__())
        try:
            yield entered
        except BaseException as error:
            # An interrupt would end the loop in its thread, so there it is another exception.
            told = error if isinstance(error, Exception) else BlockInterrupted(type(error).__name__)
            self._client.run(lambda _: block.__aexit__(type(told), told, None))
            raise
        self._client.run(lambda _: block.__aexit__(None, None, None))


class KeyCache:
    """Verifies keys in memory; see `tollhouse_client.KeyCache`. Use it as a context, within the client's."""

    def __init__(
        self, client: Client, *, keys_max: int = key_cache.KEYS_MAX, stale_max_s: float = key_cache.STALE_MAX_S
    ) -> None:
        self._client = client
        self._keys = key_cache.KeyCache(client._client, keys_max=keys_max, stale_max_s=stale_max_s)

    def __enter__(self) -> Self:
        self._client.run(lambda _: self._keys.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.run(lambda _: self._keys.close())

    def verify(
        self,
        secret: str,
        *,
        model: str = "",
        required_scopes: Sequence[str] = (),
        client_address: str = "",
        min_revision: int = 0,
    ) -> KeyAnswer:
        """Tell whether a key may be used."""
        return self._client.run(
            lambda _: self._keys.verify(
                secret,
                model=model,
                required_scopes=required_scopes,
                client_address=client_address,
                min_revision=min_revision,
            )
        )


class Recorder:
    """Records usage and loses none; see `tollhouse_client.Recorder`. Use it as a context, within the client's."""

    def __init__(self, client: Client, spool: str | Path, *, on_refused: OnRefused | None = None) -> None:
        """`on_refused` is called in the client's thread."""
        self._client = client
        self.inner = recorder.Recorder(client._client, spool, on_refused=on_refused)

    def __enter__(self) -> Self:
        self._client.run(lambda _: self.inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.run(lambda _: self.inner.close())

    def record(self, request: usage_pb2.RecordUsageRequest, *, timeout_s: float = 10.0) -> None:
        """Take usage; when this returns, a crash does not lose it."""
        self._client.run(lambda _: self.inner.record(request, timeout_s=timeout_s))

    def flush(self) -> None:
        """Return when all that was taken until now is sent, or refused for good."""
        self._client.run(lambda _: self.inner.flush())
