"""Keys of gateways: only operators make them, no tenant mints or widens one, and they see what they reach alone."""

from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from services.identity.api_key.watch import watch
from tests.identity.people import People, Person
from tests.identity.refusals import DENIED, NOT_FOUND, refused, violated_fields
from tests.identity.support import Identity, changes_until
from tests.support.callers import Metadata, bearer
from tollhouse.common.v1 import audit_pb2
from tollhouse.identity.v1 import api_key_pb2 as pb
from tollhouse.identity.v1 import organization_pb2, service_account_pb2, user_pb2

SCOPE_NOT_HELD = ("PERMISSION_DENIED", "SCOPE_NOT_HELD")
ADMISSION, USAGE = "tollhouse:admission", "tollhouse:usage.write"
OWNER = organization_pb2.MEMBER_ROLE_OWNER


class Site:
    """An organization with a service account and an owner who is signed in."""

    def __init__(self, identity: Identity, organization_id: str, owner: Person, service_account_id: str) -> None:
        self._identity = identity
        self.organization_id = organization_id
        self.owner = owner
        self.service_account_id = service_account_id

    @classmethod
    async def build(cls, identity: Identity, people: People) -> "Site":
        organization_id, _ = await identity.create_organization()
        owner = await people.member(organization_id, OWNER)
        request = service_account_pb2.CreateServiceAccountRequest(
            organization_id=organization_id, name=f"gateway {new_id()}", role=organization_pb2.MEMBER_ROLE_ADMIN
        )
        created = await identity.service_accounts.CreateServiceAccount(request, metadata=identity.metadata)
        return cls(identity, organization_id, owner, created.service_account.service_account_id)

    async def create(self, metadata: Metadata | None = None, **fields: object) -> pb.CreateApiKeyResponse:
        """Create a key of the service account, as an operator unless it says otherwise."""
        owner = {} if "user_id" in fields else {"service_account_id": self.service_account_id}
        request = pb.CreateApiKeyRequest(organization_id=self.organization_id, **{**owner, **fields})  # type: ignore[arg-type]
        return await self._identity.api_keys.CreateApiKey(request, metadata=metadata or self._identity.metadata)

    def update(self, created: pb.CreateApiKeyResponse, *paths: str, **fields: object) -> pb.UpdateApiKeyRequest:
        mask = FieldMask(paths=paths)
        return pb.UpdateApiKeyRequest(
            organization_id=self.organization_id,
            api_key_id=created.api_key.api_key_id,
            update_mask=mask,
            **fields,  # type: ignore[arg-type]
        )

    def rotate(self, created: pb.CreateApiKeyResponse) -> pb.RotateApiKeyRequest:
        return pb.RotateApiKeyRequest(organization_id=self.organization_id, api_key_id=created.api_key.api_key_id)

    def revoke(self, created: pb.CreateApiKeyResponse) -> pb.RevokeApiKeyRequest:
        return pb.RevokeApiKeyRequest(organization_id=self.organization_id, api_key_id=created.api_key.api_key_id)


@pytest.fixture
async def site(identity: Identity, people: People) -> Site:
    return await Site.build(identity, people)


async def code_of(identity: Identity, metadata: Metadata, secret: str) -> str:
    answer = await identity.api_keys.VerifyApiKey(pb.VerifyApiKeyRequest(key=secret), metadata=metadata)
    return pb.VerifyApiKeyCode.Name(answer.code).removeprefix("VERIFY_API_KEY_CODE_")


async def codes_of(identity: Identity, metadata: Metadata, secrets: list[str]) -> list[str]:
    request = pb.BatchVerifyApiKeysRequest(requests=[pb.VerifyApiKeyRequest(key=secret) for secret in secrets])
    outcomes = (await identity.api_keys.BatchVerifyApiKeys(request, metadata=metadata)).outcomes
    codes = [pb.VerifyApiKeyCode.Name(outcome.decided.code) for outcome in outcomes]
    return [code.removeprefix("VERIFY_API_KEY_CODE_") for code in codes]


