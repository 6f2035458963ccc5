"""Events in OpenMeter's shape become usage by the mapping of their type, each by itself, and nothing is dropped."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.json_format import ParseDict

from libs.cli.gateway.bootstrap import Gateway
from libs.cli.gateway.descriptors import descriptor_set
from libs.common.ids import new_id
from libs.common.status import error_info_in
from services.metering.ingest.domain import operation_id_of
from tests.gateway.conftest import running_gateway
from tests.metering.support import Metering, Platform
from tests.support.callers import Metadata
from tests.support.rest import Rest, RestAnswer
from tollhouse.metering.v1 import ingest_pb2 as pb
from tollhouse.metering.v1 import usage_pb2

SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
PROMPT = pb.EventMapping(
    event_type="prompt",
    model_path="$.model",
    quantities=[
        pb.EventQuantity(unit="input_tokens", path="$.tokens.input"),
        pb.EventQuantity(unit="output_tokens", path="$.tokens.output"),
        pb.EventQuantity(unit="input_seconds", path="$.seconds"),
        pb.EventQuantity(unit="images", value="0"),
    ],
    subject=pb.EVENT_SUBJECT_ORGANIZATION,
    field_paths={"user_id": "$.user", "latency_ms": "$.latency", "environment": "$.environment"},
    label_paths={"route": "$.route", "cached": "$.cached"},
)


def event(organization_id: str, event_id: str, **data: object) -> dict[str, object]:
    """Return an event of 1,000 input and 100 output tokens of gpt-4o."""
    tokens = {"input": 1000, "output": "100"}
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "tests",
        "type": "prompt",
        "subject": organization_id,
        "data": {"model": "gpt-4o", "tokens": tokens, "seconds": 0, **data},
    }


async def ingest(
    metering: Metering, body: object, kind: str = "application/json", metadata: Metadata | None = None
) -> pb.IngestEventsResponse:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = pb.IngestEventsRequest(body=HttpBody(content_type=kind, data=data))
    return await metering.ingest.IngestEvents(request, metadata=metadata or metering.gateway)


def reasons(answer: pb.IngestEventsResponse) -> dict[str, str]:
    """Return why events were refused, by their ids: the message, or the reason where no field is at fault."""
    told = {}
    for one in answer.refused:
        info = error_info_in(one.status)
        assert info is not None
        told[one.id] = one.status.message if info.reason == "INVALID_ARGUMENT" else info.reason
    return told


@pytest.fixture
async def metering(platform: Platform) -> Metering:
    request = pb.SetEventMappingRequest(mapping=PROMPT)
    await platform.metering.ingest.SetEventMapping(request, metadata=platform.metering.operator)
    return platform.metering


@pytest.fixture
async def organization_id(platform: Platform) -> str:
    organization_id = new_id()
    await platform.fund(organization_id)
    return organization_id


async def test_event_is_recorded_and_charged_once_however_often_it_comes(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    user_id = new_id()
    before = await platform.posted(organization_id)
    sent = event(organization_id, "e/1 ü", user=user_id, latency=12, route="/chat", cached=True, seconds="1.5e1")
    sent["time"] = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    sent |= {"datacontenttype": "Application/JSON; charset=utf-8", "dataschema": "urn:x", "myextension": "y"}

    answers = [await ingest(metering, sent, SINGLE), await ingest(metering, [sent, sent], BATCH)]

    assert [(one.recorded_count, one.replayed_count, one.refused_count) for one in answers] == [(1, 0, 0), (0, 2, 0)]
    record = await metering.get(organization_id, "ce:tests:e/1%20%C3%BC")
    assert (record.model, record.tokens.input, record.tokens.output) == ("gpt-4o", 1000, 100)
    assert [(one.unit, one.value) for one in record.quantities] == [("input_seconds", "15")]
    assert (record.user_id, record.latency_ms, dict(record.labels)) == (
        user_id,
        12,
        {"route": "/chat", "cached": "true"},
    )
    assert abs(record.occur_time.ToSeconds() - datetime.now(UTC).timestamp() + 86_400) < 60
    plain = await ingest(metering, event(organization_id, "2"))
    assert plain.recorded_count == 1
    # Seconds have no price for this model: the first one waits, the second is charged.
    assert await platform.posted(organization_id) == before - Decimal("0.0035")
    changed = await ingest(metering, event(organization_id, "2", route="/other"))
    assert reasons(changed) == {"2": "OPERATION_ID_REUSED"}
    assert await metering.findings() == []


async def test_each_bad_event_of_a_batch_is_named_and_the_others_are_recorded(
    metering: Metering, organization_id: str
) -> None:
    odd: dict[str, tuple[dict[str, object], str]] = {
        "type": ({"type": "unheard"}, "EVENT_TYPE_UNKNOWN"),
        "version": ({"specversion": "0.3"}, "specversion: must be 1.0"),
        "no-source": ({"source": ""}, "source: must be a text that is not empty"),
        "subject": ({"subject": "customer-1"}, "subject: must be a UUID"),
        "unknown": ({"subject": new_id()[:-12] + "ffffffffffff"}, ""),
        "base64": ({"data_base64": "AA=="}, "data_base64: is not taken"),
        "text": ({"data": "text"}, "data: must be an object"),
        "none": ({"data": None}, "data.tokens.input: is missing"),
        "content": ({"datacontenttype": "text/xml"}, "datacontenttype: must be"),
        "time": ({"time": "yesterday"}, "time: must be an RFC 3339 time"),
        "future": ({"time": "2999-01-01T00:00:00Z"}, "time: "),
    }
    values: dict[str, tuple[object, str]] = {
        "fraction": (0.5, "must be a whole number"),
        "negative": (-1, "must be from 0 to 1,000,000,000"),
        "text-value": ("many", "must be a number"),
        "true": (True, "must be a number"),
        "object": ({}, "must be a number"),
        "long": (int("9" * 400), "must be a number"),
    }
    batch = [event(organization_id, name) | fields for name, (fields, _) in odd.items() if name != "unknown"]
    batch += [event(organization_id, name, tokens={"input": v, "output": 1}) for name, (v, _) in values.items()]
    batch += [event(organization_id, "deep", route={"a": 1}), event(organization_id, "nul", route="\0")]
    batch += [event(organization_id, "surrogate", user="\ud800"), event(organization_id, "test", environment="PROD")]
    good = [event(organization_id, f"good-{n}", seconds=0.1) for n in range(3)]
    text = json.dumps([*batch, *good])
    raw = (
        text[:-1]
        + ", 7, []"
        + "".join(
            ", " + json.dumps(event(organization_id, name, seconds="@")).replace('"@"', value)
            for name, value in (("huge", "1e400"), ("nan", "NaN"), ("twice", '1, "seconds": 2'), ("fine", "0.0001"))
        )
    )

    answer = await ingest(metering, (raw + "]").encode())

    told = reasons(answer)
    for name, (_, expected) in odd.items():
        if name != "unknown":
            assert expected in told[name], name
    for name, (_, expected) in values.items():
        assert "data.tokens.input: " + expected in told[name], name
    assert "data.route: must be a text" in told["deep"]
    assert "data.route: must be without U+0000" in told["nul"]
    assert "data.user: must be without U+0000" in told["surrogate"]
    assert "data.environment: must be LIVE or TEST" in told["test"]
    assert "data.seconds: must be from 0" in told["huge"]
    assert "has NaN" in told["nan"]
    assert "seconds: is given twice" in told["twice"]
    assert "data.seconds: must be a multiple of 0.001" in told["fine"]
    assert answer.refused_count == len(batch) + 6
    assert (answer.event_count, answer.recorded_count) == (len(batch) + 9, 3)
    assert (await metering.get(organization_id, "ce:tests:good-0")).quantities[0].value == "0.1"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", b"{}"),
        (SINGLE, b"[{}]"),
        (BATCH, b"{}"),
        (BATCH, b"[]"),
        (BATCH, b"[{},]"),
        (BATCH, b"[{}] x"),
        (SINGLE, b'{"id": "\xff"}'),
        (SINGLE, b"{" * 100_000),
        (SINGLE, b'{"a":' * 100_000),
        (BATCH, b"[" * 1_000_000),
        (BATCH, b"[" + b"{}," * 10_000 + b"{}]"),
        (SINGLE, b""),
    ],
    ids=lambda value: str(value[:12]),
)
async def test_body_that_is_no_list_of_events_is_refused_as_a_whole(metering: Metering, kind: str, body: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ingest(metering, body, kind)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_more_events_than_an_answer_describes_are_refused_each_by_its_place(metering: Metering) -> None:
    answer = await ingest(metering, [{}] * 1_200, BATCH)
    assert (answer.refused_count, len(answer.refused)) == (1_200, 1_000)
    assert list(answer.further_refused) == list(range(1_000, 1_200))


def test_events_have_the_same_operation_id_only_if_they_have_the_same_source_and_id() -> None:
    pairs = [("a", "b:c"), ("a:b", "c"), ("a/b", "c"), ("a", "b/c"), ("a%3Ab", "c"), ("é" * 200, "c"), ("é" * 201, "c")]
    ids = [operation_id_of(*pair) for pair in pairs]
    assert len(set(ids)) == len(pairs)
    assert all(len(one) <= 255 and one.isascii() and one.isprintable() for one in ids)


async def test_mapping_is_for_operators_and_refuses_what_is_no_plain_path(metering: Metering) -> None:
    def changed(**fields: object) -> pb.SetEventMappingRequest:
        mapping = pb.EventMapping()
        mapping.CopyFrom(PROMPT)
        mapping.event_type = "other"
        for name, value in fields.items():
            if isinstance(value, dict):
                getattr(mapping, name).update(value)
            else:
                setattr(mapping, name, value)
        return pb.SetEventMappingRequest(mapping=mapping)

    wrong = [
        changed(model_path=path) for path in ("$.a[0]", "$..a", "$.*", "tokens", "$", "$.a.b.c.d.e.f.g.h.i", "$.a\0")
    ]
    wrong += [changed(model="gpt-4o"), changed(field_paths={"organization_id": "$.o"})]
    for request in wrong:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await metering.ingest.SetEventMapping(request, metadata=metering.operator)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, request
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.ingest.SetEventMapping(changed(), metadata=metering.gateway)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED

    first = await metering.ingest.SetEventMapping(changed(), metadata=metering.operator)
    again = await metering.ingest.SetEventMapping(changed(), metadata=metering.operator)
    assert first == again
    page = await metering.ingest.ListEventMappings(pb.ListEventMappingsRequest(page_size=1), metadata=metering.gateway)
    following = pb.ListEventMappingsRequest(page_size=1, page_token=page.next_page_token)
    rest = await metering.ingest.ListEventMappings(following, metadata=metering.gateway)
    assert [one.event_type for one in (*page.mappings, *rest.mappings)] == ["other", "prompt"]
    delete = pb.DeleteEventMappingRequest(event_type="other")
    await metering.ingest.DeleteEventMapping(delete, metadata=metering.operator)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.ingest.GetEventMapping(pb.GetEventMappingRequest(event_type="other"), metadata=metering.gateway)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def rest(platform: Platform, tmp_path: Path) -> AsyncIterator[Rest]:
    """The gateway as `tollhouse up --gateway` has it, before these services."""
    file = tmp_path / "descriptors.binpb"
    file.write_bytes(descriptor_set())
    targets = dict.fromkeys(("identity", "billing", "metering"), ("127.0.0.1", platform.metering_port))
    with running_gateway(tmp_path, Gateway(targets=targets, descriptors_file=file)) as envoy:
        yield Rest(envoy.port)


async def test_openmeters_python_client_is_answered_as_by_its_own_server(
    platform: Platform, metering: Metering, organization_id: str, rest: Rest
) -> None:
    """With the path, headers and bytes that version 1.0.0b236 of its package sends."""
    token = dict(metering.gateway)["authorization"]

    async def post(path: str, kind: str, body: object) -> RestAnswer:
        headers = ("content-type", kind), ("accept", "application/json"), ("authorization", str(token))
        return await rest.call("POST", path, json.dumps(body), *headers)

    single = await post("/api/v1/events", SINGLE, event(organization_id, "sdk"))
    both = await post("/api/v1/events", BATCH, [event(organization_id, "sdk"), event(organization_id, "sdk-2")])
    bad = [event(organization_id, "sdk-3", route="x" * 300), event("customer-1", "sdk-4")]
    mixed = await post("/v1/events:ingest", "application/json", bad)

    assert [(one.status, one.body) for one in (single, both)] == [(204, b""), (204, b"")]
    assert (mixed.status, mixed.headers["adjusted-events"]) == (400, "1")
    (refused,) = pb.IngestEventsResponse(refused=ParseDict(mixed.document, pb.IngestEventsResponse()).refused).refused
    assert (refused.index, refused.id) == (1, "sdk-4")
    assert "subject: must be a UUID" in refused.status.message
    await platform.settled()
    for event_id in ("sdk", "sdk-2", "sdk-3"):
        record = await metering.get(organization_id, f"ce:tests:{event_id}")
        assert record.settlement == usage_pb2.SETTLEMENT_SETTLED
