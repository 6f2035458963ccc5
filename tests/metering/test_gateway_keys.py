"""A gateway with nothing but an API key: it authorizes, settles and records where its key reaches, and nowhere else."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from libs.common.status import error_info, error_info_in
from tests.identity.support import Identity
from tests.metering.support import Platform, settlement, usage
from tests.support.callers import Metadata, bearer
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, service_account_pb2
from tollhouse.metering.v1 import admission_pb2 as pb
from tollhouse.metering.v1 import ingest_pb2, lease_pb2, lease_pb2_grpc, quota_pb2, usage_pb2

ALLOWED, DENIED = pb.DECISION_ALLOWED, pb.DECISION_DENIED
ADMISSION, USAGE = "tollhouse:admission", "tollhouse:usage.write"
PROMISED_S = 5.0


@dataclass(frozen=True)
class Tenant:
    """An organization with money and an end user's key."""

    organization_id: str
    secret: str
    api_key_id: str


@dataclass(frozen=True)
class Gateway:
    """A key of the platform's service account."""

    metadata: Metadata
    organization_id: str
    api_key_id: str


class Site:
    """The platform's own organization and two tenants."""

    def __init__(self, platform: Platform, platform_id: str, account_id: str, mine: Tenant, theirs: Tenant) -> None:
        self.platform = platform
        self.metering = platform.metering
        self.platform_id = platform_id
        self.account_id = account_id
        self.mine = mine
        self.theirs = theirs

    async def gateway(self, *scopes: str, reaches: str = "") -> Gateway:
        """Make a key with these scopes, both if none is named, for one organization, or for all."""
        request = api_key_pb2.CreateApiKeyRequest(
            organization_id=self.platform_id,
            service_account_id=self.account_id,
            scopes=scopes or (ADMISSION, USAGE),
            all_organizations=not reaches,
            gateway_organization_id=reaches,
        )
        identity = self.platform.identity
        created = await identity.api_keys.CreateApiKey(request, metadata=identity.metadata)
        return Gateway(bearer(created.secret), self.platform_id, created.api_key.api_key_id)

    async def revoke(self, organization_id: str, api_key_id: str) -> None:
        request = api_key_pb2.RevokeApiKeyRequest(organization_id=organization_id, api_key_id=api_key_id)
        await self.platform.identity.api_keys.RevokeApiKey(request, metadata=self.platform.identity.metadata)


async def tenant(platform: Platform) -> Tenant:
    created = await platform.identity.create_key()
    await platform.fund(created.api_key.organization_id)
    return Tenant(created.api_key.organization_id, created.secret, created.api_key.api_key_id)


@pytest.fixture(scope="module")
async def identity(module_platform: Platform) -> Identity:
    return await module_platform.start_identity()


@pytest.fixture
async def site(platform: Platform, identity: Identity) -> Site:
    platform_id, _ = await identity.create_organization()
    account = service_account_pb2.CreateServiceAccountRequest(
        organization_id=platform_id, name="gateways", role=organization_pb2.MEMBER_ROLE_VIEWER
    )
    created = await identity.service_accounts.CreateServiceAccount(account, metadata=identity.metadata)
    account_id = created.service_account.service_account_id
    return Site(platform, platform_id, account_id, await tenant(platform), await tenant(platform))


def ask(organization_id: str = "", *, secret: str = "") -> pb.AuthorizeRequest:
    request = pb.AuthorizeRequest(operation_id=new_id(), model="gpt-4o", input_tokens=1_000, max_output_tokens=100)
    if secret:
        request.api_key = secret
    else:
        request.principal.organization_id = organization_id
    return request


