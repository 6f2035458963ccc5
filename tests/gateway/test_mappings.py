"""Every mapping of the contract, called through a real Envoy."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from libs.cli.gateway.descriptors import Binding, bindings, services
from tests.gateway.filled import as_rest, filled, filled_raw
from tests.gateway.recorder import CONTEXTS, Recorder, method_of
from tests.support.rest import Rest

ODD_IDS = (
    *("a/b/c", "a//b", "a/../b", "..", "./x", "/a", "x:import", "a:settle", "x:y:get", "50%", "%2F", "%zz", "?#&=+;"),
    *("\"'<>\\`{}|^~", "'; DROP TABLE usage; --", "a/", "~", "=" * 255, "chatcmpl-1.2_3", "openai/gpt-4o:free@v1"),
)
OF_ONE = "/v1/organizations/0190a0a0-0000-7000-8000-000000000001"


def all_bindings() -> Iterator[tuple[MethodDescriptor, Binding]]:
    for service in services():
        for method in service.methods:
            for binding in bindings(method):
                yield method, binding


def context_of(method: MethodDescriptor, binding: Binding) -> str:
    """The service that is to be asked: of a common one, the path says which."""
    package = str(method.containing_service.file.package).split(".")[1]
    first = binding.path.split("/")[2]
    return package if package in CONTEXTS else first if first in CONTEXTS else "identity"


async def test_every_mapping_brings_every_field_to_its_rpc_at_its_service(rest: Rest, recorder: Recorder) -> None:
    wrong = []
    for method, binding in all_bindings():
        if binding.is_raw:
            request = filled_raw(binding, method.input_type, itertools.count(1))
            headers = (("content-type", "application/json"),)
        else:
            request = filled(method.input_type, by_query=not binding.body, numbers=itertools.count(1))
            headers = (("authorization", "Bearer x"),)
        target, body = as_rest(binding, request)
        answer = await rest.call(binding.verb.upper(), target, body, *headers)
        came = recorder.take()
        name = f"{method.containing_service.full_name}/{method.name}"
        expected = [(context_of(method, binding), name, request)]
        found = [(call.context, call.method, _parsed(call.method, call.request)) for call in came]
        if answer.status != 200 or found != expected:
            wrong.append(f"{binding.verb} {target[:150]}: {answer.status} {answer.body[:300]!r} {found}")
    assert wrong == []


async def test_webhook_is_passed_on_byte_by_byte_with_the_header_of_its_signature(
    rest: Rest, recorder: Recorder
) -> None:
    body = b'{ "z":1 ,"name":"caf\\u00e9", "z": [1,2 ] }\n' + b" " * 200_000
    signatures = (("x-signature", "ab" * 32), ("stripe-signature", "t=1,v1=ab"))
    for kind in ("application/json", "text/plain", ""):
        headers = (("content-type", kind),) if kind else ()
        answer = await rest.call("POST", "/v1/webhooks/stripe", body, *headers, *signatures)
        call = recorder.take_one()
        request = _parsed(call.method, call.request)
        assert (answer.status, request.provider, request.body.data) == (200, "stripe", body)
        assert [call.all_of(name) for name, _ in signatures] == [[value] for _, value in signatures]
    for target in ("/v1/webhooks/stripe?provider=x", "/v1/webhooks/stripe?headers=x"):
        assert (await rest.call("POST", target, body)).status == 400
    assert recorder.take() == []


async def test_every_mapping_takes_the_names_of_fields_in_both_spellings(rest: Rest, recorder: Recorder) -> None:
    camel = await rest.call("POST", "/v1/units", {"unitId": "a", "requestId": "r"})
    snake = await rest.call("POST", "/v1/units", {"unit_id": "a", "request_id": "r"})
    assert (camel.status, snake.status) == (200, 200)
    first, second = recorder.take()
    assert first.request == second.request


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        (f"{OF_ONE}/usage/", f"{OF_ONE}/usage:get?operation_id=", "operation_id"),
        (f"{OF_ONE}/holds/", f"{OF_ONE}/holds:get?operation_id=", "operation_id"),
        ("/v1/models/", "/v1/models:get?model_id=", "model_id"),
        (
            f"{OF_ONE}/operations/",
            f"{OF_ONE}/transactions:get?operation_id=",
            "operation_id",
        ),
    ],
)
async def test_any_id_can_be_asked_for_in_the_query_and_never_becomes_another_in_the_path(
    rest: Rest, recorder: Recorder, path: str, query: str, field: str
) -> None:
    for odd in ODD_IDS:
        answer = await rest.call("GET", query + quote(odd, safe=""))
        call = recorder.take_one()
        assert (answer.status, getattr(_parsed(call.method, call.request), field)) == (200, odd)
        answer = await rest.call("GET", path + quote(odd, safe="/"))
        came = recorder.take()
        # What the path cannot say is not found, rather than taken for something else.
        assert answer.status in (200, 404), odd
        assert [getattr(_parsed(call.method, call.request), field) for call in came] == [odd] * (answer.status == 200)
        assert answer.status == 200 or odd.endswith("/") or odd.startswith("/") or ":" in odd, odd


async def test_model_whose_id_ends_like_a_verb_can_be_changed(rest: Rest, recorder: Recorder) -> None:
    for odd in ODD_IDS:
        assert (await rest.call("PATCH", "/v1/models", {"modelId": odd})).status == 200
        call = recorder.take_one()
        assert (call.method, _parsed(call.method, call.request).model_id) == (
            "tollhouse.metering.v1.ModelService/UpdateModel",
            odd,
        )


async def test_stream_of_a_service_comes_as_one_line_of_json_a_message(rest: Rest, recorder: Recorder) -> None:
    answer = await rest.call("GET", "/v1/api-keys:watch")
    assert (answer.status, answer.body) == (200, b"{}\n{}\n")


async def test_unknown_paths_and_methods_reach_no_service(rest: Rest, recorder: Recorder) -> None:
    targets = [
        *("/", "/v1", "/v1/", "/v2/models", "/v1/nothing", "/v1/models/", "//v1/models", "/v1/models:nothing"),
        *("/tollhouse.billing.v1.LedgerService/Debit", "/grpc.health.v1.Health/Check", "/v1/../v1/models", "/docs%00"),
        "/envoy.service.auth.v3.Authorization/Check",
    ]
    calls = [("GET", target) for target in targets] + [("POST", target) for target in targets]
    calls += [("PUT", "/v1/models"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/models"), ("TRACE", "/v1/models")]
    answers = await asyncio.gather(*(rest.call(*one) for one in calls))
    assert {
        call: answer.status for call, answer in zip(calls, answers, strict=True) if answer.status not in (400, 404)
    } == {}
    assert [answer.body for answer in answers if answer.status == 404 and answer.reason != "PATH_NOT_FOUND"] == []
    assert recorder.take() == []


async def test_grpc_itself_is_not_passed_on(rest: Rest, recorder: Recorder) -> None:
    said: dict[str, set[tuple[int, str]]] = {}
    for kind in ("application/grpc", "application/grpc+proto", "application/grpc-web", "application/json"):
        for target in ("/tollhouse.billing.v1.LedgerService/Debit", f"{OF_ONE}/debits"):
            headers = (("content-type", kind), ("te", "trailers"), ("x-envoy-original-path", "/v1/billing/x"))
            answer = await rest.call("POST", target, b"\x00\x00\x00\x00\x00", *headers)
            said.setdefault(kind, set()).add((answer.status, answer.reason))
    assert recorder.take() == []
    # Envoy would answer what says that it is gRPC with 200 and nothing else.
    assert said["application/grpc"] == said["application/grpc+proto"] == {(415, "GRPC_NOT_SPOKEN")}


async def test_gateway_says_that_it_runs_without_credentials(rest: Rest) -> None:
    answer = await rest.call("GET", "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")


def _parsed(method: str, data: bytes) -> Any:
    return GetMessageClass(method_of(method).input_type).FromString(data)