async def test_key_of_a_gateway_keeps_where_it_reaches_through_rotation(identity: Identity, site: Site) -> None:
    other, _ = await identity.create_organization()
    wide = await site.create(scopes=[ADMISSION, USAGE], all_organizations=True)
    narrow = await site.create(scopes=[USAGE], gateway_organization_id=other.upper())
    assert (wide.api_key.all_organizations, wide.api_key.gateway_organization_id) == (True, "")
    assert (narrow.api_key.all_organizations, narrow.api_key.gateway_organization_id) == (False, other)
    for created in (wide, narrow):
        rotated = await identity.api_keys.RotateApiKey(site.rotate(created), metadata=identity.metadata)
        assert rotated.api_key.scopes == created.api_key.scopes
        assert rotated.api_key.all_organizations == created.api_key.all_organizations
        assert rotated.api_key.gateway_organization_id == created.api_key.gateway_organization_id


async def test_creation_is_replayed_and_a_wider_one_under_its_id_is_refused(identity: Identity, site: Site) -> None:
    request_id = new_id()
    first = await site.create(scopes=[USAGE], request_id=request_id)
    again = await site.create(scopes=[USAGE], request_id=request_id)
    assert (again.replayed, again.api_key.api_key_id) == (True, first.api_key.api_key_id)
    wider = site.create(scopes=[USAGE], request_id=request_id, all_organizations=True)
    assert await refused(wider) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


async def test_audit_trail_tells_who_made_it_and_where_it_reaches(identity: Identity, site: Site) -> None:
    created = await site.create(scopes=[ADMISSION], all_organizations=True)
    request = audit_pb2.ListAuditEventsRequest(organization_id=site.organization_id)
    events = (await identity.audit.ListAuditEvents(request, metadata=identity.metadata)).events
    event = next(one for one in events if one.resource_id == created.api_key.api_key_id)
    changes = {change.field: change.after for change in event.changes}
    assert changes == {"scopes": ADMISSION, "all_organizations": "true"}
    assert event.actor == "operator:alice"


async def test_no_tenant_mints_a_key_of_a_gateway(identity: Identity, people: People, site: Site) -> None:
    own_key = await site.create(scopes=["tollhouse:keys.write", ADMISSION, USAGE], all_organizations=True)
    for metadata in (site.owner.metadata, bearer(own_key.secret)):
        attempts: list[dict[str, object]] = [
            {"scopes": [ADMISSION]},
            {"scopes": [USAGE], "all_organizations": True},
            {"scopes": [USAGE], "gateway_organization_id": (await Site.build(identity, people)).organization_id},
        ]
        for fields in attempts:
            assert await refused(site.create(metadata, **fields)) == SCOPE_NOT_HELD
        plain = await site.create(metadata)
        for scope in (ADMISSION, USAGE):
            update = site.update(plain, "scopes", scopes=[scope])
            assert await refused(identity.api_keys.UpdateApiKey(update, metadata=metadata)) == SCOPE_NOT_HELD


async def test_no_tenant_widens_takes_over_or_wakes_a_key_of_a_gateway(identity: Identity, site: Site) -> None:
    keys, soon = identity.api_keys, Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    created = await site.create(scopes=[USAGE], allowed_addresses=["192.0.2.1"], expire_time=soon)
    names = {"organization_id": site.organization_id, "api_key_id": created.api_key.api_key_id}
    mine = site.owner.metadata
    later = Timestamp(seconds=soon.seconds + 1_000_000)
    disabled = pb.DisableApiKeyRequest(**names)
    await keys.DisableApiKey(disabled, metadata=identity.metadata)
    attempts: list[Awaitable[object]] = [
        keys.UpdateApiKey(site.update(created, "allowed_addresses"), metadata=mine),
        keys.UpdateApiKey(site.update(created, "expire_time", expire_time=later), metadata=mine),
        keys.EnableApiKey(pb.EnableApiKeyRequest(**names), metadata=mine),
    ]
    for attempt in attempts:
        assert await refused(attempt) == SCOPE_NOT_HELD
    await keys.EnableApiKey(pb.EnableApiKeyRequest(**names), metadata=identity.metadata)
    assert await refused(keys.RotateApiKey(site.rotate(created), metadata=mine)) == SCOPE_NOT_HELD
    # What takes rights away is open to whoever manages the organization's keys.
    await keys.DisableApiKey(disabled, metadata=mine)
    assert (await keys.RevokeApiKey(site.revoke(created), metadata=mine)).api_key.HasField("revoke_time")


