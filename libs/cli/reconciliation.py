"""Checks all invariants: those that each service checks itself, and those between services."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Final

import grpc

from libs.cli.failures import CommandFailed
from libs.cli.terminal.connection import Channels
from tollhouse.billing.v1 import charge_pb2 as billing_pb2
from tollhouse.billing.v1 import charge_pb2_grpc as billing_rpc
from tollhouse.billing.v1 import ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.metering.v1 import charge_pb2 as metering_pb2
from tollhouse.metering.v1 import charge_pb2_grpc as metering_rpc

_PAGE_SIZE: Final = 5000
_LOOK_AGAIN_AFTER_S: Final = 2.0
_KEPT_MAX: Final = 1000
_STREAM_TIMEOUT_S: Final = 3600.0
_BOTH: Final = "metering, billing"
_AMOUNTS_AGREE: Final = "X1_charges_agree"
_SETTLED_IS_CHARGED: Final = "X2_settled_is_charged"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of an invariant."""

    service: str
    invariant: str
    organization_id: str
    subject: str
    detail: str


@dataclass(slots=True)
class Check:
    """One invariant that was checked."""

    service: str
    invariant: str
    rule: str
    examined: int
    violations: int


@dataclass(slots=True)
class Verdict:
    """The checks and the violations. Of very many violations of one invariant only the first are kept."""

    checks: list[Check] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def violation_count(self) -> int:
        return sum(check.violations for check in self.checks)

    def as_json(self) -> dict[str, object]:
        return {
            "violations": self.violation_count,
            "checks": [asdict(check) for check in self.checks],
            "findings": [asdict(violation) for violation in self.violations],
        }


@dataclass(frozen=True, slots=True)
class _Charged:
    """One charge as metering or billing has it."""

    key: Key
    amount: Decimal
    currency_code: str
    settled: bool = True


async def verify(channels: Channels) -> Verdict:
    """Let each service check itself, then compare the charges of metering and billing in both directions."""
    verdict = Verdict()
    for service, channel in (
        ("identity", channels.identity),
        ("billing", channels.billing),
        ("metering", channels.metering),
    ):
        await _verify_service(service, channel, verdict)
    await _verify_between(channels, verdict)
    return verdict


async def _verify_service(service: str, channel: grpc.aio.Channel, verdict: Verdict) -> None:
    """Add what a service finds wrong with its own data, and what it checked.

    Raises:
        CommandFailed: the stream ended before its summary.
    """
    stub = integrity_pb2_grpc.IntegrityServiceStub(channel)
    checked = False
    async for piece in stub.VerifyInvariants(integrity_pb2.VerifyInvariantsRequest(), timeout=_STREAM_TIMEOUT_S):
        if piece.HasField("finding"):
            finding = piece.finding
            verdict.violations.append(
                Violation(service, finding.invariant, finding.organization_id, finding.resource, finding.detail)
            )
        for check in piece.summary.checks:
            checked = True
            verdict.checks.append(
                Check(service, check.invariant, check.description, check.rows_examined, check.findings)
            )
    if not checked:
        raise CommandFailed(f"{service} ended its report without a summary of what it checked.")


async def _verify_between(channels: Channels, verdict: Verdict) -> None:
    """Compare the charges of both services, which list them in the same order.

    The two snapshots are taken at different moments, and a charge may be in flight. So a difference counts only if it
    is still there a little later.
    """
    comparison = _Comparison(
        Check(_BOTH, _AMOUNTS_AGREE, "A charge is missing in one of the two, or its amount differs.", 0, 0),
        Check(_BOTH, _SETTLED_IS_CHARGED, "A charge that metering calls settled is missing in billing.", 0, 0),
    )
    leftovers = [pair async for pair in _differences(channels, comparison)]
    if leftovers:
        await asyncio.sleep(_LOOK_AGAIN_AFTER_S)
        again = {
            pair[0]: pair async for pair in _differences(channels, None) if pair[0] in {one[0] for one in leftovers}
        }
        for key, ours, theirs in again.values():
            await _judge(channels, comparison, verdict, key, ours, theirs)
    verdict.checks += [comparison.amounts, comparison.settled]


@dataclass(slots=True)
class _Comparison:
    amounts: Check
    settled: Check


