"""Billing, as metering sees it: charges, holds and releases, each many at a time.

What comes back are plain facts. A charge is either done, to be tried again, or refused for good; an unreachable billing
is the second for every charge of the call, never an exception.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import grpc
import structlog
from google.rpc import status_pb2

from libs.common.amount import format_amount
from libs.common.errors import OperationIdReused, Unavailable
from libs.common.status import error_info, error_info_in, reason_of
from libs.common.timestamps import parse_time
from tollhouse.billing.v1 import ledger_pb2 as pb
from tollhouse.billing.v1 import ledger_pb2_grpc as rpc

_log = structlog.get_logger("billing")

DEBIT: Final = "DEBIT"
CAPTURE: Final = "CAPTURE"
REVERSAL: Final = "REVERSAL"

BATCH_MAX: Final = 200
_CHARGE_WITHIN_S: Final = 3.0
_HOLD_WITHIN_S: Final = 2.0
_PAUSE_AFTER_FAILURE_S: Final = 0.5
_SOURCE_KEY: Final = "source"
_SOURCE: Final = "metering"
"""Tells the charges behind which usage stands from those that people make by hand."""
_CORRECTS_KEY: Final = "corrects"
_PURPOSE_KEY: Final = "purpose"
_LEASE: Final = "lease"
_HOLD_NOT_FOUND: Final = "HOLD_NOT_FOUND"
TRANSACTION_NOT_FOUND: Final = "TRANSACTION_NOT_FOUND"
_DEBITED: Final = (OperationIdReused.reason, "kind")
_INSUFFICIENT_BALANCE: Final = "INSUFFICIENT_BALANCE"
_OF_THE_WHOLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Failures of a call that have nothing to do with any of its items: billing is away, or the deployment is at fault."""
_PASSING: Final = {
    code.value[0]
    for code in (
        *_OF_THE_WHOLE,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    )
}
"""What may be over by the next attempt."""


class Charge(NamedTuple):
    """One cost to be charged, under the operation id of its usage or the id of the part of a call."""

    organization_id: str
    operation_id: str
    kind: str
    amount: str
    currency_code: str
    project_id: str | None
    model: str
    """Which credits may be used depends on it and the user. It also describes the charge."""
    hold_operation_id: str | None = None
    """For a part of a call: the operation id of the call, whose hold stays open."""
    user_id: str | None = None
    reverses_operation_id: str | None = None
    """For a reversal: the charge of which it gives something back."""
    corrects: str | None = None
    """For a movement of a correction: the operation id of the usage."""


class AccountBalance(NamedTuple):
    """An account after a movement, in plain decimals."""

    currency_code: str
    posted: str
    held: str
    available: str


class Charged(NamedTuple):
    """Billing has made the charge, now or before."""

    balance: AccountBalance
    released: str | None
    overrun: str | None


class NotCharged(NamedTuple):
    """Billing has not made the charge."""

    reason: str
    final: bool
    """Whether trying again is of no use."""


_Results = list[Charged | NotCharged | None]


class HoldRequest(NamedTuple):
    """An estimate to be held."""

    organization_id: str
    operation_id: str
    project_id: str | None
    amount: str
    currency_code: str
    ttl_ms: int
    model: str
    """Which credits may be used depends on it and the user. It also describes the hold."""
    user_id: str | None
    is_lease: bool = False
    """Whether it is for a lease. Such a hold says so, and is never taken for that of a call with the same id."""


class Held(NamedTuple):
    """The estimate is held, or was."""

    hold_id: str
    expire_time: datetime
    open: bool
    """Whether it is held still: a repeat may come after the end."""


class NotHeld(NamedTuple):
    """Billing declined the hold, for a reason of its own."""

    reason: str
    message: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Released:
    """What a release gave back; nothing where no hold was open."""

    amount: str | None


class FoundHold(NamedTuple):
    """A hold as it stands."""

    expire_time: datetime
    is_over: bool
    """Whether it was captured or released."""


