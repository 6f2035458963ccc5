"""Check lets a request pass by its key, its route, money and limits, and takes of limits only where it is to."""

import asyncio
import json
from collections import Counter
from datetime import timedelta

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2_grpc as rpc

from libs.common.ids import new_id
from services.identity.api_key.secret import new_secret
from services.metering.clients.balances import Balances
from services.metering.quota.domain import Enforcement, Scope, Window
from tests.billing.subscription_calls import Subscriptions
from tests.identity.support import Identity
from tests.metering.allocations.support import Limits, at_the_start_of_a_minute, total
from tests.metering.external_auth.support import bearer, check, funded_key, outcome, request_of, said
from tests.metering.limits.support_subscriptions import MODEL, quota, subscribe
from tests.metering.support import Platform, eventually, refused
from tests.metering.test_keys import Gate
from tests.support.clock import ShiftedClock
from tollhouse.billing.v1 import account_pb2
from tollhouse.identity.v1 import api_key_pb2, organization_pb2, service_account_pb2

pytestmark = pytest.mark.shards
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_each_thing_a_route_demands_is_looked_at(platform: Platform, identity: Identity) -> None:
    key = await funded_key(platform, identity, allowed_models=["gpt-*"], allowed_addresses=["192.0.2.0/24"])
    organization_id = key.api_key.organization_id
    other, _ = await identity.create_organization()

    async def of(address: str = "192.0.2.1", **extensions: str) -> str:
        return await outcome(platform.metering, bearer(key.secret), address=address, **extensions)

    assert await of(scope="chat", model="gpt-4o", organization_id=organization_id.upper()) == "200"
    assert await of(scope="chat  chat", model="gpt-4o") == "200"
    assert await of(scope="chat admin", model="gpt-4o") == "403 KEY_INSUFFICIENT_SCOPE"
    assert await of(model="claude-4") == "403 KEY_MODEL_NOT_ALLOWED"
    assert await of() == "403 KEY_MODEL_NOT_ALLOWED"
    assert await of(address="192.0.3.1", model="gpt-4o") == "403 KEY_ADDRESS_NOT_ALLOWED"
    assert await of(address="", model="gpt-4o") == "403 KEY_ADDRESS_NOT_ALLOWED"
    assert await of(address="::ffff:192.0.2.9", model="gpt-4o") == "200"
    assert await of(model="gpt-4o", organization_id=other) == "403 ORGANIZATION_NOT_ALLOWED"
    assert await of(model="gpt-4o", project_id=other) == "403 PROJECT_NOT_ALLOWED"


async def test_key_of_a_project_or_a_service_account_is_told_as_that(platform: Platform, identity: Identity) -> None:
    organization_id, owner = await identity.create_organization()
    project = await identity.create_project(organization_id)
    account = (
        await identity.service_accounts.CreateServiceAccount(
            service_account_pb2.CreateServiceAccountRequest(
                organization_id=organization_id, name="Bot", role=organization_pb2.MEMBER_ROLE_MEMBER
            ),
            metadata=identity.metadata,
        )
    ).service_account
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id,
            project_id=project.project_id,
            service_account_id=account.service_account_id,
        )
    )
    await platform.fund(organization_id)
    response = await check(platform.metering, request_of(bearer(created.secret), project_id=project.project_id))

    told = {one.header.key: one.header.value for one in response.ok_response.headers}
    assert told == {
        "x-tollhouse-organization-id": organization_id,
        "x-tollhouse-project-id": project.project_id,
        "x-tollhouse-service-account-id": account.service_account_id,
        "x-tollhouse-api-key-id": created.api_key.api_key_id,
        "x-tollhouse-environment": "live",
    }
    assert list(response.ok_response.headers_to_remove) == [
        "x-tollhouse-user-id",
        "x-tollhouse-subscription-id",
        "authorization",
    ]
    assert owner not in str(response)


async def test_money_is_needed_but_for_test_keys_and_where_it_comes_the_request_passes_soon(
    platform: Platform, identity: Identity
) -> None:
    created = await identity.create_key()
    organization_id, owner = created.api_key.organization_id, created.api_key.user_id
    test = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=owner, environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST
        )
    )

    async def of(secret: str, **extensions: str) -> str:
        return await outcome(platform.metering, bearer(secret), **extensions)

    assert await of(created.secret) == "402 INSUFFICIENT_BALANCE"
    assert await of(test.secret) == "200"
    await platform.fund(organization_id, "0.000000001")
    await eventually(lambda: of(created.secret), lambda said: said == "200")
    assert await of(created.secret, currency_code="USD") == "200"
    assert await of(created.secret, currency_code="EUR") == "402 INSUFFICIENT_BALANCE"
    await platform.ledger.debit(organization_id, "all", "0.000000001")
    await eventually(lambda: of(created.secret), lambda said: said == "402 INSUFFICIENT_BALANCE")


