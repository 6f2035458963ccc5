"""The invariants of subscriptions find each kind of damage, wherever ranges of rows end."""

from typing import Final

import pytest

from libs.common.clock import SystemClock
from libs.common.integrity.verification import Verification
from libs.common.shards import Shards
from services.billing.subscription_invariants import SUBSCRIPTION_CHECKS
from tests.billing.subscription_calls import Subscriptions
from tests.billing.support import BillingServer, Ledger, organization
from tests.support.invariants import findings_of
from tests.support.sharded import execute_in_shards

pytestmark = pytest.mark.shards

SUBSCRIPTION_DAMAGE: Final = {
    "subscription_periods_tile": (
        "UPDATE billing.subscription_events SET period_end_time = period_end_time + interval '1 s'"
        " WHERE kind = 'PERIOD_STARTED'"
    ),
    "subscription_events_have_their_movements": (
        "UPDATE billing.subscription_events SET charge_amount = charge_amount + 1 WHERE charge_amount > 0"
    ),
    "subscription_minimums_follow_each_other": (
        "UPDATE billing.subscription_events SET kind = 'MINIMUM_CHARGED',"
        " effective_time = effective_time + interval '1 d'"
        " WHERE kind IN ('PERIOD_STARTED', 'PLAN_CHANGED')"
    ),
    "subscription_events_are_completed": (
        "UPDATE billing.subscription_events SET planned = true, create_time = create_time - interval '2 hours'"
        " WHERE kind = 'PLAN_CHANGED'"
    ),
    "subscriptions_follow_from_their_events": "UPDATE billing.subscriptions SET last_sequence = last_sequence + 1",
    "subscriptions_know_what_is_due": "UPDATE billing.subscriptions SET due_time = NULL",
    "live_subscriptions_have_their_plans": "UPDATE billing.subscriptions SET plan_version = 99",
    "subjects_are_subscribed_once": (
        "DO $$ BEGIN EXECUTE format('DROP INDEX %s_live_organization_once', 'billing.subscriptions'); END $$;"
        " UPDATE billing.subscriptions SET state = 'PAUSED' WHERE state = 'CANCELLED'"
    ),
    "deleted_organizations_have_no_subscriptions": (
        "INSERT INTO billing.deleted_organizations"
        " SELECT DISTINCT organization_id, now() - interval '2 hours' FROM billing.subscriptions"
    ),
}

MORE_DAMAGE: Final = {
    "a refill has no grant": (
        "subscription_events_have_their_movements",
        "UPDATE billing.credit_grants SET operation_id = operation_id || '/again'",
    ),
    "a refill is of another amount": (
        "subscription_events_have_their_movements",
        "UPDATE billing.credit_grants SET amount = amount + 1",
    ),
    "a charge is gone": (
        "subscription_events_have_their_movements",
        "DELETE FROM billing.transactions WHERE operation_id LIKE 'subscription/%'",
    ),
    "an active one has nothing due": (
        "subscriptions_know_what_is_due",
        (
            "UPDATE billing.subscriptions SET due_time = NULL, period_number = NULL, period_start_time = NULL, "
            "period_end_time = NULL WHERE state = 'ACTIVE'"
        ),
    ),
    "one is in a state that no event led to": (
        "subscriptions_follow_from_their_events",
        "UPDATE billing.subscriptions SET state = 'PAST_DUE' WHERE state = 'ACTIVE'",
    ),
}


async def _subscribe(ledger: Ledger) -> None:
    """Leave subscriptions that were charged, refilled, changed and cancelled."""
    subscriptions = Subscriptions(ledger)
    org = organization()
    await ledger.credit(org, "top-up", "100")
    await subscriptions.change(await subscriptions.create(org, "basic"), "pro")
    org = organization()
    await subscriptions.cancel(await subscriptions.create(org, "free"))
    await subscriptions.create(org, "free")


@pytest.mark.parametrize(
    ("invariant", "statement"),
    [*SUBSCRIPTION_DAMAGE.items(), *MORE_DAMAGE.values()],
    ids=[*SUBSCRIPTION_DAMAGE, *MORE_DAMAGE],
)
async def test_planted_damage_to_subscriptions_is_found(
    server: BillingServer, database_admin_url: str, billing_shards: Shards, invariant: str, statement: str
) -> None:
    async with server.start() as ledger:
        await _subscribe(ledger)
    for rows_max in (1, 10_000):
        assert await findings_of(_verification(billing_shards, rows_max)) == []
    await execute_in_shards(database_admin_url, statement)
    found = await findings_of(_verification(billing_shards, 10_000))
    assert invariant in {finding.invariant for finding in found}
    for rows_max in (1, 2):
        assert await findings_of(_verification(billing_shards, rows_max)) == found


def _verification(shards: Shards, rows_max: int) -> Verification:
    return Verification(shards, SystemClock(), SUBSCRIPTION_CHECKS, rows_max=rows_max)
