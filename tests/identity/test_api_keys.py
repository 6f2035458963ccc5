"""API keys: creation, listing, revocation and last use."""

import asyncio

import grpc
import pytest
from sqlalchemy import text

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.status import error_info, field_violations, reason_of
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2 as pb


async def test_created_key_verifies_and_names_its_principal(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    project = await identity.create_project(organization_id)
    created = await identity.create_key(
        pb.CreateApiKeyRequest(
            organization_id=organization_id,
            project_id=project.project_id,
            user_id=owner,
            scopes=["usage:write", "models:read"],
            metadata={"team": "red"},
            external_id="customer-7",
        )
    )

    answer = await identity.verify(created.secret, scopes=("usage:write",), model="gpt-4o")

    assert answer.code == pb.VERIFY_API_KEY_CODE_VALID
    assert answer.principal.organization_id == organization_id
    assert answer.principal.project_id == project.project_id
    assert answer.principal.user_id == owner
    assert answer.principal.api_key_id == created.api_key.api_key_id
    assert list(answer.principal.scopes) == ["models:read", "usage:write"]
    assert dict(answer.metadata) == {"team": "red"}
    assert answer.external_id == "customer-7"
    assert answer.environment == pb.API_KEY_ENVIRONMENT_LIVE
    assert answer.revision >= created.revision
    assert created.api_key.secret_prefix == created.secret[:12]
    assert created.api_key.secret_suffix == created.secret[-4:]
    assert created.api_key.state == pb.API_KEY_STATE_ACTIVE


async def test_create_repeated_with_same_request_id_makes_one_key_and_keeps_its_secret(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(
        request_id="deploy-1", organization_id=organization_id, user_id=owner, scopes=["b", "a"]
    )
    first = await identity.create_key(request)
    again = await identity.create_key(request)

    assert not first.replayed
    assert again.replayed
    assert again.secret == ""
    assert again.api_key == first.api_key
    listed = await identity.api_keys.ListApiKeys(
        pb.ListApiKeysRequest(organization_id=organization_id), metadata=identity.metadata
    )
    assert len(listed.api_keys) == 1


async def test_create_repeated_with_another_body_is_refused_and_names_the_field(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(request_id="deploy-1", organization_id=organization_id, user_id=owner, name="a")
    await identity.create_key(request)
    request.name = "b"

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.create_key(request)

    info = error_info(refused.value)
    assert info is not None
    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert (info.reason, info.metadata["field"]) == ("REQUEST_ID_REUSED", "name")


async def test_concurrent_creates_with_one_request_id_make_one_key(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(request_id="burst", organization_id=organization_id, user_id=owner)

    created = await asyncio.gather(*(identity.create_key(request) for _ in range(6)))

    assert len({answer.api_key.api_key_id for answer in created}) == 1
    assert [answer.replayed for answer in created].count(False) == 1


async def test_key_is_disabled_enabled_and_revoked_for_ever(identity: Identity) -> None:
    created = await identity.create_key()
    key = created.api_key
    names = {"organization_id": key.organization_id, "api_key_id": key.api_key_id}
    rpc = identity.api_keys

    disabled = await rpc.DisableApiKey(pb.DisableApiKeyRequest(**names), metadata=identity.metadata)
    again = await rpc.DisableApiKey(pb.DisableApiKeyRequest(**names), metadata=identity.metadata)
    assert disabled.api_key.state == pb.API_KEY_STATE_DISABLED
    assert again.api_key == disabled.api_key
    assert await identity.code(created.secret, min_revision=disabled.revision) == "DISABLED"

    enabled = await rpc.EnableApiKey(pb.EnableApiKeyRequest(**names), metadata=identity.metadata)
    assert await identity.code(created.secret, min_revision=enabled.revision) == "VALID"

    revoked = await rpc.RevokeApiKey(pb.RevokeApiKeyRequest(**names), metadata=identity.metadata)
    repeated = await rpc.RevokeApiKey(pb.RevokeApiKeyRequest(**names), metadata=identity.metadata)
    assert repeated.api_key.revoke_time == revoked.api_key.revoke_time
    assert await identity.code(created.secret, min_revision=revoked.revision) == "REVOKED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.EnableApiKey(pb.EnableApiKeyRequest(**names), metadata=identity.metadata)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(refused.value) == "API_KEY_REVOKED"


async def test_another_organizations_ids_look_exactly_like_missing_ones(identity: Identity) -> None:
    theirs = (await identity.create_key()).api_key
    their_project = await identity.create_project(theirs.organization_id)
    ours, owner = await identity.create_organization()
    missing = new_id()

    async def revoke(api_key_id: str) -> None:
        request = pb.RevokeApiKeyRequest(organization_id=ours, api_key_id=api_key_id)
        await identity.api_keys.RevokeApiKey(request, metadata=identity.metadata)

    async def bind(project_id: str, user_id: str) -> None:
        request = pb.CreateApiKeyRequest(organization_id=ours, project_id=project_id, user_id=user_id)
        await identity.create_key(request)

    async def refusal(api_key_id: str = "", project_id: str = "", user_id: str = "") -> tuple[object, str | None, str]:
        call = revoke(api_key_id) if api_key_id else bind(project_id, user_id or owner)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        return refused.value.code(), reason_of(refused.value), refused.value.details() or ""

    assert await refusal(api_key_id=theirs.api_key_id) == await refusal(api_key_id=missing)
    assert await refusal(project_id=their_project.project_id) == await refusal(project_id=missing)
    assert await refusal(user_id=theirs.user_id) == await refusal(user_id=missing)
    assert (await refusal(api_key_id=missing))[0] == grpc.StatusCode.NOT_FOUND
    assert await identity.code((await identity.create_key()).secret) == "VALID"


async def test_list_runs_through_all_keys_newest_first_in_pages(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
    made = [(await identity.create_key(request)).api_key.api_key_id for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await identity.api_keys.ListApiKeys(
            pb.ListApiKeysRequest(organization_id=organization_id, page_size=2, page_token=token),
            metadata=identity.metadata,
        )
        seen += [api_key.api_key_id for api_key in page.api_keys]
        token = page.next_page_token
        if not token:
            break

    assert seen == made[::-1]


async def test_page_token_of_another_list_is_refused(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
    for _ in range(2):
        await identity.create_key(request)
    ask = pb.ListApiKeysRequest(organization_id=organization_id, page_size=1)
    ask.page_token = (await identity.api_keys.ListApiKeys(ask, metadata=identity.metadata)).next_page_token
    ask.user_id = owner

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.api_keys.ListApiKeys(ask, metadata=identity.metadata)

    assert "page_token" in field_violations(refused.value)


async def test_secret_is_neither_stored_nor_logged(
    identity: Identity, identity_database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    created = await identity.create_key()
    await identity.verify(created.secret)
    await identity.verify(created.secret[:-1] + "!")
    middle = created.secret[12:-4]

    async with identity_database.transaction() as tx:
        tables = (
            await tx.execute(text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'identity'"))
        ).scalars()
        for table in list(tables):
            rows = (await tx.execute(text(f"SELECT t::text FROM identity.{table} t"))).scalars()  # noqa: S608
            assert not [row for row in rows if middle in row or middle.encode().hex() in row]

    output = capfd.readouterr()
    assert middle not in output.out + output.err
    assert created.secret not in str(created.api_key)


async def test_last_use_is_written_soon_and_costs_the_verification_nothing(identity: Identity) -> None:
    created = await identity.create_key()
    assert not created.api_key.HasField("last_used_time")
    await identity.verify(created.secret)
    request = pb.GetApiKeyRequest(
        organization_id=created.api_key.organization_id, api_key_id=created.api_key.api_key_id
    )
    async with asyncio.timeout(5):
        while True:
            api_key = (await identity.api_keys.GetApiKey(request, metadata=identity.metadata)).api_key
            if api_key.HasField("last_used_time"):
                break
            await asyncio.sleep(0.05)
    assert api_key.update_time == created.api_key.update_time
