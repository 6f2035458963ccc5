"""Limits of API keys: never more rights than their creator, their owner, or the key with which they were created."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from libs.common.database import Database
from libs.common.errors import InvalidArgument
from libs.common.ids import new_id
from services.identity.api_key.domain import Environment
from services.identity.api_key.manage.limits import Limits, end_of
from services.identity.errors import KeyLimitExceeded
from tests.identity.people import People, Person
from tests.identity.refusals import DENIED, NOT_FOUND, refused, refused_field, violated_fields
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers, Metadata, bearer
from tests.support.clock import FixedClock
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import organization_pb2, project_pb2, service_account_pb2

SCOPE_NOT_HELD = ("PERMISSION_DENIED", "SCOPE_NOT_HELD")
MEMBER, ADMIN = organization_pb2.MEMBER_ROLE_MEMBER, organization_pb2.MEMBER_ROLE_ADMIN
BILLING, VIEWER = organization_pb2.MEMBER_ROLE_BILLING, organization_pb2.MEMBER_ROLE_VIEWER
KEYS_WRITE = "tollhouse:keys.write"


async def _create(identity: Identity, metadata: Metadata, **fields: object) -> pb.CreateApiKeyResponse:
    return await identity.api_keys.CreateApiKey(pb.CreateApiKeyRequest(**fields), metadata=metadata)  # type: ignore[arg-type]


async def _limit_lifetime(database: Database, seconds: int) -> None:
    async with database.transaction() as tx:
        await tx.execute(text("UPDATE identity.organizations SET api_key_max_lifetime_s = :s"), {"s": seconds})


async def _project_admin(identity: Identity, people: People, organization_id: str) -> tuple[Person, str]:
    """Return a member who is admin of a project, and the project's id."""
    person = await people.member(organization_id, MEMBER)
    project = await identity.create_project(organization_id)
    await identity.projects.AddProjectMember(
        project_pb2.AddProjectMemberRequest(
            organization_id=organization_id,
            project_id=project.project_id,
            user_id=person.user_id,
            role=project_pb2.PROJECT_MEMBER_ROLE_ADMIN,
        ),
        metadata=identity.metadata,
    )
    return person, project.project_id


@pytest.fixture
async def organization_id(identity: Identity) -> str:
    return (await identity.create_organization())[0]


async def test_scope_the_creator_does_not_hold_is_refused_by_name(
    identity: Identity, people: People, organization_id: str
) -> None:
    member = await people.member(organization_id, MEMBER)
    names = {"organization_id": organization_id, "user_id": member.user_id}

    created = await _create(identity, member.metadata, scopes=["usage:write", KEYS_WRITE], **names)
    assert created.secret
    assert await refused(_create(identity, member.metadata, scopes=["tollhouse:organization.write"], **names)) == (
        SCOPE_NOT_HELD
    )
    assert await violated_fields(
        _create(identity, member.metadata, scopes=["usage:write", "tollhouse:made.up"], **names)
    ) == {"scopes[1]"}


async def test_scope_the_owner_does_not_hold_is_refused_to_an_operator_too(
    identity: Identity, people: People, organization_id: str
) -> None:
    viewer = await people.member(organization_id, VIEWER)

    names = {"organization_id": organization_id, "user_id": viewer.user_id}
    assert await refused(_create(identity, identity.metadata, scopes=["usage:write"], **names)) == SCOPE_NOT_HELD
    assert (await _create(identity, identity.metadata, scopes=["tollhouse:usage.read"], **names)).secret


