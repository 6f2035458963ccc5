"""Limits that make no sense are refused with each field at fault, and nothing is written."""

from typing import Final

import grpc
import pytest
from google.protobuf.message import Message

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.metering.limits.support_rpc import (
    API_KEY,
    CALL,
    DAY,
    HOUR,
    LABEL,
    LIFETIME,
    MINUTE,
    MODEL,
    MONTH,
    NO_WINDOW,
    ORGANIZATION,
    PROJECT,
    PROVIDER,
    SERVICE_ACCOUNT,
    SUBSCRIPTION,
    USER,
    WEEK,
    change_limit,
    limit_request,
    limits_of,
    set_limit,
    usage_of,
)
from tests.metering.support import Metering, Platform
from tests.metering.unit_calls import created, faults, new_unit
from tests.support.odd_requests import SURROGATE, TEXTS, as_sent
from tollhouse.metering.v1 import quota_pb2 as pb
from tollhouse.metering.v1 import unit_pb2

SPEND: Final = {"metric": "spend", "currency_code": "USD"}
CONCURRENT: Final = {"metric": "concurrent_calls", "window": NO_WINDOW}
IDS: Final = (PROJECT, USER, SERVICE_ACCOUNT, API_KEY, SUBSCRIPTION)
MEGABYTE: Final = "m" * 1_000_000


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"name": ""}, {"name"}),
        ({"name": "Requests"}, {"name"}),
        ({"name": "-x"}, {"name"}),
        ({"name": "x\n"}, {"name"}),
        ({"name": "x" * 65}, {"name"}),
        ({"organization_id": "acme"}, {"organization_id"}),
        ({"metric": ""}, {"metric"}),
        ({"metric": "Requests"}, {"metric"}),
        ({"metric": "no_such_unit"}, {"metric"}),
        ({"metric": "spend"}, {"currency_code"}),
        ({"metric": "spend", "currency_code": "usd"}, {"currency_code"}),
        ({"currency_code": "USD"}, {"currency_code"}),
        ({"metric": "items", "currency_code": "USD"}, {"currency_code"}),
        ({"window": NO_WINDOW}, {"window"}),
        ({"window": 7}, {"window"}),
        ({"window": 99}, {"window"}),
        ({"metric": "concurrent_calls"}, {"window"}),
        ({"metric": "concurrent_calls", "window": LIFETIME}, {"window"}),
        ({"window": CALL, "sliding": True}, {"sliding"}),
        ({"window": MONTH, "sliding": True}, {"sliding"}),
        ({"window": LIFETIME, "sliding": True}, {"sliding"}),
        ({**CONCURRENT, "sliding": True}, {"sliding"}),
        ({"window": DAY, "time_zone": "Mars/Olympus"}, {"time_zone"}),
        ({"window": DAY, "time_zone": "localtime"}, {"time_zone"}),
        ({"window": DAY, "time_zone": "../../etc/passwd"}, {"time_zone"}),
        ({"window": DAY, "time_zone": "europe/paris"}, {"time_zone"}),
        ({"window": DAY, "time_zone": "z" * 65}, {"time_zone"}),
        ({"window": MINUTE, "time_zone": "UTC"}, {"time_zone"}),
        ({"window": HOUR, "time_zone": "Asia/Tokyo"}, {"time_zone"}),
        ({"window": CALL, "time_zone": "UTC"}, {"time_zone"}),
        ({"window": LIFETIME, "time_zone": "UTC"}, {"time_zone"}),
        ({**CONCURRENT, "time_zone": "UTC"}, {"time_zone"}),
        ({"window": DAY, "sliding": True, "time_zone": "UTC"}, {"time_zone"}),
        ({"week_start": 1}, {"week_start"}),
        ({"window": DAY, "week_start": 7}, {"week_start"}),
        ({"window": MONTH, "week_start": 1}, {"week_start"}),
        ({"window": WEEK, "sliding": True, "week_start": 1}, {"week_start"}),
        ({"window": WEEK, "week_start": 8}, {"week_start"}),
        ({"window": WEEK, "week_start": -1}, {"week_start"}),
        ({"scope": 99}, {"scope"}),
        ({"scope_value": "somebody"}, {"scope_value"}),
        ({"scope": ORGANIZATION, "scope_value": "0198f0aa-0000-7000-8000-00000000000a"}, {"scope_value"}),
        *(({"scope": scope, "scope_value": "somebody"}, {"scope_value"}) for scope in IDS),
        ({"scope": USER, "scope_value": "0198f0aa000070008000-00000000000a"}, {"scope_value"}),
        ({"scope": USER, "scope_value": "{0198f0aa-0000-7000-8000-00000000000a}"}, {"scope_value"}),
        ({"scope": MODEL, "scope_value": "gpt-unheard-of"}, {"scope_value"}),
        ({"scope": PROVIDER, "scope_value": "p" * 257}, {"scope_value"}),
        ({"scope": LABEL}, {"label"}),
        ({"scope": LABEL, "scope_value": "a"}, {"label"}),
        ({"scope": LABEL, "label": "k" * 65}, {"label"}),
        ({"scope": USER, "label": "team"}, {"label"}),
        ({"label": "team"}, {"label"}),
        ({"value": None}, {"max"}),
        ({"value": "-1"}, {"value"}),
        ({"value": "1e3"}, {"value"}),
        ({"value": "1\n"}, {"value"}),
        ({"value": "\u0661"}, {"value"}),
        ({"value": ""}, {"value"}),
        ({"value": "1000000000000000"}, {"value"}),
        ({"value": "0.0000000001"}, {"value"}),
        ({"unlimited": False}, {"unlimited"}),
        ({"unlimited": True, "burst": "1"}, {"burst"}),
        ({"burst": "-1"}, {"burst"}),
        ({"burst": "NaN"}, {"burst"}),
        ({"window": CALL, "burst": "1"}, {"burst"}),
        ({"window": LIFETIME, "burst": "1"}, {"burst"}),
        ({"sliding": True, "burst": "1"}, {"burst"}),
        ({**CONCURRENT, "burst": "1"}, {"burst"}),
        ({"enforcement": 99}, {"enforcement"}),
        ({"thresholds": [0]}, {"thresholds[0]"}),
        ({"thresholds": [80, 1001]}, {"thresholds[1]"}),
        ({"thresholds": [80, 80]}, {"thresholds"}),
        ({"thresholds": list(range(1, 12))}, {"thresholds"}),
        ({"etag": "e\x00"}, {"etag"}),
        (
            {
                "metric": "nonsense",
                "window": MINUTE,
                "time_zone": "Nowhere",
                "week_start": 3,
                "label": "x",
                "value": None,
            },
            {"metric", "time_zone", "week_start", "label", "max"},
        ),
        (
            {"value": "-1", "metric": "nonsense", "window": MONTH, "sliding": True, "scope": USER, "scope_value": "x"},
            {"value", "metric", "sliding", "scope_value"},
        ),
    ],
)
async def test_limit_that_makes_no_sense_is_refused_with_each_field(
    platform: Platform, metering: Metering, organization_id: str, fields: dict[str, object], at_fault: set[str]
) -> None:
    request = limit_request(organization_id, **{field: one for field, one in fields.items() if field not in _OUTER})
    for field in _OUTER & fields.keys():
        setattr(request, field, fields[field])

    assert set(await faults(metering.quota.SetLimit(request, metadata=metering.operator))) == at_fault
    assert await platform.value("SELECT count(*) FROM metering.limits") == 0
    assert await platform.value("SELECT count(*) FROM metering.audit_events WHERE resource_type = 'limit'") == 0


