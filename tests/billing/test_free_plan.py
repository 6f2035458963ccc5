"""Each new organization is subscribed to the plan `free` once, whatever crashes and however often it is told."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.clock import SystemClock
from libs.common.database import open_database
from libs.common.shards import Shards
from services.billing.clients.subjects import Subjects
from services.billing.ledger.engine import Engine
from services.billing.payment_errors import NoSavedMethod
from services.billing.plan.experiments import Experiments
from services.billing.subscription.creation import Creation
from services.billing.subscription.domain import Subscription
from services.billing.subscription.offers import Offers
from services.billing.subscription.progress import Progress
from services.billing.subscription.self_service import SelfService
from tests.billing.period_house import LedgerCharger
from tests.billing.plan_calls import archived, found
from tests.billing.subscription_calls import Subscriptions, state
from tests.billing.support import Ledger, balance_of, organization


class NoMethods:
    """No organization has a saved method of payment."""

    async def require(self, organization_id: str, provider: str) -> None:
        raise NoSavedMethod(provider=provider)


@pytest.fixture
async def creation(database_urls: dict[str, str], billing_shards: Shards) -> AsyncIterator[Creation]:
    """What the follower of organizations calls, beside a server of billing on the same database."""
    clock = SystemClock()
    platform = open_database(database_urls["billing"], schema="billing")
    engine, offers = Engine(billing_shards, clock), Offers(platform)
    progress = Progress(billing_shards, billing_shards, engine, clock, offers, LedgerCharger(engine))
    yield Creation(
        billing_shards,
        offers,
        Experiments(platform, billing_shards, billing_shards, clock, members=None),
        progress,
        clock,
        self_service=SelfService(),
        models_need_approval=True,
        subjects=Subjects(None, None),
        saved_methods=NoMethods(),
    )
    await engine.drain()
    await platform.close()


async def test_organization_is_subscribed_once_and_not_again_after_it_cancelled(
    ledger: Ledger, creation: Creation
) -> None:
    calls, org = Subscriptions(ledger), organization()
    answers = await asyncio.gather(*(creation.subscribe_to_free(org) for _ in range(5)))

    (made,) = [answer for answer in answers if isinstance(answer, Subscription)]
    (listed,) = await calls.listed(org)
    assert (listed.subscription_id, listed.plan_code, state(listed)) == (made.subscription_id, "free", "ACTIVE")
    assert (listed.actor, listed.user_id) == ("system", "")
    assert (await balance_of(ledger, org)).available.value == "10"
    await calls.cancel(listed)
    assert await creation.subscribe_to_free(org) is None
    assert len(await calls.listed(org)) == 1


async def test_organization_that_has_a_plan_keeps_it(ledger: Ledger, creation: Creation) -> None:
    calls, org = Subscriptions(ledger), organization()
    made = await calls.create(org, "basic")
    assert await creation.subscribe_to_free(org) is None
    assert await calls.listed(org) == [made]


async def test_without_a_free_plan_nobody_is_subscribed(ledger: Ledger, creation: Creation) -> None:
    org = organization()
    await archived(ledger, await found(ledger, "free"))
    assert await creation.subscribe_to_free(org) is None
    assert await Subscriptions(ledger).listed(org) == []
