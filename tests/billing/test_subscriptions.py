"""Subscriptions: what people do to them, and what is recorded of it."""

import asyncio
from datetime import timedelta

from libs.common.ids import new_id
from tests.billing.plan_calls import reason
from tests.billing.subscription_calls import Subscriptions, state
from tests.billing.support import Ledger, organization
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import subscription_pb2 as pb


async def test_subscription_to_a_free_plan_is_active_at_once(timed: Ledger, clock: FixedClock) -> None:
    calls = Subscriptions(timed)
    made = await calls.create()

    assert (state(made), made.plan_code, made.plan_version) == ("ACTIVE", "free", 1)
    assert await calls.get(made) == made
    assert await calls.kinds(made) == ["CREATED", "PERIOD_STARTED"]