_OUTER: Final = frozenset({"organization_id", "name"})


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "total_tokens"},
        {"metric": "items", "window": CALL},
        {"metric": "input_tokens", "window": CALL, "value": "4096"},
        {**SPEND, "window": MONTH, "time_zone": "Pacific/Kiritimati", "burst": "10"},
        {**SPEND, "window": LIFETIME, "value": "0.000000001"},
        {**CONCURRENT, "value": "3", "enforcement": pb.LIMIT_ENFORCEMENT_SOFT},
        {"window": WEEK, "week_start": 7, "time_zone": "Europe/Amsterdam"},
        {"window": WEEK, "sliding": True},
        {"value": "999999999999999.999999999", "thresholds": [1, 1000]},
        {"scope": LABEL, "label": "team", "scope_value": "İßﬀ " * 64},
        {"scope": PROVIDER, "scope_value": "openai", "replaces": True},
        {"replaces": True},
    ],
)
async def test_limit_that_makes_sense_is_set(
    metering: Metering, organization_id: str, fields: dict[str, object]
) -> None:
    made = await set_limit(metering, organization_id, **fields)

    assert await limits_of(metering, organization_id) == [made]
    assert await set_limit(metering, organization_id, **fields) == made


async def test_unit_that_is_added_counts_until_it_is_archived(metering: Metering, organization_id: str) -> None:
    await created(metering, new_unit("widgets"))
    made = await set_limit(metering, organization_id, metric="widgets")
    archive = unit_pb2.ArchiveUnitRequest(unit_id="widgets")
    await metering.units.ArchiveUnit(archive, metadata=metering.operator)

    assert set(await faults(set_limit(metering, organization_id, "other", metric="widgets"))) == {"metric"}
    assert (await change_limit(metering, organization_id, "requests", value="1")).limit_id == made.limit_id


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ([], "must name fields"),
        (["value"], "not value"),
        (["max", "unlimited"], "not unlimited"),
        (["max", "nonsense"], "must name fields"),
        (["*"], "must name fields"),
        (["max.value"], "must name fields"),
        (["metric"], "metric cannot be changed"),
        (["max", "window", "label"], "label, window cannot be changed"),
        (["name"], "name cannot be changed"),
    ],
)
async def test_mask_names_fields_that_can_be_changed(
    metering: Metering, organization_id: str, paths: list[str], told: str
) -> None:
    made = await set_limit(metering, organization_id)
    request = limit_request(organization_id, value="1")
    request.update_mask.SetInParent()
    request.update_mask.paths.extend(paths)

    at_fault = await faults(metering.quota.SetLimit(request, metadata=metering.operator))

    assert set(at_fault) == {"update_mask"}
    assert told in at_fault["update_mask"]
    assert await limits_of(metering, organization_id) == [made]


