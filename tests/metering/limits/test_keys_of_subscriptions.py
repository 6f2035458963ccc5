"""A key that is bound to a subscription stops with it, and works again with it."""

import time
from dataclasses import dataclass

import pytest

from libs.common.ids import new_id
from tests.billing.subscription_calls import Subscriptions
from tests.identity.support import Identity
from tests.metering.limits.support_subscriptions import ALLOWED, DENIED, MODEL, NOT_LIVE, quota, subscribe
from tests.metering.support import Metering, Platform, eventually, settlement
from tests.metering.test_batch_admission import ask
from tollhouse.billing.v1 import subscription_pb2
from tollhouse.identity.v1 import api_key_pb2
from tollhouse.metering.v1 import admission_pb2

STOPS_WITHIN_S = 2.0


@dataclass
class Bound:
    """A key of a user that is bound to their subscription to gpt-4o."""

    organization_id: str
    user_id: str
    secret: str
    api_key: api_key_pb2.ApiKey
    subscription: subscription_pb2.Subscription


@pytest.fixture
async def identity(platform: Platform) -> Identity:
    return await platform.start_identity()


@pytest.fixture
async def bound(platform: Platform, identity: Identity) -> Bound:
    organization_id, user_id = await identity.create_organization()
    await platform.fund(organization_id)
    subscription = await subscribe(platform, organization_id, quota("100"), user_id=user_id, model=MODEL)
    created = await create(identity, organization_id, user_id, subscription.subscription_id.upper())
    return Bound(organization_id, user_id, created.secret, created.api_key, subscription)


async def create(
    identity: Identity, organization_id: str, user_id: str, subscription_id: str
) -> api_key_pb2.CreateApiKeyResponse:
    return await identity.create_key(
        api_key_pb2.CreateApiKeyRequest(
            organization_id=organization_id, user_id=user_id, subscription_id=subscription_id
        )
    )


def with_key(secret: str, *, model: str = MODEL, **fields: object) -> admission_pb2.AuthorizeRequest:
    request = ask("", f"op-{new_id()}", model=model, **fields)
    request.api_key = secret
    return request


async def test_key_falls_under_its_subscription_and_no_other(
    platform: Platform, metering: Metering, identity: Identity, bound: Bound
) -> None:
    of_all = await subscribe(platform, bound.organization_id)
    allowed = await metering.authorize(with_key(bound.secret))
    assert (allowed.decision, allowed.subscription_id) == (ALLOWED, bound.subscription.subscription_id)
    named = with_key(bound.secret, subscription_id=bound.subscription.subscription_id)
    assert (await metering.authorize(named)).decision == ALLOWED
    settled = await metering.settle(settlement(bound.organization_id, named.operation_id))
    assert settled.usage.subscription_id == bound.subscription.subscription_id

    other = await metering.authorize(with_key(bound.secret, subscription_id=of_all.subscription_id))
    assert (other.decision, other.denial.reason) == (DENIED, NOT_LIVE)
    assert dict(other.denial.facts) == {"field": "subscription_id", "subscription_id": of_all.subscription_id}
    await metering.add_model("gpt-9")
    await metering.set_price("gpt-9")
    elsewhere = await metering.authorize(with_key(bound.secret, model="gpt-9"))
    assert (elsewhere.decision, elsewhere.denial.facts["field"]) == (DENIED, "api_key")
    wider = await create(identity, bound.organization_id, bound.user_id, of_all.subscription_id)
    assert (await metering.authorize(with_key(wider.secret))).subscription_id == of_all.subscription_id


async def test_key_stops_with_its_subscription_and_works_again_when_it_is_resumed(
    platform: Platform, metering: Metering, bound: Bound
) -> None:
    subscriptions = Subscriptions(platform.ledger)

    async def decision() -> admission_pb2.AuthorizeResponse:
        return await metering.authorize(with_key(bound.secret))

    assert (await decision()).decision == ALLOWED
    for stop in (subscriptions.pause, subscriptions.suspend):
        await stop(bound.subscription)
        began_s = time.monotonic()
        denied = await eventually(decision, lambda answer: answer.decision == DENIED)
        assert time.monotonic() - began_s < STOPS_WITHIN_S
        assert denied.denial.reason == NOT_LIVE
        assert dict(denied.denial.facts) == {
            "field": "api_key",
            "subscription_id": bound.subscription.subscription_id,
        }
        assert denied.principal.api_key_id == bound.api_key.api_key_id
        await subscriptions.resume(bound.subscription)
        await eventually(decision, lambda answer: answer.decision == ALLOWED)

    await subscriptions.cancel(bound.subscription)
    began_s = time.monotonic()
    await eventually(decision, lambda answer: answer.decision == DENIED)
    assert time.monotonic() - began_s < STOPS_WITHIN_S
    # Another subscription to the same model is not the one that the key is bound to.
    await subscribe(platform, bound.organization_id, quota("5"), user_id=bound.user_id, model=MODEL)
    assert (await decision()).decision == DENIED


async def test_rotation_keeps_the_binding_and_an_update_changes_it(
    platform: Platform, metering: Metering, identity: Identity, bound: Bound
) -> None:
    request = api_key_pb2.RotateApiKeyRequest(
        organization_id=bound.organization_id, api_key_id=bound.api_key.api_key_id
    )
    rotated = await identity.api_keys.RotateApiKey(request, metadata=identity.metadata)
    assert rotated.api_key.subscription_id == bound.subscription.subscription_id
    allowed = await metering.authorize(with_key(rotated.secret))
    assert allowed.subscription_id == bound.subscription.subscription_id

    async def bind(subscription_id: str) -> api_key_pb2.UpdateApiKeyResponse:
        request = api_key_pb2.UpdateApiKeyRequest(
            organization_id=bound.organization_id,
            api_key_id=rotated.api_key.api_key_id,
            subscription_id=subscription_id,
        )
        request.update_mask.paths.append("subscription_id")
        return await identity.api_keys.UpdateApiKey(request, metadata=identity.metadata)

    foreign = new_id()
    changed = await bind(foreign)
    assert changed.api_key.subscription_id == foreign
    denied = await metering.authorize(with_key(rotated.secret, min_revision=changed.revision))
    assert (denied.denial.reason, denied.denial.facts["subscription_id"]) == (NOT_LIVE, foreign)
    freed = await bind("")
    assert freed.api_key.subscription_id == ""
    allowed = await metering.authorize(with_key(rotated.secret, min_revision=freed.revision))
    assert allowed.subscription_id == bound.subscription.subscription_id, "it is the nearest"


async def test_key_bound_to_the_subscription_of_others_is_denied(
    platform: Platform, metering: Metering, identity: Identity, bound: Bound
) -> None:
    mallory_org, mallory = await identity.create_organization()
    await platform.fund(mallory_org)
    of_bob = await subscribe(platform, mallory_org, user_id=new_id())
    secrets: list[str] = []
    for stolen in (bound.subscription.subscription_id, of_bob.subscription_id, new_id()):
        created = await create(identity, mallory_org, mallory, stolen)
        secrets.append(created.secret)
        denied = await metering.authorize(with_key(created.secret))
        assert (denied.decision, denied.denial.reason) == (DENIED, NOT_LIVE)
        assert dict(denied.denial.facts) == {"field": "api_key", "subscription_id": stolen}
    assert (await metering.authorize(with_key(bound.secret))).decision == ALLOWED
    outcomes = await metering.authorize_batch([with_key(secrets[0]), with_key(bound.secret)])
    assert [one.decided.decision for one in outcomes] == [DENIED, ALLOWED]