async def test_member_makes_keys_for_themselves_alone_and_an_admin_for_all(
    identity: Identity, people: People, organization_id: str
) -> None:
    member, other = [await people.member(organization_id, MEMBER) for _ in range(2)]
    admin, billing = await people.member(organization_id, ADMIN), await people.member(organization_id, BILLING)
    stranger = await people.person()
    names = {"organization_id": organization_id, "user_id": other.user_id}

    assert await refused(_create(identity, member.metadata, **names)) == DENIED
    assert await refused(_create(identity, billing.metadata, **names)) == DENIED
    assert await refused(_create(identity, stranger.metadata, **names)) == NOT_FOUND
    created = await _create(identity, admin.metadata, **names)

    by_id = {"organization_id": organization_id, "api_key_id": created.api_key.api_key_id}
    keys = identity.api_keys
    assert await refused(keys.GetApiKey(pb.GetApiKeyRequest(**by_id), metadata=member.metadata)) == DENIED
    assert await refused(keys.RevokeApiKey(pb.RevokeApiKeyRequest(**by_id), metadata=member.metadata)) == DENIED
    rotate = pb.RotateApiKeyRequest(organization_id=organization_id, api_key_id=created.api_key.api_key_id)
    assert await refused(keys.RotateApiKey(rotate, metadata=member.metadata)) == DENIED
    assert (await keys.GetApiKey(pb.GetApiKeyRequest(**by_id), metadata=other.metadata)).api_key == created.api_key


async def test_list_shows_whoever_is_limited_only_what_they_may_see(
    identity: Identity, people: People, organization_id: str
) -> None:
    admin, project_id = await _project_admin(identity, people, organization_id)
    other = await people.member(organization_id, MEMBER)
    names = {"organization_id": organization_id, "user_id": other.user_id}
    await _create(identity, identity.metadata, **names)
    bound = await _create(identity, admin.metadata, project_id=project_id, **names)

    async def listed(metadata: Metadata, project_id: str = "", user_id: str = "") -> list[str]:
        request = pb.ListApiKeysRequest(organization_id=organization_id, project_id=project_id, user_id=user_id)
        answer = await identity.api_keys.ListApiKeys(request, metadata=metadata)
        return [api_key.api_key_id for api_key in answer.api_keys]

    assert await refused(listed(admin.metadata)) == DENIED
    assert await refused(listed(admin.metadata, user_id=other.user_id)) == DENIED
    assert await listed(admin.metadata, project_id=project_id) == [bound.api_key.api_key_id]
    assert len(await listed(other.metadata, user_id=other.user_id)) == 2


async def test_project_admin_makes_keys_of_the_project_alone(
    identity: Identity, people: People, organization_id: str
) -> None:
    admin, project_id = await _project_admin(identity, people, organization_id)
    elsewhere = await identity.create_project(organization_id, "Elsewhere")
    other = await people.member(organization_id, MEMBER)
    names = {"organization_id": organization_id, "user_id": other.user_id}

    assert (await _create(identity, admin.metadata, project_id=project_id, **names)).secret
    assert await refused(_create(identity, admin.metadata, **names)) == DENIED
    assert await refused(_create(identity, admin.metadata, project_id=elsewhere.project_id, **names)) == DENIED


