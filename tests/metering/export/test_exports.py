"""What an exported file has: each usage and each correction, and the sums of QueryUsage and of the ledger."""

import base64
import json
import zlib
from collections.abc import AsyncIterable
from decimal import Decimal

import grpc
import pytest

from libs.common.errors import Unavailable
from libs.common.ids import new_id
from services.metering.usage.export import exports, store
from tests.metering.corrections.calls import amend, charged, restore, tokens, void
from tests.metering.export.calls import CSV, FOCUS, JSON_LINES, digest_of, export, exported, values
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage, usd
from tollhouse.metering.v1 import unit_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

FORMULAS = ('=HYPERLINK("http://x.test","y")', "+1", "-2", "@cmd", "\tx", "\rx", "\nx", "'x", 'a,"b"\r\nc')


async def corrected(metering: Metering, organization_id: str) -> None:
    """Record usage that is amended, voided, restored, tested, stated, in other units, and without a price."""
    for name in ("plain", "amended", "voided", "restored"):
        await metering.record(usage(organization_id, name))
    await metering.record(usage(organization_id, "test", environment=pb.ENVIRONMENT_TEST))
    await metering.record(usage(organization_id, "stated", stated_amount=usd("15")))
    units = [unit_pb2.Quantity(unit="images", value="2"), unit_pb2.Quantity(unit="input_seconds", value="1.5")]
    await metering.record(usage(organization_id, "units", quantities=units, stated_amount=usd("1")))
    await metering.record(usage(organization_id, "unpriced", model="unknown"))
    await amend(metering, organization_id, "amended", tokens=tokens(3000, 100))
    await amend(metering, organization_id, "amended", occur_time=stamp(hours=-5))
    await void(metering, organization_id, "voided")
    await void(metering, organization_id, "restored")
    await restore(metering, organization_id, "restored")
    await amend(metering, organization_id, "units", quantities=units[:1])


@pytest.mark.shards
@pytest.mark.parametrize("form", [CSV, JSON_LINES, FOCUS])
async def test_every_form_adds_up_to_the_sums_and_to_the_ledger(
    platform: Platform, metering: Metering, organization_id: str, form: pb.UsageExportFormat.ValueType
) -> None:
    await corrected(metering, organization_id)
    await platform.settled()
    file = await exported(metering, export(organization_id, form, start_time=stamp(days=-1)))
    query = pb.QueryUsageRequest(
        organization_id=organization_id,
        start_time=stamp(days=-1),
        end_time=stamp(hours=1),
        include_test=True,
    )
    sums = (await metering.usage.QueryUsage(query, metadata=metering.operator)).summaries
    manifest = file.manifest
    assert manifest.request_count == sum(one.request_count for one in sums)
    assert {one.unit: one.value for one in manifest.quantities} == {
        "input_tokens": str(sum(one.tokens.input for one in sums)),
        "output_tokens": str(sum(one.tokens.output for one in sums)),
        "images": "2",
        "input_seconds": "0",
    }
    assert values(manifest.costs)["USD"] == sum(Decimal(one.cost.value) for one in sums if one.HasField("cost"))
    assert values(manifest.charges) == {"USD": await charged(platform, organization_id)}
    assert manifest.unpriced_count == 1
    assert (manifest.byte_count, manifest.digest) == (len(file.data), digest_of(file.data))
    rows = file.objects() if form == JSON_LINES else file.table()
    assert manifest.row_count == len(rows) == file.pieces[-1].row_count
    if form == FOCUS:
        return
    cost = sum(Decimal(str(row.get("cost") or 0)) for row in rows)
    asked = sum(Decimal(str(row.get("charged_amount") or 0)) for row in rows)
    moved = [
        Decimal(str(one["amount"])) for row in rows if row.get("movements") for one in _movements(row["movements"])
    ]
    assert (cost, asked + sum(moved)) == (values(manifest.costs)["USD"], values(manifest.charges)["USD"])
    assert len(moved) == 4


def _movements(value: object) -> list[dict[str, object]]:
    return json.loads(value, parse_float=Decimal) if isinstance(value, str) else value  # type: ignore[return-value]


