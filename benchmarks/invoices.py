"""Invoices issued a second, each of an organization of its own, and whether their numbers have no gap."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import grpc

from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure
from libs.common.ids import new_id
from libs.common.timestamps import render_time
from tollhouse.billing.v1 import invoice_pb2, invoice_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tollhouse.common.v1 import integrity_pb2, integrity_pb2_grpc
from tollhouse.common.v1.amount_pb2 import Amount

_WANTED_PER_S: Final = 200
_AT_ONCE: Final = 16
_DEBITS: Final = 5
_LIMIT_S: Final = 1_800.0
_LOOK_EVERY_S: Final = 0.2
_PRICE: Final = Amount(currency_code="USD", value="1.25")


@dataclass(slots=True)
class Run:
    """One run over all organizations."""

    duration_s: float = 0.0
    times_ms: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """How much memory billing had in use, from the beginning to the end."""
    cpu_us: dict[str, float] = field(default_factory=dict)
    numbers: list[str] = field(default_factory=list)


def measure_invoices(invoices: int, shards: int) -> Figure:
    """Issues invoices, each over five charges.

    Raises:
        LoadError: a number was skipped or given twice, or a violation was found.
    """
    with Deployment(shards) as deployment:
        run = asyncio.run(_run(deployment, deployment.service("billing"), invoices))
    rate = invoices / run.duration_s
    ordered = sorted(run.times_ms)
    first, last = run.sizes[len(run.sizes) // 5], max(run.sizes)
    return Figure(
        measured=f"{invoices:,} invoices by {_AT_ONCE} callers in {run.duration_s:.1f} s; memory {first / 1e6:.0f} MB "
        f"after a fifth, {last / 1e6:.0f} MB at most",
        against=f"{_WANTED_PER_S:,} a second",
        unit="invoices",
        target=1,
        ratio=rate / _WANTED_PER_S,
        ratio_low=rate / _WANTED_PER_S,
        ratio_high=rate / _WANTED_PER_S,
        rate_per_s=rate,
        peer_rate_per_s=_WANTED_PER_S,
        p50_ms_at_1=ordered[len(ordered) // 2],
        p99_ms_at_64=ordered[len(ordered) * 99 // 100],
        cpu_us=run.cpu_us,
        peer_cpu_us={},
    )


async def _run(deployment: Deployment, target: str, invoices: int) -> Run:
    metadata = (("authorization", f"Bearer {deployment.token}"),)
    run, organizations = Run(), [new_id() for _ in range(invoices)]
    async with grpc.aio.insecure_channel(target) as channel:
        ledger, stub = ledger_pb2_grpc.LedgerServiceStub(channel), invoice_pb2_grpc.InvoiceServiceStub(channel)

        async def charge(organization_id: str) -> None:
            debits = [
                ledger_pb2.DebitRequest(
                    organization_id=organization_id,
                    operation_id=f"charge-{number}",
                    amount=_PRICE,
                    mode=ledger_pb2.DEBIT_MODE_MUST_POST,
                    description=f"thing {number}",
                )
                for number in range(_DEBITS)
            ]
            await ledger.BatchDebit(ledger_pb2.BatchDebitRequest(requests=debits), metadata=metadata, timeout=_LIMIT_S)

        party = invoice_pb2.InvoiceParty(name="Bench")
        issuer = invoice_pb2.InvoiceIssuer(party=party, prefix="BENCH-")
        await stub.SetInvoiceIssuer(invoice_pb2.SetInvoiceIssuerRequest(issuer=issuer), metadata=metadata)
        await _each(organizations, charge)
        end_time = render_time(datetime.now(UTC))

        async def issue(organization_id: str) -> None:
            began_s = time.monotonic()
            request = invoice_pb2.IssueInvoiceRequest(organization_id=organization_id, end_time=end_time)
            answer = await stub.IssueInvoice(request, metadata=metadata, timeout=_LIMIT_S)
            run.times_ms.append((time.monotonic() - began_s) * 1000)
            run.numbers.append(answer.invoice.number)

        before = deployment.cpu_seconds()
        looking = asyncio.create_task(_look(deployment, run))
        began_s = time.monotonic()
        await _each(organizations, issue)
        run.duration_s = time.monotonic() - began_s
        looking.cancel()
        spent = deployment.cpu_seconds()
        run.cpu_us = {name: (spent[name] - before.get(name, 0)) / invoices * 1e6 for name in ("billing", "postgres")}
        await _check(channel, metadata, run, invoices)
    return run


async def _each(organizations: list[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Do the work for each organization, a few at a time."""
    left = iter(organizations)

    async def some() -> None:
        for organization_id in left:
            await work(organization_id)

    await asyncio.gather(*(some() for _ in range(_AT_ONCE)))


async def _look(deployment: Deployment, run: Run) -> None:
    while True:
        run.sizes.append(deployment.resident_bytes("billing"))
        await asyncio.sleep(_LOOK_EVERY_S)


async def _check(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str]], run: Run, invoices: int) -> None:
    """Compare the numbers with those that there should be, and let billing check what it has stored."""
    if sorted(run.numbers) != [f"BENCH-{number:06}" for number in range(1, invoices + 1)]:
        raise LoadError("numbers of invoices were skipped or given twice")
    stub = integrity_pb2_grpc.IntegrityServiceStub(channel)
    request = integrity_pb2.VerifyInvariantsRequest()
    async for piece in stub.VerifyInvariants(request, metadata=metadata, timeout=_LIMIT_S):
        if piece.HasField("finding"):
            raise LoadError(f"{piece.finding.invariant}: {piece.finding.detail}")
