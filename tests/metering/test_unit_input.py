"""Units that cannot be, and odd text in every field of UnitService, are refused with the fields at fault."""

import re
from dataclasses import dataclass
from typing import Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.metering.support import Metering
from tests.metering.unit_calls import INVALID, created, faults, found, listed, new_unit, update
from tests.support.odd_requests import SURROGATE, TEXTS, as_sent
from tollhouse.metering.v1 import unit_pb2 as pb

MEGABYTE: Final = "m" * 1_000_000
TEXTS_SENT: Final = (*TEXTS, "Robert'); DROP TABLE metering.units;--", '"`$(id)`', MEGABYTE)


@dataclass(frozen=True)
class Sent:
    """What came of a request."""

    code: grpc.StatusCode
    at_fault: set[str]
    answer: bytes = b""


def new_unit_id() -> str:
    """Return an id that no other test has taken."""
    return f"u{new_id().replace('-', '')}"


def at_fault_with(field: str, text: str) -> set[str]:
    """What is named as wrong: the field, or nothing where the whole request is too large to be looked at."""
    return {""} if text == MEGABYTE else {field}


async def sent(metering: Metering, rpc: str, request: Message) -> Sent:
    """Send a request as bytes, which can hold text that is not UTF-8."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = metering.channel.unary_unary(
        f"/tollhouse.metering.v1.UnitService/{rpc}"
    )
    try:
        return Sent(grpc.StatusCode.OK, set(), await call(as_sent(request), metadata=metering.operator))
    except grpc.aio.AioRpcError as error:
        return Sent(error.code(), set(field_violations(error)) if error.code() is INVALID else set())


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"unit_id": ""}, {"unit_id"}),
        ({"unit_id": "Sheets"}, {"unit_id"}),
        ({"unit_id": "1st"}, {"unit_id"}),
        ({"unit_id": "_x"}, {"unit_id"}),
        ({"unit_id": "sheets\n"}, {"unit_id"}),
        ({"unit_id": "bögen"}, {"unit_id"}),
        ({"unit_id": "x" * 65}, {"unit_id"}),
        ({"name": "  "}, {"name"}),
        ({"name": "n" * 257}, {"name"}),
        ({"description": "d" * 4097}, {"description"}),
        ({"kind": 0}, {"kind"}),
        ({"kind": 99}, {"kind"}),
        ({"kind": pb.UNIT_KIND_TOKEN, "step": "0.1"}, {"step"}),
        ({"counts_toward_context": True}, {"counts_toward_context"}),
        ({"step": "0.5"}, {"step"}),
        ({"step": "1.0"}, {"step"}),
        ({"step": "0.001\n"}, {"step"}),
        ({"request_id": "a b"}, {"request_id"}),
        (
            {"unit_id": "A", "name": " ", "kind": pb.UNIT_KIND_SIZE, "counts_toward_context": True, "step": "2"},
            {"unit_id", "name", "counts_toward_context", "step"},
        ),
    ],
)
async def test_unit_that_cannot_be_is_refused_with_every_field_at_fault(
    metering: Metering, fields: dict[str, object], at_fault: set[str]
) -> None:
    request = new_unit(**fields)  # type: ignore[arg-type]
    before = await listed(metering)

    named = await faults(metering.units.CreateUnit(request, metadata=metering.operator))

    assert named.keys() == at_fault
    assert await listed(metering) == before


@pytest.mark.parametrize(
    ("request_", "at_fault"),
    [
        (update(name=""), {"name"}),
        (update(name=" \t"), {"name"}),
        (pb.UpdateUnitRequest(unit_id="sheets", name="x"), {"update_mask"}),
        (pb.UpdateUnitRequest(unit_id="sheets", update_mask=FieldMask()), {"update_mask"}),
        (
            pb.UpdateUnitRequest(unit_id="sheets", name="x", update_mask=FieldMask(paths=["name", "step"])),
            {"update_mask"},
        ),
        (pb.UpdateUnitRequest(unit_id="sheets", update_mask=FieldMask(paths=["*"])), {"update_mask"}),
        (
            pb.UpdateUnitRequest(unit_id="S", update_mask=FieldMask(paths=["name", "kind"])),
            {"unit_id", "name", "update_mask"},
        ),
    ],
)
async def test_update_that_cannot_be_made_is_refused_with_every_field_at_fault(
    metering: Metering, request_: pb.UpdateUnitRequest, at_fault: set[str]
) -> None:
    before = await created(metering, new_unit(request_id="sheets-once-for-all-cases"))

    named = await faults(metering.units.UpdateUnit(request_, metadata=metering.operator))

    assert named.keys() == at_fault
    assert await found(metering) == before


async def test_page_token_is_good_for_its_list_alone(metering: Metering) -> None:
    page = await metering.units.ListUnits(pb.ListUnitsRequest(page_size=1), metadata=metering.operator)

    for request in (
        pb.ListUnitsRequest(page_token=page.next_page_token, active_only=True),
        pb.ListUnitsRequest(page_token=page.next_page_token, kind=pb.UNIT_KIND_TOKEN),
        pb.ListUnitsRequest(page_token="W10="),
        pb.ListUnitsRequest(page_token="../../etc/passwd"),
    ):
        assert (await faults(metering.units.ListUnits(request, metadata=metering.operator))).keys() == {"page_token"}


@pytest.mark.parametrize("text", TEXTS_SENT)
async def test_text_for_people_is_kept_to_the_letter_or_refused_by_its_field(metering: Metering, text: str) -> None:
    base, odd = new_unit_id(), new_unit_id()
    await created(metering, new_unit(base))
    for number, (field, chars_max) in enumerate((("name", 256), ("description", 4096))):
        is_good = "\x00" not in text and SURROGATE not in text and len(text) <= chars_max
        is_blank = field == "name" and not text.strip()
        new = await sent(metering, "CreateUnit", new_unit(f"{odd}_{number}", **{field: text}))
        changed = await sent(metering, "UpdateUnit", update(base, **{field: text}))

        if is_good and not (is_blank and text):
            default = f"{odd.capitalize()} {number}" if field == "name" else ""
            assert getattr(pb.CreateUnitResponse.FromString(new.answer).unit, field) == (text or default)
        else:
            assert new.at_fault == at_fault_with(field, text)
        if is_good and not is_blank:
            assert getattr(pb.UpdateUnitResponse.FromString(changed.answer).unit, field) == text
        else:
            assert changed.at_fault == at_fault_with(field, text)


@pytest.mark.parametrize("text", [text for text in TEXTS_SENT if text])
async def test_text_for_programs_is_refused_by_its_field_where_it_cannot_be_right(
    metering: Metering, text: str
) -> None:
    base, odd = new_unit_id(), new_unit_id()
    await created(metering, new_unit(base))
    for rpc, request, field in (
        ("CreateUnit", new_unit(odd), "unit_id"),
        ("CreateUnit", new_unit(odd), "step"),
        ("UpdateUnit", update(base, name="Base"), "unit_id"),
        ("GetUnit", pb.GetUnitRequest(unit_id=base), "unit_id"),
        ("ArchiveUnit", pb.ArchiveUnitRequest(unit_id=base), "unit_id"),
        ("ListUnits", pb.ListUnitsRequest(), "page_token"),
    ):
        setattr(request, field, text)
        assert (await sent(metering, rpc, request)).at_fault == at_fault_with(field, text)
    stale = await sent(metering, "UpdateUnit", update(base, name="Base", etag=text))
    assert stale.code is grpc.StatusCode.ABORTED or stale.at_fault == at_fault_with("etag", text)
    repeatable = await sent(metering, "CreateUnit", new_unit(odd, request_id=text))
    is_id = re.fullmatch("[!-~]{1,255}", text) is not None
    assert repeatable.at_fault == (set() if is_id else at_fault_with("request_id", text))
    assert (await found(metering, base)).name == base.capitalize()
