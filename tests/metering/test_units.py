"""The catalogue of units: what is kept of each, who may change it, and that every process follows."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from libs.common.audit.recording import PLATFORM
from libs.common.clock import SystemClock
from libs.common.database import Database, open_database
from services.metering.model.catalogue import FRESH_FOR_S, Catalogue
from services.metering.model.units import SEEDED_UNITS, Kind, Unit, quantity_text
from services.metering.unit.domain import NEEDED, UNITS_MAX
from services.metering.unit.units import CatalogueUnits
from tests.metering.support import WITHIN_S, Metering, Platform, refused, usage
from tests.metering.test_audit import events
from tests.metering.unit_calls import INVALID, archived, created, found, listed, new_unit, update, updated
from tests.support.callers import bearer
from tollhouse.metering.v1 import model_pb2, usage_pb2
from tollhouse.metering.v1 import unit_pb2 as pb

pytestmark = pytest.mark.own_database


@pytest.fixture
async def metering_database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = open_database(database_urls["metering"], schema="metering")
    yield database
    await database.close()


async def test_units_of_an_installation_are_those_the_code_relies_on(metering: Metering) -> None:
    stored = {
        unit.unit_id: (
            unit.name,
            unit.description,
            pb.UnitKind.Name(unit.kind).removeprefix("UNIT_KIND_").lower(),
            unit.counts_toward_context,
            unit.step,
            unit.archived,
        )
        for unit in await listed(metering)
    }

    assert stored == {
        unit.unit_id: (
            unit.name,
            unit.description,
            unit.kind.value,
            unit.counts_toward_context,
            quantity_text(unit.step_thousandths),
            False,
        )
        for unit in SEEDED_UNITS.values()
    }


async def test_created_unit_is_kept_as_it_was_sent(metering: Metering) -> None:
    request = new_unit(
        "gpu_seconds", name="GPU time", description="Of an H100.", kind=pb.UNIT_KIND_DURATION, step="0.01"
    )

    unit = await created(metering, request)

    assert (unit.unit_id, unit.name, unit.description) == ("gpu_seconds", "GPU time", "Of an H100.")
    assert (unit.kind, unit.step, unit.counts_toward_context, unit.archived) == (3, "0.01", False, False)
    assert unit.create_time == unit.update_time
    assert unit.etag
    assert await found(metering, "gpu_seconds") == unit
    assert unit in await listed(metering)


@pytest.mark.parametrize(
    ("unit_id", "name"), [("web_searches_deep", "Web searches deep"), ("a__b_", "A b"), ("x", "X"), ("q4", "Q4")]
)
async def test_unit_without_a_name_gets_one_from_its_id(metering: Metering, unit_id: str, name: str) -> None:
    assert (await created(metering, new_unit(unit_id))).name == name


async def test_tokens_have_whole_steps_and_may_count_toward_the_context(metering: Metering) -> None:
    unit = await created(metering, new_unit(kind=pb.UNIT_KIND_TOKEN, counts_toward_context=True, step="1"))

    assert (unit.kind, unit.counts_toward_context, unit.step) == (pb.UNIT_KIND_TOKEN, True, "1")


async def test_unit_is_created_once_however_often_its_request_is_sent(metering: Metering) -> None:
    request = new_unit(request_id="r-1", name="Sheets of paper")
    first = await metering.units.CreateUnit(request, metadata=metering.operator)
    await updated(metering, update(name="Paper"))
    again = await metering.units.CreateUnit(request, metadata=metering.operator)

    assert (first.replayed, again.replayed, again.unit) == (False, True, first.unit)

    other_body = new_unit(request_id="r-1", name="Sheets of card")
    with pytest.raises(grpc.aio.AioRpcError, match="differs in name"):
        await metering.units.CreateUnit(other_body, metadata=metering.operator)
    for reused in (
        metering.units.UpdateUnit(update(request_id="r-1", name="Paper"), metadata=metering.operator),
        metering.models.CreateModel(
            model_pb2.CreateModelRequest(request_id="r-1", model_id="m"), metadata=metering.operator
        ),
    ):
        assert await refused(reused) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    for taken in (new_unit(request_id="r-2"), new_unit(), new_unit("input_tokens")):
        assert await refused(created(metering, taken)) == (grpc.StatusCode.ALREADY_EXISTS, "UNIT_EXISTS")
    assert (await found(metering)).name == "Paper"


@pytest.mark.usefixtures("patient_locks")
async def test_same_unit_created_many_times_at_once_exists_once(metering: Metering) -> None:
    repeats = await asyncio.gather(
        *(metering.units.CreateUnit(new_unit(request_id="r"), metadata=metering.operator) for _ in range(8))
    )
    rivals = await asyncio.gather(
        *(created(metering, new_unit("reams", request_id=f"r-{number}")) for number in range(8)),
        return_exceptions=True,
    )

    assert sorted(repeat.replayed for repeat in repeats) == [False] + [True] * 7
    assert len({repeat.unit.etag for repeat in repeats}) == 1
    won = [rival for rival in rivals if isinstance(rival, pb.Unit)]
    lost = [rival for rival in rivals if isinstance(rival, grpc.aio.AioRpcError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {error.code() for error in lost} == {grpc.StatusCode.ALREADY_EXISTS}
    assert [
        len(await events(metering, resource_type="unit", resource_id=unit_id)) for unit_id in ("sheets", "reams")
    ] == [1, 1]


async def test_update_changes_the_fields_of_its_mask_alone(metering: Metering) -> None:
    before = await created(metering, new_unit(description="Of paper."))
    request = update(name="Papers")
    request.description, request.archived = "Not in the mask.", True

    after = await updated(metering, request)

    assert (after.name, after.description, after.archived) == ("Papers", "Of paper.", False)
    assert after.etag != before.etag
    assert after.create_time == before.create_time
    assert after.update_time.ToMicroseconds() > before.update_time.ToMicroseconds()
    assert await found(metering) == after
    assert (await updated(metering, update(description="", archived=True))).description == ""


async def test_update_is_done_once_however_often_its_request_is_sent(metering: Metering) -> None:
    await created(metering)
    request = update(request_id="u", name="Papers")
    first = await metering.units.UpdateUnit(request, metadata=metering.operator)
    await updated(metering, update(name="Cards"))
    again = await metering.units.UpdateUnit(request, metadata=metering.operator)

    assert (first.replayed, again.replayed, again.unit) == (False, True, first.unit)
    assert (await found(metering)).name == "Cards"
    reused = update(request_id="u", name="Paper")
    assert await refused(updated(metering, reused)) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_update_with_the_etag_of_an_earlier_state_is_refused(metering: Metering) -> None:
    before = await created(metering)
    await updated(metering, update(name="Papers", etag=before.etag))

    for etag in (before.etag, "0", "no etag"):
        stale = update(name="Cards", etag=etag)
        assert await refused(updated(metering, stale)) == (grpc.StatusCode.ABORTED, "STALE_ETAG")
    assert (await found(metering)).name == "Papers"


async def test_of_two_updates_with_one_etag_at_once_one_is_made(metering: Metering) -> None:
    before = await created(metering)

    outcomes = await asyncio.gather(
        *(updated(metering, update(name=f"Papers {number}", etag=before.etag)) for number in range(6)),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, pb.Unit) for outcome in outcomes) == 1


async def test_update_to_what_the_unit_is_changes_nothing(metering: Metering) -> None:
    before = await created(metering, new_unit(description="Of paper."))

    after = await updated(metering, update(name=before.name, description="Of paper.", archived=False))

    assert after == before
    assert len(await events(metering, resource_type="unit", resource_id="sheets")) == 1


async def test_archiving_can_be_repeated_and_taken_back(metering: Metering) -> None:
    await created(metering)

    first, again = await archived(metering), await archived(metering)
    back = await updated(metering, update(archived=False))

    assert (first.archived, again, back.archived) == (True, first, False)
    assert [event.action for event in await events(metering, resource_type="unit", resource_id="sheets")] == [
        "CreateUnit",
        "ArchiveUnit",
        "UpdateUnit",
    ]


async def test_units_that_usage_has_without_naming_them_stay_in_use(metering: Metering) -> None:
    for unit_id in sorted(NEEDED):
        for attempt in (archived(metering, unit_id), updated(metering, update(unit_id, name="Gone", archived=True))):
            assert await refused(attempt) == (grpc.StatusCode.FAILED_PRECONDITION, "UNIT_NEEDED")

    assert {unit.unit_id for unit in await listed(metering, active_only=True)} >= NEEDED
    assert (await found(metering, "requests")).name == "Requests"
    renamed = await updated(metering, update("requests", name="Calls", archived=False))
    assert (renamed.name, renamed.archived) == ("Calls", False)


async def test_unknown_unit_is_not_found(metering: Metering) -> None:
    for call in (
        found(metering, "nothing"),
        updated(metering, update("nothing", name="x")),
        archived(metering, "nothing"),
    ):
        assert (await refused(call))[0] is grpc.StatusCode.NOT_FOUND


async def test_list_comes_in_pages_in_the_order_of_ids_and_can_be_filtered(metering: Metering) -> None:
    await created(metering, new_unit("aaa"))
    await created(metering, new_unit("zzz", kind=pb.UNIT_KIND_SIZE))
    await archived(metering, "aaa")

    whole = await listed(metering)
    ids = [unit.unit_id for unit in whole]

    assert ids == sorted({*SEEDED_UNITS, "aaa", "zzz"})
    for size in (1, 7, len(ids), 1000):
        assert await listed(metering, page_size=size) == whole
    for kind in pb.UnitKind.values()[1:]:
        for active_only in (False, True):
            expected = [unit for unit in whole if unit.kind == kind and not (active_only and unit.archived)]
            assert await listed(metering, kind=kind, active_only=active_only, page_size=5) == expected
    assert [unit.unit_id for unit in await listed(metering, active_only=True)] == ids[1:]


async def test_each_change_of_a_unit_has_one_event(metering: Metering) -> None:
    create = new_unit(request_id="c", description="Told by Jane.", kind=pb.UNIT_KIND_DURATION, step="0.1")
    change = update(request_id="u", name="Papers", description="Told by Jane, again.")
    for _ in range(2):
        await metering.units.CreateUnit(create, metadata=metering.operator)
        await metering.units.UpdateUnit(change, metadata=metering.operator)
        await archived(metering)
    await refused(updated(metering, update(name="Cards", etag="0")))
    await refused(created(metering))

    told = await events(metering, resource_type="unit", resource_id="sheets")

    assert [(event.action, event.request_id) for event in told] == [
        ("CreateUnit", "c"),
        ("UpdateUnit", "u"),
        ("ArchiveUnit", ""),
    ]
    changes = [{change.field: (change.before, change.after) for change in event.changes} for event in told]
    assert changes == [
        {
            "name": ("", "Sheets"),
            "kind": ("", "duration"),
            "counts_toward_context": ("", "false"),
            "step": ("", "0.1"),
            "archived": ("", "false"),
            "description": ("", ""),
        },
        {"name": ("Sheets", "Papers"), "description": ("", "")},
        {"archived": ("false", "true")},
    ]
    for event in told:
        assert (event.actor, event.organization_id) == ("operator:alice", PLATFORM)
        assert "Jane" not in str(event)


async def test_tenants_read_units_and_only_operators_change_them(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    owner = bearer((await identity.create_key()).secret)
    unit = await created(metering)

    for caller in (metering.gateway, owner):
        answer = await metering.units.GetUnit(pb.GetUnitRequest(unit_id="sheets"), metadata=caller)
        page = await metering.units.ListUnits(pb.ListUnitsRequest(page_size=1000), metadata=caller)
        assert answer.unit == unit
        assert unit in page.units
        for call in (
            metering.units.CreateUnit(new_unit("reams"), metadata=caller),
            metering.units.UpdateUnit(update(name="Mine"), metadata=caller),
            metering.units.ArchiveUnit(pb.ArchiveUnitRequest(unit_id="sheets"), metadata=caller),
        ):
            assert (await refused(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    for nobodys in (metering.units.ListUnits(pb.ListUnitsRequest()), metering.units.CreateUnit(new_unit("reams"))):
        assert (await refused(nobodys))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert await found(metering) == unit


async def test_there_are_a_thousand_units_at_most_and_they_are_listed_however_long_their_texts(
    platform: Platform, metering: Metering
) -> None:
    await created(metering, new_unit(request_id="r"))
    room = UNITS_MAX - len(await listed(metering))
    await platform.execute(
        "INSERT INTO metering.units SELECT 'filler_' || n, 'Filler', repeat(U&'\\+01F602', 4096), 'count', false, 1000,"
        " false, 1, now(), now() FROM generate_series(1, $1::int) AS n",
        room - 1,
    )

    await created(metering, new_unit("last"))
    refusal = await refused(created(metering, new_unit("one_too_many", request_id="many")))

    assert refusal == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_UNITS")
    assert (await refused(found(metering, "one_too_many")))[0] is grpc.StatusCode.NOT_FOUND
    assert len(await listed(metering, page_size=1000)) == UNITS_MAX
    assert await events(metering, resource_type="unit", resource_id="one_too_many") == []
    assert await refused(created(metering, new_unit("last"))) == (grpc.StatusCode.ALREADY_EXISTS, "UNIT_EXISTS")
    assert (await metering.units.CreateUnit(new_unit(request_id="r"), metadata=metering.operator)).replayed
    assert (await archived(metering, "last")).archived


async def test_process_knows_its_own_change_at_once_and_anothers_within_two_seconds(
    metering: Metering, metering_database: Database
) -> None:
    own, other = Catalogue(metering_database), Catalogue(metering_database)
    await other.reload()
    units = CatalogueUnits(metering_database, own, SystemClock())
    await created(metering)

    assert (await units.archive("sheets")).unit.archived
    assert own.units["sheets"].archived
    assert "sheets" not in other.units
    await asyncio.sleep(FRESH_FOR_S)
    await other.refresh()
    assert other.units == own.units
    assert other.units["sheets"] == Unit("sheets", "Sheets", "", Kind.COUNT, counts_toward_context=False, archived=True)


async def test_usage_of_a_new_unit_is_recorded_by_every_process(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    service, one = platform.metering_service, metering
    assert service is not None
    other = await platform.start_metering()

    def sheets() -> usage_pb2.RecordUsageRequest:
        return usage(organization_id, quantities=[pb.Quantity(unit="sheets", value="3")])

    try:
        await other.record(usage(organization_id))
        await created(one, new_unit(request_id="r"))
        since_s = time.monotonic()
        assert (await other.units.CreateUnit(new_unit(request_id="r"), metadata=other.operator)).replayed
        assert (await found(other)).name == "Sheets"
        await one.record(sheets())

        async def outcome() -> grpc.StatusCode:
            try:
                await other.record(sheets())
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        answers = [await outcome()]
        while answers[-1] is not grpc.StatusCode.OK and time.monotonic() - since_s < WITHIN_S:
            await asyncio.sleep(0.05)
            answers.append(await outcome())
        assert set(answers) <= {INVALID, grpc.StatusCode.OK}
        assert time.monotonic() - since_s < FRESH_FOR_S + 1
        await archived(other)
        assert (await refused(other.record(sheets())))[0] is INVALID
    finally:
        await service.stop(0)
