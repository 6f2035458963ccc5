"""Leases, what they settle, and what must hold after it, in one line each."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.status import error_info_in
from tests.metering.allocations.support import Amounts, state
from tests.metering.support import Metering, Platform
from tollhouse.billing.v1 import account_pb2, ledger_pb2
from tollhouse.metering.v1 import admission_pb2, lease_pb2_grpc, usage_pb2
from tollhouse.metering.v1 import lease_pb2 as pb

COST: Final = Decimal("0.0035")
"""What `usage` costs."""
TTL_S: Final = 60


def request_of(
    organization_id: str, amounts: Amounts, lease_id: str = "", *, ttl_s: float = TTL_S, **fields: object
) -> pb.AcquireLeaseRequest:
    """Return a request for amounts by metric; those of spend by a currency such as `USD`."""
    ttl = Duration()
    ttl.FromMilliseconds(int(ttl_s * 1000))
    request = pb.AcquireLeaseRequest(organization_id=organization_id, lease_id=lease_id or f"lease-{new_id()}", ttl=ttl)
    request.MergeFrom(pb.AcquireLeaseRequest(**fields))  # type: ignore[arg-type]
    for metric, value in amounts.items():
        if metric.isupper():
            request.amounts.add(metric="spend", currency_code=metric, value=value)
        else:
            request.amounts.add(metric=metric, value=value)
    return request


def stub(metering: Metering) -> lease_pb2_grpc.LeaseServiceStub:
    return lease_pb2_grpc.LeaseServiceStub(metering.channel)


async def acquire(
    metering: Metering,
    organization_id: str,
    amounts: Amounts,
    lease_id: str = "",
    *,
    ttl_s: float = TTL_S,
    **fields: object,
) -> pb.AcquireLeaseResponse:
    request = request_of(organization_id, amounts, lease_id, ttl_s=ttl_s, **fields)
    return await stub(metering).AcquireLease(request, metadata=metering.gateway)


async def settle(
    metering: Metering,
    organization_id: str,
    lease_id: str,
    usages: Sequence[usage_pb2.RecordUsageRequest] = (),
    *,
    final: bool | None = None,
) -> pb.SettleLeaseResponse:
    request = pb.SettleLeaseRequest(organization_id=organization_id, lease_id=lease_id, usages=usages, final=final)
    return await stub(metering).SettleLease(request, metadata=metering.gateway)


def taken(answer: pb.AcquireLeaseResponse) -> dict[str, str]:
    """Return what was taken, by metric or currency."""
    return {one.currency_code or one.metric: one.value for one in answer.amounts}


def left(answer: pb.SettleLeaseResponse) -> dict[str, tuple[str, str, str]]:
    """Return what was used, is left and was used beyond the lease, by metric or currency."""
    return {one.currency_code or one.metric: (one.used, one.remaining, one.overrun) for one in answer.amounts}


def outcomes(answer: pb.SettleLeaseResponse) -> list[str]:
    """Return what became of each usage: `recorded`, `replayed`, or why it was refused."""
    return [_outcome(one) for one in answer.outcomes]


def _outcome(one: admission_pb2.SettleOutcome) -> str:
    if one.HasField("refused"):
        info = error_info_in(one.refused)
        return info.reason if info is not None else "unknown"
    return "replayed" if one.settled.replayed else "recorded"


def reason(denial: admission_pb2.Denial) -> str:
    return admission_pb2.DenialReason.Name(denial.reason).removeprefix("DENIAL_REASON_")


async def balance(platform: Platform, organization_id: str) -> tuple[Decimal, Decimal, Decimal]:
    """Return what is posted, held and available."""
    request = account_pb2.GetBalanceRequest(organization_id=organization_id)
    found = (await platform.ledger.accounts.GetBalance(request, metadata=platform.ledger.metadata)).balance
    return Decimal(found.posted.value), Decimal(found.held.value), Decimal(found.available.value)


async def hold_of(platform: Platform, organization_id: str, lease_id: str) -> ledger_pb2.Hold:
    request = ledger_pb2.GetHoldRequest(organization_id=organization_id, operation_id=lease_id)
    return (await platform.ledger.ledger.GetHold(request, metadata=platform.ledger.metadata)).hold


async def assert_consistent(platform: Platform) -> None:
    """Assert that no charge waits, the invariants of both services hold, and both know the same charges."""
    await platform.settled()
    assert await platform.metering.findings() == []
    assert await platform.ledger.findings() == []
    assert await platform.metering.charges() == await platform.billing_charges()


async def standings(metering: Metering, organization_id: str, names: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Return what is used and reserved of limits of the organization."""
    return {name: (await state(metering, organization_id, name))[:2] for name in names}
