"""`tollhouse events …`: what happened in all three services, and sending it again."""

import pytest

from libs.common.ids import new_id
from tests.system.commands import done, found, made, refused
from tests.system.installation import Installation
from tollhouse.identity.v1 import organization_pb2, organization_pb2_grpc


@pytest.fixture(scope="module")
async def organization_id(installation: Installation) -> str:
    """An organization with an invitation."""
    owner = f"owner-{new_id()}@example.com"
    created = made(installation, "organization", "create", "Announced", "--owner", owner, "--create-owner")
    organization_id = str(created["organization_id"])
    async with installation.connection().open() as channels:
        await organization_pb2_grpc.OrganizationServiceStub(channels.identity).CreateInvitation(
            organization_pb2.CreateInvitationRequest(
                organization_id=organization_id,
                email="eve@example.com",
                role=organization_pb2.MEMBER_ROLE_MEMBER,
            )
        )
    return organization_id


async def test_events_endpoints_and_deliveries_are_listed_and_events_replayed(
    installation: Installation, organization_id: str
) -> None:
    created = made(
        *(installation, "events", "create", "https://events.invalid/", "--service", "identity"),
        *("--organization", organization_id),
    )
    assert created["secret"].startswith("whsec_")
    endpoint_id = created["endpoint_id"]
    (event,) = found(installation, "events", "list", "--organization", organization_id, "--service", "identity")
    assert (event["type"], event["sequence"]) == ("tollhouse.invitation.created", "1")
    table = done(installation, "events", "list", "--organization", organization_id)
    assert "tollhouse.invitation.created" in table
    (endpoint,) = found(installation, "events", "endpoints", "--organization", organization_id)
    assert (endpoint["service"], endpoint["endpoint_id"]) == ("identity", endpoint_id)
    assert "https://events.invalid/" in done(installation, "events", "endpoints", "--organization", organization_id)
    place = ("--service", "identity", "--organization", organization_id, "--endpoint", endpoint_id)
    replayed = made(installation, "events", "replay", *place, "--since", "1h")
    assert int(replayed["replayed_count"]) + int(replayed["pending_count"]) == 1
    assert done(installation, "events", "replay", *place, "--event", str(event["event_id"]))
    (delivery,) = found(installation, "events", "deliveries", *place)
    assert delivery["event_id"] == event["event_id"]
    assert str(event["event_id"]) in done(installation, "events", "deliveries", *place)


def test_an_endpoint_is_changed_switched_off_given_another_secret_and_deleted(
    installation: Installation, organization_id: str
) -> None:
    owner = ("--service", "billing", "--organization", organization_id)
    create = ("events", "create", "https://hook.invalid/", *owner, "--type", "tollhouse.invoice.*", "--request", "hook")
    first, again = (made(installation, *create) for _ in range(2))
    assert list(first["types"]) == ["tollhouse.invoice.*"]
    assert (again["endpoint_id"], again["secret"]) == (first["endpoint_id"], "")
    place = (*owner, "--endpoint", first["endpoint_id"])
    changed = made(installation, "events", "update", *place, "--off", "--description", "for the books")
    assert not changed["enabled"]
    assert (changed["description"], changed["url"]) == ("for the books", first["url"])
    changed = made(installation, "events", "update", *place, "--on", "--type", "tollhouse.payment.*")
    assert changed["enabled"]
    assert list(changed["types"]) == ["tollhouse.payment.*"]
    rotated = made(installation, "events", "rotate", *place, "--overlap", "0s")
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != first["secret"]
    done(installation, "events", "delete", *place, "--yes")
    assert found(installation, "events", "endpoints", "--organization", organization_id, "--service", "billing") == []
    assert "what is to change" in refused(installation, 2, "events", "update", *place)
    refused(installation, 1, "events", "update", *place, "--off")
    refused(installation, 2, "events", "create", "ftp://hook.invalid/", *owner)


def test_wrong_use_is_named(installation: Installation, organization_id: str) -> None:
    place = ("--service", "identity", "--organization", organization_id, "--endpoint", new_id())
    assert "either --event or --since" in refused(installation, 2, "events", "replay", *place)
    assert "either --organization or --platform" in refused(installation, 2, "events", "list")
    assert "no service 'other'" in refused(installation, 2, "events", "list", "--platform", "--service", "other")
