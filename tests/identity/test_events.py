"""Identity announces invitations, leaked keys and keys that expire soon; what is personal or secret reaches operators
alone."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.sealing import SealingKeys, place_of_data
from services.identity.api_key.manage.key_events import KeyExpiry
from tests.common.events.receiver import receiving
from tests.common.events.support import eventually
from tests.identity.people import People
from tests.identity.support import Identity
from tests.support.callers import EVENT_KEY
from tests.support.clock import FixedClock
from tests.support.events import announced
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc, event_pb2, event_pb2_grpc
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.identity.v1 import organization_pb2 as pb


async def invite(identity: Identity, organization_id: str, email: str) -> pb.CreateInvitationResponse:
    request = pb.CreateInvitationRequest(organization_id=organization_id, email=email, role=pb.MEMBER_ROLE_MEMBER)
    return await identity.organizations.CreateInvitation(request, metadata=identity.metadata)


async def test_an_invitations_token_reaches_an_endpoint_of_the_platform_and_nobody_else(
    identity: Identity, identity_database: Database, people: People
) -> None:
    organization_id, _ = await identity.create_organization()
    owner = await people.member(organization_id, pb.MEMBER_ROLE_OWNER)
    stub: event_pb2_grpc.EventServiceStub = event_pb2_grpc.EventServiceStub(identity.channel)
    async with receiving() as operators, receiving() as customers:
        platforms = await stub.CreateEventEndpoint(
            event_pb2.CreateEventEndpointRequest(url=operators.url), metadata=identity.metadata
        )
        own = await stub.CreateEventEndpoint(
            event_pb2.CreateEventEndpointRequest(organization_id=organization_id, url=customers.url),
            metadata=owner.metadata,
        )
        made = await invite(identity, organization_id, "eve@example.com")
        await eventually(lambda: bool(operators.received and customers.received))
        sent = operators.received[0].verified(platforms.secret)["data"]
        public = customers.received[0].verified(own.secret)["data"]
    assert isinstance(sent, dict)
    assert (sent["token"], sent["email"]) == (made.token, "eve@example.com")
    assert public == {name: value for name, value in sent.items() if name not in ("token", "email")}
    (listed,) = await announced(identity.channel, owner.metadata, organization_id)
    assert listed[:2] == ("tollhouse.invitation.created", f"invitation/{made.invitation.invitation_id}")
    assert listed[2] == public
    trail = await audit_pb2_grpc.AuditServiceStub(identity.channel).ListAuditEvents(
        audit_pb2.ListAuditEventsRequest(organization_id=organization_id), metadata=identity.metadata
    )
    assert made.token not in str(trail)


async def test_an_invitation_that_is_not_made_announces_nothing_and_a_repeat_nothing_again(identity: Identity) -> None:
    organization_id, _ = await identity.create_organization()
    await invite(identity, organization_id, "eve@example.com")
    with pytest.raises(grpc.aio.AioRpcError):
        await invite(identity, organization_id, "eve@example.com")
    assert len(await announced(identity.channel, identity.metadata, organization_id)) == 1


async def test_a_leaked_key_is_announced_once_without_its_secret(identity: Identity) -> None:
    made = await identity.create_key()
    request = api_key_pb2.ReportLeakedApiKeyRequest(
        key=made.secret, source="scanner", url=f"https://x.test/{made.secret}"
    )
    for _ in range(2):
        await identity.api_keys.ReportLeakedApiKey(request, metadata=identity.metadata)
    ((kind, subject, data),) = await announced(identity.channel, identity.metadata, made.api_key.organization_id)
    assert (kind, subject) == ("tollhouse.api_key.leaked", f"api_key/{made.api_key.api_key_id}")
    assert (data["source"], data["url"], data["user_id"]) == ("scanner", "https://x.test/***", made.api_key.user_id)
    assert made.secret not in str(data)


async def test_a_key_that_expires_within_a_week_is_announced_once_for_each_time_at_which_it_does(
    identity: Identity, identity_database: Database
) -> None:
    organization_id, user_id = await identity.create_organization()
    clock = FixedClock(datetime.now(UTC))
    keys = SealingKeys({1: EVENT_KEY})

    async def key(days: int | None) -> api_key_pb2.ApiKey:
        request = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=user_id, name=f"{days}")
        if days is not None:
            request.expire_time.FromDatetime(clock.now() + timedelta(days=days))
        return (await identity.create_key(request)).api_key

    async def names() -> list[str]:
        for _ in range(2):
            await KeyExpiry(identity_database, clock, keys).announce_due()
        found = await announced(identity.channel, identity.metadata, organization_id, type="tollhouse.api_key.expiring")
        return sorted(str(data["name"]) for _, _, data in found)

    soon, later, revoked = await key(3), await key(10), await key(4)
    await key(None)
    await identity.revoke(revoked)
    assert await names() == ["3"]
    clock.advance(timedelta(days=4))
    assert await names() == ["10", "3"]
    request = api_key_pb2.UpdateApiKeyRequest(organization_id=organization_id, api_key_id=later.api_key_id)
    request.update_mask.paths.append("expire_time")
    request.expire_time.FromDatetime(clock.now() + timedelta(days=5))
    await identity.api_keys.UpdateApiKey(request, metadata=identity.metadata)
    assert await names() == ["10", "10", "3"]
    assert soon.api_key_id != later.api_key_id


async def test_the_address_of_a_keys_owner_is_encrypted_for_operators(
    identity: Identity, identity_database: Database
) -> None:
    user = await identity.create_user("owner@example.com")
    organization_id, _ = await identity.create_organization()
    request = pb.AddMemberRequest(organization_id=organization_id, user_id=user.user_id, role=pb.MEMBER_ROLE_MEMBER)
    await identity.organizations.AddMember(request, metadata=identity.metadata)
    made = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=user.user_id, name="k")
    )
    await identity.api_keys.ReportLeakedApiKey(
        api_key_pb2.ReportLeakedApiKeyRequest(key=made.secret, source="scanner"), metadata=identity.metadata
    )
    async with identity_database.raw_connection() as connection:
        sealed = await connection.fetchval("SELECT sealed_data FROM events WHERE organization_id = $1", organization_id)
    subject = f"api_key/{made.api_key.api_key_id}"
    opened = SealingKeys({1: EVENT_KEY}).open(sealed, place_of_data(organization_id, subject))
    assert opened == b'{"email": "owner@example.com"}'


async def test_no_organization_sees_the_events_of_another(identity: Identity, people: People) -> None:
    organization_id, _ = await identity.create_organization()
    await invite(identity, organization_id, "eve@example.com")
    other_id, _ = await identity.create_organization()
    stranger = await people.member(other_id, pb.MEMBER_ROLE_OWNER)
    for asked in (organization_id, new_id(), ""):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await announced(identity.channel, stranger.metadata, asked)
        assert refused.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    assert await announced(identity.channel, stranger.metadata, other_id) == []
