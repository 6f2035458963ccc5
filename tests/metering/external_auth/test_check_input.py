"""Whatever a client sends is answered; what the configuration says and makes no sense is refused by its name."""

import json
from pathlib import Path

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2 as pb
from envoy.service.auth.v3 import external_auth_pb2_grpc as rpc
from pydantic import SecretStr, ValidationError

from libs.common.errors import InvalidArgument
from libs.common.status import field_violations
from services.metering.external_auth.configuration import ExternalAuth, InvalidExternalAuth, read_external_auth
from services.metering.external_auth.domain import Denied, Status
from services.metering.external_auth.parsing import read_check, read_route
from services.metering.external_auth.rendering import render
from services.metering.settings import MeteringSettings
from tests.identity.support import Identity
from tests.metering.external_auth.support import bearer, check, funded_key, outcome, request_of, said
from tests.metering.support import Metering, Platform, usage
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import SURROGATE, TEXTS, variants

ODD = (
    "",
    " ",
    "\x00",
    "a\r\nx-tollhouse-organization-id: mine",
    '"}, "reason": "OK"',
    "</script>\u2028",
    "\u202e\u200b",
    "İßﬀﷺ",
    "Bearer Bearer",
    "x" * 1_000_000,
    "," * 60_000,
    "127.0.0.1, " * 5_000,
)


async def test_whatever_a_client_sends_is_answered(platform: Platform, identity: Identity) -> None:
    created = await funded_key(platform, identity)
    good = bearer(created.secret)
    for text in ODD:
        assert (await outcome(platform.metering, ("authorization", text))).startswith("401 ")
        assert (await outcome(platform.metering, bearer(text))).startswith("401 ")
        assert (await outcome(platform.metering, ("x-api-key", text))).startswith("401 ")
        assert await outcome(platform.metering, good, ("x-forwarded-for", text)) == "200"
        assert await outcome(platform.metering, good, ("x-tollhouse-user-id", text), (text, text)) == "200"
        assert await outcome(platform.metering, good, address=text[:1_000]) == "200"
        answer = await check(platform.metering, request_of(good, (f"x-tollhouse-{text}", "1")))
        assert said(answer) == "200"
        for name in answer.ok_response.headers_to_remove:
            assert name.isascii()
            assert name.isprintable()
            assert " " not in name


@pytest.mark.own_database
async def test_odd_requests_are_answered_or_refused_and_harm_nobody_else(
    platform: Platform, identity: Identity, metering: Metering
) -> None:
    created = await funded_key(platform, identity)
    request = request_of(bearer(created.secret), scope="chat", model="gpt-4o")
    hostile = HostileCalls(metering.channel, metering.operator)
    method = pb.DESCRIPTOR.services_by_name["Authorization"].methods_by_name["Check"]
    odd = [pb.CheckRequest(), *variants(request)]
    odd += [
        request_of(bearer(created.secret), **{name: text}) for text in TEXTS for name in ("scope", "labels.a", text)
    ]

    other, _ = await identity.create_organization()
    await hostile.beside(lambda number: metering.record(usage(other, f"call-{number}")), hostile.send(method, odd))

    assert "\n".join(hostile.failures) == ""
    assert hostile.answered == {"Check"}
    await platform.settled()
    assert await metering.findings() == []


async def test_route_that_demands_what_does_not_exist_is_refused_by_its_name(metering: Metering) -> None:
    stub: rpc.AuthorizationStub = rpc.AuthorizationStub(metering.channel)
    request = request_of(planet="Mars", project_id="acme", scope="chat", model="gpt-4o")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await stub.Check(request, metadata=metering.gateway)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(field_violations(refusal.value)) == [
        "attributes.context_extensions[planet]",
        "attributes.context_extensions[project_id]",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scope", ""),
        ("scope", "Chat"),
        ("scope", " ".join(f"s{number}" for number in range(21))),
        ("model", ""),
        ("model", "a\x00b"),
        ("model", "m" * 257),
        ("organization_id", "0198f0aa"),
        ("currency_code", "usd"),
        ("labels.", "x"),
        ("labels.team", ""),
        ("labels.te\nam", "red"),
        ("labels." + "k" * 65, "red"),
        ("Scope", "chat"),
        ("\r\n", "x"),
        ("p" * 100_000, "x"),
    ],
)
def test_value_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        read_route({name: value})
    (violation,) = refusal.value.shown
    assert violation.field.startswith("attributes.context_extensions[")
    assert violation.field.isprintable()
    assert len(violation.field) < 300


def test_route_may_have_sixteen_labels() -> None:
    labels = {f"labels.{number}": "x" for number in range(16)}
    assert len(read_route(labels).labels) == 16
    with pytest.raises(InvalidArgument):
        read_route(labels | {"labels.more": "x"})


def test_header_with_the_key_is_kept_where_the_configuration_says_so() -> None:
    request = request_of(bearer("secret"), ("x-api-key", "secret"), ("x_tollhouse_more", "1"))

    def removed(*, remove_key: bool, headers: tuple[str, ...] = ("authorization",)) -> set[str]:
        return set(read_check(request, key_headers=headers, remove_key=remove_key, proxies=()).removed)

    assert removed(remove_key=False) == {"x_tollhouse_more"}
    assert removed(remove_key=True) == {"x_tollhouse_more", "authorization"}
    assert removed(remove_key=True, headers=("x-api-key",)) == {"x_tollhouse_more", "x-api-key"}


@pytest.mark.parametrize("text", [*ODD, SURROGATE, "\ud800"])
def test_no_text_breaks_the_body_or_the_headers(text: str) -> None:
    denied = Denied(Status.FORBIDDEN, "R", text, {"model": text, text: "x"})
    if "\ud800" in text:
        with pytest.raises((UnicodeEncodeError, ValueError)):
            render(denied, ())
        return
    answer = render(denied, ()).denied_response
    assert json.loads(answer.body) == {"reason": "R", "message": text, "facts": {"model": text, text: "x"}}
    assert answer.body.isascii()
    assert answer.body.isprintable()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "it: Input should be an object"),
        ('{"planet": 1}', "planet: Extra inputs"),
        ('{"remove_key": "yes"}', "remove_key: Input should be a valid boolean"),
        ('{"key_headers": []}', "key_headers"),
        ('{"key_headers": ["X-Api-Key"]}', "'X-Api-Key' is no header that may hold a key"),
        ('{"key_headers": ["x-tollhouse-key"]}', "is no header that may hold a key"),
        ('{"key_headers": ["a\\nb"]}', "is no header that may hold a key"),
        ('{"key_headers": ["a", "a"]}', "a header is there twice"),
        ('{"trusted_proxies": ["10.0.0.1/8"]}', "trusted_proxies"),
        ('{"trusted_proxies": ["nearby"]}', "trusted_proxies"),
    ],
)
def test_configuration_that_makes_no_sense_is_refused_with_its_place(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidExternalAuth) as refusal:
        read_external_auth(text)
    assert reason in str(refusal.value)
    path = tmp_path / "external_auth.json"
    path.write_text(text)
    with pytest.raises(ValidationError) as unset:
        MeteringSettings(
            database_url=SecretStr("postgresql://localhost/metering"),
            trust_bundle_file=path,
            signing_key_file=path,
            billing_target="localhost:1",
            identity_target="localhost:1",
            external_auth_file=path,
        )
    assert "external_auth_file" in str(unset.value)


def test_everything_may_be_left_out_of_the_configuration() -> None:
    assert read_external_auth("{}") == ExternalAuth()
    assert ExternalAuth().key_headers == ("authorization",)
