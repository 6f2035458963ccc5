"""Changes of keys: updates of their fields, and rotation of their secrets with an overlap."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from libs.common.database import Database
from tests.identity.refusals import STALE, refused, refused_field, violated_fields
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import user_pb2

DAY_S = 86_400


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
async def identity(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path, clock: FixedClock
) -> AsyncIterator[Identity]:
    async with open_identity(callers, database_urls["identity"], tmp_path, clock=clock) as running:
        yield running


async def _update(
    identity: Identity, api_key: pb.ApiKey, *paths: str, etag: str = "", **fields: object
) -> pb.UpdateApiKeyResponse:
    request = pb.UpdateApiKeyRequest(
        organization_id=api_key.organization_id,
        api_key_id=api_key.api_key_id,
        update_mask=FieldMask(paths=paths),
        etag=etag,
        **fields,  # type: ignore[arg-type]
    )
    return await identity.api_keys.UpdateApiKey(request, metadata=identity.metadata)


async def _rotate(
    identity: Identity,
    api_key: pb.ApiKey,
    *,
    overlap_s: int = 0,
    request_id: str = "",
    expire_time: Timestamp | None = None,
) -> pb.RotateApiKeyResponse:
    request = pb.RotateApiKeyRequest(
        organization_id=api_key.organization_id,
        api_key_id=api_key.api_key_id,
        overlap=Duration(seconds=overlap_s),
        request_id=request_id,
        expire_time=expire_time,
    )
    return await identity.api_keys.RotateApiKey(request, metadata=identity.metadata)


def _at(clock: FixedClock, seconds: int) -> Timestamp:
    return Timestamp(seconds=int(clock.now().timestamp()) + seconds)


async def _events(database: Database) -> list[tuple[str, str]]:
    async with database.transaction() as tx:
        rows = await tx.execute(text("SELECT action, resource_id::text FROM identity.audit_events ORDER BY sequence"))
    return [(row.action, row.resource_id) for row in rows]


async def test_update_changes_what_its_mask_names_and_every_process_sees_it(
    identity: Identity, identity_database: Database
) -> None:
    created = await identity.create_key()
    assert await identity.code(created.secret, scopes=("usage:write",), model="gpt-4o") == "INSUFFICIENT_SCOPE"

    updated = await _update(
        identity,
        created.api_key,
        *("name", "metadata", "external_id", "scopes", "allowed_models", "allowed_addresses"),
        name="second",
        metadata={"team": "blue"},
        external_id="customer-9",
        scopes=["usage:write"],
        allowed_models=["gpt-*"],
        allowed_addresses=["192.0.2.0/24", "2001:DB8::1"],
    )

    key = updated.api_key
    assert (key.name, dict(key.metadata), key.external_id) == ("second", {"team": "blue"}, "customer-9")
    assert list(key.allowed_addresses) == ["192.0.2.0/24", "2001:db8::1"]
    assert key.etag != created.api_key.etag
    answer = await identity.verify(
        created.secret, scopes=("usage:write",), model="gpt-4o", min_revision=updated.revision, address="192.0.2.9"
    )
    assert answer.code == pb.VERIFY_API_KEY_CODE_VALID
    assert (list(answer.allowed_addresses), answer.external_id) == (["192.0.2.0/24", "2001:db8::1"], "customer-9")
    assert (await _events(identity_database)).count(("UpdateApiKey", key.api_key_id)) == 1

    again = await _update(identity, key, "name", name="second", etag=key.etag)
    # The time of last use is written some time after the verification above, and does not count as a change.
    again.api_key.ClearField("last_used_time")
    assert again.api_key == key
    assert (await _events(identity_database)).count(("UpdateApiKey", key.api_key_id)) == 1
    cleared = await _update(identity, key, "name")
    assert cleared.api_key.name == ""
    assert list(cleared.api_key.scopes) == ["usage:write"]


async def test_update_is_refused_where_it_names_nothing_or_what_is_not_there(identity: Identity) -> None:
    created = await identity.create_key()

    assert await violated_fields(_update(identity, created.api_key, "secret")) == {"update_mask"}
    assert await violated_fields(_update(identity, created.api_key, "nothing", "name")) == {"update_mask"}
    faulty = _update(
        identity,
        created.api_key,
        *("nothing", "scopes", "allowed_addresses"),
        scopes=["tollhouse:nothing"],
        allowed_addresses=["192.0.2.1", "192.0.2.1/8"],
    )
    assert await violated_fields(faulty) == {"update_mask", "scopes[0]", "allowed_addresses[1]"}
    await _update(identity, created.api_key, "name", name="b")
    assert await refused(_update(identity, created.api_key, "name", name="c", etag=created.api_key.etag)) == STALE
    await identity.revoke(created.api_key)
    assert await refused(_update(identity, created.api_key, "name", name="d")) == (
        "FAILED_PRECONDITION",
        "API_KEY_REVOKED",
    )


async def test_rotated_key_works_until_the_overlap_is_over_and_its_successor_at_once(
    identity: Identity, clock: FixedClock, identity_database: Database
) -> None:
    organization_id, owner = await identity.create_organization()
    terms = pb.CreateApiKeyRequest(
        organization_id=organization_id,
        user_id=owner,
        name="gateway",
        scopes=["usage:write"],
        allowed_models=["gpt-*"],
        allowed_addresses=["192.0.2.0/24"],
        metadata={"team": "red"},
        external_id="customer-7",
    )
    old = await identity.create_key(terms)

    rotated = await _rotate(identity, old.api_key, overlap_s=60)

    assert rotated.rotated_api_key.expire_time == _at(clock, 60)
    assert rotated.rotated_api_key.rotated_to_api_key_id == rotated.api_key.api_key_id
    assert rotated.api_key.rotated_from_api_key_id == old.api_key.api_key_id
    new_terms, old_terms = pb.ApiKey(), pb.ApiKey()
    new_terms.CopyFrom(rotated.api_key)
    old_terms.CopyFrom(old.api_key)
    for key in (new_terms, old_terms):
        for field in ("api_key_id", "secret_prefix", "secret_suffix", "rotated_from_api_key_id"):
            key.ClearField(field)
    assert new_terms == old_terms

    async def codes() -> tuple[str, str]:
        old_code = await identity.code(old.secret, address="192.0.2.1", min_revision=rotated.revision)
        return old_code, await identity.code(rotated.secret, address="192.0.2.1")

    assert await codes() == ("VALID", "VALID")
    clock.advance(timedelta(seconds=59))
    assert await codes() == ("VALID", "VALID")
    clock.advance(timedelta(seconds=1))
    assert await codes() == ("EXPIRED", "VALID")
    assert ("RotateApiKey", old.api_key.api_key_id) in await _events(identity_database)
    moved = _update(identity, old.api_key, "expire_time", expire_time=_at(clock, DAY_S))
    assert await refused(moved) == ("FAILED_PRECONDITION", "API_KEY_ROTATED")


async def test_rotation_without_overlap_stops_the_old_secret_at_once(identity: Identity) -> None:
    old = await identity.create_key()
    assert await identity.code(old.secret) == "VALID"

    rotated = await _rotate(identity, old.api_key)

    assert await identity.code(old.secret, min_revision=rotated.revision) == "EXPIRED"
    assert await identity.code(rotated.secret) == "VALID"


async def test_overlap_never_outlives_the_old_key_and_the_successor_ends_as_it_would_have(
    identity: Identity, clock: FixedClock
) -> None:
    organization_id, owner = await identity.create_organization()
    terms = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, expire_time=_at(clock, 100))
    first, second = await identity.create_key(terms), await identity.create_key(terms)

    rotated = await _rotate(identity, first.api_key, overlap_s=30 * DAY_S)
    assert rotated.rotated_api_key.expire_time == _at(clock, 100)
    assert rotated.api_key.expire_time == _at(clock, 100)
    longer = await _rotate(identity, second.api_key, expire_time=_at(clock, DAY_S))
    assert longer.api_key.expire_time == _at(clock, DAY_S)
    assert await violated_fields(_rotate(identity, rotated.api_key, overlap_s=30 * DAY_S + 1)) == {"overlap"}
    assert await violated_fields(_rotate(identity, rotated.api_key, expire_time=_at(clock, 0))) == {"expire_time"}


async def test_key_without_a_future_is_not_rotated(identity: Identity, clock: FixedClock) -> None:
    organization_id, owner = await identity.create_organization()
    terms = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
    short = pb.CreateApiKeyRequest(organization_id=organization_id, user_id=owner, expire_time=_at(clock, 1))
    keys = [(await identity.create_key(t)).api_key for t in (terms, terms, terms, short)]
    revoked, disabled, rotated, expired = keys
    await identity.revoke(revoked)
    await identity.api_keys.DisableApiKey(
        pb.DisableApiKeyRequest(organization_id=organization_id, api_key_id=disabled.api_key_id),
        metadata=identity.metadata,
    )
    await _rotate(identity, rotated, overlap_s=60)
    clock.advance(timedelta(seconds=1))

    reasons = [(await refused(_rotate(identity, key)))[1] for key in (revoked, disabled, rotated, expired)]

    assert reasons == ["API_KEY_REVOKED", "API_KEY_DISABLED", "API_KEY_ROTATED", "API_KEY_EXPIRED"]


async def test_rotation_repeated_with_its_request_id_shows_no_secret_and_makes_no_key(identity: Identity) -> None:
    old = await identity.create_key()
    first = await _rotate(identity, old.api_key, overlap_s=60, request_id="weekly-1")
    again = await _rotate(identity, old.api_key, overlap_s=60, request_id="weekly-1")

    assert (again.replayed, again.secret) == (True, "")
    assert (again.api_key, again.rotated_api_key) == (first.api_key, first.rotated_api_key)
    other = _rotate(identity, old.api_key, overlap_s=61, request_id="weekly-1")
    assert await refused_field(other) == ("REQUEST_ID_REUSED", "overlap")


async def test_concurrent_rotations_of_a_key_make_one_successor(identity: Identity) -> None:
    old = await identity.create_key()

    calls = (_rotate(identity, old.api_key, overlap_s=60) for _ in range(6))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [isinstance(outcome, pb.RotateApiKeyResponse) for outcome in outcomes].count(True) == 1
    listed = await identity.api_keys.ListApiKeys(
        pb.ListApiKeysRequest(organization_id=old.api_key.organization_id), metadata=identity.metadata
    )
    assert len(listed.api_keys) == 2
    assert (await refused(_rotate(identity, old.api_key)))[1] == "API_KEY_ROTATED"


async def test_list_is_narrowed_by_environment_and_external_id(identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    for number, environment in enumerate((pb.API_KEY_ENVIRONMENT_LIVE, pb.API_KEY_ENVIRONMENT_TEST)):
        await identity.create_key(
            pb.CreateApiKeyRequest(
                organization_id=organization_id,
                user_id=owner,
                environment=environment,
                external_id=f"customer-{number}",
            )
        )

    async def listed(request: pb.ListApiKeysRequest) -> list[str]:
        request.organization_id = organization_id
        answer = await identity.api_keys.ListApiKeys(request, metadata=identity.metadata)
        return [api_key.external_id for api_key in answer.api_keys]

    assert await listed(pb.ListApiKeysRequest(environment=pb.API_KEY_ENVIRONMENT_TEST)) == ["customer-1"]
    assert await listed(pb.ListApiKeysRequest(external_id="customer-0")) == ["customer-0"]
    assert await listed(pb.ListApiKeysRequest(external_id="customer")) == []


async def test_rotation_leaves_a_deactivated_owner_stopped(identity: Identity) -> None:
    created = await identity.create_key()
    await identity.users.DeactivateUser(
        user_pb2.DeactivateUserRequest(user_id=created.api_key.user_id), metadata=identity.metadata
    )

    rotated = await _rotate(identity, created.api_key)

    assert await identity.code(rotated.secret, min_revision=rotated.revision) == "OWNER_INACTIVE"
