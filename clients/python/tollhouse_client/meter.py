"""Metered calls: authorize, do the work, settle what it used."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, Literal, Protocol, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration

from tollhouse.metering.v1 import admission_pb2, lease_pb2, model_pb2
from tollhouse.metering.v1.unit_pb2 import Quantity
from tollhouse_client.call import AuthorizedCall, Call, Quantities, Rpcs
from tollhouse_client.errors import Replayed, TollhouseError, UsageMissing, denied_of
from tollhouse_client.leases import Lease, LeasedCall, OnRefused, holding, principal_within
from tollhouse_client.retries import REFUSED_FOR_GOOD
from tollhouse_client.usage import Used

OnReplay: TypeAlias = Literal["refuse", "allow"]

_log: Final = logging.getLogger("tollhouse_client")
_SETTLE_WITHIN_S: Final = 30.0


class Settlements(Protocol):
    """Where a settlement goes that metering could not take; a `Recorder` is one."""

    async def settle_later(self, request: admission_pb2.SettleRequest) -> None:
        """Take a settlement, to be sent as soon as it can be."""


class Meter:
    """Meters calls: `client.meter`."""

    def __init__(self, rpcs: Rpcs, channel: Callable[[], grpc.aio.Channel]) -> None:
        """`channel` returns one to metering that adds credentials and raises gRPC's own errors."""
        self._rpcs = rpcs
        self._channel = channel
        self._ending: set[asyncio.Task[None]] = set()
        self.settlements: Settlements | None = None
        """Where settlements go that metering cannot take at the moment. Without one they fail, and are lost when the
        process ends: set it to a `Recorder`."""
        self.settle_within_s = _SETTLE_WITHIN_S
        """How long a settlement or cancellation is tried, in seconds."""

    @asynccontextmanager
    async def authorize(
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
    ) -> AsyncIterator[AuthorizedCall]:
        """Authorize a call, and settle it when the block ends.

        Give either the `api_key` that the end user presented, or the `principal` of one that was verified. The other
        arguments are the fields of AuthorizeRequest; `hold_ttl_s` is how long the money stays held.

        The block says with `call.used` what the work has used, and that is settled when it ends, also where it ends
        with an exception. Where it ends with an exception before anything was said, the call is cancelled; after
        `call.partial` that is settled as partial usage. A block that ends without exception and without saying
        anything raises `UsageMissing`.

        **Operation ids.** Calls with one id are one piece of work, and charged once. Without an `operation_id` the call
        gets a new one. Give one where the caller repeats its requests and the work must not be done twice; never take
        it from end users or other systems without a prefix of your own, since who repeats somebody's id gets work
        that nobody pays for. With `on_replay="refuse"` an id that was authorized before raises `Replayed`, whoever
        used it, so no id is served twice. With "allow" the block runs, and `call.replayed` says so.

        Raises:
            Denied: the call may not begin. `KeyDenied`, `BalanceDenied` and `LimitExceeded` are the usual kinds.
            Replayed: the operation id was authorized before.
            TollhouseError: it could not be decided, so the call may not begin; or it could not be settled.
        """
        if on_replay not in ("refuse", "allow"):
            raise ValueError(f'on_replay must be "refuse" or "allow", not {on_replay!r}.')
        if lease is not None:
            principal = principal_within(lease, principal, api_key)
            if operation_id and on_replay == "refuse":
                raise ValueError('With a lease give an operation_id with on_replay="allow" only.')
        if (api_key is None) == (principal is None):
            raise ValueError("Give either an api_key or a principal.")
        request = admission_pb2.AuthorizeRequest(
            operation_id=operation_id or f"call-{uuid.uuid4()}",
            principal=principal,
            model=model,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            estimate=estimate,
            quantities=messages_of(quantities),
            endpoint=endpoint,
            required_scopes=list(required_scopes),
            min_revision=min_revision,
            hold_ttl=None if hold_ttl_s is None else duration_of(hold_ttl_s),
            client_address=client_address,
            service_tier=service_tier,
            items=items,
            labels=labels or {},
            subscription_id=subscription_id,
            # Nobody else can have an id that was made here, so a repeat is this client's own.
            fail_if_replayed=bool(operation_id) and on_replay == "refuse",
        )
        if api_key is not None:
            request.api_key = api_key
        taken = None if lease is None else lease.take(most or {})
        if lease is not None and taken is not None:
            leased = LeasedCall(self._rpcs, request, lease, taken)
            async with self.ending(leased, lambda failed: leased.end(failed=failed)):
                yield leased
            return
        unclaimed = None if operation_id else partial(self._release, request)
        answer = await self._rpcs.authorize(request, timeout_s=timeout_s, unclaimed=unclaimed)
        if answer.decision != admission_pb2.DECISION_ALLOWED:
            raise denied_of(answer)
        if request.fail_if_replayed and answer.replayed:
            raise Replayed("The operation id was authorized before.", facts={"operation_id": request.operation_id})
        call = AuthorizedCall(self._rpcs, request, answer)
        async with self.ending(call, lambda failed: self._end(call, failed=failed)):
            yield call

    def lease(
        self, request: lease_pb2.AcquireLeaseRequest, *, on_refused: OnRefused
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold leases that are acquired with this request, for as long as the block lasts.

        `on_refused` gets usage that metering refuses for good, and what could not be settled at the end of the block,
        where that is tried for `settle_within_s`. docs/limits.md says what a lease is.
        """
        return holding(self._channel, request, on_refused, self.settle_within_s)

    @asynccontextmanager
    async def ending(self, call: Call, end: Callable[[bool], Awaitable[None]]) -> AsyncIterator[None]:
        """Run a block and then `end`, which is told whether the block failed and is not cancelled with the block."""
        try:
            yield
        except BaseException as error:
            if not call.described.error_message:
                call.described.error_message = type(error).__name__
            await self._to_the_end(call, end(True), error)
            raise
        await self._to_the_end(call, end(False), None)

    async def close(self) -> None:
        """Wait for the settlements that are under way."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def _to_the_end(self, call: Call, end: Awaitable[None], error: BaseException | None) -> None:
        """Wait for the end of a call. If the waiting is cancelled, the call is brought to its end all the same."""

        async def run() -> None:
            await end

        task = asyncio.create_task(run())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda ended: _report(call, ended))
            raise
        except TollhouseError:
            if error is None or isinstance(error, Exception):
                raise
            # A cancellation or an interrupt goes on as such.
            _report(call, task)

    async def _end(self, call: AuthorizedCall, *, failed: bool) -> None:
        outcome = call.outcome(failed=failed)
        if outcome == "missing":
            if failed:
                return  # The block's exception says that its usage could not be read.
            raise UsageMissing(
                "The block ended without saying what was used.", facts={"operation_id": call.operation_id}
            )
        if outcome == "cancel":
            await self._cancel(call)
            return
        request = call.request(outcome)
        request.partial = not call.is_whole
        try:
            call.settlement = await self._rpcs.settle(request, timeout_s=self.settle_within_s)
        except TollhouseError as error:
            if self.settlements is None or error.code in REFUSED_FOR_GOOD:
                raise
            await self.settlements.settle_later(request)

    def _release(self, request: admission_pb2.AuthorizeRequest, answer: admission_pb2.AuthorizeResponse) -> None:
        """Release what is held for a call that was allowed when its caller had left. Its id was made here, so nobody
        else goes on with it."""
        if answer.decision == admission_pb2.DECISION_ALLOWED:
            task = asyncio.create_task(self._cancel(AuthorizedCall(self._rpcs, request, answer)))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _cancel(self, call: AuthorizedCall) -> None:
        """Release what is held. If that fails the hold ends by itself, so the caller is told nothing."""
        request = admission_pb2.CancelRequest(
            organization_id=call.principal.organization_id, operation_id=call.operation_id
        )
        try:
            await self._rpcs.cancel(request, timeout_s=self.settle_within_s)
        except TollhouseError as error:
            _log.warning("A call could not be cancelled; its hold ends by itself: %s", error)


def messages_of(quantities: Quantities | None) -> list[Quantity]:
    """Return quantities as a request has them."""
    return [] if quantities is None else Used(quantities).messages()


def duration_of(seconds: float) -> Duration:
    """Return a time as a message."""
    duration = Duration()
    duration.FromMilliseconds(int(seconds * 1000))
    return duration


def _report(call: Call, ended: "asyncio.Task[None]") -> None:
    if not ended.cancelled() and (error := ended.exception()) is not None:
        _log.error("The call %s could not be settled: %s", call.operation_id, error)
