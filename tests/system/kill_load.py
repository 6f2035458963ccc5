"""Callers of metering who repeat what is not acknowledged. What they were told is the model of what is stored."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Protocol, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.support.callers import Metadata
from tests.system.kill_points import Kind
from tollhouse.metering.v1 import admission_pb2, model_pb2, quota_pb2, usage_pb2
from tollhouse.metering.v1.admission_pb2_grpc import AdmissionServiceStub
from tollhouse.metering.v1.quota_pb2_grpc import QuotaServiceStub
from tollhouse.metering.v1.usage_pb2_grpc import UsageServiceStub

_T = TypeVar("_T")
_AGAIN: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
}
"""What a caller repeats: nobody knows whether it was done."""
_WITHIN_S: Final = 60.0
_CALL_S: Final = 5.0
_TAKES_TIME: Final = (Kind.LAPSE, Kind.LEASE, Kind.NOW_AND_THEN)
"""What leads to a point after a while only: more calls would not help."""
_BRIEF: Final = Duration(seconds=1)
"""How long what nobody ends is held."""
PRICE_IN: Final = Decimal("0.0000025")
ITEMS: Final = 3
BATCH: Final = 4


class Target(Protocol):
    """A process of metering that is called."""

    kind: Kind
    """What leads it to its point."""

    async def channel(self) -> grpc.aio.Channel:
        """Return a channel to it, when it is ready."""
        ...


@dataclass
class Organizations:
    """Whose calls are made."""

    rich: str
    poor: str
    """Has no money, so that billing declines its holds."""
    tight: str
    """Has a limit that its calls reach."""
    key: str
    """An API key of the rich one."""


@dataclass
class Told:
    """What callers were told was done."""

    tokens: dict[tuple[str, str], int] = field(default_factory=dict)
    """The tokens of each usage, by organization and operation."""
    items: dict[str, int] = field(default_factory=dict)
    """What was allocated to the rich organization, by operation."""
    parts: set[str] = field(default_factory=set)
    """The operations that were settled in parts or corrected, which are charged under further ids."""
    answers: int = 0
    repeats: int = 0

    def used(self, organization_id: str) -> list[int]:
        return [tokens for (owner, _), tokens in self.tokens.items() if owner == organization_id]

    def cost(self, organization_id: str) -> Decimal:
        return sum(self.used(organization_id)) * PRICE_IN


class Callers:
    """Calls processes of metering until told to stop."""

    def __init__(
        self,
        targets: Sequence[Target],
        organizations: Organizations,
        metadata: Metadata,
        operator: Metadata,
        chance: random.Random,
    ) -> None:
        self.told = Told()
        self.beside: Sequence[Kind] = tuple(Kind)
        """What leads another process to its points."""
        self._targets = targets
        self._of = organizations
        self._metadata = metadata
        self._operator = operator
        self._chance = chance
        self._stopped = asyncio.Event()
        self._ways: dict[Kind, Callable[[Target], Awaitable[None]]] = {
            Kind.SETTLE: self._settle,
            Kind.PARTS: self._settle_in_parts,
            Kind.KEY: self._settle_by_key,
            Kind.DECLINE: self._be_declined,
            Kind.CANCEL: self._cancel,
            Kind.LAPSE: self._let_lapse,
            Kind.ALLOCATE: self._allocate,
            Kind.LEASE: self._let_lease_end,
            Kind.RECORD: self._record,
            Kind.BATCH: self._record_batch,
            Kind.CORRECT: self._correct,
            Kind.NOW_AND_THEN: self._record,
        }

    def stop(self) -> None:
        """Let every caller end what it has begun, and begin nothing more."""
        self._stopped.set()

    async def call(self, target: Target) -> None:
        """Make one call after another: most lead the target to its point."""
        while not self._stopped.is_set():
            chance = self._chance.random()
            kind = target.kind
            if chance < 0.3 and kind is not Kind.NOW_AND_THEN:
                kind = self._chance.choice(self.beside)
            elif chance < 0.4 and kind is not Kind.NOW_AND_THEN:
                kind = self._chance.choice([one for one in Kind if one is not Kind.NOW_AND_THEN])
            await self._ways[kind](target)
            if kind in _TAKES_TIME:
                await asyncio.sleep(self._chance.uniform(0.2, 0.4))

    async def _settle(self, target: Target) -> None:
        organization_id = self._of.tight if self._chance.random() < 0.1 else self._of.rich
        operation_id = new_id()
        if await self._authorize(target, organization_id, operation_id):
            await self._settle_authorized(target, organization_id, operation_id)

    async def _settle_in_parts(self, target: Target) -> None:
        operation_id, tokens = new_id(), self._chance.randint(10, 100)
        if not await self._authorize(target, self._of.rich, operation_id):
            return
        part = self._settlement(self._of.rich, operation_id, tokens // 2)
        part.final = False
        await self._done(target, lambda stubs: stubs.admission.Settle(part, metadata=self._metadata, timeout=_CALL_S))
        await self._settle_authorized(target, self._of.rich, operation_id, tokens)
        self.told.parts.add(operation_id)

    async def _settle_by_key(self, target: Target) -> None:
        operation_id = new_id()
        if await self._authorize(target, "", operation_id):
            await self._settle_authorized(target, self._of.rich, operation_id)

    async def _be_declined(self, target: Target) -> None:
        assert not await self._authorize(target, self._of.poor, new_id())

    async def _cancel(self, target: Target) -> None:
        operation_id = new_id()
        if await self._authorize(target, self._of.rich, operation_id):
            request = admission_pb2.CancelRequest(organization_id=self._of.rich, operation_id=operation_id)
            await self._done(
                target, lambda stubs: stubs.admission.Cancel(request, metadata=self._metadata, timeout=_CALL_S)
            )

    async def _let_lapse(self, target: Target) -> None:
        """Authorize a call and forget it; if the first try fails, nobody ever knows what became of it."""
        request = self._ask(self._of.rich, new_id())
        request.hold_ttl.CopyFrom(_BRIEF)
        await self._done(
            target,
            lambda stubs: stubs.admission.Authorize(request, metadata=self._metadata, timeout=_CALL_S),
            tries_max=1,
        )

    async def _allocate(self, target: Target) -> None:
        operation_id = await self._allocated(target, Duration(seconds=3600))
        request = quota_pb2.ReleaseQuotaRequest(organization_id=self._of.rich, operation_id=operation_id)
        await self._done(
            target, lambda stubs: stubs.quota.ReleaseQuota(request, metadata=self._metadata, timeout=_CALL_S)
        )

    async def _let_lease_end(self, target: Target) -> None:
        await self._allocated(target, _BRIEF)

    async def _allocated(self, target: Target, lease: Duration) -> str:
        operation_id = new_id()
        request = quota_pb2.AllocateQuotaRequest(
            organization_id=self._of.rich, operation_id=operation_id, labels={"once": operation_id}, lease_ttl=lease
        )
        request.amounts.add(metric="items", value=str(ITEMS))
        request.amounts.add(metric="concurrent_calls", value="1")
        answer = await self._done(
            target, lambda stubs: stubs.quota.AllocateQuota(request, metadata=self._metadata, timeout=_CALL_S)
        )
        assert answer is not None
        assert answer.allocated
        self.told.items[operation_id] = ITEMS
        return operation_id

    async def _record(self, target: Target) -> None:
        request = self._usage()
        await self._done(
            target, lambda stubs: stubs.usage.RecordUsage(request, metadata=self._metadata, timeout=_CALL_S)
        )
        self._note(request)

    async def _correct(self, target: Target) -> None:
        """Record usage, and amend it to fewer tokens and then to more."""
        usage = self._usage()
        await self._done(target, lambda stubs: stubs.usage.RecordUsage(usage, metadata=self._metadata, timeout=_CALL_S))
        self.told.parts.add(usage.operation_id)
        for tokens in (usage.tokens.input - 1, usage.tokens.input + 1):
            request = usage_pb2.AmendUsageRequest(
                organization_id=usage.organization_id,
                operation_id=new_id(),
                usage_operation_id=usage.operation_id,
                update_mask=FieldMask(paths=["tokens"]),
                tokens=model_pb2.TokenCounts(input=tokens),
            )
            await self._done(
                target,
                lambda stubs, request=request: stubs.usage.AmendUsage(  # type: ignore[misc]
                    request, metadata=self._operator, timeout=_CALL_S
                ),
            )
        usage.tokens.input += 1
        self._note(usage)

    async def _record_batch(self, target: Target) -> None:
        """Record several usages; what of them is not recorded is sent again, with all others."""
        request = usage_pb2.BatchRecordUsageRequest(usages=[self._usage() for _ in range(BATCH)])
        until_s = time.monotonic() + _WITHIN_S
        is_recorded = False
        while not is_recorded:
            answer = await self._done(
                target, lambda stubs: stubs.usage.BatchRecordUsage(request, metadata=self._metadata, timeout=_CALL_S)
            )
            assert answer is not None
            is_recorded = all(outcome.HasField("recorded") for outcome in answer.outcomes)
            assert is_recorded or time.monotonic() < until_s, answer
        for one in request.usages:
            self._note(one)

    async def _authorize(self, target: Target, organization_id: str, operation_id: str) -> bool:
        """Authorize a call, and tell whether it may begin."""
        request = self._ask(organization_id, operation_id)
        answer = await self._done(
            target, lambda stubs: stubs.admission.Authorize(request, metadata=self._metadata, timeout=_CALL_S)
        )
        assert answer is not None
        is_allowed = answer.decision == admission_pb2.DECISION_ALLOWED
        assert is_allowed or organization_id in (self._of.poor, self._of.tight), answer
        return is_allowed

    async def _settle_authorized(
        self, target: Target, organization_id: str, operation_id: str, tokens: int = 0
    ) -> None:
        request = self._settlement(organization_id, operation_id, tokens or self._chance.randint(1, 100))
        await self._done(
            target, lambda stubs: stubs.admission.Settle(request, metadata=self._metadata, timeout=_CALL_S)
        )
        self._note(request)

    def _ask(self, organization_id: str, operation_id: str) -> admission_pb2.AuthorizeRequest:
        """Return the request for a call, by the API key where no organization is given."""
        request = admission_pb2.AuthorizeRequest(
            operation_id=operation_id, model="gpt-4o", input_tokens=100, labels={"once": operation_id}
        )
        request.max_output_tokens = 0
        if organization_id:
            request.principal.organization_id = organization_id
        else:
            request.api_key = self._of.key
        return request

    @staticmethod
    def _settlement(organization_id: str, operation_id: str, tokens: int) -> admission_pb2.SettleRequest:
        return admission_pb2.SettleRequest(
            organization_id=organization_id,
            operation_id=operation_id,
            model="gpt-4o",
            tokens=model_pb2.TokenCounts(input=tokens),
        )

    def _usage(self) -> usage_pb2.RecordUsageRequest:
        operation_id = new_id()
        return usage_pb2.RecordUsageRequest(
            organization_id=self._of.rich,
            operation_id=operation_id,
            model="gpt-4o",
            tokens=model_pb2.TokenCounts(input=self._chance.randint(1, 100)),
            labels={"once": operation_id},
        )

    def _note(self, request: usage_pb2.RecordUsageRequest | admission_pb2.SettleRequest) -> None:
        self.told.tokens[request.organization_id, request.operation_id] = request.tokens.input

    async def _done(
        self, target: Target, call: Callable[["_Stubs"], Awaitable[_T]], *, tries_max: int | None = None
    ) -> _T | None:
        """Make a call until it is acknowledged, by any of the processes; None after so many failures.

        Any failure that is not to be repeated is an error of the product.
        """
        until_s = time.monotonic() + _WITHIN_S
        tries = 0
        while True:
            tries += 1
            try:
                answer = await call(_Stubs(await target.channel()))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN or time.monotonic() > until_s:
                    raise AssertionError(f"not done after {tries} tries: {error}") from error
                if tries == tries_max:
                    return None
                self.told.repeats += 1
            else:
                self.told.answers += 1
                return answer
            await asyncio.sleep(self._chance.uniform(0.03, 0.15))
            target = self._chance.choice(self._targets)


class _Stubs:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.admission: AdmissionServiceStub = AdmissionServiceStub(channel)
        self.quota: QuotaServiceStub = QuotaServiceStub(channel)
        self.usage: UsageServiceStub = UsageServiceStub(channel)
