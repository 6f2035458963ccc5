"""Usage and calls of organizations that do not exist are refused where identity knows, and found where it is away."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info, reason_of
from services.metering.clients import organizations
from tests.identity.support import Identity
from tests.metering.support import WITHIN_S, Metering, Platform, eventually, refused, settlement, usage
from tests.metering.test_admission import ask
from tollhouse.billing.v1 import account_pb2
from tollhouse.billing.v1 import charge_pb2 as billing_charge_pb2
from tollhouse.identity.v1 import organization_pb2
from tollhouse.metering.v1 import admission_pb2, usage_pb2
from tollhouse.metering.v1 import charge_pb2 as metering_charge_pb2

pytestmark = pytest.mark.own_database

NOBODY = (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


@pytest.fixture
async def identity(platform: Platform, metering: Metering, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """Identity, which is waited for as long as its answers may take on a busy machine."""
    monkeypatch.setattr(organizations, "_ASK_WITHIN_S", WITHIN_S)
    identity = await platform.start_identity()
    await reached(metering)
    return identity


async def reached(metering: Metering) -> None:
    """Return when metering has found out that identity answers."""

    async def answers() -> bool:
        try:
            await metering.authorize(ask(new_id(), "call-1"))
        except grpc.aio.AioRpcError as error:
            return reason_of(error) == NOBODY[1]
        return False

    await eventually(answers, bool)


async def test_every_rpc_refuses_an_organization_that_does_not_exist(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    nobody = new_id()
    for call in (
        metering.record(usage(nobody)),
        metering.settle(settlement(nobody, "call-1")),
        metering.authorize(ask(nobody, "call-1")),
    ):
        assert await refused(call) == NOBODY

    assert await metering.charges() == await platform.billing_charges() == {}
    assert await platform.verify() == []


async def test_batches_and_streams_refuse_item_by_item(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    known, _ = await identity.create_organization()
    requests = [usage(organization_id) for organization_id in (known, new_id(), known, new_id().upper(), known.upper())]

    outcomes = await metering.record_batch(requests)
    again = [usage_pb2.StreamUsageRequest(usage=request) for request in requests]
    streamed = [one.outcome async for one in metering.usage.StreamUsage(iter(again), metadata=metering.operator)]

    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == [
        "recorded",
        "refused",
        "recorded",
        "refused",
        "recorded",
    ]
    refusals = [outcome.refused for outcome in outcomes if outcome.HasField("refused")]
    assert {(refusal.code, refusal.details[0].type_url) for refusal in refusals} == {
        (grpc.StatusCode.NOT_FOUND.value[0], "type.googleapis.com/google.rpc.ErrorInfo")
    }
    assert {outcome.operation_id for outcome in streamed if outcome.HasField("refused")} == {
        requests[1].operation_id,
        requests[3].operation_id,
    }
    assert await platform.verify() == []


async def test_refusal_names_the_organization(metering: Metering, identity: Identity) -> None:
    nobody = new_id()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.record(usage(nobody))

    info = error_info(caught.value)
    assert info is not None
    assert info.metadata["organization_id"] == nobody


async def test_deleted_organization_is_still_charged(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    organization_id, _ = await identity.create_organization()
    delete = organization_pb2.DeleteOrganizationRequest(organization_id=organization_id)
    await identity.organizations.DeleteOrganization(delete, metadata=identity.metadata)

    recorded = await metering.record(usage(organization_id))

    assert recorded.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert await platform.verify() == []


async def test_new_organization_is_taken_at_once_and_a_formerly_unknown_one_soon(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    organization_id, _ = await identity.create_organization()
    assert (await metering.record(usage(organization_id))).usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    late = new_id()
    assert await refused(metering.record(usage(late))) == NOBODY

    await platform.execute(
        "INSERT INTO identity.organizations (organization_id, name, create_time, update_time)"
        " VALUES ($1, 'Late', now(), now())",
        late,
    )

    async def taken() -> bool:
        try:
            await metering.record(usage(late))
        except grpc.aio.AioRpcError:
            return False
        return True

    assert await eventually(taken, bool)


async def test_callers_that_come_together_share_one_question(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    known = [(await identity.create_organization())[0] for _ in range(3)]
    organization_ids = [known[number % 3] if number % 2 else new_id() for number in range(60)]

    async def taken(organization_id: str) -> bool:
        try:
            await metering.authorize(ask(organization_id, f"call-{new_id()}"))
        except grpc.aio.AioRpcError:
            return False
        return True

    answers = await asyncio.gather(*map(taken, organization_ids))

    assert answers == [organization_id in known for organization_id in organization_ids]


async def test_usage_is_taken_while_identity_is_away_and_verify_finds_the_money_of_nobody(
    platform: Platform, metering: Metering
) -> None:
    nobody = new_id()
    recorded = await metering.record(usage(nobody, "call-1"))
    authorized = await metering.authorize(ask(nobody, "call-2"))
    identity = await platform.start_identity()
    known, _ = await identity.create_organization()
    await reached(metering)
    repeated = await metering.record(usage(nobody, "call-1"))
    await metering.record(usage(known))

    assert recorded.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert authorized.denial.reason == admission_pb2.DENIAL_REASON_INSUFFICIENT_BALANCE
    assert repeated.replayed
    found = [finding for finding in await platform.verify() if finding.startswith("organizations_exist")]
    assert len(found) == 2
    assert all(nobody in finding for finding in found)


@pytest.mark.shards
async def test_organizations_with_money_or_usage_are_listed_once_in_pages(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    used = sorted([(await identity.create_organization())[0] for _ in range(3)])
    for organization_id in used * 2:
        await metering.record(usage(organization_id))
    funded, _ = await identity.create_organization()
    await platform.fund(funded)
    open_only, _ = await identity.create_organization()
    request = account_pb2.OpenAccountRequest(organization_id=open_only, currency_code="USD")
    await platform.ledger.accounts.OpenAccount(request, metadata=platform.ledger.metadata)

    async def with_usage(token: str) -> tuple[list[str], str]:
        asked = metering_charge_pb2.ListOrganizationsRequest(page_size=2, page_token=token)
        page = await metering.charge.ListOrganizations(asked, metadata=metering.operator)
        return list(page.organization_ids), page.next_page_token

    async def with_money(token: str) -> tuple[list[str], str]:
        asked = billing_charge_pb2.ListOrganizationsRequest(page_size=2, page_token=token)
        page = await platform.ledger.charge.ListOrganizations(asked, metadata=platform.ledger.metadata)
        return list(page.organization_ids), page.next_page_token

    assert sorted(await _all_pages(with_usage)) == used
    assert sorted(await _all_pages(with_money)) == sorted([*used, funded])
    assert (await refused(with_usage("bad")))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(with_money("bad")))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def _all_pages(page: Callable[[str], Awaitable[tuple[list[str], str]]]) -> list[str]:
    found, token = await page("")
    while token:
        more, token = await page(token)
        found += more
    return found
