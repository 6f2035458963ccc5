"""Import of keys from other systems, and reports of leaked keys."""

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.status import error_info_in
from services.identity.api_key.secret import new_secret
from services.identity.api_key.verify.prefixes import ImportedPrefixes, may_be_imported
from tests.identity.conftest import OpenIdentity
from tests.identity.refusals import NOT_FOUND, refused, violated_fields
from tests.identity.support import PEPPERS, Identity, open_identity
from tests.support.callers import Callers
from tests.support.outage import cut_off
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import organization_pb2

PREFIX = "sk-acme-"


def _foreign_secret() -> str:
    return f"{PREFIX}{new_id()}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _imported(secret: str, user_id: str, **fields: object) -> pb.ImportedApiKey:
    return pb.ImportedApiKey(digest=_digest(secret), secret_suffix=secret[-4:], user_id=user_id, **fields)  # type: ignore[arg-type]


async def _import(
    identity: Identity, organization_id: str, keys: list[pb.ImportedApiKey], prefix: str = PREFIX
) -> pb.ImportApiKeysResponse:
    request = pb.ImportApiKeysRequest(organization_id=organization_id, secret_prefix=prefix, api_keys=keys)
    return await identity.api_keys.ImportApiKeys(request, metadata=identity.metadata)


def _reasons(answer: pb.ImportApiKeysResponse) -> list[tuple[str, str]]:
    """Return the reason and the field of each refusal, and an empty entry for an imported key."""
    found = []
    for outcome in answer.outcomes:
        info = error_info_in(outcome.error)
        found.append((info.reason, info.metadata["field"]) if info else ("", ""))
    return found


@pytest.fixture
async def organization(identity: Identity) -> tuple[str, str]:
    return await identity.create_organization()


async def test_imported_key_works_with_the_secret_its_user_has(
    identity: Identity, organization: tuple[str, str], identity_database: Database
) -> None:
    organization_id, owner = organization
    secret = _foreign_secret()
    assert await identity.code(secret) == "NOT_FOUND"

    answer = await _import(
        identity,
        organization_id,
        [_imported(secret, owner, name="old", scopes=["usage:write"], allowed_addresses=["192.0.2.1"])],
    )

    assert (answer.imported_count, answer.replayed_count, answer.refused_count) == (1, 0, 0)
    key = answer.outcomes[0].api_key
    assert (key.imported_prefix, key.secret_prefix, key.secret_suffix) == (PREFIX, PREFIX, secret[-4:])
    verified = await identity.verify(secret, scopes=("usage:write",), address="192.0.2.1", min_revision=answer.revision)
    assert verified.code == pb.VERIFY_API_KEY_CODE_VALID
    assert verified.principal.api_key_id == key.api_key_id
    assert await identity.code(secret, address="192.0.2.2") == "ADDRESS_NOT_ALLOWED"
    assert await identity.code(secret + "x") == "NOT_FOUND"
    async with identity_database.transaction() as tx:
        stored = (await tx.execute(text("SELECT encode(digest, 'hex') FROM identity.api_keys"))).scalar_one()
        action = (await tx.execute(text("SELECT action FROM identity.audit_events ORDER BY sequence"))).scalars().all()
    assert stored != _digest(secret)
    assert action.count("ImportApiKeys") == 1
    assert await identity.code(secret, min_revision=await identity.revoke(key)) == "REVOKED"


async def test_import_sent_again_makes_nothing_twice(identity: Identity, organization: tuple[str, str]) -> None:
    organization_id, owner = organization
    keys = [_imported(_foreign_secret(), owner, metadata={"n": str(n)}) for n in range(3)]
    first = await _import(identity, organization_id, keys[:2])
    again = await _import(identity, organization_id, keys)

    assert [outcome.replayed for outcome in again.outcomes] == [True, True, False]
    assert [o.api_key for o in again.outcomes[:2]] == [o.api_key for o in first.outcomes]
    assert (again.imported_count, again.replayed_count) == (1, 2)
    keys[0].name = "another"
    assert _reasons(await _import(identity, organization_id, keys[:1])) == [("API_KEY_ALREADY_EXISTS", "name")]
    elsewhere, other = await identity.create_organization()
    keys[1].user_id = other
    assert _reasons(await _import(identity, elsewhere, keys[1:2])) == [("API_KEY_ALREADY_EXISTS", "organization_id")]