async def test_user_has_no_key_of_a_gateway(site: Site) -> None:
    assert await refused(site.create(scopes=[USAGE], user_id=site.owner.user_id)) == SCOPE_NOT_HELD


async def test_what_makes_no_sense_is_refused_by_name(identity: Identity, site: Site) -> None:
    other, _ = await identity.create_organization()
    project = await identity.create_project(site.organization_id)
    assert await violated_fields(site.create(all_organizations=True, gateway_organization_id=other)) == {
        "all_organizations",
        "gateway_organization_id",
    }
    both = site.create(scopes=[USAGE], all_organizations=True, gateway_organization_id=other)
    assert await violated_fields(both) == {"gateway_organization_id"}
    assert await violated_fields(site.create(scopes=[USAGE], gateway_organization_id="../x'\x00")) == {
        "gateway_organization_id"
    }
    project_id, test = project.project_id, pb.API_KEY_ENVIRONMENT_TEST
    unfit = site.create(scopes=[USAGE], project_id=project_id, environment=test)
    assert await violated_fields(unfit) == {"project_id", "environment"}
    plain = await site.create(project_id=project_id, environment=test)
    update = site.update(plain, "scopes", scopes=[USAGE])
    assert await violated_fields(identity.api_keys.UpdateApiKey(update, metadata=identity.metadata)) == {
        "project_id",
        "environment",
    }
    assert await refused(site.create(scopes=[USAGE], gateway_organization_id=new_id())) == NOT_FOUND


async def test_imported_key_cannot_be_that_of_a_gateway(identity: Identity, site: Site) -> None:
    imported = pb.ImportedApiKey(
        digest=new_id().replace("-", "") * 2, service_account_id=site.service_account_id, scopes=[ADMISSION]
    )
    request = pb.ImportApiKeysRequest(organization_id=site.organization_id, secret_prefix="old_", api_keys=[imported])
    answer = await identity.api_keys.ImportApiKeys(request, metadata=identity.metadata)
    assert answer.refused_count == 1
    assert "scopes" in answer.outcomes[0].error.message


async def test_gateway_verifies_the_keys_it_reaches_and_knows_no_others(
    identity: Identity, people: People, site: Site
) -> None:
    mine, theirs = await Site.build(identity, people), await Site.build(identity, people)
    wide = await site.create(scopes=[ADMISSION], all_organizations=True)
    narrow = await site.create(scopes=[ADMISSION], gateway_organization_id=mine.organization_id)
    recorder = await site.create(scopes=[USAGE], all_organizations=True)
    secrets = [(await one.create()).secret for one in (mine, theirs)]
    revoked = [await one.create() for one in (mine, theirs)]
    for one, created in zip((mine, theirs), revoked, strict=True):
        await identity.api_keys.RevokeApiKey(one.revoke(created), metadata=identity.metadata)
    asked = [*secrets, *(created.secret for created in revoked)]
    for _ in range(2):  # The second time from memory.
        told = [await code_of(identity, bearer(wide.secret), secret) for secret in asked]
        assert told == ["VALID", "VALID", "REVOKED", "REVOKED"]
        told = [await code_of(identity, bearer(narrow.secret), secret) for secret in asked]
        assert told == ["VALID", "NOT_FOUND", "REVOKED", "NOT_FOUND"]
        # In a batch, too, and although an operator has asked for the same in the same bytes.
        assert await codes_of(identity, identity.metadata, asked) == ["VALID", "VALID", "REVOKED", "REVOKED"]
        assert await codes_of(identity, bearer(wide.secret), asked) == ["VALID", "VALID", "REVOKED", "REVOKED"]
        assert await codes_of(identity, bearer(narrow.secret), asked) == ["VALID", "NOT_FOUND", "REVOKED", "NOT_FOUND"]
    assert await refused(code_of(identity, bearer(recorder.secret), asked[0])) == DENIED
    assert await refused(code_of(identity, bearer(secrets[0]), asked[0])) == DENIED


