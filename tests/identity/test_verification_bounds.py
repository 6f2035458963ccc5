"""VerifyApiKey where it depends on more than the key: addresses, roles, guesses, and a database that is away."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.identity.api_key.rendering import mark_stale
from services.identity.api_key.secret import new_secret
from services.identity.api_key.verify import cache as cache_module
from services.identity.api_key.verify.guesses import GUESSES_A_MINUTE, Guesses
from services.identity.errors import TooManyUnknownKeys
from services.identity.revisions import ChangeKind
from tests.identity.conftest import OpenIdentity
from tests.identity.people import People
from tests.identity.refusals import refused
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tests.support.outage import cut_off
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import organization_pb2, project_pb2, service_account_pb2

AUDIT_READ, ACCOUNTS_READ = "tollhouse:audit.read", "tollhouse:accounts.read"
PROJECTS_WRITE = "tollhouse:projects.write"


async def _key(identity: Identity, organization_id: str, user_id: str, **fields: object) -> pb.CreateApiKeyResponse:
    return await identity.create_key(
        pb.CreateApiKeyRequest(organization_id=organization_id, user_id=user_id, **fields)  # type: ignore[arg-type]
    )


async def _set_role(
    identity: Identity, organization_id: str, user_id: str, role: organization_pb2.MemberRole.ValueType
) -> int:
    """Give a member another role; return a revision that holds it."""
    request = organization_pb2.UpdateMemberRequest(organization_id=organization_id, user_id=user_id, role=role)
    await identity.organizations.UpdateMember(request, metadata=identity.metadata)
    return (await identity.create_key()).revision


async def _soon(answers: Callable[[], object], within_s: float = 1) -> None:
    """Poll the condition until it is true; fail after a second."""
    began_s = time.monotonic()
    while not await answers():  # type: ignore[misc]  # The condition is awaitable.
        assert time.monotonic() - began_s < within_s
        await asyncio.sleep(0.005)


@pytest.mark.own_database
async def test_key_works_from_its_addresses_alone(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    created = await _key(
        identity, organization_id, owner, allowed_addresses=["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]
    )
    expected = {
        "192.0.2.200": "VALID",
        "::ffff:192.0.2.200": "VALID",
        "198.51.100.7": "VALID",
        "2001:db8:1::1": "VALID",
        "192.0.3.1": "ADDRESS_NOT_ALLOWED",
        "198.51.100.8": "ADDRESS_NOT_ALLOWED",
        "2001:db9::1": "ADDRESS_NOT_ALLOWED",
        "": "ADDRESS_NOT_ALLOWED",
    }

    for _ in range(2):
        assert {address: await identity.code(created.secret, address=address) for address in expected} == expected

    assert list(created.api_key.allowed_addresses) == ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32"]
    assert await identity.code(created.secret, scopes=("admin",), address="192.0.3.1") == "ADDRESS_NOT_ALLOWED"
    assert await identity.code(created.secret, scopes=("admin",), address="192.0.2.1") == "INSUFFICIENT_SCOPE"
    denied = await identity.verify(created.secret, address="192.0.3.1")
    assert not denied.HasField("principal")
    assert (await refused(identity.verify(created.secret, address="not-an-address")))[0] == "INVALID_ARGUMENT"
    assert (
        await identity.code(created.secret, address="192.0.2.1", min_revision=await identity.revoke(created.api_key))
        == "REVOKED"
    )


@pytest.mark.own_database
async def test_demoted_owner_takes_their_keys_scopes_along(start_identity: OpenIdentity) -> None:
    here, there = await start_identity(), await start_identity()
    organization_id, _ = await here.create_organization()
    admin = (await here.create_user()).user_id
    await here.organizations.AddMember(
        organization_pb2.AddMemberRequest(
            organization_id=organization_id, user_id=admin, role=organization_pb2.MEMBER_ROLE_ADMIN
        ),
        metadata=here.metadata,
    )
    created = await _key(here, organization_id, admin, scopes=[AUDIT_READ, "usage:write"])
    for identity in (here, there):
        assert await identity.code(created.secret, scopes=(AUDIT_READ, "usage:write")) == "VALID"

    revision = await _set_role(here, organization_id, admin, organization_pb2.MEMBER_ROLE_MEMBER)

    at_once = await here.verify(created.secret, scopes=(AUDIT_READ,), min_revision=revision)
    assert at_once.code == pb.VERIFY_API_KEY_CODE_INSUFFICIENT_SCOPE
    left = await here.verify(created.secret, scopes=("usage:write",), min_revision=revision)
    assert list(left.principal.scopes) == ["usage:write"]

    async def is_pushed() -> bool:
        return await there.code(created.secret, scopes=(AUDIT_READ,)) == "INSUFFICIENT_SCOPE"

    await _soon(is_pushed)
    again = await _set_role(here, organization_id, admin, organization_pb2.MEMBER_ROLE_ADMIN)
    assert await there.code(created.secret, scopes=(AUDIT_READ,), min_revision=again) == "VALID"


async def test_scope_held_through_a_project_goes_with_the_project(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    member = await people.member(organization_id, organization_pb2.MEMBER_ROLE_MEMBER)
    projects = [(await identity.create_project(organization_id, name)).project_id for name in ("One", "Two")]
    project_admin, project_member = project_pb2.PROJECT_MEMBER_ROLE_ADMIN, project_pb2.PROJECT_MEMBER_ROLE_MEMBER
    for project_id, role in zip(projects, (project_admin, project_member), strict=True):
        await identity.projects.AddProjectMember(
            project_pb2.AddProjectMemberRequest(
                organization_id=organization_id, project_id=project_id, user_id=member.user_id, role=role
            ),
            metadata=identity.metadata,
        )
    bound = await _key(
        identity, organization_id, member.user_id, project_id=projects[0], scopes=[PROJECTS_WRITE, ACCOUNTS_READ]
    )
    unbound = await _key(identity, organization_id, member.user_id, scopes=[ACCOUNTS_READ])
    assert await identity.code(bound.secret, scopes=(PROJECTS_WRITE, ACCOUNTS_READ)) == "VALID"
    assert await identity.code(unbound.secret, scopes=(ACCOUNTS_READ,)) == "VALID"

    await identity.projects.UpdateProjectMember(
        project_pb2.UpdateProjectMemberRequest(
            organization_id=organization_id, project_id=projects[0], user_id=member.user_id, role=project_member
        ),
        metadata=identity.metadata,
    )

    async def is_cut() -> bool:
        return await identity.code(bound.secret, scopes=(PROJECTS_WRITE,)) == "INSUFFICIENT_SCOPE"

    await _soon(is_cut)
    assert await identity.code(bound.secret, scopes=(ACCOUNTS_READ,)) == "VALID"

    for project_id in projects:
        assert await identity.code(unbound.secret, scopes=(ACCOUNTS_READ,)) == "VALID"
        await identity.projects.DeleteProject(
            project_pb2.DeleteProjectRequest(organization_id=organization_id, project_id=project_id),
            metadata=identity.metadata,
        )

    async def is_pushed() -> bool:
        return await identity.code(unbound.secret, scopes=(ACCOUNTS_READ,)) == "INSUFFICIENT_SCOPE"

    await _soon(is_pushed)
    assert await identity.code(unbound.secret) == "VALID"


async def test_service_accounts_key_follows_its_role(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    account = (
        await identity.service_accounts.CreateServiceAccount(
            service_account_pb2.CreateServiceAccountRequest(
                organization_id=organization_id, name="Robot", role=organization_pb2.MEMBER_ROLE_ADMIN
            ),
            metadata=identity.metadata,
        )
    ).service_account
    created = await identity.create_key(
        pb.CreateApiKeyRequest(
            organization_id=organization_id, service_account_id=account.service_account_id, scopes=[AUDIT_READ]
        )
    )
    assert await identity.code(created.secret, scopes=(AUDIT_READ,)) == "VALID"

    await identity.service_accounts.UpdateServiceAccount(
        service_account_pb2.UpdateServiceAccountRequest(
            organization_id=organization_id,
            service_account_id=account.service_account_id,
            update_mask=FieldMask(paths=["role"]),
            role=organization_pb2.MEMBER_ROLE_VIEWER,
        ),
        metadata=identity.metadata,
    )

    async def is_pushed() -> bool:
        return await identity.code(created.secret, scopes=(AUDIT_READ,)) == "INSUFFICIENT_SCOPE"

    await _soon(is_pushed)


async def test_guesses_of_one_address_are_slowed_down_and_keys_in_use_are_not(identity: Identity) -> None:
    created = await identity.create_key()
    assert await identity.code(created.secret) == "VALID"

    for _ in range(GUESSES_A_MINUTE):
        assert await identity.code(new_secret(live=True), address="192.0.2.1") == "NOT_FOUND"
    guess = identity.code(new_secret(live=True), address="192.0.2.1")

    assert await refused(guess) == ("RESOURCE_EXHAUSTED", "TOO_MANY_UNKNOWN_KEYS")
    assert await identity.code(created.secret, address="192.0.2.1") == "VALID"
    assert await identity.code("th_live_malformed", address="192.0.2.1") == "NOT_FOUND"
    assert await identity.code(new_secret(live=True), address="192.0.2.2") == "NOT_FOUND"
    for _ in range(GUESSES_A_MINUTE + 5):
        assert await identity.code(new_secret(live=True)) == "NOT_FOUND"


def test_guesses_are_forgiven_with_time() -> None:
    now_s = 1_000.0
    guesses = Guesses(lambda: now_s)

    def is_let_through(address: str) -> bool:
        try:
            guesses.check(address)
        except TooManyUnknownKeys:
            return False
        return True

    for _ in range(GUESSES_A_MINUTE):
        assert is_let_through("2001:db8::1")
        guesses.note("2001:db8::1")
    assert not is_let_through("2001:db8::2")
    with pytest.raises(TooManyUnknownKeys, match=r"3000 ms"):
        guesses.check("2001:db8::1")
    assert is_let_through("2001:db8:0:1::1")
    assert is_let_through("")
    now_s += 3.001
    assert is_let_through("2001:db8::2")


def test_every_kind_of_change_has_a_name_of_its_own_in_the_contract() -> None:
    named = {name.removeprefix("API_KEY_CHANGE_KIND_").lower() for name in pb.ApiKeyChangeKind.keys()}
    assert {kind.value for kind in ChangeKind} - {"other"} == named - {"unspecified"}


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached keys are used for at most a quarter of a second without news from the feed."""
    monkeypatch.setattr(cache_module, "STALE_MAX_S", 0.25)