async def test_key_that_is_refused_keeps_none_of_the_others_away(
    identity: Identity, organization: tuple[str, str]
) -> None:
    organization_id, owner = organization
    viewer = (await identity.create_user()).user_id
    await identity.organizations.AddMember(
        organization_pb2.AddMemberRequest(
            organization_id=organization_id, user_id=viewer, role=organization_pb2.MEMBER_ROLE_VIEWER
        ),
        metadata=identity.metadata,
    )
    good = _foreign_secret()
    keys = [
        _imported(_foreign_secret(), new_id()),
        _imported(_foreign_secret(), viewer, scopes=["usage:write"]),
        _imported(good, owner),
        _imported(_foreign_secret(), owner, project_id=new_id()),
        _imported(_foreign_secret(), owner, allowed_addresses=["192.0.2.1/8"]),
        _imported(_foreign_secret(), owner, expire_time={"seconds": 1}),
    ]

    answer = await _import(identity, organization_id, keys)

    reasons = [reason for reason, _ in _reasons(answer)]
    assert reasons == ["NOT_FOUND", "SCOPE_NOT_HELD", "", "NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert (answer.imported_count, answer.refused_count) == (1, 5)
    assert await identity.code(good, min_revision=answer.revision) == "VALID"


async def test_import_is_refused_as_a_whole_where_nothing_of_it_makes_sense(
    identity: Identity, organization: tuple[str, str]
) -> None:
    organization_id, owner = organization
    key = _imported(_foreign_secret(), owner)

    for prefix in ("th_live_", "th_", "th", "th_x"):
        assert await violated_fields(_import(identity, organization_id, [key], prefix)) == {"secret_prefix"}
    for prefix in ("", "x", "a b", "x" * 33):
        assert await violated_fields(_import(identity, organization_id, [key], prefix)) == {"secret_prefix"}
    assert await violated_fields(_import(identity, organization_id, [key, key])) == {"api_keys[1].digest"}
    assert await violated_fields(_import(identity, organization_id, [])) == {"api_keys"}
    assert await refused(_import(identity, new_id(), [key])) == NOT_FOUND
    assert await violated_fields(
        _import(identity, organization_id, [pb.ImportedApiKey(digest="00", user_id=owner)])
    ) == {"api_keys[0].digest"}


async def test_prefixes_are_few(identity: Identity, organization: tuple[str, str], identity_database: Database) -> None:
    organization_id, owner = organization
    async with identity_database.transaction() as tx:
        await tx.execute(
            text("INSERT INTO identity.imported_prefixes SELECT 'p' || n, now() FROM generate_series(1, 32) n")
        )
    secret = _foreign_secret()

    refusal = await refused(_import(identity, organization_id, [_imported(secret, owner)]))
    assert refusal == ("FAILED_PRECONDITION", "TOO_MANY_IMPORTED_PREFIXES")
    answer = await _import(identity, organization_id, [_imported(secret, owner)], "p7")
    assert answer.imported_count == 1


@pytest.mark.own_database
async def test_import_of_another_process_is_known_with_min_revision_at_once(start_identity: OpenIdentity) -> None:
    here, there = await start_identity(), await start_identity()
    organization_id, owner = await here.create_organization()
    secrets = [_foreign_secret() for _ in range(20)]
    assert await there.code(secrets[0]) == "NOT_FOUND"

    for secret in secrets:
        prefix = secret[:20]
        answer = await _import(here, organization_id, [_imported(secret, owner)], prefix)
        assert await there.code(secret, min_revision=answer.revision) == "VALID"


async def test_import_is_repeated_under_a_new_pepper_without_making_keys_twice(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    url, secret = database_urls["identity"], _foreign_secret()
    async with open_identity(callers, url, tmp_path) as before:
        organization_id, owner = await before.create_organization()
        first = await _import(before, organization_id, [_imported(secret, owner)])
    async with open_identity(callers, url, tmp_path, peppers={**PEPPERS, "2": "22" * 32}) as after:
        again = await _import(after, organization_id, [_imported(secret, owner)])
        assert again.outcomes[0].replayed
        assert again.outcomes[0].api_key.api_key_id == first.outcomes[0].api_key.api_key_id
        assert await after.code(secret, min_revision=again.revision) == "VALID"


async def test_flood_of_malformed_secrets_is_answered_without_any_database(
    identity: Identity, organization: tuple[str, str], database_admin_url: str
) -> None:
    organization_id, owner = organization
    answer = await _import(identity, organization_id, [_imported(_foreign_secret(), owner)])
    assert await identity.code("whatever", min_revision=answer.revision) == "NOT_FOUND"
    good = new_secret(live=True)
    malformed = [good[:-1], good + "0", "th_live_", "th_", "x" * 256, "sk-other-1", "SK-ACME-1", "ключ", " "]

    async with cut_off(database_admin_url):
        for number in range(200):
            assert await identity.code(malformed[number % len(malformed)]) == "NOT_FOUND"
        for worth_a_look in (good, _foreign_secret()):
            assert (await refused(identity.code(worth_a_look)))[0] == "UNAVAILABLE"


def test_prefixes_of_our_own_secrets_are_not_imported() -> None:
    assert [prefix for prefix in ("th", "th_", "th_live_", "th_x", "t") if may_be_imported(prefix)] == []
    assert may_be_imported("the-")
    prefixes = ImportedPrefixes()
    assert not prefixes.are_known_at(0)
    prefixes.learn(["sk-"], seen_revision=7)
    assert prefixes.begin("sk-1")
    assert not prefixes.begin("pk-1")
    assert prefixes.are_known_at(7)
    assert not prefixes.are_known_at(8)


async def _report(identity: Identity, **fields: object) -> pb.ReportLeakedApiKeyResponse:
    return await identity.api_keys.ReportLeakedApiKey(
        pb.ReportLeakedApiKeyRequest(**fields),  # type: ignore[arg-type]
        metadata=identity.metadata,
    )


async def test_reported_key_is_revoked_at_once_and_the_trail_says_where_it_was_found(
    identity: Identity, identity_database: Database
) -> None:
    created = await identity.create_key()
    assert await identity.code(created.secret) == "VALID"

    url = f"https://bob:pw@code.test/repo/{created.secret}?key={created.secret}#L1"
    answer = await _report(identity, key=created.secret, source="scanner", url=url)

    assert answer.found
    assert await identity.code(created.secret, min_revision=answer.revision) == "REVOKED"
    again = await _report(identity, key=created.secret)
    assert again.found
    async with identity_database.transaction() as tx:
        found = await tx.execute(
            text("SELECT changes::text FROM identity.audit_events WHERE action = 'ReportLeakedApiKey'")
        )
        (changes,) = found.scalars().all()
    assert "scanner" in changes
    assert "https://code.test/repo/***" in changes
    assert created.secret[12:-4] not in changes
    assert "bob" not in changes


async def test_report_of_a_digest_finds_imported_keys_alone(identity: Identity, organization: tuple[str, str]) -> None:
    organization_id, owner = organization
    ours, theirs, by_secret = (await identity.create_key()).secret, _foreign_secret(), _foreign_secret()
    imported = await _import(identity, organization_id, [_imported(secret, owner) for secret in (theirs, by_secret)])
    assert await identity.code(theirs, min_revision=imported.revision) == "VALID"

    assert not (await _report(identity, digest=_digest(ours))).found
    answer = await _report(identity, digest=_digest(theirs).upper())
    assert answer.found
    assert await identity.code(theirs, min_revision=answer.revision) == "REVOKED"
    assert (await _report(identity, key=by_secret)).found
    assert await identity.code(ours) == "VALID"


async def test_unknown_and_malformed_reports_are_answered_alike(identity: Identity) -> None:
    unknown = await _report(identity, key=new_secret(live=True))
    malformed = await _report(identity, key="th_live_x")
    foreign = await _report(identity, key="sk-nobody")
    digest = await _report(identity, digest="00" * 32)

    assert unknown == malformed == foreign == digest == pb.ReportLeakedApiKeyResponse()
    assert await violated_fields(_report(identity, source="s")) == {"leaked"}
    assert await violated_fields(_report(identity, key="k", url="https://a b")) == {"url"}