async def _differences(
    channels: Channels, comparison: _Comparison | None
) -> AsyncIterator[tuple[Key, _Charged | None, _Charged | None]]:
    """Merge both sorted lists and yield the charges that differ."""
    metered, billed = _metered_charges(channels), _billed_charges(channels)
    ours, theirs = await anext(metered, None), await anext(billed, None)
    while ours is not None or theirs is not None:
        if comparison is not None:
            comparison.amounts.examined += 1
            comparison.settled.examined += bool(ours and ours.settled)
        if theirs is None or (ours is not None and ours.key < theirs.key):
            assert ours is not None
            yield ours.key, ours, None
            ours = await anext(metered, None)
        elif ours is None or theirs.key < ours.key:
            yield theirs.key, None, theirs
            theirs = await anext(billed, None)
        else:
            if (ours.amount, ours.currency_code) != (theirs.amount, theirs.currency_code):
                yield ours.key, ours, theirs
            ours, theirs = await anext(metered, None), await anext(billed, None)


async def _metered_charges(channels: Channels) -> AsyncIterator[_Charged]:
    stub = metering_rpc.ChargeServiceStub(channels.metering)
    order, page_token = _Order("metering"), ""
    while True:
        page = await stub.ListCharges(metering_pb2.ListChargesRequest(page_size=_PAGE_SIZE, page_token=page_token))
        for charge in page.charges:
            key = order.next(charge.organization_id, charge.operation_id)
            settled = charge.state == metering_pb2.CHARGE_STATE_SETTLED
            yield _Charged(key, Decimal(charge.amount.value), charge.amount.currency_code, settled)
        page_token = page.next_page_token
        if not page_token:
            return


async def _billed_charges(channels: Channels) -> AsyncIterator[_Charged]:
    stub = billing_rpc.ChargeServiceStub(channels.billing)
    order, page_token = _Order("billing"), ""
    while True:
        page = await stub.ListCharges(billing_pb2.ListChargesRequest(page_size=_PAGE_SIZE, page_token=page_token))
        for charge in page.charges:
            key = order.next(charge.organization_id, charge.operation_id)
            # Work that cost nothing releases its hold in full; for metering that is not a charge.
            if Decimal(charge.amount.value):
                yield _Charged(key, Decimal(charge.amount.value), charge.amount.currency_code)
        page_token = page.next_page_token
        if not page_token:
            return


class _Order:
    """Checks that a list is sorted, as merging two lists needs."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._last: tuple[bytes, bytes] = (b"", b"")

    def next(self, organization_id: str, operation_id: str) -> Key:
        key = (organization_id.encode(), operation_id.encode())
        if key <= self._last:
            raise CommandFailed(f"{self._service} lists {operation_id} out of order; its charges cannot be compared.")
        self._last = key
        return organization_id, operation_id


async def _judge(
    channels: Channels,
    comparison: _Comparison,
    verdict: Verdict,
    key: Key,
    ours: _Charged | None,
    theirs: _Charged | None,
) -> None:
    """Report a difference that lasts as a violation, if it is one."""
    if ours is not None and theirs is None:
        # A charge that still waits is no violation here; metering's own check finds those that wait too long.
        if ours.settled:
            _report(verdict, comparison.settled, key, f"is settled for {ours.amount:f}, but billing has no such charge")
    elif ours is not None and theirs is not None:
        detail = f"costs {ours.amount:f} {ours.currency_code}, but {theirs.amount:f} {theirs.currency_code} was charged"
        _report(verdict, comparison.amounts, key, detail)
    elif theirs is not None and await _was_charged_for_usage(channels, key):
        _report(verdict, comparison.amounts, key, f"was charged {theirs.amount:f}, but metering has no such usage")


async def _was_charged_for_usage(channels: Channels, key: Key) -> bool:
    """Return whether metering asked for a charge. One that an operator made by hand has no usage."""
    stub = ledger_pb2_grpc.LedgerServiceStub(channels.billing)
    request = ledger_pb2.GetTransactionRequest(organization_id=key[0], operation_id=key[1])
    return (await stub.GetTransaction(request)).transaction.metadata.get("source") == "metering"


def _report(verdict: Verdict, check: Check, key: Key, detail: str) -> None:
    check.violations += 1
    if check.violations <= _KEPT_MAX:
        verdict.violations.append(Violation(check.service, check.invariant, key[0], key[1], detail))