@pytest.mark.usefixtures("short_memory")
async def test_without_the_stale_mode_nobody_gets_in_while_the_database_is_away(
    identity: Identity, database_admin_url: str
) -> None:
    created = await identity.create_key()
    assert await identity.code(created.secret) == "VALID"

    async with cut_off(database_admin_url):
        await asyncio.sleep(0.5)
        assert (await refused(identity.code(created.secret)))[0] == "UNAVAILABLE"


@pytest.mark.usefixtures("short_memory")
async def test_stale_mode_is_bounded_marked_and_told_of_once(
    callers: Callers,
    database_urls: dict[str, str],
    tmp_path: Path,
    database_admin_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path, key_stale_max_s=3) as identity:
        created, other = await identity.create_key(), await identity.create_key()
        revoked = await identity.create_key()
        for key in (created, revoked):
            assert await identity.code(key.secret) == "VALID"
        revision = await identity.revoke(revoked.api_key)
        assert await identity.code(revoked.secret, min_revision=revision) == "REVOKED"
        with caplog.at_level(logging.WARNING):
            async with cut_off(database_admin_url):
                await asyncio.sleep(0.5)
                for _ in range(5):
                    answer = await identity.verify(created.secret)
                    assert (answer.code, answer.stale) == (pb.VERIFY_API_KEY_CODE_VALID, True)
                    assert answer.principal.api_key_id == created.api_key.api_key_id
                late = await identity.verify(created.secret, scopes=("admin",))
                assert (late.code, late.stale) == (pb.VERIFY_API_KEY_CODE_INSUFFICIENT_SCOPE, True)
                assert await identity.code(revoked.secret) == "REVOKED"
                assert (await refused(identity.code(created.secret, min_revision=1)))[0] == "UNAVAILABLE"
                assert (await refused(identity.code(other.secret)))[0] == "UNAVAILABLE"
                await asyncio.sleep(3)
                assert (await refused(identity.code(created.secret)))[0] == "UNAVAILABLE"
            answer = await identity.verify(created.secret)
            assert (answer.code, answer.stale) == (pb.VERIFY_API_KEY_CODE_VALID, False)
        told = [record.getMessage() for record in caplog.records]
        assert sum("beyond their time" in line for line in told) == 1
        assert sum("fresh again" in line for line in told) == 1


def test_mark_of_a_stale_answer_leaves_the_rest_as_it_is() -> None:
    answer = pb.VerifyApiKeyResponse(code=pb.VERIFY_API_KEY_CODE_VALID, allowed_addresses=["192.0.2.1"], revision=7)
    marked = pb.VerifyApiKeyResponse.FromString(mark_stale(answer.SerializeToString()))
    assert marked.stale
    marked.stale = False
    assert marked == answer
