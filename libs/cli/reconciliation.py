"""Checks all invariants: those that each service checks itself, and those between services."""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.comparison import Comparison, Scope
from libs.cli.failures import WrongUse
from libs.cli.peers import Peers, all_of, both, naming
from libs.cli.terminal.connection import Channels
from libs.cli.terminal.progress import Progress
from libs.cli.verdict import Check, NoVerdict, Verdict, Violation
from tollhouse.billing.v1 import charge_pb2 as billing_pb2
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.identity.v1 import organization_pb2
from tollhouse.metering.v1 import charge_pb2 as metering_pb2

_STREAM_TIMEOUT_S: Final = 3600.0
_ORGANIZATIONS_EXIST: Final = "organizations_exist"
_STEP: Final = "organizations"


async def verify(channels: Channels, scope: Scope | None = None, progress: Progress | None = None) -> Verdict:
    """Let each service check itself, compare the charges of metering and billing, and ask for unknown organizations.

    Raises:
        NoVerdict: a service failed, so that not everything could be verified.
        WrongUse: the scope is an organization that no service knows.
    """
    scope, progress, peers = scope or Scope(), progress or Progress(), Peers.of(channels)
    verdict = Verdict()
    async with progress.shown():
        if scope.organization_id:
            await _require_organization(peers, scope.organization_id)
        # Each service keeps at most two sessions of Postgres busy, and the comparison one more in two of them. Together
        # they leave no processor idle while the longest check comes to its end.
        parts = await all_of(
            _verify_service("identity", channels.identity, scope, progress),
            _verify_service("billing", channels.billing, scope, progress),
            _verify_service("metering", channels.metering, scope, progress),
            _verify_between(peers, scope, progress),
        )
        for part in parts:
            verdict.checks += part.checks
            verdict.violations += part.violations
    return verdict


async def _verify_between(peers: Peers, scope: Scope, progress: Progress) -> Verdict:
    """Return what differs between the services, and what was compared."""
    part = Verdict()
    rows = await _verify_organizations(peers, scope, part, progress)
    await _compare_charges(peers, scope, part, progress, rows)
    return part


async def _verify_service(service: str, channel: grpc.aio.Channel, scope: Scope, progress: Progress) -> Verdict:
    """Return what a service finds wrong with its own data, and what it checked.

    Raises:
        NoVerdict: the service failed, or the stream ended before its summary.
    """
    step = f"{service} checks itself"
    progress.note(step)
    stub: integrity_pb2_grpc.IntegrityServiceStub = integrity_pb2_grpc.IntegrityServiceStub(channel)
    request = integrity_pb2.VerifyInvariantsRequest(organization_id=scope.organization_id, since_time=scope.since_time)
    part = Verdict()
    with naming(service):
        async for piece in stub.VerifyInvariants(request, timeout=_STREAM_TIMEOUT_S):
            if piece.HasField("progress"):
                progress.note(step, piece.progress.rows_examined, piece.progress.rows_estimated or None)
            if piece.HasField("finding"):
                finding = piece.finding
                part.violations.append(
                    Violation(service, finding.invariant, finding.organization_id, finding.resource, finding.detail)
                )
            part.checks += [
                Check(service, check.invariant, check.description, check.rows_examined, check.findings)
                for check in piece.summary.checks
            ]
    if not part.checks:
        raise NoVerdict(f"{service} ended its report without a summary of what it checked.")
    progress.end(step)
    return part


class _Page(NamedTuple):
    """Some organizations of billing, with the number of their movements, or of metering, where that is not known."""

    sizes: Sequence[tuple[str, int]]
    read_time: Timestamp

    @property
    def organization_ids(self) -> list[str]:
        return [organization_id for organization_id, _ in self.sizes]


async def _require_organization(peers: Peers, organization_id: str) -> None:
    """Refuse an organization that no service knows."""
    money, usage = await both(_with_money(peers, [organization_id]), _with_usage(peers, [organization_id]))
    if not money.sizes and not usage.sizes and not await _known(peers, [organization_id]):
        raise WrongUse(f"There is no organization {organization_id}.")


