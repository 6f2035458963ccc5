"""What the gateway refuses, removes and adds before a service sees a request."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from libs.cli.gateway.script import REQUEST_BYTES_MAX
from tests.gateway.recorder import Context, Recorder, method_of
from tests.support.rest import Rest, RestAnswer
from tollhouse.metering.v1 import model_pb2

ORGANIZATION = "0190a0a0-0000-7000-8000-000000000001"
USAGE = f"/v1/organizations/{ORGANIZATION}/usage"
REFUSED = [
    # An unknown field, at any depth; values of maps may have any names.
    ("POST", "/v1/units", {"unitId": "a", "nope": 1}, {"nope": "is no field of the request"}),
    ("POST", "/v1/units", {"UnitId": "a"}, {"UnitId": "is no field of the request"}),
    (
        "POST",
        "/v1/usage:batchRecord",
        {"usages": [{"tokens": {"nope": 1}}]},
        {"usages.tokens.nope": "is no field of the request"},
    ),
    ("POST", "/v1/units", {"": 1}, {"": "is no field of the request"}),
    # The same where one object is written in place of a list of it, a list within the list, and a time as its fields.
    ("POST", "/v1/usage:batchRecord", {"usages": {"nope": 1}}, {"usages.nope": "is no field of the request"}),
    ("POST", "/v1/usage:batchRecord", {"usages": [[{"nope": 1}]]}, {"usages.nope": "is no field of the request"}),
    ("POST", USAGE, {"occurTime": {"seconds": 5, "nope": 1}}, {"occur_time.nope": "is no field of the request"}),
    ("POST", "/v1/units", {'"}]\\\n\x00é' * 1000: 1}, None),
    # A field twice, in one spelling or two.
    ("POST", "/v1/units", '{"unit_id":"a","unitId":"b"}', {"unit_id": "is given twice"}),
    ("POST", "/v1/usage:batchRecord", '{"usages":[{"model":"a","model":"b"}]}', {"usages.model": "is given twice"}),
    *(
        ("POST", "/v1/usage:batchRecord", f'{{"usages":{text}}}', {"usages.tokens.input": "is given twice"})
        for text in ('{"tokens":{"input":1,"input":5}}', '[[{"tokens":{"input":1,"input":5}}]]')
    ),
    ("POST", USAGE, '{"occurTime":{"seconds":5,"seconds":6}}', {"occur_time.seconds": "is given twice"}),
    ("GET", "/v1/units?page_size=1&pageSize=2", None, {"page_size": "is given twice"}),
    (
        "GET",
        f"{USAGE}?startTime.seconds=1&start_time.seconds=2",
        None,
        {"start_time.seconds": "is given twice"},
    ),
    # A parameter without a name or a value.
    *(
        ("GET", f"/v1/units?page_size=1&{parameter}", None, {shown: "is no parameter of the form name=value"})
        for parameter, shown in (("nope", "nope"), ("kind", "kind"), ("=x", "?x"))
    ),
    ("POST", USAGE, '{"labels":{"a":"1","a":"2"}}', {"labels.a": "is given twice"}),
    # A field of the path in the body.
    ("PATCH", "/v1/models/a", {"modelId": "b"}, {"model_id": "is in the path, so it may not be in the body"}),
    (
        "PATCH",
        f"/v1/organizations/{ORGANIZATION}/accounts/{ORGANIZATION}",
        {"account": {"accountId": "x"}},
        {"account.account_id": "is in the path, so it may not be in the body"},
    ),
    ("GET", f"{USAGE}?organizationId=x", None, {"organization_id": "is in the path, so it may not be in the query"}),
    # The same with names that are percent-encoded.
    ("GET", f"{USAGE}?%6frganizationId=x", None, {"organization_id": "is in the path, so it may not be in the query"}),
    ("GET", "/v1/units?page_size=1&page%5Fsize=2", None, {"page_size": "is given twice"}),
    # A body where the query is taken, and the other way round.
    (
        "GET",
        "/v1/units",
        {"kind": "UNIT_KIND_COUNT"},
        {"": "a body is not taken with this path; give fields in the query"},
    ),
    ("POST", "/v1/units?unit_id=a", {}, {"": "a query is not taken with this path; give fields in the body"}),
    # What the transcoder refuses: unknown fields of the query, wrong types, values of enums, and what is no JSON.
    ("GET", "/v1/units?nope=1", None, None),
    ("GET", "/v1/units?page_size=x", None, None),
    ("GET", "/v1/units?kind=NOPE", None, None),
    ("POST", "/v1/units", {"unitId": 5}, None),
    ("POST", "/v1/units", {"unitId": {"a": 1}}, None),
    ("POST", "/v1/units", {"unitId": ["a"]}, None),
    ("POST", "/v1/units", {"kind": "NOPE"}, None),
    ("POST", USAGE, {"tokens": {"input": "x"}}, None),
    ("POST", USAGE, {"tokens": {"input": 1.5}}, None),
    ("POST", USAGE, {"tokens": {"input": 10**30}}, None),
    ("POST", USAGE, {"tokens": 5}, None),
    ("POST", USAGE, {"occurTime": "yesterday"}, None),
    *(
        ("POST", "/v1/units", text, None)
        for text in ("[]", "5", '"a"', "{", '{"unitId"', '{"unitId":', "{]", "[" * 100_000)
    ),
    *(
        ("POST", "/v1/units", text, None)
        for text in ('{"unitId":"a"}}', '{"unitId":"\\ud800"}', b'{"name":"\xff"}', "{'a':1}")
    ),
    ("POST", USAGE, '{"labels":' * 50_000, None),
]


@pytest.mark.parametrize(("verb", "target", "body", "violations"), REFUSED, ids=range(len(REFUSED)))
async def test_request_that_is_not_exactly_of_its_shape_reaches_no_service(
    rest: Rest, recorder: Recorder, verb: str, target: str, body: object, violations: dict[str, str] | None
) -> None:
    answer = await rest.call(verb, target, body)
    assert answer.status == 400, answer.body
    assert recorder.take() == []
    assert answer.document["code"] == 3
    assert answer.reason == ("INVALID_ARGUMENT" if answer.violations else "INVALID_REQUEST")
    assert answer.violations == violations or violations is None


async def test_text_that_json_can_say_arrives_unchanged(rest: Rest, recorder: Recorder) -> None:
    hostile = "".join(map(chr, range(1, 128))) + "ü\u2028\U0001f600 %LOCAL_REPLY_BODY% ../ '; --" + "x" * 1_000_000
    labels = {hostile[:200]: hostile[:200], "a.b": "", "nope": "nope"}
    await rest.call("POST", USAGE, {"errorMessage": hostile, "labels": labels})
    call = recorder.take_one()
    request = request_of(call.method, call.request)
    assert (request["errorMessage"], request["labels"]) == (hostile, labels)


async def test_body_above_5_mib_is_refused_readably_and_one_at_the_limit_arrives(
    rest: Rest, recorder: Recorder
) -> None:
    head, tail = b'{"litellmJson":"', b'"}'
    room = REQUEST_BYTES_MAX - len(head) - len(tail)
    fits, too_large = (head + b"A" * (room - room % 4 + more) + tail for more in (0, 4))
    assert (await rest.call("POST", "/v1/models:import", fits)).status == 200
    call = recorder.take_one()
    assert len(model_pb2.ImportModelsRequest.FromString(call.request).litellm_json) == (room - room % 4) // 4 * 3

    def parts() -> Iterator[bytes]:
        for start in range(0, len(too_large), 65_536):
            yield too_large[start : start + 65_536]

    for body in (too_large, parts):
        answer = await rest.call("POST", "/v1/models:import", body)
        assert (answer.status, answer.reason) == (413, "REQUEST_TOO_LARGE")
        assert answer.document["message"] == "The body is larger than 5 MiB."
    assert recorder.take() == []


@pytest.mark.parametrize(("target", "field"), [("/v1/units", "description"), ("/v1/payments:reconcile", "provider")])
async def test_message_above_what_services_take_is_refused_as_readably(
    rest: Rest, recorder: Recorder, target: str, field: str
) -> None:
    answer = await rest.call("POST", target, {field: "x" * 4_500_000})
    assert (answer.status, answer.document["code"], answer.reason) == (413, 3, "REQUEST_TOO_LARGE")
    assert answer.document["message"] == "The request is larger than 4 MiB, as a message of protobuf."
    assert recorder.take() == []


async def test_headers_that_only_the_gateway_may_set_are_taken_away(rest: Rest, recorder: Recorder) -> None:
    forged = {
        "grpc-timeout": "1n",
        "grpc-encoding": "nonsense",
        "x-envoy-original-path": "/v1/billing/audit-events",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-internal": "true",
        "x-envoy-max-retries": "9",
        "x-forwarded-for": "203.0.113.9, 203.0.113.8",
        "anything-bin": "!!!",
        "cookie": "session=1",
        "http-status": "500",
        "x_forwarded_for": "203.0.113.7",
    }
    answer = await rest.call("GET", "/v1/metering/audit-events", None, *forged.items(), ("authorization", "Bearer x"))
    call = recorder.take_one()
    assert (answer.status, call.context) == (200, "metering")
    assert call.all_of("authorization") == ["Bearer x"]
    (caller,) = call.all_of("x-forwarded-for")
    # Of a caller on the same machine Envoy says an address of the machine.
    assert "203.0.113" not in caller
    assert "," not in caller
    sent = {name: value for name, value in call.metadata if forged.get(name) == value and name != "http-status"}
    assert sent == {}
    assert [name for name, _ in call.metadata if name.startswith(("x-envoy-", "grpc-timeout"))] == []


async def test_trace_goes_on(rest: Rest, recorder: Recorder) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await rest.call("GET", "/v1/units", None, ("traceparent", traceparent))
    assert recorder.take_one().all_of("traceparent") == [traceparent]


async def test_headers_above_12_kib_are_refused_readably(rest: Rest, recorder: Recorder) -> None:
    answer = await rest.call("GET", "/v1/units", None, ("x-large", "a" * 20_000))
    assert (answer.status, answer.reason) == (431, "HEADERS_TOO_LARGE")
    assert recorder.take() == []


async def test_call_gets_the_time_that_its_client_gives_it(rest: Rest, recorder: Recorder) -> None:
    await rest.call("GET", "/v1/units", None, ("x-timeout-ms", "2500"))
    remaining_s = recorder.take_one().remaining_s
    assert remaining_s is not None
    assert 0 < remaining_s <= 2.5


async def test_call_without_a_time_gets_30_seconds(rest: Rest, recorder: Recorder) -> None:
    await rest.call("GET", "/v1/units")
    remaining_s = recorder.take_one().remaining_s
    assert remaining_s is not None
    assert 15 < remaining_s <= 30


async def test_stream_gets_half_an_hour_or_the_time_that_its_client_gives_it(rest: Rest, recorder: Recorder) -> None:
    await rest.call("GET", "/v1/api-keys:watch")
    remaining_s = recorder.take_one().remaining_s
    assert remaining_s is not None
    assert 1_700 < remaining_s <= 1_800
    await rest.call("GET", "/v1/api-keys:watch", None, ("x-timeout-ms", "2500"))
    remaining_s = recorder.take_one().remaining_s
    assert remaining_s is not None
    assert 0 < remaining_s <= 2.5


@pytest.mark.parametrize("asked", ["0", "-1", "30001", "1.5", "1e3", "5S", "", "99999999999999999999", "1, 2"])
async def test_time_that_is_no_number_in_range_is_refused_by_name(rest: Rest, recorder: Recorder, asked: str) -> None:
    answer = await rest.call("GET", "/v1/units", None, ("x-timeout-ms", asked))
    assert answer.status == 400
    assert answer.violations == {"x-timeout-ms": "must be a whole number from 1 to 30000"}
    assert recorder.take() == []


async def test_call_that_is_not_answered_in_time_is_504(rest: Rest, recorder: Recorder) -> None:
    async def never(call: Context) -> None:
        await asyncio.Event().wait()

    recorder.behaviour = never
    began_s = time.monotonic()
    answers = [await rest.call("GET", "/v1/units", None, ("x-timeout-ms", told)) for told in ("1", "50", "300")]
    assert [_shape(answer) for answer in answers] == [(504, 4, "DEADLINE_EXCEEDED")] * 3
    assert time.monotonic() - began_s < 30


def _shape(answer: RestAnswer) -> tuple[int, object, str]:
    return answer.status, answer.document["code"], answer.reason


def request_of(method: str, data: bytes) -> dict[str, object]:
    parsed: dict[str, object] = MessageToDict(GetMessageClass(method_of(method).input_type).FromString(data))
    return parsed