async def test_key_makes_no_key_beyond_its_own_limits(identity: Identity, people: People, organization_id: str) -> None:
    admin = await people.member(organization_id, ADMIN)
    project = await identity.create_project(organization_id)
    names = {"organization_id": organization_id, "user_id": admin.user_id, "project_id": project.project_id}
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(days=2))
    within = {
        "environment": pb.API_KEY_ENVIRONMENT_TEST,
        "allowed_models": ["gpt-4o", "acme/swift-*"],
        "allowed_addresses": ["127.0.0.0/8"],
        "expire_time": end,
        "subscription_id": new_id(),
    }
    maker = await _create(
        identity,
        admin.metadata,
        scopes=[KEYS_WRITE, "usage:write"],
        **names,
        **{**within, "allowed_models": ["gpt-4*", "acme/*"]},
    )
    with_key = bearer(maker.secret)

    child = await _create(identity, with_key, scopes=["usage:write"], **names, **within)
    assert child.api_key.allowed_models == sorted(["gpt-4o", "acme/swift-*"])

    async def exceeded(**changes: object) -> tuple[str, str]:
        return await refused_field(_create(identity, with_key, **{**names, **within, **changes}))

    later = Timestamp(seconds=end.seconds + 1)
    assert await exceeded(allowed_models=[]) == ("KEY_LIMIT_EXCEEDED", "allowed_models")
    assert await exceeded(allowed_models=["*"]) == ("KEY_LIMIT_EXCEEDED", "allowed_models")
    assert await exceeded(allowed_models=["acme/x", "other"]) == ("KEY_LIMIT_EXCEEDED", "allowed_models")
    assert await exceeded(allowed_addresses=[]) == ("KEY_LIMIT_EXCEEDED", "allowed_addresses")
    assert await exceeded(allowed_addresses=["127.0.0.1", "10.0.0.1"]) == ("KEY_LIMIT_EXCEEDED", "allowed_addresses")
    assert await exceeded(environment=pb.API_KEY_ENVIRONMENT_LIVE) == ("KEY_LIMIT_EXCEEDED", "environment")
    assert await exceeded(expire_time=later) == ("KEY_LIMIT_EXCEEDED", "expire_time")
    for other in ("", new_id()):
        assert await exceeded(subscription_id=other) == ("KEY_LIMIT_EXCEEDED", "subscription_id")
    assert await refused(_create(identity, with_key, **{**names, **within, "project_id": ""})) == DENIED
    held = _create(identity, with_key, scopes=["tollhouse:audit.read"], **names, **within)
    assert await refused(held) == SCOPE_NOT_HELD


async def test_key_neither_widens_itself_nor_takes_over_a_wider_one(
    identity: Identity, people: People, organization_id: str
) -> None:
    admin = await people.member(organization_id, ADMIN)
    names = {"organization_id": organization_id, "user_id": admin.user_id}
    narrow = await _create(identity, admin.metadata, scopes=[KEYS_WRITE], allowed_models=["gpt-4o"], **names)
    wide = await _create(identity, admin.metadata, scopes=[KEYS_WRITE, "tollhouse:audit.read"], **names)
    same_scopes = await _create(identity, admin.metadata, scopes=[KEYS_WRITE], **names)
    with_key = bearer(narrow.secret)

    async def update(api_key: pb.ApiKey, *paths: str, **fields: object) -> pb.UpdateApiKeyResponse:
        request = pb.UpdateApiKeyRequest(
            organization_id=organization_id,
            api_key_id=api_key.api_key_id,
            update_mask=FieldMask(paths=paths),
            **fields,  # type: ignore[arg-type]
        )
        return await identity.api_keys.UpdateApiKey(request, metadata=with_key)

    async def rotate(api_key: pb.ApiKey) -> pb.RotateApiKeyResponse:
        request = pb.RotateApiKeyRequest(organization_id=organization_id, api_key_id=api_key.api_key_id)
        return await identity.api_keys.RotateApiKey(request, metadata=with_key)

    assert await refused_field(update(narrow.api_key, "allowed_models")) == ("KEY_LIMIT_EXCEEDED", "allowed_models")
    added = update(narrow.api_key, "scopes", scopes=[KEYS_WRITE, "tollhouse:audit.read"])
    assert await refused(added) == SCOPE_NOT_HELD
    assert await refused(rotate(wide.api_key)) == SCOPE_NOT_HELD
    assert await refused_field(rotate(same_scopes.api_key)) == ("KEY_LIMIT_EXCEEDED", "allowed_models")
    renamed = await update(narrow.api_key, "name", name="narrow")
    assert renamed.api_key.name == "narrow"
    bound = await update(narrow.api_key, "subscription_id", subscription_id=new_id())
    assert await refused_field(update(bound.api_key, "subscription_id")) == ("KEY_LIMIT_EXCEEDED", "subscription_id")