async def test_corrections_stand_after_their_usage_as_what_they_take_out_and_put_in(
    metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call", labels={"team": "a"}))
    await amend(metering, organization_id, "call", "fix", tokens=tokens(3000, 100))
    await void(metering, organization_id, "call", "gone")
    file = await exported(metering, export(organization_id))
    told = [
        tuple(row[name] for name in ("operation_id", "correction_operation_id", "correction_kind", "request_count"))
        for row in file.table()
    ]
    assert told == [
        ("call", "", "", "1"),
        ("call", "fix", "AMEND", "-1"),
        ("call", "fix", "AMEND", "1"),
        ("call", "gone", "VOID", "-1"),
    ]
    assert [row["input_tokens"] for row in file.table()] == ["1000", "-1000", "3000", "-3000"]
    assert values(file.manifest.costs) == {"USD": Decimal(0)}


async def test_text_is_made_harmless_in_csv_and_stays_as_it_is_in_json(
    metering: Metering, organization_id: str
) -> None:
    for number, text in enumerate(FORMULAS):
        one = usage(
            organization_id,
            f"={number}",
            endpoint=text,
            error_message=text,
            conversation_id=text,
            labels={text.strip(): text},
            stated_amount=usd("15"),
        )
        await metering.record(one)
        await void(metering, organization_id, f"={number}", f"-void{number}")
    csv_file = await exported(metering, export(organization_id, byte_order_mark=True))
    assert csv_file.data.startswith(b"\xef\xbb\xbforganization_id,occur_time,")
    assert csv_file.data.count(b"\r\n") == 1 + len(csv_file.table()) + 3 * 2
    for row in csv_file.table():
        text = FORMULAS[int(row["operation_id"].removeprefix("'="))]
        harmless = text if text.startswith("a") else f"'{text}"
        assert (row["endpoint"], row["error_message"], row["conversation_id"]) == (harmless,) * 3
        assert list(json.loads(row["labels"]).values()) == [text]
    assert {row["cost"] for row in csv_file.table()} == {"15", "-15"}
    raw = await exported(metering, export(organization_id, raw_text=True))
    assert [row["endpoint"] for row in raw.table()[::2]] == list(FORMULAS)
    lines = (await exported(metering, export(organization_id, JSON_LINES, byte_order_mark=True))).objects()
    assert [row["error_message"] for row in lines[::2]] == list(FORMULAS)
    assert [row["cost"] for row in lines[:2]] == [15, -15]
    focus = await exported(metering, export(organization_id, FOCUS, issuer_name="=Us"))
    assert {row["ProviderName"] for row in focus.table()} == {"'=Us"}
    assert {row["x_Endpoint"][0] for row in focus.table()} == {"'", "a"}


async def test_stream_goes_on_at_any_piece_byte_by_byte(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 5)
    monkeypatch.setattr(exports, "SLICE_ROWS", 2)
    monkeypatch.setattr(exports, "_PIECE", 1)
    for name in ("a", "b", "c"):
        await metering.record(usage(organization_id, name))
    for count in range(4):
        await amend(metering, organization_id, "b", tokens=tokens(count, 1))
    for form in (CSV, JSON_LINES, FOCUS):
        whole = await exported(metering, export(organization_id, form))
        assert len(whole.pieces) > 5
        before = b""
        await metering.record(usage(organization_id))
        for piece in whole.pieces[:-1]:
            before += piece.body.data
            request = export(organization_id, form, resume_token=piece.resume_token)
            rest = await exported(metering, request)
            assert before + rest.data == whole.data
            assert rest.manifest == whole.manifest


@pytest.mark.shards
async def test_several_organizations_and_filters(metering: Metering) -> None:
    organizations = sorted(new_id() for _ in range(3))
    for organization_id in organizations:
        await metering.record(usage(organization_id, "a", endpoint="/x", user_id=organization_id))
        await metering.record(usage(organization_id, "b", model="other"))

    async def found(**fields: object) -> set[tuple[str, str]]:
        file = await exported(metering, export(**fields))  # type: ignore[arg-type]
        return {(row["organization_id"], row["operation_id"]) for row in file.table()}

    two = organizations[:2]
    both = {(one, name) for one in two for name in "ab"}
    assert await found(organization_ids=two) == both
    assert await found() >= both
    assert await found(organization_ids=two, model="other") == {(one, "b") for one in two}
    assert await found(organization_ids=two, endpoint="/x") == {(one, "a") for one in two}
    assert await found(organization_id=two[0].upper(), user_id=two[0].upper()) == {(two[0], "a")}
    assert await found(organization_id=two[0], user_id=two[1]) == set()
    assert await found(organization_ids=two, end_time=stamp(hours=-1)) == set()
    assert await found(organization_ids=two, as_of_time=stamp(hours=-1)) == set()
    first = (await exported(metering, export(organization_ids=two))).pieces[1]
    rest = await exported(metering, export(organization_ids=two, resume_token=first.resume_token))
    assert b"organization_id" not in rest.data
    assert rest.manifest.row_count == len(both)


async def test_odd_tokens_and_ranges_are_refused(metering: Metering, organization_id: str) -> None:
    await metering.record(usage(organization_id))
    token = (await exported(metering, export(organization_id))).pieces[1].resume_token
    stored = json.loads(zlib.decompress(base64.urlsafe_b64decode(token)))
    foreign = [*stored[:2], [new_id(), None, 0], *stored[3:]]
    packed = [_packed(foreign), _packed([]), _packed({}), _packed([*stored[:4], [{"USD": "1e999999"}] * 4])]
    wrong_values: tuple[object, ...] = (None, [None], -1, "", [[]])
    odd = [_packed([*stored[:n], value, *stored[n + 1 :]]) for n in range(5) for value in wrong_values]
    for bad in ("x", "=", token[:-8], *packed, *odd):
        answer = await refused(_all(metering, export(organization_id, resume_token=bad)))
        assert answer == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), bad
    others = ({"form": JSON_LINES}, {"model": "other"}, {"raw_text": True}, {"start_time": stamp(days=-1)})
    for other in others:
        answer = await refused(_all(metering, export(organization_id, resume_token=token, **other)))
        assert answer[0] is grpc.StatusCode.INVALID_ARGUMENT
    wrong = (
        export(organization_id, organization_ids=[organization_id]),
        export(organization_id, start_time=stamp(days=-401)),
        export(organization_id, start_time=stamp(), end_time=stamp(days=-1)),
    )
    for request in wrong:
        assert (await refused(_all(metering, request)))[0] is grpc.StatusCode.INVALID_ARGUMENT


