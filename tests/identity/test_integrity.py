"""Identity's invariants are silent on good state, and each fires on planted damage."""

import pytest
from sqlalchemy import text

from libs.common.database import open_database
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1 import integrity_pb2 as pb

DAMAGE = {
    "organizations_have_an_owner": [
        (
            "UPDATE identity.members SET role = 'admin' WHERE organization_id IN ("
            "SELECT organization_id FROM identity.organizations ORDER BY organization_id DESC LIMIT 1)"
        )
    ],
    "api_keys_stay_in_their_organization": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_project_of_organization",
        "UPDATE identity.api_keys SET project_id = api_key_id",
    ],
    "api_keys_hold_only_digests": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_digest_only",
        "UPDATE identity.api_keys SET digest = 'th_live_in_clear'",
    ],
    "revoked_api_keys_are_not_used": [
        "UPDATE identity.api_keys SET revoke_time = now(), last_used_time = now() + interval '11 s'"
    ],
    "users_of_api_keys_are_members": [
        "ALTER TABLE identity.api_keys DROP CONSTRAINT api_keys_user",
        "UPDATE identity.api_keys SET user_id = api_key_id",
    ],
    "revisions_have_no_gaps": ["UPDATE identity.key_changes SET revision = revision + 1"],
    "audit_events_are_chained": [
        "INSERT INTO identity.audit_heads VALUES (gen_random_uuid(), 1, decode(repeat('00', 32), 'hex'), now())"
    ],
}


async def _verify(identity: Identity) -> tuple[list[pb.Finding], pb.VerifyInvariantsSummary]:
    findings: list[pb.Finding] = []
    async for message in identity.integrity.VerifyInvariants(pb.VerifyInvariantsRequest(), metadata=identity.metadata):
        if message.HasField("finding"):
            findings.append(message.finding)
        else:
            return findings, message.summary
    raise AssertionError("the stream ended without a summary")


async def _plant(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    project = await identity.create_project(organization_id)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, project_id=project.project_id)
    )
    await identity.verify(created.secret)


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
