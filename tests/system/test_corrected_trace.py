"""Real usage with corrections, a re-rate in the middle and a dropped month ends with the exact bill."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from libs.cli.terminal.connection import Channels
from libs.cli.traces.bill import read_bill
from libs.cli.traces.funding import Price, list_prices
from libs.cli.traces.population import Population, make_population
from libs.cli.traces.synthetic import write_synthetic_trace
from libs.cli.traces.trace import Row, Trace, read_trace
from tests.system.installation import Installation, running
from tests.system.test_replay import REAL_TRACE
from tollhouse.metering.v1 import (
    model_pb2,
    model_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

pytestmark = pytest.mark.thorough

SYNTHETIC_ROWS = 1_200
MODEL = "gpt-4o"
MONTH = "2023-11"
PARTS = ("first", "second")
# A month is dropped at once, and not a minute after it was sealed.
QUICKLY = {"TOLLHOUSE_METERING_DROP_SEAL_S": "0", "TOLLHOUSE_METERING_DROPS_EVERY_S": "0.1"}


@dataclass(frozen=True)
class Call:
    """One call of the trace, as it is after what the test did to it."""

    prefix: str
    row: Row
    organization_id: str
    model: str
    voided: bool = False

    @property
    def operation_id(self) -> str:
        return f"{self.prefix}:{self.row.number}"


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Installation]:
    async with running(Installation(tmp_path / "own", environment=QUICKLY, prepared=True)) as installation:
        yield installation


def split(path: Path, folder: Path) -> list[Path]:
    """Write a trace as two files, the second of which begins where the first one ends."""
    header, *lines = path.read_text().splitlines()
    parts = [folder / f"{name}.csv" for name in PARTS]
    for part, of_part in zip(parts, (lines[: len(lines) // 2], lines[len(lines) // 2 :]), strict=True):
        part.write_text("\n".join([header, *of_part]) + "\n")
    return parts


def calls_of(prefix: str, trace: Trace, population: Population) -> list[Call]:
    makers = [(row, *population.maker_of(row.number)) for row in trace.rows]
    return [Call(prefix, row, seat.organization_id, model) for row, seat, model in makers]


async def amend(usage: usage_pb2_grpc.UsageServiceStub, call: Call, operation_id: str) -> None:
    """Give the usage of a call the tokens that it has here."""
    request = usage_pb2.AmendUsageRequest(
        organization_id=call.organization_id,
        usage_operation_id=call.operation_id,
        operation_id=operation_id,
        tokens=model_pb2.TokenCounts(input=call.row.input_tokens, output=call.row.output_tokens),
    )
    request.update_mask.paths.append("tokens")
    await usage.AmendUsage(request)


async def corrected(usage: usage_pb2_grpc.UsageServiceStub, calls: Sequence[Call]) -> list[Call]:
    """Amend every seventh call, void every eleventh, and restore every second of those."""
    done: list[Call] = []
    for number, call in enumerate(calls):
        organization_id, operation_id = call.organization_id, call.operation_id
        if number % 7 == 0:
            call = replace(call, row=replace(call.row, output_tokens=3 * call.row.output_tokens + number % 2))
            await amend(usage, call, f"amend:{operation_id}")
        if number % 11 == 0:
            call = replace(call, voided=bool(number % 2))
            await usage.VoidUsage(
                usage_pb2.VoidUsageRequest(
                    organization_id=organization_id,
                    usage_operation_id=operation_id,
                    operation_id=f"void:{operation_id}",
                )
            )
            if not call.voided:
                await usage.RestoreUsage(
                    usage_pb2.RestoreUsageRequest(
                        organization_id=organization_id,
                        usage_operation_id=operation_id,
                        operation_id=f"restore:{operation_id}",
                    )
                )
        done.append(call)
    return done


async def rerated(channels: Channels, since: datetime, until: datetime) -> None:
    """Set another price of a model since a time, and price again what was recorded since then, as the preview says."""
    card = model_pb2.SetPriceRequest(model_id=MODEL, currency_code="USD", request_id="another-price")
    card.prices.input, card.prices.output = "1.234567", "17.00000001"
    card.effective_time.FromDatetime(since)
    await model_pb2_grpc.ModelServiceStub(channels.metering).SetPrice(card)
    usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
    wanted = usage_pb2.RerateUsageRequest(operation_id="rerate", models=[MODEL], page_size=1_000)
    wanted.start_time.FromDatetime(since)
    wanted.end_time.FromDatetime(until)
    preview = usage_pb2.RerateUsageRequest(validate_only=True)
    preview.MergeFrom(wanted)
    shown = await usage.RerateUsage(preview)
    assert shown.digest
    assert {one.model for one in shown.differences} == {MODEL}
    wanted.digest = shown.digest
    wanted.page_size = 0
    job_id = (await usage.RerateUsage(wanted)).job.job_id
    job = usage_pb2.RerateJob(state=usage_pb2.RERATE_JOB_STATE_RUNNING)
    for _ in range(3_000):
        if job.state not in (usage_pb2.RERATE_JOB_STATE_CHECKING, usage_pb2.RERATE_JOB_STATE_RUNNING):
            break
        await asyncio.sleep(0.1)
        job = (await usage.GetRerateJob(usage_pb2.GetRerateJobRequest(job_id=job_id))).job
    assert job.state == usage_pb2.RERATE_JOB_STATE_DONE
    assert job.sums.changed_count == sum(one.sums.changed_count for one in shown.differences) > 0
    assert not job.sums.failures


def dropped(installation: Installation, archive: Path) -> None:
    """Let the month be kept no longer; export, verify and drop it."""
    assert installation.command("retention", "set", "2").returncode == 0
    month = ("--since", "2023-11-01T00:00:00Z", "--until", "2023-12-01T00:00:00Z")
    for number, wrong in enumerate(((*month, "--model", MODEL), ("--since", "2023-11-16T00:00:00Z", *month[2:]))):
        other = archive.with_name(f"other-{number}.csv")
        assert installation.command("usage", "export", *wrong, "--out", str(other)).returncode == 0
        refused = installation.command("retention", "retire", MONTH, "--out", str(other))
        assert refused.returncode == 1
        assert f"is not an export of all usage of {MONTH}" in refused.stdout
    done = installation.command("retention", "retire", MONTH, "--out", str(archive))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dropped" in done.stdout.split()


@pytest.mark.timeout(1_200)
async def test_real_usage_with_corrections_a_rerate_and_a_dropped_month_ends_with_the_exact_bill(
    own: Installation, tmp_path: Path
) -> None:
    """The test uses the published trace if it is available, otherwise a synthetic one of the same kind."""
    path = REAL_TRACE
    if not path.exists():
        path = tmp_path / "synthetic.csv"
        write_synthetic_trace(path, calls=SYNTHETIC_ROWS)
    files = split(path, tmp_path)
    traces = [read_trace(file, skip_bad_rows=False) for file in files]

    def replay(number: int) -> None:
        done = own.command("replay", str(files[number]), "--keep-times", "--operation-prefix", PARTS[number])
        assert done.returncode == 0, done.stderr

    replay(0)
    async with own.connection().open() as channels:
        population = await make_population(channels)
        usage = usage_pb2_grpc.UsageServiceStub(channels.metering)
        before = await list_prices(channels)
        calls = await corrected(usage, calls_of(PARTS[0], traces[0], population))
        since = traces[0].rows[len(traces[0].rows) // 2].time
        await rerated(channels, since, traces[0].end + timedelta(microseconds=1))
        after = await list_prices(channels)
        assert after[MODEL] != before[MODEL]
        replay(1)
        calls += await corrected(usage, calls_of(PARTS[1], traces[1], population))
        # A correction after a re-rate is computed with the price that the usage has since.
        calls = await again_corrected(usage, calls)
        expected = sums_of(calls, before, after, since)
        for drop in (False, True):
            if drop:
                dropped(own, tmp_path / "archive.jsonl")
            bill = await read_bill(
                channels, population.organizations, start=traces[0].start, end=traces[1].end, prefix=PARTS[0]
            )
            found = {
                organization.organization_id: (sum(line.requests for line in one.lines), one.cost, one.charged)
                for organization, one in zip(population.organizations, bill.organizations, strict=True)
            }
            assert found == expected
            assert own.verify()["violations"] == 0


async def again_corrected(usage: usage_pb2_grpc.UsageServiceStub, calls: Sequence[Call]) -> list[Call]:
    """Amend every thirteenth call that is not voided, once more."""
    done: list[Call] = []
    for number, call in enumerate(calls):
        if number % 13 == 0 and not call.voided:
            call = replace(call, row=replace(call.row, output_tokens=call.row.output_tokens + 7))
            await amend(usage, call, f"again:{call.operation_id}")
        done.append(call)
    return done


def sums_of(
    calls: Sequence[Call], before: Mapping[str, Price], after: Mapping[str, Price], since: datetime
) -> dict[str, tuple[int, Decimal, Decimal]]:
    """Return the calls, the cost and what is charged by organization, computed from the prices and the calls alone."""
    sums: dict[str, tuple[int, Decimal, Decimal]] = {}
    for call in calls:
        if not call.voided:
            prices = after if call.row.time >= since else before
            cost = prices[call.model].cost_of(call.row)
            number, costs, charged = sums.get(call.organization_id, (0, Decimal(0), Decimal(0)))
            sums[call.organization_id] = number + 1, costs + cost, charged + cost
    return sums
