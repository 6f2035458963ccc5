"""Service accounts: unique names, never more rights than their creator, and keys that end with their account."""

import asyncio
from collections.abc import Awaitable
from typing import TypeAlias

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.status import reason_of
from tests.identity.people import People
from tests.identity.refusals import DENIED, NOT_FOUND, ROLE_NOT_HELD, STALE, refused, refused_field, violated_fields
from tests.identity.support import Identity
from tests.support.callers import bearer
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1 import organization_pb2 as organizations
from tollhouse.identity.v1 import service_account_pb2 as pb

OWNER, ADMIN, MEMBER = (
    organizations.MEMBER_ROLE_OWNER,
    organizations.MEMBER_ROLE_ADMIN,
    organizations.MEMBER_ROLE_MEMBER,
)
Role: TypeAlias = organizations.MemberRole.ValueType


def _create(
    organization_id: str, name: str = "Robot", role: Role = MEMBER, request_id: str = ""
) -> pb.CreateServiceAccountRequest:
    return pb.CreateServiceAccountRequest(
        request_id=request_id, organization_id=organization_id, name=name, description="Builds", role=role
    )


def _update(
    account: pb.ServiceAccount, *paths: str, name: str = "", role: Role = MEMBER, etag: str = ""
) -> pb.UpdateServiceAccountRequest:
    return pb.UpdateServiceAccountRequest(
        organization_id=account.organization_id,
        service_account_id=account.service_account_id,
        update_mask=FieldMask(paths=paths),
        etag=etag,
        name=name,
        role=role,
    )


def _get(account: pb.ServiceAccount) -> pb.GetServiceAccountRequest:
    return pb.GetServiceAccountRequest(
        organization_id=account.organization_id, service_account_id=account.service_account_id
    )


def _delete(account: pb.ServiceAccount) -> pb.DeleteServiceAccountRequest:
    return pb.DeleteServiceAccountRequest(
        organization_id=account.organization_id, service_account_id=account.service_account_id
    )


async def _account(identity: Identity, name: str = "Robot", role: Role = MEMBER) -> pb.ServiceAccount:
    """Return a new account in an organization of its own."""
    organization_id, _ = await identity.create_organization()
    request = _create(organization_id, name, role)
    return (await identity.service_accounts.CreateServiceAccount(request, metadata=identity.metadata)).service_account


