"""Metered calls: authorize, do the work, settle what it used."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal, Protocol, TypeAlias

from google.protobuf.duration_pb2 import Duration

from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import admission_pb2, model_pb2
from tollhouse.metering.v1.unit_pb2 import Quantity
from tollhouse_client.errors import Replayed, TollhouseError, UsageMissing, denied_of
from tollhouse_client.usage import Kind, UsageObject, Used, used_of

OnReplay: TypeAlias = Literal["refuse", "allow"]
Quantities: TypeAlias = Mapping[str, int | Decimal]

_log: Final = logging.getLogger("tollhouse_client")
_SETTLE_WITHIN_S: Final = 30.0
_ENDING_MAX: Final = 10_000


class Settlements(Protocol):
    """Where a settlement goes that metering could not take; a `Recorder` is one."""

    async def settle_later(self, request: admission_pb2.SettleRequest) -> None:
        """Take a settlement, to be sent as soon as it can be."""


class Rpcs(Protocol):
    """What a metered call needs of the client."""

    async def authorize(
        self, request: admission_pb2.AuthorizeRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.AuthorizeResponse: ...

    async def settle(
        self, request: admission_pb2.SettleRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.SettleResponse: ...

    async def cancel(
        self, request: admission_pb2.CancelRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.CancelResponse: ...

    async def extend(
        self, request: admission_pb2.ExtendAuthorizationRequest, *, timeout_s: float | None = None
    ) -> admission_pb2.ExtendAuthorizationResponse: ...


@dataclass
class Described:
    """What only describes the work; none of it changes what it costs. The settlement has it."""

    status_code: int | None = None
    error_message: str = ""
    endpoint: str = ""
    conversation_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    items: int = 0


class Call:
    """One metered call, between its authorization and its settlement."""

    def __init__(self, operation_id: str, model: str) -> None:
        self.operation_id = operation_id
        self.model = model
        """The model that is charged. Set it where another one than the authorized did the work, as after a fallback."""
        self.service_tier = ""
        """The tier the work was done in; the authorized one when empty."""
        self.stated_amount: Amount | None = None
        """What the work costs, where the caller prices it by itself."""
        self.described = Described()
        self.settlement: admission_pb2.SettleResponse | None = None
        """The answer to the settlement, after the block; None where the call was cancelled or is settled later."""
        self._began_s = time.monotonic()
        self._whole: Used | None = None
        self._so_far: Used | None = None
        self._is_unread = False
        self._is_cancelled = False

    def used(
        self, usage: UsageObject | None = None, *, kind: Kind | None = None, quantities: Quantities | None = None
    ) -> None:
        """Say what the whole call has used: a provider's usage object, or quantities by unit.

        The last that was said counts. An object that does not add up is refused, and the call is not cancelled then:
        its work was done. Say what it used in another way, or let the exception go: the hold then ends by itself, as
        the organization's admission policy says.

        Raises:
            UsageRefused: the object does not add up; each field at fault is named.
            ValueError: there is no telling what is meant.
        """
        self._whole = self._read(usage, kind, quantities)

    def partial(
        self, usage: UsageObject | None = None, *, kind: Kind | None = None, quantities: Quantities | None = None
    ) -> None:
        """Say what a stream has used from its beginning until now. It is settled, as partial, if the stream breaks.

        Raises as `used` does.
        """
        self._so_far = self._read(usage, kind, quantities)

    def cancel(self) -> None:
        """Say that no work was done: what is held is released at the end of the block, and nothing is charged."""
        self._is_cancelled = True

    def _read(self, usage: UsageObject | None, kind: Kind | None, quantities: Quantities | None) -> Used:
        # Whatever is said about usage says that there was some, so an exception here must not make the call free.
        self._is_unread = True
        used = used_of(usage, kind, quantities)
        self._is_unread = False
        return used

    def outcome(self, *, failed: bool) -> "Used | Literal['cancel', 'missing']":
        """Decide what is to be settled at the end of the block."""
        if self._is_cancelled:
            return "cancel"
        if self._whole is not None:
            return self._whole
        if failed and self._so_far is not None:
            return self._so_far
        return "cancel" if failed and not self._is_unread else "missing"

    @property
    def is_whole(self) -> bool:
        """Whether it is known what the whole call has used."""
        return self._whole is not None

    @property
    def latency_ms(self) -> int:
        """How long the call takes until now."""
        return int((time.monotonic() - self._began_s) * 1000)


class AuthorizedCall(Call):
    """A call that metering has allowed."""

    def __init__(self, rpcs: Rpcs, request: admission_pb2.AuthorizeRequest, answer: admission_pb2.AuthorizeResponse):
        super().__init__(request.operation_id, request.model)
        self.answer = answer
        """The whole answer: what is held until when, the limits, the price version."""
        self._rpcs = rpcs

    @property
    def principal(self) -> admission_pb2.Principal:
        """On whose behalf the call is."""
        return self.answer.principal

    @property
    def replayed(self) -> bool:
        """Whether the operation had been authorized before, so that somebody may do this work already."""
        return self.answer.replayed

    async def settle_part(
        self,
        usage: UsageObject | None = None,
        *,
        kind: Kind | None = None,
        quantities: Quantities | None = None,
        timeout_s: float | None = None,
    ) -> admission_pb2.SettleResponse:
        """Charge now what a long call has used from its beginning until now. It counts as `partial` does, too.

        Raises:
            TollhouseError: it could not be charged. A part that is lost does no harm: the next one has it.
        """
        self._so_far = self._read(usage, kind, quantities)
        request = self.request(self._so_far)
        request.final = False
        return await self._rpcs.settle(request, timeout_s=timeout_s)

    async def extend(
        self, *, until_s: float | None = None, max_output_tokens: int | None = None, timeout_s: float | None = None
    ) -> admission_pb2.Authorization:
        """Keep the money held until `until_s`, in seconds since 1970, or hold more of it. Repeats change nothing.

        Raises:
            InsufficientBalance: the account has not enough; what was held stays held.
            TollhouseError: the call failed.
        """
        request = admission_pb2.ExtendAuthorizationRequest(
            organization_id=self.principal.organization_id,
            operation_id=self.operation_id,
            max_output_tokens=max_output_tokens,
        )
        if until_s is not None:
            request.expire_time.FromMilliseconds(int(until_s * 1000))
        answer = await self._rpcs.extend(request, timeout_s=timeout_s)
        self.answer.expire_time.CopyFrom(answer.authorization.expire_time)
        return answer.authorization

    def request(self, used: Used) -> admission_pb2.SettleRequest:
        """Return the settlement of what was used."""
        described = self.described
        return admission_pb2.SettleRequest(
            operation_id=self.operation_id,
            organization_id=self.principal.organization_id,
            model=self.model,
            quantities=used.messages(),
            total_tokens=used.total_tokens,
            service_tier=self.service_tier,
            stated_amount=self.stated_amount,
            latency_ms=self.latency_ms,
            status_code=described.status_code,
            error_message=described.error_message,
            endpoint=described.endpoint,
            conversation_id=described.conversation_id,
            labels=described.labels,
            items=described.items,
        )


class Meter:
    """Meters calls: `client.meter`."""

    def __init__(self, rpcs: Rpcs) -> None:
        self._rpcs = rpcs
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
        answer = await self._rpcs.authorize(request, timeout_s=timeout_s)
        if answer.decision != admission_pb2.DECISION_ALLOWED:
            raise denied_of(answer)
        if request.fail_if_replayed and answer.replayed:
            raise Replayed("The operation id was authorized before.", facts={"operation_id": request.operation_id})
        call = AuthorizedCall(self._rpcs, request, answer)
        async with self.ending(call, lambda failed: self._end(call, failed=failed)):
            yield call

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
        except TollhouseError:
            if self.settlements is None:
                raise
            await self.settlements.settle_later(request)

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
