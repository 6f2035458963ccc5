"""`tollhouse key …`: create, list, change and revoke keys; a secret is shown once."""

import json
import re

import pytest

from libs.common.ids import new_id
from tests.support.secrecy import SHAPES
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation
from tollhouse.identity.v1 import api_key_pb2, api_key_pb2_grpc

SECRET = re.compile(r"th_(live|test)_[0-9A-Za-z]{49}")


@pytest.fixture(scope="module")
def owner() -> str:
    return f"keys-{new_id()}@example.com"


@pytest.fixture(scope="module")
def of_it(installation: Installation, owner: str) -> list[str]:
    """The option that names the organization all these keys belong to."""
    organization = made(installation, "organization", "create", "Keys", "--owner", owner, "--create-owner")
    return ["--organization", organization["organization_id"]]


async def code_of(installation: Installation, secret: str) -> str:
    async with installation.connection().open() as channels:
        stub = api_key_pb2_grpc.ApiKeyServiceStub(channels.identity)
        # A watch first reports the newest revision. As min_revision, it makes the answer include all changes so far.
        newest = await anext(aiter(stub.WatchApiKeys(api_key_pb2.WatchApiKeysRequest(), timeout=10)))
        request = api_key_pb2.VerifyApiKeyRequest(key=secret, min_revision=newest.revision)
        answer = await stub.VerifyApiKey(request)
    return str(api_key_pb2.VerifyApiKeyCode.Name(answer.code)).removeprefix("VERIFY_API_KEY_CODE_")


async def test_new_secret_is_printed_once_and_works(installation: Installation, of_it: list[str], owner: str) -> None:
    output = done(installation, "key", "create", "alone", *of_it, "--user", owner, "--secret-only")
    assert SECRET.fullmatch(output.removesuffix("\n"))
    assert await code_of(installation, output.strip()) == "VALID"
    everything = done(installation, "key", "list", *of_it) + done(installation, "key", "list", *of_it, "--json")
    assert re.search(SHAPES, everything) is None
    assert output[:12] in everything


def test_key_carries_what_it_was_made_with(installation: Installation, of_it: list[str], owner: str) -> None:
    project = made(installation, "project", "create", "Keys", *of_it)["project_id"]
    command = ["key", "create", "whole", *of_it, "--user", owner, "--project", project, "--test"]
    command += ["--scope", "chat.write", "--scope", "chat.read", "--model", "swift-*", "--metadata", "team=blue"]
    subscription = new_id()
    command += ["--external-id", "crm-7", "--expires", "30d", "--address", "192.0.2.0/24"]
    command += ["--subscription", subscription]
    created = json.loads(done(installation, *command, "--json"))
    key = created["api_key"]
    assert SECRET.fullmatch(created["secret"])
    assert created["secret"].startswith("th_test_")
    assert sorted(key["scopes"]) == ["chat.read", "chat.write"]
    assert (key["allowed_models"], key["allowed_addresses"]) == (["swift-*"], ["192.0.2.0/24"])
    assert (key["metadata"], key["external_id"], key["project_id"]) == ({"team": "blue"}, "crm-7", project)
    assert key["expire_time"]
    assert key["subscription_id"] == subscription
    for filters in (["--project", project], ["--external-id", "crm-7"]):
        assert [one["api_key_id"] for one in found(installation, "key", "list", *of_it, *filters)] == [
            key["api_key_id"]
        ]
    shown = done(installation, "key", "show", key["api_key_id"], *of_it)
    assert "team=blue" in shown
    assert subscription in shown
    assert created["secret"] not in shown


async def test_key_is_disabled_enabled_and_revoked_by_secret_prefix(
    installation: Installation, of_it: list[str], owner: str
) -> None:
    created = json.loads(done(installation, "key", "create", "stopped", *of_it, "--user", owner, "--json"))
    secret, beginning = created["secret"], created["api_key"]["secret_prefix"]
    assert made(installation, "key", "disable", beginning, *of_it)["state"] == "API_KEY_STATE_DISABLED"
    assert await code_of(installation, secret) == "DISABLED"
    assert made(installation, "key", "enable", beginning, *of_it)["state"] == "API_KEY_STATE_ACTIVE"
    assert await code_of(installation, secret) == "VALID"
    assert "revoked" in done(installation, "key", "revoke", beginning, *of_it)
    assert await code_of(installation, secret) == "REVOKED"


async def test_rotated_key_works_for_the_requested_overlap(
    installation: Installation, of_it: list[str], owner: str
) -> None:
    first = json.loads(done(installation, "key", "create", "turning", *of_it, "--user", owner, "--json"))
    key_id = first["api_key"]["api_key_id"]
    second = json.loads(done(installation, "key", "rotate", key_id, *of_it, "--overlap", "1h", "--json"))
    assert [await code_of(installation, one["secret"]) for one in (first, second)] == ["VALID", "VALID"]
    third = done(installation, "key", "rotate", second["api_key"]["api_key_id"], *of_it, "-q").strip()
    assert await code_of(installation, third) == "VALID"
    assert await code_of(installation, second["secret"]) != "VALID"


async def test_deleting_a_service_account_stops_its_key(installation: Installation, of_it: list[str]) -> None:
    account = made(installation, "service-account", "create", "robot", *of_it)["service_account_id"]
    secret = done(installation, "key", "create", "robot", *of_it, "--service-account", account, "-q").strip()
    assert await code_of(installation, secret) == "VALID"
    done(installation, "service-account", "delete", account, *of_it, "--yes")
    assert await code_of(installation, secret) != "VALID"


def test_secret_as_a_command_line_argument_is_refused(installation: Installation, of_it: list[str]) -> None:
    line = refused(installation, 2, "key", "revoke", "th_live_" + "a" * 49, *of_it)
    assert "Do not put a secret on the command line" in line
    assert re.search(SHAPES, line) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "nobody's"], "--user or --service-account"),
        (["create", "both", "--user", "a@b.example", "--service-account", "x"], "--user or --service-account"),
        (["create", "late", "--user", "0198c0de-0000-7000-8000-000000000000", "--expires", "soon"], "soon"),
        (["create", "odd", "--user", "0198c0de-0000-7000-8000-000000000000", "--metadata", "blue"], "NAME=VALUE"),
        (["rotate", "0198c0de-0000-7000-8000-000000000000", "--overlap", "1 day"], "span of time"),
        (["show", "th_live_"], "visible beginning"),
        (["show", "whatever"], "visible beginning"),
    ],
)
def test_wrong_use_names_what_is_wrong(
    installation: Installation, of_it: list[str], arguments: list[str], said: str
) -> None:
    assert said in refused(installation, 2, "key", *arguments, *of_it)


def test_unknown_key_is_refused(installation: Installation, of_it: list[str], owner: str) -> None:
    assert "NOT_FOUND" in refused(installation, 1, "key", "revoke", new_id(), *of_it)
    assert "begins with" in refused(installation, 1, "key", "revoke", "th_live_0000", *of_it)