async def test_what_must_make_sense_is_the_limit_as_it_would_be(metering: Metering, organization_id: str) -> None:
    made = await set_limit(metering, organization_id, burst="5")
    await set_limit(metering, organization_id, "sliding", sliding=True)

    assert set(await faults(change_limit(metering, organization_id, "requests", "max"))) == {"burst"}
    assert set(await faults(change_limit(metering, organization_id, "sliding", burst="5"))) == {"burst"}
    assert (await limits_of(metering, organization_id))[0] == made
    cleared = await change_limit(metering, organization_id, "requests", "max", "burst")
    assert (cleared.unlimited, cleared.burst) == (True, "")


@pytest.mark.parametrize("field", ["name", "metric", "currency_code", "time_zone", "value", "burst", "etag"])
async def test_odd_text_is_refused_with_the_field(metering: Metering, organization_id: str, field: str) -> None:
    money = {} if field == "metric" else SPEND
    for text in (*TEXTS[1:], "Robert'); DROP TABLE metering.limits;--", MEGABYTE):
        request = limit_request(organization_id, window=DAY, **money)
        setattr(request, field, text)

        code, at_fault = await _sent(metering, "SetLimit", request)

        if field == "etag" and code is not grpc.StatusCode.INVALID_ARGUMENT:
            assert (code, text) == (grpc.StatusCode.ABORTED, text)
        else:
            assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, text)
            assert at_fault == ({""} if text == MEGABYTE else {field})
    assert await limits_of(metering, organization_id) == []


async def test_odd_value_of_a_label_is_kept_as_it_is_or_refused(metering: Metering) -> None:
    for text in (*TEXTS[1:], "\x01" * 256, "\U0001f600" * 256, '"\\' * 128):
        organization_id = new_id()
        request = limit_request(organization_id, scope=LABEL, label="team", scope_value=text)
        set_ = await _sent(metering, "SetLimit", request)
        asked = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, scope_value=text)
        told = await _sent(metering, "GetUsageAgainstLimits", asked)

        if len(text) > 256 or "\x00" in text or SURROGATE in text:
            assert set_ == told == (grpc.StatusCode.INVALID_ARGUMENT, {"scope_value"}), text
            continue
        assert set_ == told == (grpc.StatusCode.OK, set()), text
        await set_limit(metering, organization_id, "z", scope=LABEL, label="team", scope_value="z")
        assert [one.scope_value for one in await limits_of(metering, organization_id, 1)] == [text, "z"]
        assert [one.scope_value for one in await usage_of(metering, organization_id, 1)] == [text, "z"]
        assert [one.scope_value for one in await usage_of(metering, organization_id, 1, scope_value=text)] == [text]


@pytest.mark.parametrize("token", ["x", "W10=", "WyJ4IiwiYSIsImIiXQ==", "\U0001f600", "t" * 2049])
async def test_page_token_that_is_none_is_refused(metering: Metering, organization_id: str, token: str) -> None:
    listing = pb.ListLimitsRequest(organization_id=organization_id, page_token=token)
    usage = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, page_token=token)

    assert set(await faults(metering.quota.ListLimits(listing, metadata=metering.operator))) == {"page_token"}
    assert set(await faults(metering.quota.GetUsageAgainstLimits(usage, metadata=metering.operator))) == {"page_token"}


async def test_page_token_is_good_for_its_own_question_only(metering: Metering, organization_id: str) -> None:
    for name in ("a", "b", "c"):
        await set_limit(metering, organization_id, name)
    request = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, page_size=1)
    token = (await metering.quota.GetUsageAgainstLimits(request, metadata=metering.operator)).next_page_token
    for field, other in (("organization_id", new_id()), ("name", "a"), ("scope_value", "x"), ("scope", USER)):
        asked = pb.GetUsageAgainstLimitsRequest(organization_id=organization_id, page_token=token)
        setattr(asked, field, other)
        assert set(await faults(metering.quota.GetUsageAgainstLimits(asked, metadata=metering.operator))) == {
            "page_token"
        }


async def _sent(metering: Metering, rpc: str, request: Message) -> tuple[grpc.StatusCode, set[str]]:
    """Send a request as bytes, which can hold text that is not UTF-8; return the code and the fields at fault."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = metering.channel.unary_unary(
        f"/tollhouse.metering.v1.QuotaService/{rpc}"
    )
    try:
        await call(as_sent(request), metadata=metering.operator)
    except grpc.aio.AioRpcError as error:
        return error.code(), set(field_violations(error))
    return grpc.StatusCode.OK, set()
