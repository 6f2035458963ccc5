"""Identity's invariants report nothing on valid data, and each one detects planted damage."""

import asyncio

import pytest
from sqlalchemy import text

from libs.common.database import open_database
from tests.identity.support import Identity
from tollhouse.common.v1 import event_pb2, event_pb2_grpc
from tollhouse.common.v1 import integrity_pb2 as pb
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, service_account_pb2

DAMAGE = {
    "organizations_have_an_owner": [
        (
            "UPDATE identity.members SET role = 'admin' WHERE organization_id IN ("
            "SELECT organization_id FROM identity.organizations ORDER BY organization_id DESC LIMIT 1)"
        )
    ],
    "api_keys_stay_in_their_organization": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_project_of_organization",
        "UPDATE identity.api_keys SET project_id = api_key_id WHERE project_id IS NOT NULL",
    ],
    "api_keys_hold_only_digests": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_digest_only",
        "UPDATE identity.api_keys SET digest = 'th_live_in_clear' WHERE user_id IS NOT NULL",
    ],
    "revoked_api_keys_are_not_used": [
        (
            "UPDATE identity.api_keys SET revoke_time = now(), last_used_time = now() + interval '11 s'"
            " WHERE user_id IS NOT NULL"
        )
    ],
    "users_of_api_keys_are_members": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_user",
        "UPDATE identity.api_keys SET user_id = api_key_id WHERE user_id IS NOT NULL",
    ],
    "personal_organizations_have_one_member": [
        (
            "INSERT INTO identity.members (organization_id, user_id, role, create_time, update_time)"
            " SELECT o.organization_id, u.user_id, 'viewer', now(), now() FROM identity.organizations o"
            " JOIN identity.users u ON u.personal_organization_id <> o.organization_id WHERE o.personal LIMIT 1"
        )
    ],
    "project_members_are_members": [
        "ALTER TABLE identity.project_members DROP CONSTRAINT project_members_member",
        "UPDATE identity.project_members SET user_id = project_id",
    ],
    "open_invitations_lead_somewhere": [
        (
            "UPDATE identity.organizations o SET delete_time = now() FROM identity.invitations i"
            " WHERE i.organization_id = o.organization_id"
        )
    ],
    "service_accounts_of_api_keys_are_live": ["UPDATE identity.service_accounts SET delete_time = now()"],
    "users_own_their_organization": [
        (
            "UPDATE identity.users u SET personal_organization_id = o.organization_id FROM identity.organizations o"
            " WHERE NOT o.personal AND u.user_id = (SELECT user_id FROM identity.users ORDER BY user_id LIMIT 1)"
            " AND NOT EXISTS (SELECT FROM identity.members m"
            "   WHERE m.organization_id = o.organization_id AND m.user_id = u.user_id)"
        )
    ],
    "deleted_users_have_nothing_left": [
        (
            "UPDATE identity.users SET delete_time = now()"
            " WHERE user_id = (SELECT user_id FROM identity.users ORDER BY user_id LIMIT 1)"
        )
    ],
    "revisions_have_no_gaps": ["UPDATE identity.revision_counter SET revision = revision + 1"],
    "audit_events_are_chained": [
        "INSERT INTO identity.audit_heads VALUES (gen_random_uuid(), 1, decode(repeat('00', 32), 'hex'), now())"
    ],
    "events_are_in_order": ["INSERT INTO identity.event_subjects VALUES (gen_random_uuid(), 'thing/1', 1, now())"],
    "event_deliveries_move": [
        (
            "INSERT INTO identity.event_deliveries (organization_id, event_id, endpoint_id, subject, sequence, status,"
            " next_attempt_time, start_time) VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
            " 'thing/1', 1, 'PENDING', now() + interval '1 day', now())"
        )
    ],
}


async def _verify(identity: Identity) -> tuple[list[pb.Finding], pb.VerifyInvariantsSummary]:
    findings: list[pb.Finding] = []
    async for message in identity.integrity.VerifyInvariants(pb.VerifyInvariantsRequest(), metadata=identity.metadata):
        if message.HasField("finding"):
            findings.append(message.finding)
        elif message.HasField("summary"):
            return findings, message.summary
    raise AssertionError("the stream ended without a summary")


async def _listen(identity: Identity, organization_id: str) -> event_pb2.ListEventDeliveriesRequest:
    """Let events of the organization be sent to where nobody answers; return what asks for their deliveries."""
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(identity.channel)
    endpoint = event_pb2.CreateEventEndpointRequest(organization_id=organization_id, url="http://127.0.0.1:1/")
    made = await stub.CreateEventEndpoint(endpoint, metadata=identity.metadata)
    return event_pb2.ListEventDeliveriesRequest(organization_id=organization_id, endpoint_id=made.endpoint.endpoint_id)


async def _delivered(identity: Identity, request: event_pb2.ListEventDeliveriesRequest) -> None:
    """Return when there is a delivery."""
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(identity.channel)
    async with asyncio.timeout(20):
        while not (await stub.ListEventDeliveries(request, metadata=identity.metadata)).deliveries:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _plant(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    project = await identity.create_project(organization_id)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, project_id=project.project_id)
    )
    await identity.verify(created.secret)
    account = await identity.service_accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(
            organization_id=organization_id, name="Robot", role=organization_pb2.MEMBER_ROLE_MEMBER
        ),
        metadata=identity.metadata,
    )
    await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, service_account_id=account.service_account.service_account_id
        )
    )
    await identity.projects.AddProjectMember(
        project_pb2.AddProjectMemberRequest(
            organization_id=organization_id,
            project_id=project.project_id,
            user_id=owner,
            role=project_pb2.PROJECT_MEMBER_ROLE_MEMBER,
        ),
        metadata=identity.metadata,
    )
    elsewhere, _ = await identity.create_organization()
    deliveries = await _listen(identity, elsewhere)
    await identity.organizations.CreateInvitation(
        organization_pb2.CreateInvitationRequest(
            organization_id=elsewhere, email="late@example.com", role=organization_pb2.MEMBER_ROLE_VIEWER
        ),
        metadata=identity.metadata,
    )
    await _delivered(identity, deliveries)


async def test_good_state_yields_the_summary_only(identity: Identity) -> None:
    await _plant(identity)

    findings, summary = await _verify(identity)

    assert findings == []
    assert {check.invariant for check in summary.checks} == set(DAMAGE)
    assert all(check.rows_examined > 0 and check.description for check in summary.checks)


@pytest.mark.parametrize("invariant", DAMAGE)
async def test_planted_damage_is_found(identity: Identity, database_admin_url: str, invariant: str) -> None:
    await _plant(identity)
    owner_of_tables = open_database(database_admin_url, schema="identity")
    async with owner_of_tables.transaction() as tx:
        for statement in DAMAGE[invariant]:
            await tx.execute(text(statement))
    await owner_of_tables.close()

    findings, summary = await _verify(identity)

    assert {finding.invariant for finding in findings} == {invariant}
    assert {check.invariant: check.findings for check in summary.checks}[invariant] == len(findings) == 1