async def test_concurrent_questions_about_one_payer_are_one_question_to_billing(platform: Platform) -> None:
    organization_id, other = new_id(), new_id()
    await platform.fund(organization_id)
    gate = Gate(platform.callers.service("metering"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{platform.billing_port}", interceptors=[gate]) as channel:
        balances = Balances(channel, known_max=1)

        async def have(one: str) -> bool:
            return (await balances.funds_of(one)).any_left

        assert all(await asyncio.gather(*(have(organization_id) for _ in range(200))))
        assert gate.asked == 1
        # One that gives up takes the answer from nobody else.
        gate.open.clear()
        leaving, staying = asyncio.create_task(have(other)), asyncio.create_task(have(other))
        await eventually(lambda: asyncio.sleep(0, gate.asked), lambda asked: asked == 2)
        leaving.cancel()
        gate.open.set()
        assert not await staying
        # There is room for one answer.
        assert await have(organization_id)
        assert gate.asked == 3


async def test_money_in_several_currencies_is_looked_at_only_where_one_is_named(
    platform: Platform, identity: Identity
) -> None:
    created = await funded_key(platform, identity)
    organization_id = created.api_key.organization_id
    request = account_pb2.OpenAccountRequest(organization_id=organization_id, currency_code="EUR")
    await platform.ledger.accounts.OpenAccount(request, metadata=platform.ledger.metadata)

    secret = bearer(created.secret)
    assert await outcome(platform.metering, secret) == "200"
    assert await outcome(platform.metering, secret, currency_code="EUR") == "402 INSUFFICIENT_BALANCE"


async def test_nothing_is_taken_of_limits_by_looking_and_only_requests_are_looked_at(
    platform: Platform, identity: Identity, limits: Limits, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    created = await funded_key(platform, identity)
    organization_id = created.api_key.organization_id
    await limits.set(organization_id, "2", name="two", window=Window.MINUTE)
    await limits.set(organization_id, "0", "total_tokens", name="tokens", window=Window.MINUTE)
    for _ in range(4):
        response = await check(platform.metering, request_of(bearer(created.secret)))
        assert said(response) == "200"
        hints = {one.header.key: one.header.value for one in response.ok_response.response_headers_to_add}
        assert hints["ratelimit-policy"] == '"two";q=2;w=60'
        assert hints["ratelimit"].startswith('"two";r=2;')
    assert await total(platform) == "0"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("settings", [{"count_requests": True}])
async def test_counting_takes_one_of_each_limit_or_nothing_and_never_more_than_there_is(
    platform: Platform, identity: Identity, limits: Limits, clock: ShiftedClock
) -> None:
    clock.advance(at_the_start_of_a_minute(clock))
    created, poor = await funded_key(platform, identity), await identity.create_key()
    organization_id = created.api_key.organization_id
    await limits.set(organization_id, "3", name="team", scope=Scope.LABEL, label="team", window=Window.MINUTE)
    await limits.set(organization_id, "100", name="all")
    await limits.set(organization_id, "1", name="shadow", enforcement=Enforcement.SHADOW)
    await limits.set(poor.api_key.organization_id, "1", name="unused")

    requests = [request_of(bearer(created.secret), **{"labels.team": "red"}) for _ in range(30)]
    answers = await asyncio.gather(*(check(platform.metering, one) for one in requests))
    assert Counter(map(said, answers)) == {"200": 3, "429 LIMIT_EXCEEDED": 27}
    assert await outcome(platform.metering, bearer(created.secret), **{"labels.team": "blue"}) == "200"
    assert await outcome(platform.metering, bearer(poor.secret)) == "402 INSUFFICIENT_BALANCE"
    # Four in each of the limits on all, and three and one in those of the teams.
    assert await total(platform) == "12"
    clock.advance(timedelta(seconds=60))
    assert await outcome(platform.metering, bearer(created.secret), **{"labels.team": "red"}) == "200"


async def test_two_tenants_are_told_apart_by_their_keys_alone(platform: Platform, identity: Identity) -> None:
    mine, theirs = await funded_key(platform, identity), await funded_key(platform, identity)
    forged = [
        ("x-tollhouse-organization-id", theirs.api_key.organization_id),
        ("x-tollhouse-api-key-id", theirs.api_key.api_key_id),
        ("x-api-key", f"id {theirs.api_key.api_key_id}"),
    ]
    response = await check(platform.metering, request_of(bearer(mine.secret), *forged[:2]))
    assert response.ok_response.headers[0].header.value == mine.api_key.organization_id
    # The id of a key is no key, and two keys are none.
    assert await outcome(platform.metering, bearer(mine.secret), *forged) == "401 SEVERAL_KEYS"
    assert await outcome(platform.metering, forged[2]) == "401 KEY_NOT_FOUND"
    assert await outcome(platform.metering, bearer(f"id {theirs.api_key.api_key_id}")) == "401 KEY_NOT_FOUND"


@pytest.mark.own_database
async def test_check_fails_where_billing_or_identity_cannot_be_asked(platform: Platform) -> None:
    assert (await refused(outcome(platform.metering, bearer("th_live_unknown"))))[0] == grpc.StatusCode.UNAVAILABLE
    identity = await platform.start_identity()
    created = await funded_key(platform, identity)
    await platform.stop_billing()
    # As an answer it would be final; as an error Envoy's own setting decides.
    assert await refused(outcome(platform.metering, bearer(created.secret))) == UNAVAILABLE
    assert await outcome(platform.metering) == "401 KEY_MISSING"


async def test_refusal_for_want_of_money_tells_no_figures(platform: Platform, identity: Identity) -> None:
    created = await identity.create_key()
    await platform.fund(created.api_key.organization_id, "12.34")
    await platform.ledger.debit(created.api_key.organization_id, "all", "12.34")
    response = await check(platform.metering, request_of(bearer(created.secret)))
    assert json.loads(response.denied_response.body)["facts"] == {"currency_code": "USD"}
    assert "12.34" not in str(response)


@pytest.mark.own_database
async def test_only_services_and_operators_may_ask_and_only_where_it_is_configured(
    platform: Platform, identity: Identity
) -> None:
    created = await funded_key(platform, identity)
    request = request_of(bearer(created.secret))
    stub: rpc.AuthorizationStub = rpc.AuthorizationStub(platform.metering.channel)
    assert (await refused(stub.Check(request)))[0] is grpc.StatusCode.UNAUTHENTICATED
    as_user = (("authorization", f"Bearer {created.secret}"),)
    assert (await refused(stub.Check(request, metadata=as_user)))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert said(await stub.Check(request, metadata=platform.metering.operator)) == "200"
    for everywhere, code in ((True, "200"), (False, "PERMISSION_DENIED")):
        gateway = await gateway_key(identity, all_organizations=everywhere)
        as_gateway = (("authorization", f"bearer {gateway}"),)
        try:
            assert said(await stub.Check(request, metadata=as_gateway)) == code
        except grpc.aio.AioRpcError as error:
            if error.code().name != code:
                raise
    configured = platform.metering
    platform.external_auth_file = None
    try:
        without = await platform.start_metering()
        assert (await refused(check(without, request)))[0] is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await configured.service.stop(0)


async def gateway_key(identity: Identity, *, all_organizations: bool) -> str:
    """Return the secret of a key with the scope of admission, for all organizations or for its own."""
    organization_id, _ = await identity.create_organization()
    account = service_account_pb2.CreateServiceAccountRequest(
        organization_id=organization_id, name="Envoy", role=organization_pb2.MEMBER_ROLE_VIEWER
    )
    created = await identity.service_accounts.CreateServiceAccount(account, metadata=identity.metadata)
    request = api_key_pb2.CreateApiKeyRequest(
        organization_id=organization_id,
        service_account_id=created.service_account.service_account_id,
        scopes=["tollhouse:admission"],
        all_organizations=all_organizations,
    )
    return (await identity.api_keys.CreateApiKey(request, metadata=identity.metadata)).secret


@pytest.mark.own_database
async def test_guessing_keys_is_answered_and_never_an_error(platform: Platform, identity: Identity) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(15):
        guesses = [bearer(new_secret(live=True)) for _ in range(10)]
        outcomes.update(
            await asyncio.gather(*(outcome(platform.metering, one, address="198.51.100.7") for one in guesses))
        )
    assert set(outcomes) == {"401 KEY_NOT_FOUND", "429 TOO_MANY_UNKNOWN_KEYS"}
    assert await outcome(platform.metering, bearer(new_secret(live=True)), address="203.0.113.7") == "401 KEY_NOT_FOUND"


async def test_key_of_a_subscription_passes_under_it_and_stops_with_it(platform: Platform, identity: Identity) -> None:
    organization_id, user_id = await identity.create_organization()
    await platform.fund(organization_id)
    bound_to = await subscribe(platform, organization_id, quota("1"), user_id=user_id, model=MODEL)
    created = await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=user_id, subscription_id=bound_to.subscription_id
        )
    )

    async def found() -> str:
        return await outcome(platform.metering, bearer(created.secret), model=MODEL)

    response = await check(platform.metering, request_of(bearer(created.secret), model=MODEL))
    told = {one.header.key: one.header.value for one in response.ok_response.headers}
    assert told["x-tollhouse-subscription-id"] == bound_to.subscription_id
    assert await outcome(platform.metering, bearer(created.secret), model="gpt-9") == "403 SUBSCRIPTION_NOT_LIVE"
    await Subscriptions(platform.ledger).cancel(bound_to)
    assert await eventually(found, lambda said: said != "200") == "403 SUBSCRIPTION_NOT_LIVE"
