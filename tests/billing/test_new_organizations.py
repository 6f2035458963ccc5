"""A new user's personal organization is subscribed to the free plan once; a deleted organization to nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from services.billing.clients import organizations as watch_module
from services.billing.subscription.creation import Creation
from tests.billing.organization_watches import delete_organization, until_true
from tests.billing.subscription_calls import Subscriptions
from tests.billing.support import BillingServer, balance_of
from tests.identity.support import open_identity
from tests.support.callers import Callers
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.identity.v1 import organization_pb2

pytestmark = pytest.mark.shards


async def test_new_user_is_subscribed_to_the_free_plan_once_whatever_happens(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_RETRY_ROUND_S", 0.05)
    monkeypatch.setattr(watch_module, "_RETRY_FIRST_S", 0.05)
    subscribe, failures = Creation.subscribe_to_free, [RuntimeError("a crash")]

    async def subscribe_at_last(self: Creation, organization_id: str) -> object:
        made = await subscribe(self, organization_id)
        if failures:
            # What was made stays, as it does when a process ends at this moment.
            raise failures.pop()
        return made

    monkeypatch.setattr(Creation, "subscribe_to_free", subscribe_at_last)
    key_file = callers.signing_key_file("billing", tmp_path)
    server = BillingServer(callers, database_urls["billing"])
    async with (
        open_identity(callers, database_urls["identity"], tmp_path) as identity,
        server.start(identity_target=f"127.0.0.1:{identity.port}", signing_key_file=key_file) as ledger,
    ):
        subscriptions = Subscriptions(ledger)

        async def plans_of(organization_id: str) -> list[tuple[str, str]]:
            found = await subscriptions.listed(organization_id)
            return [(one.plan_code, pb.SubscriptionState.Name(one.state)) for one in found]

        async def until(organization_id: str, expected: Sequence[tuple[str, str]]) -> None:
            async def reached() -> bool:
                return await plans_of(organization_id) == list(expected)

            await until_true(reached)

        ada, grace = await identity.create_user(), await identity.create_user()
        for user in (ada, grace):
            await until(user.personal_organization_id, [("free", "SUBSCRIPTION_STATE_ACTIVE")])
            balance = await balance_of(ledger, user.personal_organization_id, currency_code="CREDIT")
            assert balance.posted.value == "10"
        await until_true(lambda: not failures)
        shared, _ = await identity.create_organization(ada.user_id)
        bought = await subscriptions.create(shared)
        assert await plans_of(shared) == [("free", "SUBSCRIPTION_STATE_ACTIVE")]
        await delete_organization(identity, shared)
        await until(shared, [("free", "SUBSCRIPTION_STATE_CANCELLED")])
        ended = await subscriptions.get(bought)
        assert (ended.state_reason, ended.subscription_id) == ("the organization was deleted", bought.subscription_id)
        # A free plan that was given up is not given again.
        (free,) = await subscriptions.listed(grace.personal_organization_id)
        await subscriptions.cancel(free, pb.CHANGE_TIMING_NOW)
        renamed = organization_pb2.UpdateOrganizationRequest(
            organization_id=grace.personal_organization_id, name="Grace", update_mask=FieldMask(paths=["name"])
        )
        await identity.organizations.UpdateOrganization(renamed, metadata=identity.metadata)
        linus = await identity.create_user()
        await until(linus.personal_organization_id, [("free", "SUBSCRIPTION_STATE_ACTIVE")])
        assert await plans_of(grace.personal_organization_id) == [("free", "SUBSCRIPTION_STATE_CANCELLED")]
        assert await ledger.findings() == []
