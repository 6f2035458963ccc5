"""`tollhouse usage …`: corrections, sums, trends, exports and watching from the command line."""

import asyncio
import json
import os
import signal
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.cli.installation.health import is_serving
from libs.cli.terminal.chart import ROWS_MAX, Bar, bars
from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation, create_organization, until
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc, usage_pb2, usage_pb2_grpc


async def test_usage_is_amended_voided_and_restored(installation: Installation) -> None:
    model = f"model-{new_id()}"
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        request = usage_pb2.RecordUsageRequest(
            organization_id=organization_id,
            operation_id="call",
            model=model,
            tokens=model_pb2.TokenCounts(input=10),
            stated_amount=Amount(value="2", currency_code="USD"),
        )
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        await stub.RecordUsage(request)
        request.ClearField("stated_amount")
        request.operation_id = "waiting"
        await stub.RecordUsage(request)
    usage = (organization_id, "call")

    trial = done(installation, "usage", "amend", *usage, "--amount", "3:USD", "--validate-only")
    assert trial.splitlines()[4:] == [
        f"{'cost before':<24} 2 USD",
        f"{'cost after':<24} 3 USD",
        f"{'debited':<24} 1 USD",
    ]
    amended = made(
        installation,
        *("usage", "amend", *usage, "--tokens", "input=5", "--label", "team=a", "--quantity", "images=2"),
        *("--items", "3", "--occurred", "1h", "--amount", "1:USD", "--reason", "wrong", "--operation", "fix"),
    )
    assert amended["operation_id"] == "fix"
    assert "given back" in done(installation, "usage", "void", *usage)
    assert "debited" in done(installation, "usage", "restore", *usage)
    kinds = [one["kind"] for one in found(installation, "usage", "corrections", organization_id, "--usage", "call")]
    assert [kind.rpartition("_")[2] for kind in kinds] == ["RESTORE", "VOID", "AMEND"]
    (waiting,) = found(installation, "usage", "pending", "--organization", organization_id, "--model", model)
    assert waiting["usage_count"] == "1"
    for wrong in ((), ("--tokens", "input=-1"), ("--tokens", "inputs=1"), ("--label", "x")):
        refused(installation, 2, "usage", "amend", *usage, *wrong)


async def test_usage_is_summed_and_its_trends_are_shown(installation: Installation) -> None:
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        for number, model in enumerate(("large", "large", "small", "tiny")):
            request = usage_pb2.RecordUsageRequest(
                organization_id=organization_id,
                operation_id=f"call-{number}",
                model=model,
                tokens=model_pb2.TokenCounts(input=10 + number),
                stated_amount=Amount(value="0.5", currency_code="USD"),
                latency_ms=40,
                status_code=500 if number == 3 else 200,
            )
            request.labels["batch_id"] = "b-1"
            await stub.RecordUsage(request)
    asked = ("usage", "query", organization_id, "--since", "2h", "--by", "model", "--by", "batch-id")

    whole = found(installation, *asked, "--window", "day", "--zone", "Asia/Kolkata", "--filter", "model=large")
    assert [(one["model"], one["request_count"], one["total_tokens"]) for one in whole] == [("large", "2", "21")]
    header, *lines = done(installation, *asked, "--top", "1:cost:USD").splitlines()
    assert header.split()[:3] == ["start", "time", "model"]
    assert [line.split()[1:6] for line in lines] == [
        ["large", "b-1", "2", "0", "21"],
        ["(others)", "(others)", "2", "1", "25"],
    ]
    # Nothing has a provider's cost, so two columns are left out. The day is that of the zone.
    assert " ".join(header.split()[3:]) == "batch id requests errors tokens cost mean ms p50 ms p95 ms p99 ms"
    today = datetime.now(ZoneInfo("Asia/Kolkata")).date()
    lines = done(installation, *asked, "--window", "day", "--zone", "Asia/Kolkata").splitlines()[1:]
    assert {line.split()[0] for line in lines} <= {str(today - timedelta(days=ago)) for ago in range(2)}
    minutes = found(installation, "usage", "query", organization_id, "--since", "2h", "--window", "minute")
    assert sum(int(one["request_count"]) for one in minutes) == 4

    shown = done(installation, "usage", "trends", organization_id, "--measure", "cost:USD", "--window", "week")
    assert shown.splitlines()[:3] == [f"{'measure':<24} cost:USD", f"{'last week':<24} 0", f"{'the one before':<24} 0"]
    assert made(installation, "usage", "trends", organization_id)["change"]
    for wrong in ("--window=year", "--by=colour", "--top=many", "--top=3:beauty", "--filter=x"):
        refused(installation, 2, *asked, wrong)