@pytest.fixture
async def at_noon(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> AsyncIterator[tuple[Identity, FixedClock]]:
    clock = FixedClock(datetime.now(UTC).replace(microsecond=0))
    async with open_identity(callers, database_urls["identity"], tmp_path, clock=clock) as identity:
        yield identity, clock


async def test_keys_live_no_longer_than_their_organization_allows(
    at_noon: tuple[Identity, FixedClock], identity_database: Database
) -> None:
    identity, clock = at_noon
    organization_id, owner = await identity.create_organization()
    await _limit_lifetime(identity_database, 3600)
    names = {"organization_id": organization_id, "user_id": owner}

    def at(seconds: int) -> Timestamp:
        return Timestamp(seconds=int(clock.now().timestamp()) + seconds)

    created = await _create(identity, identity.metadata, **names)
    assert created.api_key.expire_time == at(3600)
    assert (await _create(identity, identity.metadata, expire_time=at(3600), **names)).secret
    too_late = _create(identity, identity.metadata, expire_time=at(3601), **names)
    assert await violated_fields(too_late) == {"expire_time"}

    async def move_end(moment: Timestamp | None) -> pb.UpdateApiKeyResponse:
        request = pb.UpdateApiKeyRequest(
            organization_id=organization_id,
            api_key_id=created.api_key.api_key_id,
            update_mask=FieldMask(paths=["expire_time"]),
            expire_time=moment,
        )
        return await identity.api_keys.UpdateApiKey(request, metadata=identity.metadata)

    first_end = at(3600)
    clock.advance(timedelta(seconds=100))
    assert await violated_fields(move_end(at(3600))) == {"expire_time"}
    assert (await move_end(at(60))).api_key.expire_time == at(60)
    assert (await move_end(None)).api_key.expire_time == first_end


async def test_service_accounts_own_keys_within_their_role(
    identity: Identity, people: People, organization_id: str
) -> None:
    account = (
        await identity.service_accounts.CreateServiceAccount(
            service_account_pb2.CreateServiceAccountRequest(
                organization_id=organization_id, name="Robot", role=organization_pb2.MEMBER_ROLE_MEMBER
            ),
            metadata=identity.metadata,
        )
    ).service_account
    names = {"organization_id": organization_id, "service_account_id": account.service_account_id}
    admin, member = await people.member(organization_id, ADMIN), await people.member(organization_id, MEMBER)

    created = await _create(identity, admin.metadata, scopes=["usage:write"], **names)
    assert created.api_key.service_account_id == account.service_account_id
    answer = await identity.verify(created.secret, scopes=("usage:write",))
    assert answer.principal.service_account_id == account.service_account_id
    assert await refused(_create(identity, admin.metadata, scopes=["tollhouse:audit.read"], **names)) == SCOPE_NOT_HELD
    assert await refused(_create(identity, member.metadata, **names)) == DENIED
    mine = pb.ListApiKeysRequest(organization_id=organization_id, service_account_id=account.service_account_id)
    listed = await identity.api_keys.ListApiKeys(mine, metadata=admin.metadata)
    assert [api_key.api_key_id for api_key in listed.api_keys] == [created.api_key.api_key_id]

    deleted = await identity.service_accounts.DeleteServiceAccount(
        service_account_pb2.DeleteServiceAccountRequest(**names), metadata=admin.metadata
    )
    assert await identity.code(created.secret, min_revision=deleted.revision) in {"OWNER_INACTIVE", "REVOKED"}
    assert await refused(_create(identity, admin.metadata, **names)) == NOT_FOUND


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS = Limits("p", Environment.TEST, ("a*",), ("10.0.0.0/8",), NOON + timedelta(hours=1), "s")


def test_end_is_the_earliest_that_is_allowed_when_none_is_asked_for() -> None:
    def end(asked: datetime | None, max_lifetime_s: int | None, limits: Limits | None) -> datetime | None:
        return end_of(asked, now=NOON, create_time=NOON, max_lifetime_s=max_lifetime_s, limits=limits)

    assert end(None, None, None) is None
    assert end(None, 7200, None) == NOON + timedelta(hours=2)
    assert end(None, 7200, LIMITS) == LIMITS.expire_time
    assert end(None, 60, LIMITS) == NOON + timedelta(minutes=1)
    with pytest.raises(KeyLimitExceeded):
        end(NOON + timedelta(hours=2), None, LIMITS)
    with pytest.raises(InvalidArgument):
        end(NOON, None, None)