async def _compare_charges(peers: Peers, scope: Scope, verdict: Verdict, progress: Progress, rows: int | None) -> None:
    """Compare the charges of every organization that billing or metering has.

    Each page is compared up to the time at which it was read, so that charges made meanwhile make no difference.
    """
    comparison = Comparison(peers, scope, verdict, progress, rows)
    async for page in _pages_with_money(peers, scope):
        await comparison.compare(page.sizes, page.read_time)
    async for page in _pages_with_usage(peers, scope):
        known = {organization_id for organization_id, _ in (await _with_money(peers, page.organization_ids)).sizes}
        await comparison.compare([size for size in page.sizes if size[0] not in known], page.read_time)
    await comparison.finish()


async def _verify_organizations(peers: Peers, scope: Scope, verdict: Verdict, progress: Progress) -> int | None:
    """Ask identity for every organization that has money in billing or usage in metering.

    Metering takes usage of any organization while identity cannot be reached, and people can credit any account. An
    organization exists before its usage and stays known after its deletion, so the answers need no common snapshot.

    Returns about how many rows the comparison will read in both services; None if it reads only part of them.
    """
    movements = 0
    money = Check("identity, billing", _ORGANIZATIONS_EXIST, "Every organization with money is known.", 0, 0)
    async for page in _pages_with_money(peers, scope):
        await _report_unknown(peers, verdict, money, page.organization_ids, "has money")
        movements += sum(count for _, count in page.sizes)
        progress.note(_STEP, money.examined)
    usage = Check("identity, metering", _ORGANIZATIONS_EXIST, "Every organization with usage is known.", 0, 0)
    async for page in _pages_with_usage(peers, scope):
        await _report_unknown(peers, verdict, usage, page.organization_ids, "has usage")
        progress.note(_STEP, money.examined + usage.examined)
    verdict.checks += [money, usage]
    progress.end(_STEP)
    return None if scope.since_time else 2 * movements


async def _pages_with_money(peers: Peers, scope: Scope) -> AsyncIterator[_Page]:
    if scope.organization_id:
        yield await _with_money(peers, [scope.organization_id])
        return
    request = billing_pb2.ListOrganizationsRequest()
    while True:
        with naming("billing"):
            page = await peers.billing.ListOrganizations(request)
        yield _Page(list(zip(page.organization_ids, page.movement_counts, strict=True)), page.read_time)
        request.page_token = page.next_page_token
        if not request.page_token:
            return


async def _pages_with_usage(peers: Peers, scope: Scope) -> AsyncIterator[_Page]:
    if scope.organization_id:
        yield await _with_usage(peers, [scope.organization_id])
        return
    request = metering_pb2.ListOrganizationsRequest()
    while True:
        with naming("metering"):
            page = await peers.metering.ListOrganizations(request)
        yield _Page([(organization_id, 0) for organization_id in page.organization_ids], page.read_time)
        request.page_token = page.next_page_token
        if not request.page_token:
            return


async def _with_money(peers: Peers, organization_ids: Sequence[str]) -> _Page:
    """Return those of the organizations that billing has; asked for none, it would name any."""
    if not organization_ids:
        return _Page([], Timestamp())
    request = billing_pb2.ListOrganizationsRequest(organization_ids=organization_ids)
    with naming("billing"):
        page = await peers.billing.ListOrganizations(request)
    return _Page(list(zip(page.organization_ids, page.movement_counts, strict=True)), page.read_time)


async def _with_usage(peers: Peers, organization_ids: Sequence[str]) -> _Page:
    """Return those of the organizations that metering has; there must be one."""
    request = metering_pb2.ListOrganizationsRequest(organization_ids=organization_ids)
    with naming("metering"):
        page = await peers.metering.ListOrganizations(request)
    return _Page([(organization_id, 0) for organization_id in page.organization_ids], page.read_time)


async def _known(peers: Peers, organization_ids: Sequence[str]) -> set[str]:
    if not organization_ids:
        return set()
    with naming("identity"):
        request = organization_pb2.CheckOrganizationsRequest(organization_ids=organization_ids)
        return set((await peers.identity.CheckOrganizations(request)).known_organization_ids)


async def _report_unknown(
    peers: Peers, verdict: Verdict, check: Check, organization_ids: Sequence[str], what: str
) -> None:
    known = await _known(peers, organization_ids)
    check.examined += len(organization_ids)
    for organization_id in organization_ids:
        if organization_id not in known:
            detail = f"{what}, and identity knows no such organization"
            verdict.report(check, organization_id, f"organizations/{organization_id}", detail)
