"""One metered call: what it is about, what it has used, and what is to be settled."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal, Protocol, TypeAlias

from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import admission_pb2
from tollhouse_client.usage import Kind, UsageObject, Used, used_of

_TEXT_MAX: Final = 10_000
"""Characters of a text; metering keeps fewer. With megabytes of text the settlement would be too large to be sent."""
Quantities: TypeAlias = Mapping[str, int | Decimal]


class Rpcs(Protocol):
    """What a metered call needs of the client."""

    async def authorize(
        self,
        request: admission_pb2.AuthorizeRequest,
        *,
        timeout_s: float | None = None,
        unclaimed: Callable[[admission_pb2.AuthorizeResponse], None] | None = None,
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
            error_message=described.error_message[:_TEXT_MAX],
            endpoint=described.endpoint,
            conversation_id=described.conversation_id,
            labels={name: text[:_TEXT_MAX] for name, text in described.labels.items()},
            items=described.items,
        )
