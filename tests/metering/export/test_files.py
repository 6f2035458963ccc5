"""Exported files: whole after any kill, read back by others, and checked against manifest, metering and ledger."""

import asyncio
import csv
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet
import pytest

from libs.cli.exports.checking import Findings, check_export
from libs.cli.exports.reading import FORMS
from libs.cli.exports.writing import manifest_of, write_export
from libs.cli.failures import CommandFailed, WrongUse
from libs.cli.terminal.connection import Channels, Connection
from libs.cli.terminal.progress import Progress
from libs.common.errors import Unavailable
from services.metering.usage.export import exports, store
from tests.metering.corrections.calls import amend, void
from tests.metering.export import dying_export
from tests.metering.export.calls import CSV, FOCUS, JSON_LINES, export, exported
from tests.metering.export.test_exports import FORMULAS, corrected
from tests.metering.support import Metering, Platform, usage, usd
from tests.support.forked import exit_code_of
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1 import usage_pb2_grpc

_FORMATS = {"csv": CSV, "jsonl": JSON_LINES, "focus": FOCUS, "parquet": CSV}


_TAMPERED: tuple[tuple[str, object], ...] = (
    *(("version", 2), ("request", 3), ("request", "\ud800"), ("row_count", "x"), ("unpriced_count", "9" * 5000)),
    *(("costs", None), ("costs", [1]), ("costs", [{}])),
    ("costs", [{"currency_code": "USD", "value": "1e999999999"}]),
)


def connection_of(platform: Platform) -> Connection:
    return Connection(
        identity=f"127.0.0.1:{platform.identity_port}",
        billing=f"127.0.0.1:{platform.billing_port}",
        metering=f"127.0.0.1:{platform.metering_port}",
        token=platform.callers.token(platform.callers.operator_key),
    )


@asynccontextmanager
async def channels_of(platform: Platform) -> AsyncIterator[Channels]:
    async with connection_of(platform).open() as channels:
        yield channels


async def written(
    channels: Channels, request: pb.ExportUsageRequest, file: Path, form: str = "csv", *, resume: bool = False
) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(channels.metering)
    await write_export(stub, request, file, {"format": form}, resume=resume, progress=Progress())


def request_of(organization_id: str, form: str) -> pb.ExportUsageRequest:
    return export(organization_id, _FORMATS[form], raw_text=form == "parquet")


@pytest.mark.shards
async def test_file_of_each_form_agrees_with_manifest_metering_and_ledger(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    await corrected(metering, organization_id)
    for number, text in enumerate(FORMULAS):
        await metering.record(usage(organization_id, f"={number}'", endpoint=text, labels={"a": text}))
    await platform.settled()
    async with channels_of(platform) as channels:
        for form in FORMS:
            file = tmp_path / f"usage.{form}"
            await written(channels, request_of(organization_id, form), file, form)
            beside = [name for name in os.listdir(tmp_path) if name.startswith(file.name)]
            assert sorted(beside) == [file.name, manifest_of(file).name]
            found = await check_export(file, channels, Progress())
            assert (found.differences, found.waiting) == ([], 0)
            assert found.charges == 5 + 1 + 4 + len(FORMULAS)
            with pytest.raises(WrongUse):
                await written(channels, request_of(organization_id, form), file, form)
    table = pyarrow.parquet.read_table(tmp_path / "usage.parquet").to_pylist()
    with (tmp_path / "usage.csv").open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["usage_id"] for row in table] == [row["usage_id"] for row in rows]
    assert sum(row["cost"] or 0 for row in table) == sum(Decimal(row["cost"] or 0) for row in rows)
    assert [row["endpoint"] for row in table if row["endpoint"]] == list(FORMULAS)
    assert table[0]["occur_time"].tzinfo is not None


async def test_export_without_rows_is_a_file_as_well(platform: Platform, organization_id: str, tmp_path: Path) -> None:
    async with channels_of(platform) as channels:
        for form in FORMS:
            file = tmp_path / f"none.{form}"
            await written(channels, request_of(organization_id, form), file, form)
            found = await check_export(file, channels, Progress())
            assert (found.differences, found.rows) == ([], 0)


@pytest.mark.thorough
async def test_export_that_is_killed_at_any_step_goes_on_to_the_same_file(
    platform: Platform,
    metering: Metering,
    organization_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 3)
    for number in range(3):
        await metering.record(usage(organization_id, f"call-{number}"))
    whole = await exported(metering, export(organization_id))
    request = export(organization_id, as_of_time=whole.manifest.request.as_of_time)
    first = pb.ExportUsageRequest.SerializeToString(request)
    connection, step = connection_of(platform), 0
    while True:
        step += 1
        file = tmp_path / f"{step}.csv"
        ended = await exit_code_of(dying_export.run, connection, first, file, "csv", step)
        assert ended in (0, -signal.SIGKILL)
        if ended == 0:
            break
        assert not file.exists() or manifest_of(file).exists()
        if not file.exists():
            async with channels_of(platform) as channels:
                await written(channels, request, file, resume=True)
        assert file.read_bytes().split(b"\r\n")[1:] == whole.data.split(b"\r\n")[1:]
        assert (await check_export(file, None, Progress())).differences == []
    assert step > 10
    assert [name for name in os.listdir(tmp_path) if not name.endswith((".csv", ".manifest.json"))] == []