async def test_usage_is_exported_and_verified(installation: Installation, tmp_path: Path) -> None:
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        request = usage_pb2.RecordUsageRequest(
            organization_id=organization_id,
            operation_id="call",
            model=f"model-{new_id()}",
            tokens=model_pb2.TokenCounts(input=10),
            stated_amount=Amount(value="2", currency_code="USD"),
        )
        await usage_pb2_grpc.UsageServiceStub(channels.metering).RecordUsage(request)
    file = ""
    nowhere = ("usage", "export", "--out", str(tmp_path / "no-folder" / "file"))
    assert "No such file or directory" in refused(installation, 1, *nowhere)
    refused(installation, 2, "usage", "export", "--organization", "acme", "--out", str(tmp_path / "usage.focus"))
    for form in ("focus", "csv"):
        file = str(tmp_path / f"usage.{form}")
        asked = ("usage", "export", "--organization", organization_id, "--since", "1h", "--format", form, "--out", file)
        assert done(installation, *asked).startswith("1 rows in ")
        assert "is there already" in refused(installation, 2, *asked)
        verified = made(installation, "usage", "verify-export", file)
        assert (f"{verified['rows']}", f"{verified['difference_count']}") == ("1", "0")
        assert "1 rows, 0 charges compared" in done(installation, "usage", "verify-export", file, "--file-only")
    _damage(Path(file))
    finished = installation.command("usage", "verify-export", file)
    assert finished.returncode == 1
    assert finished.stdout.startswith("sha256 of the manifest is ")
    refused(installation, 2, "usage", "verify-export", str(tmp_path / "missing"))
    refused(installation, 2, "usage", "export", "--environment", "x", "--out", str(tmp_path / "x"))


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"call", b"cell"))


async def test_usage_is_watched_beyond_a_kill_of_metering_and_summed(
    installation: Installation,
) -> None:
    model = f"model-{new_id()}"
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        process = installation.start_command("usage", "watch", organization_id, "--since", "1h")
        request = usage_pb2.RecordUsageRequest(
            organization_id=organization_id, operation_id="watched", model=model, tokens=model_pb2.TokenCounts(input=10)
        )
        await stub.RecordUsage(request)
    assert process.stdout is not None
    lines = [await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30)]
    killed, target = installation.pids()["metering"], installation.endpoints()["metering"]
    os.kill(killed, signal.SIGKILL)

    async def is_back() -> bool:
        return installation.pids()["metering"] != killed and await is_serving(target)

    await until(is_back, 30, "metering is back")
    done(installation, "usage", "void", organization_id, "watched", "--reason", "test")
    lines.append(await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert f"watched {model} 10 tokens no price yet" in lines[0]
    assert "watched VOID test" in lines[1]
    assert process.returncode == 130, errors
    table = done(installation, "usage", "query", organization_id, "--by", "model", "--since", "1d").splitlines()
    assert all("█" not in line and "#" not in line for line in table)
    assert json.loads(done(installation, "usage", "query", organization_id, "--json")) is not None
    refused(installation, 2, "usage", "query", organization_id, "--by", "colour")


@pytest.mark.parametrize(("blocks", "sign"), [(True, "█"), (False, "#")])
def test_bars_stand_for_their_values_in_any_width(blocks: bool, sign: str) -> None:
    rows = [
        Bar("2026-11-27 a", Decimal(100), "100"),
        Bar("模型" * 30, Decimal(50), "50"),
        Bar("none", Decimal(0), "0"),
        Bar("back", Decimal(-3), "-3"),
        Bar("least", Decimal("1e-30"), "1e-30"),
    ]
    for width in (20, 40, 80, 500):
        lines = bars(rows, width=width, blocks=blocks)
        assert len(lines) == 5
        longest, half, *_ = (line.count(sign) for line in lines)
        assert abs(longest - 2 * half) <= 1
        assert sign not in lines[2] + lines[3]
        assert lines[4].split()[1] in "#▏"
        assert width < 40 or all(len(line) <= 80 for line in lines)
    assert bars([], blocks=blocks) == []
    many = bars([Bar(str(n), Decimal(n), str(n)) for n in range(ROWS_MAX + 5)], blocks=blocks)
    assert many[-1] == "and 5 more, which the chart leaves out"


async def test_usage_is_rerated_after_a_preview(installation: Installation) -> None:
    model = f"model-{new_id()}"
    async with installation.connection().open() as channels:
        organization_id = await create_organization(channels)
        models = model_pb2_grpc.ModelServiceStub(channels.metering)
        await models.CreateModel(model_pb2.CreateModelRequest(request_id=new_id(), model_id=model, provider="x"))
        stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
        for price in (1, 2):
            prices = model_pb2.TokenPrices(input=str(price), output="1")
            request = model_pb2.SetPriceRequest(
                request_id=new_id(),
                model_id=model,
                currency_code="USD",
                prices=prices,
                effective_time=Timestamp(seconds=price),
            )
            await models.SetPrice(request)
            if price == 1:
                used = usage_pb2.RecordUsageRequest(
                    organization_id=organization_id,
                    operation_id="call",
                    model=model,
                    tokens=model_pb2.TokenCounts(input=1_000_000),
                )
                await stub.RecordUsage(used)
    chosen = ("usage", "rerate", "--start", "1h", "--organization", organization_id, "--model", model)
    trial = json.loads(done(installation, *chosen, "--validate-only", "--json"))
    assert trial["differences"][0]["sums"]["amounts"][0]["after"]["value"] == "2"
    assert "1 USD" in done(installation, *chosen, "--validate-only")
    started = done(installation, *chosen, "--yes", "--reason", "dearer", "--operation", f"rerate-{new_id()}", "--json")
    job = json.loads(started)
    assert job["state"] == "RERATE_JOB_STATE_DONE"
    assert job["sums"]["changed_count"] == "1"
    assert "DONE" in done(installation, "usage", "rerate", "--status", str(job["job_id"]))
    for verb in ("--pause", "--resume", "--cancel"):
        refused(installation, 1, "usage", "rerate", verb, str(job["job_id"]))
    refused(installation, 2, "usage", "rerate")
    refused(installation, 2, "usage", "rerate", "--pause", new_id(), "--cancel", new_id())
