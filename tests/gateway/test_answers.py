"""What the gateway makes of the answers of services, and what it answers where there is none."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from libs.cli.gateway.bootstrap import Gateway
from libs.cli.gateway.routes import Page
from libs.common.errors import InvalidArgument, NotFound, Overloaded, Refusal, RequestTooLarge
from libs.common.ids import new_id
from libs.common.ports import free_port
from libs.common.status import STATUS_DETAILS_KEY, code_of, http_hints, status_of
from scripts.gateway_configuration import FOLDER, MOUNTED
from services.billing.errors import InsufficientBalance
from tests.gateway.conftest import running_gateway
from tests.gateway.recorder import Context, Recorder
from tests.support.envoy import PROGRAM
from tests.support.rest import Rest
from tollhouse.metering.v1 import usage_pb2

ORIGIN = "https://app.example.com"
LEFT = (("ratelimit-policy", '"a";q=5;w=60'), ("ratelimit", '"a";r=0;t=7'))


@pytest.fixture(scope="module")
def other(plain_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    """A gateway behind a proxy, open to web pages, with a page of its own, whose billing is away."""
    folder = tmp_path_factory.mktemp("other")
    page = folder / "page.html"
    page.write_text("<p>" + "x" * 2_000_000)
    gateway = replace(
        plain_gateway,
        targets={**plain_gateway.targets, "billing": ("127.0.0.1", free_port())},
        allowed_origins=(ORIGIN,),
        trusted_proxies=1,
        pages=(Page("/docs", "text/html; charset=utf-8", page),),
    )
    with running_gateway(folder, gateway) as envoy:
        yield Rest(envoy.port)


async def test_status_and_hints_that_a_service_tells_are_those_of_the_answer(rest: Rest, recorder: Recorder) -> None:
    async def denied(call: Context) -> None:
        call.set_trailing_metadata((("http-status", "429"), ("retry-after", "7"), *LEFT))

    recorder.behaviour = denied
    answer = await rest.call("POST", "/v1/authorizations", {})
    assert (answer.status, answer.document, answer.headers["retry-after"]) == (429, {}, "7")
    assert tuple((name, answer.headers[name]) for name, _ in LEFT) == LEFT
    assert [name for name in answer.headers if name.startswith("grpc-") or name == "http-status"] == []


@pytest.mark.parametrize("told", ["abc", "99", "600", "2000", "", "101"])
async def test_what_is_no_status_changes_nothing(rest: Rest, recorder: Recorder, told: str) -> None:
    async def odd(call: Context) -> None:
        call.set_trailing_metadata((("http-status", told),))

    recorder.behaviour = odd
    answer = await rest.call("GET", "/v1/units")
    assert (answer.status, "http-status" in answer.headers) == (200, False)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (InvalidArgument([]), 400),
        (RequestTooLarge(bytes_max=5), 413),
        (NotFound(resource_type="unit", resource_name='"}]\\ü\n%'), 404),
        (InsufficientBalance(needed=5, available=2, posted=3, held=1, currency_code="USD"), 402),
        (Overloaded(), 503),
    ],
)
async def test_refusal_keeps_its_reason_and_facts(
    rest: Rest, recorder: Recorder, refusal: Refusal, status: int
) -> None:
    async def refused(call: Context) -> None:
        await refuse(call, refusal)

    recorder.behaviour = refused
    answer = await rest.call("GET", "/v1/units")
    assert (answer.status, answer.reason, answer.document["message"]) == (status, refusal.reason, refusal.message)
    assert answer.headers.get("retry-after") == ("1" if refusal.retry_after_ms else None)
    details = answer.document["details"]
    assert isinstance(details, list)
    assert details[0].get("metadata", {}) == ({} if isinstance(refusal, InvalidArgument) else refusal.facts)


async def refuse(call: Context, refusal: Refusal) -> None:
    status = status_of(refusal, "tests.tollhouse")
    details = (STATUS_DETAILS_KEY, status.SerializeToString())
    await call.abort(code_of(refusal), status.message, (details, *http_hints(refusal)))


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503, "SERVICE_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.UNIMPLEMENTED, 501, "UNKNOWN"),
        (grpc.StatusCode.INTERNAL, 500, "UNKNOWN"),
    ],
)
async def test_error_without_details_has_a_reason_all_the_same(
    rest: Rest, recorder: Recorder, code: grpc.StatusCode, status: int, reason: str
) -> None:
    async def failed(call: Context) -> None:
        await call.abort(code, 'plain "text"')

    recorder.behaviour = failed
    answer = await rest.call("GET", "/v1/units")
    assert (answer.status, answer.reason, answer.document["message"]) == (status, reason, 'plain "text"')


async def test_stream_that_is_refused_at_once_is_an_error_with_a_status(rest: Rest, recorder: Recorder) -> None:
    async def refused(call: Context) -> None:
        await refuse(call, Overloaded())

    recorder.behaviour = refused
    answer = await rest.call("GET", "/v1/organizations:watch")
    assert (answer.status, answer.reason) == (503, "OVERLOADED")


async def test_export_of_usage_is_the_file_itself(rest: Rest, recorder: Recorder) -> None:
    texts = (b"a,b\r\n", b'1,"\xc3\xbc"\r\n' * 20_000, b"")
    recorder.pieces = [_piece(text) for text in texts]
    answer = await rest.call("GET", f"/v1/organizations/{new_id()}/usage:export?format=USAGE_EXPORT_FORMAT_CSV")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer.body == b"".join(texts)
    request = usage_pb2.ExportUsageRequest.FromString(recorder.take_one().request)
    assert request.format == usage_pb2.USAGE_EXPORT_FORMAT_CSV


async def test_export_that_is_refused_at_once_is_an_error_with_a_status(rest: Rest, recorder: Recorder) -> None:
    async def refused(call: Context) -> None:
        await refuse(call, Overloaded())

    recorder.behaviour = refused
    answer = await rest.call("GET", "/v1/usage:export")
    assert (answer.status, answer.reason) == (503, "OVERLOADED")


def _piece(text: bytes) -> bytes:
    body = HttpBody(content_type="text/csv; charset=utf-8", data=text)
    return usage_pb2.ExportUsageResponse(body=body, resume_token="x", row_count=3).SerializeToString()


async def test_service_that_is_away_is_503_and_the_others_answer(other: Rest, recorder: Recorder) -> None:
    answer = await other.call("GET", "/v1/billing/organizations")
    assert (answer.status, answer.reason, answer.headers["retry-after"]) == (503, "SERVICE_UNAVAILABLE", "1")
    assert answer.document["code"] == 14
    assert (await other.call("GET", "/v1/metering/organizations")).status == 200


@pytest.mark.parametrize("garbage", [b"\x0a\x05ab", b"\x0f" * 1000])
async def test_answer_that_is_no_message_is_an_error(rest: Rest, recorder: Recorder, garbage: bytes) -> None:
    recorder.answer = garbage
    answer = await rest.call("GET", "/v1/units")
    assert (answer.status, answer.reason) == (502, "GATEWAY_ERROR")


async def test_file_of_a_page_is_served_whole_without_a_service(other: Rest, recorder: Recorder) -> None:
    answer = await other.call("GET", "/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body == b"<p>" + b"x" * 2_000_000
    assert recorder.take() == []


async def test_behind_a_proxy_the_chain_of_addresses_is_passed_on(other: Rest, recorder: Recorder) -> None:
    await other.call("GET", "/v1/units", None, ("x-forwarded-for", "203.0.113.9"))
    (chain,) = recorder.take_one().all_of("x-forwarded-for")
    assert chain.startswith("203.0.113.9,")


async def test_browsers_may_call_from_pages_of_configured_origins_alone(other: Rest, rest: Rest) -> None:
    asked = (("access-control-request-method", "POST"), ("access-control-request-headers", "authorization"))
    allowed = await other.call("OPTIONS", "/v1/units", None, ("origin", ORIGIN), *asked)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "access-control-allow-credentials" not in allowed.headers
    read = await other.call("GET", "/v1/units", None, ("origin", ORIGIN))
    assert (read.status, read.headers["access-control-allow-origin"]) == (200, ORIGIN)
    for gateway, origin in ((other, "https://evil.example"), (other, f"{ORIGIN}.evil"), (rest, ORIGIN)):
        refused = await gateway.call("OPTIONS", "/v1/units", None, ("origin", origin), *asked)
        assert "access-control-allow-origin" not in refused.headers
        read = await gateway.call("GET", "/v1/units", None, ("origin", origin))
        assert "access-control-allow-origin" not in read.headers


def test_committed_configuration_is_one_that_envoy_takes(tmp_path: Path) -> None:
    """The paths in it are those of the container."""
    text = (FOLDER / "envoy.yaml").read_text(encoding="utf-8").replace(str(MOUNTED), str(FOLDER))
    (tmp_path / "envoy.yaml").write_text(text)
    command = [str(PROGRAM), "--mode", "validate", "--config-path", str(tmp_path / "envoy.yaml")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