async def test_account_is_created_once_found_and_listed(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    viewer = await people.member(organization_id, organizations.MEMBER_ROLE_VIEWER)
    rpc = identity.service_accounts
    request = _create(organization_id, request_id="robot")

    created = await rpc.CreateServiceAccount(request, metadata=identity.metadata)
    again = await rpc.CreateServiceAccount(request, metadata=identity.metadata)

    assert (created.replayed, again.replayed) == (False, True)
    account = created.service_account
    assert again.service_account == account
    assert (account.name, account.description, account.role) == ("Robot", "Builds", MEMBER)
    assert (await rpc.GetServiceAccount(_get(account), metadata=viewer.metadata)).service_account == account
    listed = await rpc.ListServiceAccounts(
        pb.ListServiceAccountsRequest(organization_id=organization_id), metadata=viewer.metadata
    )
    assert list(listed.service_accounts) == [account]
    request.role = ADMIN
    reused = rpc.CreateServiceAccount(request, metadata=identity.metadata)
    assert await refused_field(reused) == ("REQUEST_ID_REUSED", "role")


async def test_name_is_unique_within_its_organization_without_regard_to_case(identity: Identity) -> None:
    account = await _account(identity, "Robot")
    await _account(identity, "Robot")
    rpc = identity.service_accounts
    taken = ("SERVICE_ACCOUNT_ALREADY_EXISTS", "name")
    create = _create(account.organization_id, "rOBOT")
    assert await refused_field(rpc.CreateServiceAccount(create, metadata=identity.metadata)) == taken
    create.name = "Other"
    other = (await rpc.CreateServiceAccount(create, metadata=identity.metadata)).service_account
    assert (
        await refused_field(rpc.UpdateServiceAccount(_update(other, "name", name="ROBOT"), metadata=identity.metadata))
        == taken
    )
    await rpc.DeleteServiceAccount(_delete(account), metadata=identity.metadata)
    renamed = await rpc.UpdateServiceAccount(_update(other, "name", name="ROBOT"), metadata=identity.metadata)
    assert renamed.service_account.name == "ROBOT"


async def test_accounts_of_one_name_made_at_once_are_one(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    outcomes = await asyncio.gather(
        *(
            identity.service_accounts.CreateServiceAccount(_create(organization_id), metadata=identity.metadata)
            for _ in range(4)
        ),
        return_exceptions=True,
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert [reason_of(refusal) for refusal in refusals] == ["SERVICE_ACCOUNT_ALREADY_EXISTS"] * 3


async def test_update_changes_what_the_mask_names_under_its_etag(identity: Identity) -> None:
    account = await _account(identity)
    rpc = identity.service_accounts
    promoted = (
        await rpc.UpdateServiceAccount(
            _update(account, "role", "description", name="Ignored", role=ADMIN, etag=account.etag),
            metadata=identity.metadata,
        )
    ).service_account

    assert (promoted.name, promoted.description, promoted.role) == ("Robot", "", ADMIN)
    stale = _update(account, "name", name="Crash", etag=account.etag)
    assert await refused(rpc.UpdateServiceAccount(stale, metadata=identity.metadata)) == STALE
    same = await rpc.UpdateServiceAccount(_update(account, "role", role=ADMIN), metadata=identity.metadata)
    assert same.service_account == promoted


@pytest.mark.parametrize(
    ("paths", "name", "role", "fields"),
    [
        (["name", "role", "etag"], "", organizations.MEMBER_ROLE_UNSPECIFIED, {"update_mask", "name", "role"}),
        ([], "Robot", MEMBER, {"update_mask"}),
        (["name"], "\n", 99, {"name", "role"}),
    ],
)
async def test_update_names_every_field_at_fault(
    identity: Identity, paths: list[str], name: str, role: Role, fields: set[str]
) -> None:
    account = pb.ServiceAccount(organization_id=new_id(), service_account_id=new_id())
    request = _update(account, *paths, name=name, role=role)
    call = identity.service_accounts.UpdateServiceAccount(request, metadata=identity.metadata)
    assert await violated_fields(call) == fields


async def test_bad_request_names_every_field_at_fault(identity: Identity) -> None:
    request = pb.CreateServiceAccountRequest(organization_id="7", name=" ", description="\x00", request_id="has space")
    call = identity.service_accounts.CreateServiceAccount(request, metadata=identity.metadata)
    assert await violated_fields(call) == {"organization_id", "name", "description", "role", "request_id"}


async def test_missing_foreign_and_deleted_accounts_look_alike(identity: Identity) -> None:
    account, theirs = await _account(identity), await _account(identity)
    await identity.service_accounts.DeleteServiceAccount(_delete(account), metadata=identity.metadata)
    missing = pb.ServiceAccount(organization_id=account.organization_id, service_account_id=new_id())
    theirs.organization_id = account.organization_id
    rpc = identity.service_accounts
    for one in (account, theirs, missing):
        calls: list[Awaitable[object]] = [
            rpc.GetServiceAccount(_get(one), metadata=identity.metadata),
            rpc.UpdateServiceAccount(_update(one, "name", name="X"), metadata=identity.metadata),
        ]
        for call in calls:
            assert await refused(call) == NOT_FOUND
    for one in (theirs, missing):
        assert await refused(rpc.DeleteServiceAccount(_delete(one), metadata=identity.metadata)) == NOT_FOUND


async def test_nobody_makes_or_touches_an_account_above_themselves(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    rpc = identity.service_accounts
    assert (
        await refused(rpc.CreateServiceAccount(_create(organization_id, role=OWNER), metadata=admin.metadata))
        == ROLE_NOT_HELD
    )
    own = (
        await rpc.CreateServiceAccount(_create(organization_id, "Mine", ADMIN), metadata=admin.metadata)
    ).service_account
    owners = (
        await rpc.CreateServiceAccount(_create(organization_id, "Theirs", OWNER), metadata=identity.metadata)
    ).service_account
    for call in (
        rpc.UpdateServiceAccount(_update(own, "role", role=OWNER), metadata=admin.metadata),
        rpc.UpdateServiceAccount(_update(owners, "role", role=MEMBER), metadata=admin.metadata),
        rpc.UpdateServiceAccount(_update(owners, "name", name="Tamed"), metadata=admin.metadata),
        rpc.DeleteServiceAccount(_delete(owners), metadata=admin.metadata),
    ):
        assert await refused(call) == ROLE_NOT_HELD
    await rpc.DeleteServiceAccount(_delete(own), metadata=admin.metadata)


@pytest.mark.parametrize("role", [MEMBER, organizations.MEMBER_ROLE_BILLING, organizations.MEMBER_ROLE_VIEWER])
async def test_lesser_roles_see_accounts_and_change_none(identity: Identity, people: People, role: Role) -> None:
    account = await _account(identity)
    member = await people.member(account.organization_id, role)
    rpc = identity.service_accounts
    assert (await rpc.GetServiceAccount(_get(account), metadata=member.metadata)).service_account == account
    for call in (
        rpc.CreateServiceAccount(_create(account.organization_id, "New"), metadata=member.metadata),
        rpc.UpdateServiceAccount(_update(account, "name", name="X"), metadata=member.metadata),
        rpc.DeleteServiceAccount(_delete(account), metadata=member.metadata),
    ):
        assert await refused(call) == DENIED


async def test_key_makes_no_account_that_does_more_than_the_key(identity: Identity, people: People) -> None:
    owner = await people.person()
    organization_id, _ = await identity.create_organization(owner.user_id)
    narrow = api_key_pb2.CreateApiKeyRequest(
        organization_id=organization_id,
        user_id=owner.user_id,
        scopes=["tollhouse:organization.write", "tollhouse:organization.read"],
    )
    key = bearer((await identity.create_key(narrow)).secret)
    rpc = identity.service_accounts
    for role in (OWNER, ADMIN, organizations.MEMBER_ROLE_BILLING, organizations.MEMBER_ROLE_VIEWER):
        call = rpc.CreateServiceAccount(_create(organization_id, role=role), metadata=key)
        assert await refused(call) == ROLE_NOT_HELD


async def test_deleted_account_leaves_a_tombstone_and_no_key_that_works(
    identity: Identity, identity_database: Database
) -> None:
    account = await _account(identity)
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=account.organization_id, service_account_id=account.service_account_id
        )
    )
    assert await identity.code(key.secret) == "VALID"
    rpc = identity.service_accounts

    deleted = await rpc.DeleteServiceAccount(_delete(account), metadata=identity.metadata)
    again = await rpc.DeleteServiceAccount(_delete(account), metadata=identity.metadata)

    assert (deleted.revoked_api_keys, again.revoked_api_keys) == (1, 0)
    assert again.delete_time == deleted.delete_time
    assert await identity.code(key.secret, min_revision=deleted.revision) == "REVOKED"
    create = api_key_pb2.CreateApiKeyRequest(
        organization_id=account.organization_id, service_account_id=account.service_account_id
    )
    assert await refused(identity.api_keys.CreateApiKey(create, metadata=identity.metadata)) == NOT_FOUND
    async with identity_database.transaction() as tx:
        kept = await tx.execute(
            text(
                "SELECT (SELECT count(*) FROM service_accounts WHERE delete_time IS NOT NULL),"
                " (SELECT count(*) FROM api_keys WHERE service_account_id = :id),"
                " (SELECT array_agg(kind ORDER BY revision) FROM key_changes WHERE subject_id = :id),"
                " (SELECT array_agg(action ORDER BY sequence) FROM audit_events WHERE resource_id = CAST(:id AS text))"
            ),
            {"id": account.service_account_id},
        )
    assert tuple(kept.one()) == (1, 1, ["owner_deleted"], ["CreateServiceAccount", "DeleteServiceAccount"])


async def test_keys_of_an_account_outlive_who_made_it(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    admin = await people.member(organization_id, ADMIN)
    account = (
        await identity.service_accounts.CreateServiceAccount(_create(organization_id), metadata=admin.metadata)
    ).service_account
    key = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, service_account_id=account.service_account_id)
    )
    removed = await identity.organizations.RemoveMember(
        organizations.RemoveMemberRequest(organization_id=organization_id, user_id=admin.user_id),
        metadata=identity.metadata,
    )
    assert await identity.code(key.secret, min_revision=removed.revision) == "VALID"


async def test_accounts_are_listed_newest_first_in_pages(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    made = [
        (
            await identity.service_accounts.CreateServiceAccount(
                _create(organization_id, f"Robot {number}"), metadata=identity.metadata
            )
        ).service_account.service_account_id
        for number in range(5)
    ]
    request, seen = pb.ListServiceAccountsRequest(organization_id=organization_id, page_size=2), []
    while True:
        page = await identity.service_accounts.ListServiceAccounts(request, metadata=identity.metadata)
        seen += [account.service_account_id for account in page.service_accounts]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == made[::-1]
