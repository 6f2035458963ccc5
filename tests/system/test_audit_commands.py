"""`tollhouse audit …`: one audit trail over three services, and detection of changes to it."""

import json

import asyncpg
import pytest

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation
from tollhouse.billing.v1 import account_pb2, account_pb2_grpc

pytestmark = pytest.mark.shards


@pytest.fixture(scope="module")
def owner() -> str:
    return f"audited-{new_id()}@example.com"


@pytest.fixture(scope="module")
async def organization_id(installation: Installation, owner: str) -> str:
    """An organization with a key and an account: events in two services."""
    return await audited(installation, owner)


async def audited(installation: Installation, owner: str) -> str:
    organization = made(installation, "organization", "create", "Audited", "--owner", owner, "--create-owner")
    organization_id = organization["organization_id"]
    key = ["key", "create", "first", "--organization", organization_id, "--user", owner, "-q"]
    done(installation, *key)
    async with installation.connection().open() as channels:
        await account_pb2_grpc.AccountServiceStub(channels.billing).OpenAccount(
            account_pb2.OpenAccountRequest(organization_id=organization_id, currency_code="USD")
        )
    return organization_id


def test_events_of_all_services_are_listed_newest_first(installation: Installation, organization_id: str) -> None:
    events = found(installation, "audit", "list", "--organization", organization_id)
    assert [(event["service"], event["action"]) for event in events] == [
        ("billing", "OpenAccount"),
        ("identity", "CreateApiKey"),
        ("identity", "CreateOrganization"),
    ]
    assert [event["event_time"] for event in events] == sorted((event["event_time"] for event in events), reverse=True)
    table = done(installation, "audit", "list", "--organization", organization_id)
    assert all(word in table for word in ("OpenAccount", "CreateApiKey", "CreateOrganization", "operator:cli"))


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        (["--service", "billing"], ["OpenAccount"]),
        (["--action", "CreateApiKey"], ["CreateApiKey"]),
        (["--resource-type", "api_key"], ["CreateApiKey"]),
        (["--actor", "operator:nobody"], []),
        (["--until", "1h"], []),
        (["--since", "1h", "--limit", "1"], ["OpenAccount"]),
    ],
)
def test_filters_return_matching_events_only(
    installation: Installation, organization_id: str, filters: list[str], actions: list[str]
) -> None:
    events = found(installation, "audit", "list", "--organization", organization_id, *filters)
    assert [event["action"] for event in events] == actions


def test_events_of_an_actor_are_found_by_email(installation: Installation, organization_id: str, owner: str) -> None:
    assert found(installation, "audit", "list", "--organization", organization_id, "--actor", owner) == []


def test_chains_are_verified_and_their_heads_are_printed(installation: Installation, organization_id: str) -> None:
    verified = json.loads(done(installation, "audit", "verify", "--organization", organization_id, "--json"))
    assert verified["intact"]
    events = {name: one["verified_events"] for name, one in verified["services"].items()}
    assert events == {"identity": 2, "billing": 1, "metering": 0}
    heads = [verified["services"][name]["head"] for name in ("identity", "billing")]
    assert heads[0].startswith("identity:2:")
    kept = [part for head in heads for part in ("--expected-head", head)]
    printed = done(installation, "audit", "verify", "--organization", organization_id, *kept)
    assert all(head in printed for head in heads)


def test_expected_head_missing_from_the_chain_is_reported(installation: Installation, organization_id: str) -> None:
    command = ["audit", "verify", "--organization", organization_id, "--expected-head", f"identity:1:{'ab' * 32}"]
    finished = installation.command(*command)
    assert finished.returncode == 1
    assert "identity event 1: expected_head_missing" in finished.stdout
    assert finished.stderr == ""


async def test_changed_event_is_reported(installation: Installation, owner: str) -> None:
    organization_id = await audited(installation, owner)
    connection = await asyncpg.connect(str(installation.ready()["database_url"]))
    try:
        await connection.execute(
            "UPDATE identity.audit_events SET actor = 'operator:nobody' WHERE organization_id = $1 AND sequence = 1",
            organization_id,
        )
    finally:
        await connection.close()
    finished = installation.command("audit", "verify", "--organization", organization_id)
    assert finished.returncode == 1
    assert "identity event 1: event_changed" in finished.stdout
    only = installation.command("audit", "verify", "--organization", organization_id, "--service", "billing")
    assert only.returncode == 0, only.stdout


def test_events_without_an_organization_are_listed_separately(installation: Installation) -> None:
    assert found(installation, "audit", "list", "--platform", "--action", "NoSuchAction") == []
    assert "intact" in done(installation, "audit", "verify", "--platform")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "--organization or --platform"),
        (["verify", "--platform", "--organization", "x"], "--organization or --platform"),
        (["list", "--platform", "--service", "treasury"], "treasury"),
        (["list", "--platform", "--since", "yesterday"], "yesterday"),
        (["list", "--platform", "--resource", "x"], "resource_type"),
        (["verify", "--platform", "--expected-head", "identity:x"], "SERVICE:NUMBER:HASH"),
        (["verify", "--platform", "--expected-head", f"billing:1:{'zz' * 32}"], "SERVICE:NUMBER:HASH"),
        (["verify", "--platform", "--service", "identity", "--expected-head", f"billing:1:{'ab' * 32}"], "billing"),
    ],
)
def test_wrong_use_names_what_is_wrong(installation: Installation, arguments: list[str], said: str) -> None:
    assert said in refused(installation, 2, "audit", *arguments)