async def test_stream_that_breaks_is_begun_again_where_it_broke(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    for number in range(6):
        await metering.record(usage(organization_id, f"call-{number}"))
    whole = await exported(metering, export(organization_id))
    read, pages = store.rows_of, 0

    async def fail(*arguments: object, **named: object) -> object:
        nonlocal pages
        pages += 1
        if pages % 2 == 0:
            raise Unavailable(dependency="database")
        return await read(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "rows_of", fail)
    async with channels_of(platform) as channels:
        await written(channels, export(organization_id), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == whole.data


async def test_unfinished_export_is_not_mixed_with_another(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    await metering.record(usage(organization_id))
    file = tmp_path / "a.csv"
    async with channels_of(platform) as channels:
        assert await exit_code_of(dying_export.run, connection_of(platform), b"", file, "csv", 7) == -9
        with pytest.raises(WrongUse, match="--resume"):
            await written(channels, export(organization_id), file)
        with pytest.raises(WrongUse, match="other options"):
            await written(channels, export(organization_id), file, "jsonl", resume=True)
        file.with_name("a.csv.resume").write_text("{}")
        with pytest.raises(CommandFailed, match="damaged"):
            await written(channels, export(organization_id), file, resume=True)
        file.with_name("a.csv.resume").unlink()
        await written(channels, export(organization_id), file, resume=True)
        with pytest.raises(CommandFailed, match="manifest"):
            await check_export(tmp_path / "b.csv", channels, Progress())


async def test_charge_that_a_correction_gave_up_is_no_difference(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    await platform.fund(organization_id)
    for name in ("voided", "amended", "refused"):
        eur = Amount(currency_code="EUR", value="1.5")
        await metering.record(usage(organization_id, name, stated_amount=eur))
    await void(metering, organization_id, "voided")
    await amend(metering, organization_id, "amended", stated_amount=usd("2"))
    async with channels_of(platform) as channels:
        for form in FORMS:
            file = tmp_path / f"given-up.{form}"
            await written(channels, request_of(organization_id, form), file, form)
            told = (await check_export(file, channels, Progress())).differences
            assert told == [f"{organization_id} refused: the file has 1.5 EUR, but billing refuses it"], form


@pytest.mark.own_database
async def test_each_difference_is_named(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    for name in ("right", "lost", "more", "waits", "refused"):
        await metering.record(usage(organization_id, name))
    await platform.settled()
    file = tmp_path / "a.csv"

    async def check() -> Findings:
        return await check_export(file, channels, Progress())

    async with channels_of(platform) as channels:
        await written(channels, export(organization_id), file)
        await platform.execute("DELETE FROM billing.transactions WHERE operation_id IN ('lost', 'waits', 'refused')")
        await platform.execute("UPDATE billing.transactions SET amount = amount + 1 WHERE operation_id = 'more'")
        for name, state in (("waits", "PENDING"), ("refused", "REFUSED")):
            await platform.execute(
                "INSERT INTO metering.outbox (organization_id, operation_id, kind, state, amount, currency_code,"
                " description, attempt_count, next_attempt_time, create_time) SELECT organization_id, operation_id,"
                " 'DEBIT', $2, cost, currency_code, '', 0, now() + interval '1 day', now()"
                " FROM metering.usage_records WHERE operation_id = $1",
                name,
                state,
            )
        found = await check()
        assert (found.charges, found.waiting) == (5, 1)
        assert sorted(found.differences) == [
            f"{organization_id} lost: the file has 0.0035 USD, but the ledger has no such charge",
            f"{organization_id} more: the file has 0.0035 USD, the ledger has 1.0035 USD",
            f"{organization_id} refused: the file has 0.0035 USD, but billing refuses it",
        ]
        later = "UPDATE metering.usage_records SET create_time = now() + interval '1 day' WHERE operation_id = 'right'"
        await platform.execute(later)
        assert "row_count of the manifest is 5, metering has 4" in (await check()).differences
        data, manifest = file.read_bytes(), json.loads(manifest_of(file).read_bytes())
        file.write_bytes(data.replace(b",0.0035,USD", b",0.0036,USD", 1))
        told = (await check_export(file, None, Progress())).differences
        assert [text.split(" ")[0] for text in told] == ["sha256", "digest", "costs"]
        assert told[2] == "costs of the manifest in USD are 0.0175, the file has 0.0176"
        too_large = data.replace(b",0.0035,", b",1e9999999,")
        for broken in (data[:-10], data + b"x", b"", b'"', b"\xff\xff\n", too_large, data.replace(b"1000", b"many")):
            file.write_bytes(broken)
            assert (await check_export(file, None, Progress())).count > 0
        file.write_bytes(data)
        manifest["row_count"] = "6"
        manifest_of(file).write_text(json.dumps(manifest))
        told = (await check_export(file, None, Progress())).differences
        assert told == ["row_count of the manifest is 6, the file has 5"]
        for wrong in (
            "",
            "[]",
            "{}",
            "[" * 100_000,
            *(json.dumps(manifest | {name: value}) for name, value in _TAMPERED),
        ):
            manifest_of(file).write_text(wrong)
            with pytest.raises(CommandFailed):
                await check_export(file, None, Progress())


async def test_two_exports_into_one_file_do_not_mix(
    platform: Platform, metering: Metering, organization_id: str, tmp_path: Path
) -> None:
    await metering.record(usage(organization_id))
    async with channels_of(platform) as channels:
        asked = [written(channels, export(organization_id), tmp_path / "a.csv") for _ in range(3)]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(one is None for one in ended) == 1
        assert all(one is None or isinstance(one, CommandFailed) for one in ended)
        assert (await check_export(tmp_path / "a.csv", None, Progress())).differences == []
