"""The lines that Postgres makes are those that Python's `csv` and `json` write of the same columns."""

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from libs.common.database import RawConnection
from libs.common.ids import new_id
from services.metering.usage.export import exports, store
from services.metering.usage.export.store import Page, Row, Written
from services.metering.usage.store import Filters
from tests.metering.corrections.calls import amend, restore, tokens, void
from tests.metering.export.calls import CSV, FOCUS, JSON_LINES, File, export, exported
from tests.metering.export.reference import csv_of, json_lines_of
from tests.metering.export.test_exports import FORMULAS
from tests.metering.support import Metering, Platform, eventually, stamp, usage, usd
from tollhouse.metering.v1 import unit_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

_HOSTILE = (
    *FORMULAS,
    *('"', '""', ",", "\n", "\r", "{}", '"{}"', "[]", "null", "%", "%s%1$s", "\\", "\\n", "\\.", "$1", "';--", "''"),
    *("\x01", "\b\f\x1f", "\x7f", "\u2028", "é=", "😀", "\ufeff", "\ufffd", " a ", "a b", "a'b", "-", "0"),
)
_VISIBLE = ("=a", "a,b", 'a"b', "-a", "'a", "@", "+", "a\\b", "%s", "{}", '"')


async def hostile_usage(metering: Metering, organization_id: str) -> Sequence[str]:
    """Record usage with every hostile text in every place, in random company; return the operation ids."""
    chosen, requests = random.Random(1), []
    texts = [*_HOSTILE, "", "x"]
    for number, text in enumerate(_HOSTILE):
        one = usage(
            organization_id,
            f"{chosen.choice(_VISIBLE)}{number}",
            endpoint=chosen.choice(texts),
            error_message=text,
            conversation_id=chosen.choice(texts),
            labels={text.strip() or "key": chosen.choice(texts)} if number % 3 else {},
            user_id=new_id() if number % 2 else "",
            environment=pb.ENVIRONMENT_TEST if number % 7 == 0 else pb.ENVIRONMENT_UNSPECIFIED,
            model=chosen.choice(("gpt-4o", "late", "a,b", 'a"b')),
        )
        if number % 4 == 0:
            one.stated_amount.CopyFrom(usd(f"{number}.50"))
            one.quantities.add(unit="images", value="2")
            one.quantities.add(unit="input_seconds", value="1.50")
        if number % 5 == 0:
            one.latency_ms, one.status_code, one.items, one.partial = number, 200 + number, number, True
        requests.append(one)
    batch = pb.BatchRecordUsageRequest(usages=requests)
    answer = await metering.usage.BatchRecordUsage(batch, metadata=metering.operator)
    assert [one.WhichOneof("outcome") for one in answer.outcomes] == ["recorded"] * len(requests)
    return [one.operation_id for one in requests]


class Columns:
    """Notes the columns of each page that is read, beside as what it is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Row] = []
        self._read = store.rows_of
        monkeypatch.setattr(store, "rows_of", self._both)

    async def _both(
        self, connection: RawConnection, page: Page, filters: Filters, ids: Sequence[str] | None, written: Written
    ) -> Sequence[Row]:
        self.rows += await self._read(connection, page, filters, ids, Written.COLUMNS)
        return await self._read(connection, page, filters, ids, written)

    async def of(self, metering: Metering, request: pb.ExportUsageRequest) -> tuple[File, Sequence[Row]]:
        self.rows = []
        file = await exported(metering, request)
        return file, self.rows


async def test_lines_are_what_python_writes_of_the_same_columns(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await hostile_usage(metering, organization_id)
    for number, operation_id in enumerate(ids[:12]):
        await amend(metering, organization_id, operation_id, f"=fix,{number}", tokens=tokens(number, 7))
        if number % 3:
            await void(metering, organization_id, operation_id, f'-void"{number}')
        if number % 3 == 2:
            await restore(metering, organization_id, operation_id)
    columns = Columns(monkeypatch)
    monkeypatch.setattr(exports, "PAGE_ROWS", 20)
    before, _ = await columns.of(metering, export(organization_id))
    await metering.add_model("late")
    await metering.set_price("late")

    async def priced() -> File:
        return await exported(metering, export(organization_id))

    after = await eventually(priced, lambda file: file.manifest.unpriced_count < before.manifest.unpriced_count)
    now = after.manifest.request.as_of_time
    filters: tuple[dict[str, Any], ...] = (
        {"as_of_time": now},
        {"as_of_time": now, "model": "gpt-4o"},
        {"as_of_time": now, "environment": pb.ENVIRONMENT_TEST},
        {"as_of_time": before.manifest.request.as_of_time},
        {"end_time": stamp(days=-1)},
    )
    for chosen in filters:
        plain, rows = await columns.of(metering, export(organization_id, raw_text=True, **chosen))
        assert plain.data == csv_of(rows, guarded=False)
        guarded, rows = await columns.of(metering, export(organization_id, **chosen))
        assert guarded.data == csv_of(rows, guarded=True)
        lines, rows = await columns.of(metering, export(organization_id, JSON_LINES, **chosen))
        assert lines.data == json_lines_of(rows)
        sums = ("request_count", "unpriced_count", "quantities", "costs", "provider_costs", "charges")
        focus = (await exported(metering, export(organization_id, FOCUS, **chosen))).manifest
        for name in sums:
            told = [getattr(one, name) for one in (plain.manifest, guarded.manifest, lines.manifest, focus)]
            assert told == [told[0]] * 4
        assert bool(rows) == ("end_time" not in chosen)
    assert {row["error_message"] for row in after.table()} >= {f"'{text}" for text in FORMULAS[:-1]}


async def test_stream_goes_on_in_the_middle_of_corrected_usage_with_hostile_text(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_id = (await hostile_usage(metering, organization_id))[3]
    for count in range(6):
        await amend(metering, organization_id, operation_id, f",{count}", tokens=tokens(count, 1))
    monkeypatch.setattr(exports, "SLICE_ROWS", 3)
    monkeypatch.setattr(exports, "_PIECE", 1)
    for form in (CSV, JSON_LINES):
        whole = await exported(metering, export(organization_id, form))
        before = b""
        for piece in whole.pieces[:-1:2]:
            before = whole.data[: whole.data.index(piece.body.data) + len(piece.body.data)]
            rest = await exported(metering, export(organization_id, form, resume_token=piece.resume_token))
            assert (before + rest.data, rest.manifest) == (whole.data, whole.manifest)


async def test_what_is_taken_out_is_below_zero_in_each_unit(metering: Metering, organization_id: str) -> None:
    units = [unit_pb2.Quantity(unit="images", value="2"), unit_pb2.Quantity(unit="input_seconds", value="1.50")]
    await metering.record(usage(organization_id, "a", quantities=units, stated_amount=usd("1")))
    await void(metering, organization_id, "a")
    file = await exported(metering, export(organization_id, JSON_LINES))
    taken = {"images": Decimal(-2), "input_seconds": Decimal("-1.5")}
    assert file.objects()[1]["quantities"] == taken
    assert b'"quantities":{"images": -2, "input_seconds": -1.5}' in file.data
    assert [(one.unit, one.value) for one in file.manifest.quantities][:2] == [("images", "0"), ("input_seconds", "0")]


def test_driver_keeps_each_statement() -> None:
    statements = [text for pair in store._STATEMENTS.values() for text in pair]
    assert max(map(len, statements)) <= 15 * 1024, "asyncpg would prepare it anew for each page"
