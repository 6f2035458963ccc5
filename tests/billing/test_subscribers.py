"""Who may subscribe to what: self-service within what the platform offers, and users and models that exist."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC
from pathlib import Path
from typing import Final

import grpc
import pytest
from pydantic import SecretStr

from libs.common.database import Database
from libs.common.ids import new_id
from libs.common.ports import free_port
from services.metering.__main__ import build as build_metering
from services.metering.settings import MeteringSettings
from tests.billing.entitlement_calls import clearing, override, overrides, set_override
from tests.billing.plan_calls import reason
from tests.billing.subscription_calls import DENIED, FAILED, NOT_FOUND, NOW, PERIOD_END, Subscriptions, add_plan, state
from tests.billing.support import BillingServer, Ledger
from tests.identity.people import People
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tollhouse.identity.v1 import organization_pb2
from tollhouse.metering.v1 import model_pb2, model_pb2_grpc

NOT_OFFERED: Final = (DENIED, "NOT_FOR_SELF_SERVICE")
UNAVAILABLE: Final = (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


@pytest.fixture
async def identity(callers: Callers, database_urls: dict[str, str], tmp_path: Path) -> AsyncIterator[Identity]:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        yield identity


@pytest.fixture
def people(identity: Identity, identity_database: Database, callers: Callers) -> People:
    return People(identity, identity_database, callers)


@asynccontextmanager
async def billing(server: BillingServer, identity: Identity, folder: Path, **settings: object) -> AsyncIterator[Ledger]:
    key_file = server.callers.signing_key_file("billing", folder)
    target = f"127.0.0.1:{identity.port}"
    async with server.start(identity_target=target, signing_key_file=key_file, **settings) as ledger:  # type: ignore[arg-type]
        yield ledger
        assert await ledger.findings() == []


@asynccontextmanager
async def metering(server: BillingServer, url: str, identity: Identity, folder: Path, port: int) -> AsyncIterator[None]:
    """Run metering with the model `sonnet`."""
    settings = MeteringSettings(
        database_url=SecretStr(url),
        trust_bundle_file=server.callers.bundle_file,
        signing_key_file=server.callers.signing_key_file("metering", folder),
        billing_target="127.0.0.1:1",
        identity_target=f"127.0.0.1:{identity.port}",
        port=port,
    )
    service = await build_metering(settings)
    await service.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            await stub.CreateModel(model_pb2.CreateModelRequest(model_id="sonnet"), metadata=server.callers.operator())
        yield
    finally:
        await service.stop(grace_s=0)


async def test_owners_subscribe_within_what_is_offered_and_members_see_their_own(
    server: BillingServer, identity: Identity, people: People, tmp_path: Path
) -> None:
    org, owner_id = await identity.create_organization()
    owner = await people.sign_in(owner_id)
    member = await people.member(org, organization_pb2.MEMBER_ROLE_MEMBER)
    stranger = await people.person()
    async with billing(server, identity, tmp_path, self_service_plans=["free", "basic", "hidden"]) as ledger:
        operator = Subscriptions(ledger)
        own = Subscriptions(ledger, lambda: owner.metadata)
        members = Subscriptions(ledger, lambda: member.metadata)
        strangers = Subscriptions(ledger, lambda: stranger.metadata)
        await ledger.credit(org, "top-up", "1000")
        now = (await operator.create()).create_time.ToDatetime(UTC)
        for fields in (
            *({"plan_code": "pro"}, {"start_time": now}, {"expire_time": now}, {"anchor_time": now}),
            *({"customer_reference": "c"}, {"metadata": {"a": "b"}}),
        ):
            assert await reason(own.create(org, **{"plan_code": "free"} | fields)) == NOT_OFFERED
        made = await own.create(org, "free", time_zone="Asia/Tokyo")
        assert made.actor == f"user:{owner_id}"
        # They see that no draft is there.
        assert await reason(own.change(made, "draft")) == (NOT_FOUND, "NOT_FOUND")
        assert await reason(own.change(made, "pro")) == NOT_OFFERED
        changed = (await own.change(made, "basic")).subscription
        assert changed.plan_code == "basic"

        theirs = await operator.create(org, user_id=member.user_id)
        assert [one.subscription_id for one in await members.listed(org, user_id=member.user_id)] == [
            theirs.subscription_id
        ]
        assert await members.get(theirs) == theirs
        assert len(await members.events(theirs)) == 2
        for call in (
            *(members.get(made), members.events(made), members.listed(org), members.listed(org, user_id=owner_id)),
            *(members.create(org), members.cancel(theirs), members.change(theirs, "basic"), members.pause(theirs)),
            *(own.pause(made), own.suspend(made), own.update(made, metadata={}), own.approve(made), own.due()),
        ):
            assert await reason(call) == (DENIED, "PERMISSION_DENIED")
        for call in (strangers.get(made), strangers.cancel(made), strangers.create(org), strangers.listed(org)):
            assert await reason(call) == (NOT_FOUND, "NOT_FOUND")

        suspended = await operator.suspend(made)
        assert await reason(own.cancel(made)) == (FAILED, "SUBSCRIPTION_STATE")
        assert await operator.get(made) == suspended
        await operator.resume(made)
        assert (await own.cancel(made, PERIOD_END)).cancel_at_period_end


async def test_platform_may_keep_downgrades_and_cancellations_to_itself(
    server: BillingServer, identity: Identity, people: People, tmp_path: Path
) -> None:
    org, owner_id = await identity.create_organization()
    owner = await people.sign_in(owner_id)
    async with billing(server, identity, tmp_path, self_service_downgrade=False, self_service_cancel=False) as ledger:
        own = Subscriptions(ledger, lambda: owner.metadata)
        await ledger.credit(org, "top-up", "1000")
        await add_plan(ledger, "hidden", "1", active=False)
        assert await reason(own.create(org, "hidden")) == NOT_OFFERED
        made = await own.create(org, "basic")
        for timing in (PERIOD_END, NOW):
            assert await reason(own.change(made, "free", timing)) == NOT_OFFERED
            assert await reason(own.cancel(made, timing)) == NOT_OFFERED
        upgraded = (await own.change(made, "pro", PERIOD_END)).subscription
        assert upgraded.next_plan_code == "pro"
        assert state(await Subscriptions(ledger).cancel(made)) == "CANCELLED"


async def test_user_and_model_of_a_subscription_must_exist(
    server: BillingServer, identity: Identity, people: People, database_urls: dict[str, str], tmp_path: Path
) -> None:
    org, owner_id = await identity.create_organization()
    stranger, port = await people.person(), free_port()
    target = f"127.0.0.1:{port}"
    async with billing(server, identity, tmp_path, metering_target=target) as ledger:
        calls, missing = Subscriptions(ledger), (NOT_FOUND, "NOT_FOUND")
        for user_id in (stranger.user_id, new_id()):
            assert await reason(calls.create(org, user_id=user_id)) == missing
        assert await reason(calls.create(new_id(), user_id=owner_id)) == missing
        assert await reason(calls.model("sonnet", org, user_id=owner_id)) == UNAVAILABLE
        async with metering(server, database_urls["metering"], identity, tmp_path, port):
            # Billing connects to metering again after a moment.
            told = UNAVAILABLE
            for _ in range(100):
                if told == UNAVAILABLE:
                    await asyncio.sleep(0.1)
                    told = await reason(calls.model("unknown", org, user_id=owner_id))
            assert told == missing
            assert await reason(calls.model("sonnet", org, user_id=stranger.user_id)) == missing
            assert await calls.listed(org) == []
            waiting = await calls.model("sonnet", org, user_id=owner_id)
        assert state(waiting) == "PENDING"
        # What is known stays known.
        await calls.reject(waiting)
        assert state(await calls.model("sonnet", org, user_id=owner_id)) == "PENDING"


async def test_user_and_model_of_an_override_and_of_a_grant_must_exist(
    server: BillingServer, identity: Identity, people: People, database_urls: dict[str, str], tmp_path: Path
) -> None:
    org, owner_id = await identity.create_organization()
    stranger, port = await people.person(), free_port()
    missing = (NOT_FOUND, "NOT_FOUND")
    async with (
        metering(server, database_urls["metering"], identity, tmp_path, port),
        billing(server, identity, tmp_path, metering_target=f"127.0.0.1:{port}") as ledger,
    ):
        for fields in (
            *({"user_id": stranger.user_id}, {"user_id": new_id()}, {"model": "unknown"}),
            *({"user_id": owner_id, "model": "unknown"}, {"user_id": stranger.user_id, "model": "sonnet"}),
        ):
            assert await reason(set_override(ledger, override(org, **fields))) == missing
            assert await reason(ledger.grant(org, new_id(), "1", **fields)) == missing
        assert await overrides(ledger, org) == []
        assert await ledger.grants(org) == []
        for fields in ({}, {"user_id": owner_id}, {"model": "sonnet"}, {"user_id": owner_id, "model": "sonnet"}):
            await set_override(ledger, override(org, **fields))
            await ledger.grant(org, f"grant {fields}".replace(" ", "-"), "1", **fields)
        assert len(await overrides(ledger, org)) == len(await ledger.grants(org)) == 4


async def test_what_was_set_for_somebody_can_be_taken_back_and_repeated_when_nobody_can_be_asked(
    server: BillingServer, callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        org, owner_id = await identity.create_organization()
        async with billing(server, identity, tmp_path) as ledger:
            await set_override(ledger, override(org, user_id=owner_id))
            granted = await ledger.grant(org, "grant", "1", user_id=owner_id)
    key_file = callers.signing_key_file("billing", tmp_path)
    async with server.start(identity_target="127.0.0.1:1", signing_key_file=key_file) as ledger:
        assert await reason(set_override(ledger, override(org, text="lead", user_id=owner_id))) == UNAVAILABLE
        assert await reason(ledger.grant(org, "another", "1", user_id=owner_id)) == UNAVAILABLE
        repeated = await ledger.grant(org, "grant", "1", user_id=owner_id)
        assert repeated.replayed
        assert repeated.grant == granted.grant
        await set_override(ledger, clearing(org, user_id=owner_id))
        assert await overrides(ledger, org) == []
        assert await ledger.findings() == []


async def test_nobody_is_taken_as_a_member_while_identity_is_away(
    server: BillingServer, callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        org, owner_id = await identity.create_organization()
        port = identity.port
    key_file = callers.signing_key_file("billing", tmp_path)
    async with server.start(identity_target=f"127.0.0.1:{port}", signing_key_file=key_file) as ledger:
        calls = Subscriptions(ledger)
        assert await reason(calls.create(org, user_id=owner_id)) == UNAVAILABLE
        assert await calls.listed(org) == []
        assert state(await calls.create(org)) == "ACTIVE"


@pytest.mark.own_database
async def test_models_need_no_approval_where_the_platform_wants_none(server: BillingServer) -> None:
    async with server.start(model_subscriptions_need_approval=False) as ledger:
        calls = Subscriptions(ledger)
        made = await calls.model()
        assert state(made) == "ACTIVE"
        assert await reason(calls.approve(made)) == (FAILED, "SUBSCRIPTION_NOT_PENDING")