async def test_gateway_is_told_of_changes_in_the_organizations_it_reaches(
    identity: Identity, people: People, site: Site
) -> None:
    mine, theirs = await Site.build(identity, people), await Site.build(identity, people)
    wide = await site.create(scopes=[ADMISSION], all_organizations=True)
    narrow = await site.create(scopes=[ADMISSION], gateway_organization_id=mine.organization_id)
    recorder = await site.create(scopes=[USAGE])
    live = _watch(identity, narrow.secret)
    began = (await anext(live)).revision
    keys = [await one.create() for one in (mine, theirs, mine)]
    stranger = user_pb2.DeactivateUserRequest(user_id=theirs.owner.user_id)
    await identity.users.DeactivateUser(stranger, metadata=identity.metadata)
    revisions = [await identity.revoke(created.api_key) for created in keys]

    everything = await changes_until(_watch(identity, wide.secret, began), revisions[-1])
    assert [change.revision for change in everything] == list(range(began + 1, revisions[-1] + 1))
    # Of others not even an id; a user's change could be one of a member.
    unnamed = [change.revision for change in everything if change.user_id == theirs.owner.user_id]
    assert len(unnamed) == 1
    for stream in (live, _watch(identity, narrow.secret, began)):
        told = await changes_until(stream, revisions[-1])
        assert [(change.revision, change.api_key_id) for change in told] == [
            *((created.revision, created.api_key.api_key_id) for created in (keys[0], keys[2])),
            (unnamed[0], ""),
            *((revisions[number], keys[number].api_key.api_key_id) for number in (0, 2)),
        ]
        assert {change.organization_id for change in told} == {mine.organization_id}
        assert told[2].changed_organization_id == mine.organization_id
        assert told[2].kind == pb.API_KEY_CHANGE_KIND_UNSPECIFIED
    assert await refused(anext(_watch(identity, recorder.secret))) == DENIED


@pytest.mark.parametrize("reaches_all", [True, False])
async def test_stream_of_changes_ends_when_its_key_is_revoked(
    identity: Identity, site: Site, reaches_all: bool
) -> None:
    created = await site.create(scopes=[ADMISSION], all_organizations=reaches_all)
    stream = _watch(identity, created.secret)
    assert (await anext(stream)).revision
    await identity.api_keys.RevokeApiKey(site.revoke(created), metadata=identity.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await _read_on(stream)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_gateways_of_one_organization_leave_streams_to_others(
    identity: Identity, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_WATCHERS_OF_ONE_MAX", 2)
    narrow = await site.create(scopes=[ADMISSION])
    wide = await site.create(scopes=[ADMISSION], all_organizations=True)
    streams = [_watch(identity, narrow.secret) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    assert await refused(anext(_watch(identity, narrow.secret))) == ("UNAVAILABLE", "TOO_MANY_WATCHERS")
    assert (await anext(_watch(identity, wide.secret))).revision


def _watch(identity: Identity, secret: str, after_revision: int = 0) -> AsyncIterator[pb.WatchApiKeysResponse]:
    request = pb.WatchApiKeysRequest(after_revision=after_revision)
    return aiter(identity.api_keys.WatchApiKeys(request, metadata=bearer(secret), timeout=20))


async def _read_on(watch: AsyncIterator[object]) -> None:
    async for _ in watch:
        pass


async def test_account_of_a_deleted_gateway_calls_no_more(identity: Identity, site: Site) -> None:
    created = await site.create(scopes=[ADMISSION], all_organizations=True)
    assert await code_of(identity, bearer(created.secret), created.secret) == "VALID"
    await identity.service_accounts.DeleteServiceAccount(
        service_account_pb2.DeleteServiceAccountRequest(
            organization_id=site.organization_id, service_account_id=site.service_account_id
        ),
        metadata=identity.metadata,
    )
    assert await refused(code_of(identity, bearer(created.secret), created.secret)) == (
        "UNAUTHENTICATED",
        "UNAUTHENTICATED",
    )