@dataclass(frozen=True, slots=True)
class HoldOver:
    """The hold has ended, or there never was one."""


class BillingClient:
    """Calls billing's ledger."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger: rpc.LedgerServiceStub = rpc.LedgerServiceStub(channel)
        self._pause_until_s = 0.0

    @property
    def seems_down(self) -> bool:
        """Whether billing could not be reached a moment ago, so that callers need not wait to learn it again."""
        return time.monotonic() < self._pause_until_s

    async def charge(self, charges: Sequence[Charge]) -> list[Charged | NotCharged]:
        """Make the charges; one result for each, in their order."""
        results: _Results = [None] * len(charges)
        await asyncio.gather(
            *(self._charge_some(charges, some, results) for some in _parts(charges, DEBIT)),
            *(self._capture_some(charges, some, results) for some in _parts(charges, CAPTURE)),
            *(self._reverse_some(charges, some, results) for some in _parts(charges, REVERSAL)),
        )
        return [result or NotCharged("MISSING", final=False) for result in results]

    async def hold(self, requests: Sequence[HoldRequest]) -> list[Held | NotHeld | Unavailable]:
        """Place up to 200 holds; one result for each, in their order. Unavailable stands for one not decided."""
        batch = pb.BatchCreateHoldRequest()
        for request in requests:
            _fill_hold(batch.requests.add(), request)
        try:
            response = await self._ledger.BatchCreateHold(batch, timeout=_HOLD_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in _OF_THE_WHOLE or len(requests) == 1:
                _log.warning("billing places no holds", code=error.code().name, holds=len(requests))
                return [Unavailable(dependency="billing") for _ in requests]
            middle = len(requests) // 2
            return await self.hold(requests[:middle]) + await self.hold(requests[middle:])
        return [_held(outcome) for outcome in response.outcomes]

    async def release(self, organization_id: str, operation_id: str) -> Released:
        """Release a hold, if it is still open.

        Raises:
            Unavailable: billing cannot be reached.
        """
        request = pb.ReleaseHoldRequest(organization_id=organization_id, operation_id=operation_id)
        try:
            response = await self._ledger.ReleaseHold(request, timeout=_HOLD_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                return Released(None)
            raise Unavailable(dependency="billing") from error
        return Released(response.released_amount.value)

    async def extend(
        self, organization_id: str, operation_id: str, ttl_ms: int, larger: tuple[Decimal, str] | None
    ) -> datetime | HoldOver | NotHeld:
        """Hold an amount at least for so long from now, and one at least as large as `larger`, which has its currency.

        Return when the hold ends; or that it has ended already; or why it cannot be larger, in which case nothing is
        changed.

        Raises:
            Unavailable: billing cannot be reached.
        """
        request = pb.ExtendHoldRequest(organization_id=organization_id, operation_id=operation_id)
        request.ttl.seconds = ttl_ms // 1000
        request.ttl.nanos = ttl_ms % 1000 * 1_000_000
        if larger is not None:
            request.amount.value, request.amount.currency_code = format_amount(larger[0]), larger[1]
        try:
            response = await self._ledger.ExtendHold(request, timeout=_HOLD_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            info = error_info(error)
            if info is not None and info.reason == _INSUFFICIENT_BALANCE:
                return NotHeld(info.reason, error.details() or "", dict(info.metadata))
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                return HoldOver()
            raise Unavailable(dependency="billing") from error
        return parse_time("expire_time", response.hold.expire_time, [])

    async def find_hold(self, organization_id: str, operation_id: str) -> FoundHold | None:
        """Return the hold of an operation, or None where none was ever placed.

        Raises:
            Unavailable: billing cannot be reached.
        """
        request = pb.GetHoldRequest(organization_id=organization_id, operation_id=operation_id)
        try:
            hold = (await self._ledger.GetHold(request, timeout=_HOLD_WITHIN_S)).hold
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise Unavailable(dependency="billing") from error
        is_over = hold.state in (pb.HOLD_STATE_CAPTURED, pb.HOLD_STATE_RELEASED)
        return FoundHold(parse_time("expire_time", hold.expire_time, []), is_over)

    async def _charge_some(self, charges: Sequence[Charge], some: Sequence[int], results: _Results) -> None:
        request = pb.BatchDebitRequest()
        for i in some:
            _fill_debit(request.requests.add(), charges[i])
        try:
            response = await self._ledger.BatchDebit(request, timeout=_CHARGE_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            await self._take_failure(error, charges, some, results, self._charge_some)
            return
        self._pause_until_s = 0.0
        _take_moved(some, response.outcomes, results)

    async def _capture_some(self, charges: Sequence[Charge], some: Sequence[int], results: _Results) -> None:
        request = pb.BatchCaptureHoldRequest()
        for i in some:
            _fill_capture(request.requests.add(), charges[i])
        try:
            response = await self._ledger.BatchCaptureHold(request, timeout=_CHARGE_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            await self._take_failure(error, charges, some, results, self._capture_some)
            return
        self._pause_until_s = 0.0
        never_held: list[int] = []
        for i, outcome in zip(some, response.outcomes, strict=False):
            if outcome.HasField("response"):
                captured = outcome.response
                balance = _balance(captured.balance)
                results[i] = Charged(balance, captured.released_amount.value, captured.overrun_amount.value)
                continue
            results[i] = _not_charged(outcome.error)
            if _was_never_held(outcome.error):
                never_held.append(i)
        await self._charge_never_held(charges, never_held, results)

    async def _charge_never_held(self, charges: Sequence[Charge], some: Sequence[int], results: _Results) -> None:
        """Debit what was done without a hold; what costs nothing has nothing to release either."""
        for i in some:
            if charges[i].amount == "0":
                results[i] = Charged(AccountBalance(charges[i].currency_code, "", "", ""), None, None)
        costly = [i for i in some if charges[i].amount != "0"]
        if costly:
            await self._charge_some(charges, costly, results)

    async def _reverse_some(self, charges: Sequence[Charge], some: Sequence[int], results: _Results) -> None:
        request = pb.BatchReverseTransactionRequest()
        for i in some:
            _fill_reversal(request.requests.add(), charges[i])
        try:
            response = await self._ledger.BatchReverseTransaction(request, timeout=_CHARGE_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            await self._take_failure(error, charges, some, results, self._reverse_some)
            return
        self._pause_until_s = 0.0
        _take_moved(some, response.outcomes, results)

    async def _take_failure(
        self,
        error: grpc.aio.AioRpcError,
        charges: Sequence[Charge],
        some: Sequence[int],
        results: _Results,
        again: Callable[..., Awaitable[None]],
    ) -> None:
        """Note what a failed call means for its charges.

        A failure that one charge may have caused is taken apart: the charges are sent again in halves, until the one at
        fault stands alone and the others are made.
        """
        if error.code() not in _OF_THE_WHOLE and len(some) > 1:
            middle = len(some) // 2
            await again(charges, some[:middle], results)
            await again(charges, some[middle:], results)
            return
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._pause_until_s = time.monotonic() + _PAUSE_AFTER_FAILURE_S
        reason = reason_of(error) or error.code().name
        final = error.code().value[0] not in _PASSING
        for i in some:
            results[i] = NotCharged(reason, final=final)


def _parts(charges: Sequence[Charge], kind: str) -> list[list[int]]:
    """Return the positions of the charges of a kind, in parts that fit a call."""
    positions = [i for i, charge in enumerate(charges) if charge.kind == kind]
    return [positions[start : start + BATCH_MAX] for start in range(0, len(positions), BATCH_MAX)]


def _take_moved(
    some: Sequence[int],
    outcomes: Iterable[pb.DebitOutcome | pb.ReverseTransactionOutcome],
    results: _Results,
) -> None:
    for i, outcome in zip(some, outcomes, strict=False):
        moved = outcome.HasField("response")
        results[i] = Charged(_balance(outcome.response.balance), None, None) if moved else _not_charged(outcome.error)


# Requests are written where they stand in their batch: a message given to another is copied at every level.
def _fill_debit(request: pb.DebitRequest, charge: Charge) -> None:
    request.organization_id = charge.organization_id
    if charge.project_id is not None:
        request.project_id = charge.project_id
    request.operation_id = charge.operation_id
    request.amount.currency_code = charge.currency_code
    request.amount.value = charge.amount
    request.mode = pb.DEBIT_MODE_MUST_POST
    request.description = request.model = charge.model
    if charge.user_id is not None:
        request.user_id = charge.user_id
    request.metadata[_SOURCE_KEY] = _SOURCE
    if charge.corrects is not None:
        request.metadata[_CORRECTS_KEY] = charge.corrects


def _fill_capture(request: pb.CaptureHoldRequest, charge: Charge) -> None:
    request.organization_id = charge.organization_id
    if charge.hold_operation_id is None:
        request.operation_id = charge.operation_id
    else:
        request.operation_id = charge.hold_operation_id
        request.part_id = charge.operation_id
    request.amount.currency_code = charge.currency_code
    request.amount.value = charge.amount
    request.description = request.model = charge.model
    if charge.user_id is not None:
        request.user_id = charge.user_id
    request.metadata[_SOURCE_KEY] = _SOURCE


def _fill_reversal(request: pb.ReverseTransactionRequest, charge: Charge) -> None:
    request.organization_id = charge.organization_id
    request.operation_id = charge.operation_id
    request.reversed_operation_id = charge.reverses_operation_id or ""
    request.amount.currency_code = charge.currency_code
    request.amount.value = charge.amount
    request.description = charge.model
    request.metadata[_SOURCE_KEY] = _SOURCE
    request.metadata[_CORRECTS_KEY] = charge.corrects or ""


def _fill_hold(request: pb.CreateHoldRequest, hold: HoldRequest) -> None:
    request.organization_id = hold.organization_id
    if hold.project_id is not None:
        request.project_id = hold.project_id
    request.operation_id = hold.operation_id
    request.amount.currency_code = hold.currency_code
    request.amount.value = hold.amount
    request.ttl.seconds = hold.ttl_ms // 1000
    request.ttl.nanos = hold.ttl_ms % 1000 * 1_000_000
    request.description = request.model = hold.model
    if hold.user_id is not None:
        request.user_id = hold.user_id
    if hold.is_lease:
        request.metadata[_PURPOSE_KEY] = _LEASE


def _balance(balance: pb.Balance) -> AccountBalance:
    posted = balance.posted
    return AccountBalance(posted.currency_code, posted.value, balance.held.value, balance.available.value)


def _not_charged(status: status_pb2.Status) -> NotCharged:
    info = error_info_in(status)
    reason = info.reason if info else "UNKNOWN"
    # What is to be given back may not be charged yet: the relay sends both until they are made.
    return NotCharged(reason, final=status.code not in _PASSING and reason != TRANSACTION_NOT_FOUND)


def _was_never_held(error: status_pb2.Status) -> bool:
    """Tell whether there was no hold to capture: it is not found, or the work was debited for that reason before."""
    info = error_info_in(error)
    if info is None:
        return False
    return info.reason == _HOLD_NOT_FOUND or (info.reason, info.metadata.get("field")) == _DEBITED


def _held(outcome: pb.CreateHoldOutcome) -> Held | NotHeld | Unavailable:
    if outcome.HasField("response"):
        hold = outcome.response.hold
        expire_time = parse_time("expire_time", hold.expire_time, [])
        return Held(hold.hold_id, expire_time, hold.state == pb.HOLD_STATE_OPEN)
    info = error_info_in(outcome.error)
    if info is None or outcome.error.code in _PASSING:
        return Unavailable(dependency="billing")
    return NotHeld(info.reason, outcome.error.message, dict(info.metadata))