def _packed(value: object) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(value).encode())).decode()


async def _all(metering: Metering, request: pb.ExportUsageRequest) -> None:
    await exported(metering, request)


async def test_price_that_comes_later_is_in_the_row_of_the_usage(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "waits", model="late"))
    before = await exported(metering, export(organization_id))
    await metering.add_model("late")
    await metering.set_price("late")

    async def priced() -> Decimal | None:
        file = await exported(metering, export(organization_id))
        return values(file.manifest.costs).get("USD")

    assert await eventually(priced, lambda cost: cost is not None) == Decimal("0.0035")
    again = await exported(metering, export(organization_id, as_of_time=before.manifest.request.as_of_time))
    assert (before.manifest.unpriced_count, again.data) == (1, before.data)


async def test_export_that_fails_on_its_way_says_so_and_goes_on_later(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    for number in range(6):
        await metering.record(usage(organization_id, f"call-{number}"))
    whole = await exported(metering, export(organization_id))
    read = store.rows_of
    pages = 0

    async def fail(*arguments: object, **named: object) -> object:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise Unavailable(dependency="database")
        return await read(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "rows_of", fail)
    pieces: list[pb.ExportUsageResponse] = []
    stream = metering.usage.ExportUsage(export(organization_id), metadata=metering.operator)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _into(pieces, stream)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert pieces[-1].body.data == b"\r\nThis file is not complete.\r\n"
    assert not pieces[-1].resume_token
    sent = b"".join(piece.body.data for piece in pieces[:-1])
    rest = await exported(metering, export(organization_id, resume_token=pieces[-2].resume_token))
    assert 0 < len(sent) < len(whole.data)
    assert sent + rest.data == whole.data


async def _into(pieces: list[pb.ExportUsageResponse], stream: AsyncIterable[pb.ExportUsageResponse]) -> None:
    async for piece in stream:
        pieces.append(piece)  # noqa: PERF401 -- what came before an error is looked at, too.
