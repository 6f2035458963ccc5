"""Keys that are bound to a subscription: identity keeps the binding and tells it, and asks nobody about it."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.ids import new_id
from tests.identity.refusals import refused, violated_fields
from tests.identity.support import Identity
from tollhouse.identity.v1 import api_key_pb2 as pb

HOSTILE = ("x", "\x01", "ё" * 36, "' OR 1=1 --", "a" * 5_000, "00000000-0000-0000-0000-00000000000g", "%00")


async def bind(
    identity: Identity, api_key: pb.ApiKey, subscription_id: str, *, etag: str = ""
) -> pb.UpdateApiKeyResponse:
    request = pb.UpdateApiKeyRequest(
        organization_id=api_key.organization_id,
        api_key_id=api_key.api_key_id,
        update_mask=FieldMask(paths=["subscription_id"]),
        subscription_id=subscription_id,
        etag=etag,
    )
    return await identity.api_keys.UpdateApiKey(request, metadata=identity.metadata)


async def told(identity: Identity, secret: str, revision: int) -> str:
    """Return the subscription that a verification tells."""
    return (await identity.verify(secret, min_revision=revision)).principal.subscription_id


async def test_binding_is_kept_told_and_changed(identity: Identity) -> None:
    organization_id, user_id = await identity.create_organization()
    first, second = new_id(), new_id()
    request = pb.CreateApiKeyRequest(
        organization_id=organization_id, user_id=user_id, subscription_id=first.upper(), request_id="once"
    )
    created = await identity.create_key(request)
    key = created.api_key
    assert key.subscription_id == first
    assert await told(identity, created.secret, created.revision) == first
    named = pb.GetApiKeyRequest(organization_id=organization_id, api_key_id=key.api_key_id)
    assert (await identity.api_keys.GetApiKey(named, metadata=identity.metadata)).api_key == key
    repeated = await identity.create_key(request)
    assert (repeated.replayed, repeated.api_key.subscription_id) == (True, first)
    request.subscription_id = second
    assert await refused(identity.create_key(request)) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")

    changed = await bind(identity, key, second, etag=key.etag)
    assert changed.api_key.subscription_id == second
    assert await told(identity, created.secret, changed.revision) == second
    assert await refused(bind(identity, key, first, etag=key.etag)) == ("ABORTED", "STALE_ETAG")
    same = await bind(identity, key, second.upper())
    assert same.api_key.etag == changed.api_key.etag, "nothing changed"
    freed = await bind(identity, key, "")
    assert await told(identity, created.secret, freed.revision) == ""


async def test_rotated_key_is_bound_as_the_old_one(identity: Identity) -> None:
    subscription_id = new_id()
    organization_id, user_id = await identity.create_organization()
    created = await identity.create_key(
        pb.CreateApiKeyRequest(organization_id=organization_id, user_id=user_id, subscription_id=subscription_id)
    )
    request = pb.RotateApiKeyRequest(organization_id=organization_id, api_key_id=created.api_key.api_key_id)
    request.overlap.FromSeconds(60)
    rotated = await identity.api_keys.RotateApiKey(request, metadata=identity.metadata)
    assert (rotated.api_key.subscription_id, rotated.rotated_api_key.subscription_id) == (subscription_id,) * 2
    for secret in (created.secret, rotated.secret):
        assert await told(identity, secret, rotated.revision) == subscription_id


async def test_imported_key_is_bound_and_a_repeat_with_another_binding_is_refused(identity: Identity) -> None:
    subscription_id = new_id()
    organization_id, user_id = await identity.create_organization()
    digest = hashlib.sha256(f"sk-bound-{new_id()}".encode()).hexdigest()

    async def imported(bound_to: str) -> pb.ImportApiKeyOutcome:
        key = pb.ImportedApiKey(digest=digest, user_id=user_id, subscription_id=bound_to)
        request = pb.ImportApiKeysRequest(organization_id=organization_id, secret_prefix="sk-bound-", api_keys=[key])
        answer = await identity.api_keys.ImportApiKeys(request, metadata=identity.metadata)
        return answer.outcomes[0]

    assert (await imported(subscription_id)).api_key.subscription_id == subscription_id
    assert (await imported(subscription_id)).replayed
    assert "subscription_id" in str((await imported(new_id())).error.details)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_text_that_is_no_id_binds_nothing(identity: Identity, text: str) -> None:
    created = await identity.create_key()
    key = created.api_key
    creation = pb.CreateApiKeyRequest(organization_id=key.organization_id, user_id=key.user_id, subscription_id=text)
    assert await violated_fields(identity.create_key(creation)) == {"subscription_id"}
    assert await violated_fields(bind(identity, key, text)) == {"subscription_id"}
    assert await told(identity, created.secret, created.revision) == ""


async def test_key_of_another_organization_is_bound_to_nothing(identity: Identity) -> None:
    mine = (await identity.create_key()).api_key
    theirs = (await identity.create_key()).api_key
    theirs.organization_id = mine.organization_id
    assert await refused(bind(identity, theirs, new_id())) == ("NOT_FOUND", "NOT_FOUND")


async def test_keys_are_listed_by_state_and_subscription(identity: Identity) -> None:
    created = [await identity.create_key()]
    organization_id, user_id = created[0].api_key.organization_id, created[0].api_key.user_id
    subscription_id = new_id()
    request = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=user_id)
    created += [await identity.create_key(request) for _ in range(3)]
    request.subscription_id = subscription_id
    request.expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=0.5))
    created.append(await identity.create_key(request))
    ids = [one.api_key.api_key_id for one in created]
    await identity.revoke(created[0].api_key)
    disable = pb.DisableApiKeyRequest(organization_id=organization_id, api_key_id=ids[1])
    await identity.api_keys.DisableApiKey(disable, metadata=identity.metadata)
    await asyncio.sleep(0.5)

    async def listed(**fields: object) -> list[str]:
        request = pb.ListApiKeysRequest(organization_id=organization_id, page_size=1)
        request.MergeFrom(pb.ListApiKeysRequest(**fields))  # type: ignore[arg-type]
        found: list[str] = []
        while True:
            page = await identity.api_keys.ListApiKeys(request, metadata=identity.metadata)
            found += [one.api_key_id for one in page.api_keys]
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    assert await listed(state=pb.API_KEY_STATE_REVOKED) == [ids[0]]
    assert await listed(state=pb.API_KEY_STATE_DISABLED, user_id=user_id) == [ids[1]]
    assert await listed(state=pb.API_KEY_STATE_EXPIRED) == [ids[4]]
    assert await listed(state=pb.API_KEY_STATE_ACTIVE, user_id=user_id) == [ids[3], ids[2]]
    assert await listed(subscription_id=subscription_id.upper()) == [ids[4]]
    assert await listed(subscription_id=subscription_id, state=pb.API_KEY_STATE_ACTIVE) == []
    assert await listed() == ids[::-1]