async def reason_of(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    info = error_info(refused.value)
    return refused.value.code().name, info.reason if info else ""


async def test_gateway_for_all_works_in_every_organization(site: Site) -> None:
    metering, gateway = site.metering, await site.gateway()
    for one in (site.mine, site.theirs):
        by_key, by_name = ask(secret=one.secret), ask(one.organization_id)
        answers = [await metering.admission.Authorize(asked, metadata=gateway.metadata) for asked in (by_key, by_name)]
        assert {answer.decision for answer in answers} == {ALLOWED}
        assert {answer.principal.organization_id for answer in answers} == {one.organization_id}
        extended = pb.ExtendAuthorizationRequest(organization_id=one.organization_id, operation_id=by_name.operation_id)
        extended.expire_time.CopyFrom(answers[1].expire_time)
        extended.expire_time.seconds += 60
        await metering.admission.ExtendAuthorization(extended, metadata=gateway.metadata)
        cancel = pb.CancelRequest(organization_id=one.organization_id, operation_id=by_name.operation_id)
        await metering.admission.Cancel(cancel, metadata=gateway.metadata)
        settle = settlement(one.organization_id, by_key.operation_id)
        settled = await metering.admission.Settle(settle, metadata=gateway.metadata)
        assert settled.usage.organization_id == one.organization_id
        recorded = await metering.usage.RecordUsage(usage(one.organization_id), metadata=gateway.metadata)
        assert recorded.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    missing = usage(new_id())
    assert await reason_of(metering.usage.RecordUsage(missing, metadata=gateway.metadata)) == (
        "NOT_FOUND",
        "ORGANIZATION_NOT_FOUND",
    )
    assert await site.platform.verify() == []


async def test_other_organization_looks_like_a_missing_one_to_a_gateway_for_one(site: Site) -> None:
    """The key of another tenant's user, too, looks like one that does not exist."""
    metering, gateway = site.metering, await site.gateway(reaches=site.mine.organization_id)
    admission = metering.admission
    assert (await admission.Authorize(ask(secret=site.mine.secret), metadata=gateway.metadata)).decision == ALLOWED
    assert (await admission.Authorize(ask(site.mine.organization_id), metadata=gateway.metadata)).decision == ALLOWED
    gone, unknown = await tenant(site.platform), "th_live_" + "A" * 49
    await site.revoke(gone.organization_id, gone.api_key_id)

    answers = []
    for secret in (site.theirs.secret, gone.secret, unknown):
        answer = await admission.Authorize(ask(secret=secret), metadata=gateway.metadata)
        answers.append((answer.decision, answer.denial, answer.principal.organization_id))
    assert answers[0][:1] == (DENIED,)
    assert answers[0][1].reason == pb.DENIAL_REASON_KEY_NOT_FOUND
    assert answers[0] == answers[1] == answers[2]

    for organization_id in (site.theirs.organization_id, new_id()):
        assert await reason_of(admission.Authorize(ask(organization_id), metadata=gateway.metadata)) == (
            "NOT_FOUND",
            "ORGANIZATION_NOT_FOUND",
        )
        names = {"organization_id": organization_id, "operation_id": new_id()}
        leases: lease_pb2_grpc.LeaseServiceStub = lease_pb2_grpc.LeaseServiceStub(metering.channel)
        lease = lease_pb2.AcquireLeaseRequest(
            organization_id=organization_id,
            lease_id=new_id(),
            ttl=Duration(seconds=60),
            amounts=[quota_pb2.QuotaAmount(metric="requests", value="1")],
        )
        for call in (
            admission.Settle(settlement(organization_id, new_id()), metadata=gateway.metadata),
            admission.Cancel(pb.CancelRequest(**names), metadata=gateway.metadata),
            metering.usage.RecordUsage(usage(organization_id), metadata=gateway.metadata),
            leases.AcquireLease(lease, metadata=gateway.metadata),
        ):
            assert await reason_of(call) == ("NOT_FOUND", "NOT_FOUND")


async def test_batches_fail_item_by_item_where_a_key_does_not_reach(site: Site) -> None:
    metering, gateway = site.metering, await site.gateway(reaches=site.mine.organization_id)
    mine, theirs = site.mine.organization_id, site.theirs.organization_id

    requests = [ask(mine), ask(theirs), ask(secret=site.theirs.secret), ask(secret=site.mine.secret), ask(mine)]
    batch = pb.BatchAuthorizeRequest(requests=requests)
    authorized = (await metering.admission.BatchAuthorize(batch, metadata=gateway.metadata)).outcomes
    assert [one.WhichOneof("outcome") for one in authorized] == ["decided", "refused", "decided", "decided", "decided"]
    decisions = [one.decided.decision for one in authorized if one.HasField("decided")]
    assert decisions == [ALLOWED, DENIED, ALLOWED, ALLOWED]

    # A settlement for another tenant, in parts or whole, never reaches that tenant's books.
    settlements = [
        settlement(mine, requests[0].operation_id),
        settlement(theirs, new_id()),
        settlement(theirs, new_id(), final=False),
        settlement(mine, requests[3].operation_id),
    ]
    settle = pb.BatchSettleRequest(requests=settlements)
    settled = (await metering.admission.BatchSettle(settle, metadata=gateway.metadata)).outcomes
    assert [one.WhichOneof("outcome") for one in settled] == ["settled", "refused", "refused", "settled"]

    usages = [usage(mine), usage(theirs), usage(new_id()), usage(mine.upper())]
    record = usage_pb2.BatchRecordUsageRequest(usages=usages)
    recorded = (await metering.usage.BatchRecordUsage(record, metadata=gateway.metadata)).outcomes
    assert [one.WhichOneof("outcome") for one in recorded] == ["recorded", "refused", "refused", "recorded"]
    refused = [*(one.refused for one in recorded[1:3]), settled[1].refused, authorized[1].refused]
    assert {(info.reason if (info := error_info_in(one)) else "") for one in refused} == {"ORGANIZATION_NOT_FOUND"}

    streamed = {}
    async for acknowledged in metering.usage.StreamUsage(
        (usage_pb2.StreamUsageRequest(usage=one) for one in usages), metadata=gateway.metadata, timeout=20
    ):
        streamed[acknowledged.outcome.operation_id] = acknowledged.outcome.WhichOneof("outcome")
    assert [streamed[one.operation_id] for one in usages] == ["recorded", "refused", "refused", "recorded"]

    assert await site.platform.posted(theirs) == 1_000
    charged = {organization_id for organization_id, _ in await metering.charges()}
    assert mine in charged
    assert theirs not in charged


async def test_each_scope_opens_its_own_calls_alone(site: Site) -> None:
    metering = site.metering
    recorder, admitter = await site.gateway(USAGE), await site.gateway(ADMISSION)
    mine = site.mine.organization_id
    assert await reason_of(metering.admission.Authorize(ask(mine), metadata=recorder.metadata)) == (
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
    )
    assert await reason_of(metering.usage.RecordUsage(usage(mine), metadata=admitter.metadata)) == (
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
    )
    backfill = usage(mine, backfill=True)
    assert (await reason_of(metering.usage.RecordUsage(backfill, metadata=recorder.metadata)))[1] == (
        "BACKFILL_FOR_OPERATORS_ONLY"
    )
    # Nor does the key of a tenant's user, or a key of a gateway what is not a gateway's.
    for call in (
        metering.usage.RecordUsage(usage(mine), metadata=bearer(site.mine.secret)),
        metering.admission.UpdateAdmissionPolicy(pb.UpdateAdmissionPolicyRequest(), metadata=admitter.metadata),
    ):
        assert (await reason_of(call))[0] == "PERMISSION_DENIED"
    listed = metering.usage.ListUsage(usage_pb2.ListUsageRequest(organization_id=mine), metadata=recorder.metadata)
    assert await reason_of(listed) == ("NOT_FOUND", "NOT_FOUND")


async def test_revoked_key_is_refused_within_the_promised_time_by_calls_and_open_streams(site: Site) -> None:
    """A batch under way when its key is revoked is carried out or refused, never in part."""
    metering, gateway = site.metering, await site.gateway()
    mine = site.mine.organization_id
    sent: asyncio.Queue[usage_pb2.StreamUsageRequest] = asyncio.Queue()

    async def requests() -> AsyncIterator[usage_pb2.StreamUsageRequest]:
        while True:
            yield await sent.get()

    stream = aiter(metering.usage.StreamUsage(requests(), metadata=gateway.metadata, timeout=30))

    async def streamed() -> set[str | None]:
        sent.put_nowait(usage_pb2.StreamUsageRequest(usage=usage(mine)))
        return {(await anext(stream)).outcome.WhichOneof("outcome")}

    async def batch() -> set[str | None]:
        usages = [usage(mine) for _ in range(50)]
        request = usage_pb2.BatchRecordUsageRequest(usages=usages)
        answer = await metering.usage.BatchRecordUsage(request, metadata=gateway.metadata)
        return {one.WhichOneof("outcome") for one in answer.outcomes}

    assert await batch() == await streamed() == {"recorded"}
    under_way = asyncio.create_task(batch())
    await site.revoke(gateway.organization_id, gateway.api_key_id)
    assert await under_way == {"recorded"}
    async with asyncio.timeout(PROMISED_S):
        await asyncio.gather(_until_refused(batch), _until_refused(streamed))


async def _until_refused(record: Callable[[], Awaitable[set[str | None]]]) -> None:
    """Record until the caller is not known any more. Until then everything is recorded, nothing refused by item."""
    while True:
        try:
            assert await record() == {"recorded"}
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return
        await asyncio.sleep(0.05)


async def test_events_of_a_gateway_for_one_become_usage_of_no_other(site: Site) -> None:
    """Whether the subject or the data names the other organization, and also where neither names one."""
    metering, gateway = site.metering, await site.gateway(USAGE, reaches=site.mine.organization_id)
    count = [ingest_pb2.EventQuantity(unit="input_tokens", value="1000")]
    fields = {"organization_id": "$.organization"}
    for event_type, subject, paths in (
        ("owned", ingest_pb2.EVENT_SUBJECT_ORGANIZATION, {}),
        ("labelled", ingest_pb2.EVENT_SUBJECT_LABEL, fields),
    ):
        mapping = ingest_pb2.EventMapping(
            event_type=event_type, model="gpt-4o", quantities=count, subject=subject, field_paths=paths
        )
        request = ingest_pb2.SetEventMappingRequest(mapping=mapping)
        await metering.ingest.SetEventMapping(request, metadata=metering.operator)

    async def ingest(event_type: str, subject: str, metadata: Metadata, **data: str) -> ingest_pb2.IngestEventsResponse:
        event = {"specversion": "1.0", "id": new_id(), "source": "s", "type": event_type, "subject": subject}
        body = HttpBody(content_type="application/json", data=json.dumps(event | {"data": data}).encode())
        return await metering.ingest.IngestEvents(ingest_pb2.IngestEventsRequest(body=body), metadata=metadata)

    mine, theirs = site.mine.organization_id, site.theirs.organization_id
    for answer in (
        await ingest("owned", mine, gateway.metadata),
        await ingest("labelled", "customer-1", gateway.metadata),
        await ingest("labelled", "customer-1", metering.gateway, organization=mine),
    ):
        assert answer.recorded_count == 1
    foreign = [await ingest("owned", organization_id, gateway.metadata) for organization_id in (theirs, new_id())] + [
        await ingest("labelled", "c", gateway.metadata, organization=theirs)
    ]
    messages = {one.refused[0].status.message.replace(theirs, "it") for one in foreign}
    assert all(one.refused_count == 1 and not one.recorded_count for one in foreign)
    assert {info.reason for one in foreign if (info := error_info_in(one.refused[0].status))} == {
        "ORGANIZATION_NOT_FOUND"
    }
    assert len(messages) == 2
    nobody = await ingest("labelled", "customer-1", metering.gateway)
    assert "data.organization: is missing" in nobody.refused[0].status.message
    listed = await metering.usage.ListUsage(
        usage_pb2.ListUsageRequest(organization_id=mine), metadata=metering.operator
    )
    assert sorted(one.labels["subject"] for one in listed.usages) == ["", "customer-1", "customer-1"]
