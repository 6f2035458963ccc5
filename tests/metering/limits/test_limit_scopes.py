"""Limits are set only for what the organization has: its projects, members, accounts, keys and subscriptions."""

import grpc
import pytest

from libs.common.ids import new_id
from tests.billing.subscription_calls import Subscriptions
from tests.identity.support import Identity
from tests.metering.limits.support_rpc import (
    API_KEY,
    DAY,
    ORGANIZATION,
    PROJECT,
    SERVICE_ACCOUNT,
    SUBSCRIPTION,
    USER,
    change_limit,
    get_limit,
    limits_of,
    set_limit,
)
from tests.metering.support import Metering, Platform, eventually, refused
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, project_pb2, service_account_pb2
from tollhouse.metering.v1 import quota_pb2 as pb

MISSING = (grpc.StatusCode.NOT_FOUND, "LIMIT_SCOPE_NOT_FOUND")
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
SCOPES = (PROJECT, USER, SERVICE_ACCOUNT, API_KEY, SUBSCRIPTION)


@pytest.fixture
async def identity(platform: Platform, metering: Metering) -> Identity:
    return await platform.start_identity()


async def furnished(platform: Platform, identity: Identity) -> tuple[str, dict[int, str]]:
    """Return a new organization, and the ids of one thing of each kind that it has, by the scopes of limits."""
    organization_id, owner = await identity.create_organization()
    account = service_account_pb2.CreateServiceAccountRequest(
        organization_id=organization_id, name="Batch jobs", role=organization_pb2.MEMBER_ROLE_MEMBER
    )
    created = await identity.service_accounts.CreateServiceAccount(account, metadata=identity.metadata)
    key = api_key_pb2.CreateApiKeyRequest(organization_id=organization_id, user_id=owner)
    subscription = await Subscriptions(platform.ledger).create(organization_id)
    return organization_id, {
        PROJECT: (await identity.create_project(organization_id)).project_id,
        USER: owner,
        SERVICE_ACCOUNT: created.service_account.service_account_id,
        API_KEY: (await identity.create_key(key)).api_key.api_key_id,
        SUBSCRIPTION: subscription.subscription_id,
    }


async def test_limit_is_set_for_what_the_organization_has_and_for_nothing_else(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    mine, my_things = await furnished(platform, identity)
    yours, your_things = await furnished(platform, identity)

    for number, scope in enumerate(SCOPES):
        name = f"limit-{number}"
        made = await set_limit(metering, mine, name, scope=scope, scope_value=my_things[scope].upper())
        assert made.scope_value == my_things[scope]
        for foreign in (your_things[scope], new_id(), mine):
            call = set_limit(metering, mine, "foreign", scope=scope, scope_value=foreign)
            assert (scope, await refused(call)) == (scope, MISSING)
        assert await refused(set_limit(metering, yours, name, scope=scope, scope_value=my_things[scope])) == MISSING
        await set_limit(metering, mine, f"each-{number}", scope=scope)
    assert len(await limits_of(metering, mine)) == 2 * len(SCOPES)
    assert await limits_of(metering, yours) == []


async def test_limit_of_what_is_gone_stays_and_no_new_one_is_set(
    platform: Platform, metering: Metering, identity: Identity
) -> None:
    organization_id, things = await furnished(platform, identity)
    made = await set_limit(metering, organization_id, scope=PROJECT, scope_value=things[PROJECT])
    gone = project_pb2.DeleteProjectRequest(organization_id=organization_id, project_id=things[PROJECT])
    await identity.projects.DeleteProject(gone, metadata=identity.metadata)

    again = {"scope": PROJECT, "scope_value": things[PROJECT]}
    assert await set_limit(metering, organization_id, **again) == made
    assert (await change_limit(metering, organization_id, "requests", value="1")).limit_id == made.limit_id
    assert await refused(set_limit(metering, organization_id, "other", **again)) == MISSING


async def test_organization_that_does_not_exist_has_no_limits(metering: Metering, identity: Identity) -> None:
    for fields in ({}, {"scope": PROJECT, "scope_value": new_id()}):
        answer = await refused(set_limit(metering, new_id(), **fields))
        assert answer == (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


@pytest.mark.own_database
async def test_nothing_is_set_by_a_guess_while_identity_is_away(metering: Metering, organization_id: str) -> None:
    for scope in (PROJECT, USER, SERVICE_ACCOUNT, API_KEY):
        call = set_limit(metering, organization_id, scope=scope, scope_value=new_id())
        assert await refused(call) == UNAVAILABLE
    assert await limits_of(metering, organization_id) == []
    await set_limit(metering, organization_id, "all", scope=ORGANIZATION)
    await set_limit(metering, organization_id, "each", scope=USER, window=DAY)


@pytest.mark.own_database
async def test_nothing_is_set_for_a_subscription_while_billing_is_away(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    subscription = await Subscriptions(platform.ledger).create(organization_id)
    fields = {"scope": SUBSCRIPTION, "scope_value": subscription.subscription_id}
    await platform.stop_billing()

    assert await refused(set_limit(metering, organization_id, **fields)) == UNAVAILABLE
    await platform.start_billing()

    async def set_it() -> pb.Limit | None:
        try:
            return await set_limit(metering, organization_id, **fields)
        except grpc.aio.AioRpcError as error:
            if error.code() is not UNAVAILABLE[0]:
                raise
            return None

    made = await eventually(set_it, bool)
    await platform.stop_billing()
    assert await set_limit(metering, organization_id, **fields) == made == await get_limit(metering, organization_id)
