"""Lists of subscriptions: filters, pages, order, and what is due."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from libs.common.shards import Shards
from libs.common.timestamps import render_time
from services.billing.subscription import list_store
from tests.billing.plan_calls import faults
from tests.billing.subscription_calls import PERIOD_END, Subscriptions, settled
from tests.billing.support import BillingServer, Ledger, organization
from tests.support.clock import FixedClock
from tests.support.sharded import execute_in_shards
from tollhouse.billing.v1 import subscription_pb2 as pb

pytestmark = pytest.mark.shards

DAY: Final = timedelta(days=1)
_MANY: Final = """
    INSERT INTO subscriptions (
        organization_id, subscription_id, subject, user_id, model, plan_id, plan_code, plan_version, limits, state,
        state_reason, state_time, start_time, trial_end_time, expire_time, time_zone, period_paid,
        cancel_at_period_end, payment_attempts, due_time, set_aside_time, set_aside_reason, last_sequence,
        customer_reference, actor, revision, create_time, update_time)
    SELECT $1::uuid, gen_random_uuid(), 'MODEL', gen_random_uuid(), 'm' || n % 100, gen_random_uuid(), 'p' || n % 100,
        1, NULL, (ARRAY['ACTIVE', 'PAUSED', 'PAST_DUE', 'SUSPENDED', 'TRIALING'])[n % 5 + 1], '', now(), now(), now(),
        now() + n * interval '1 hour', 'UTC', true, false, 0, now() + n * interval '1 minute',
        CASE n % 9 WHEN 0 THEN now() + n * interval '1 minute' END, CASE n % 9 WHEN 0 THEN 'x' END, 1, '', 'test', 1,
        now(), now()
    FROM generate_series(1, 3000) AS n
"""


@pytest.fixture
def calls(timed: Ledger) -> Subscriptions:
    return Subscriptions(timed)


def _stamp(moment: datetime) -> Timestamp:
    return render_time(moment)


def ids(found: Sequence[pb.Subscription]) -> list[str]:
    return [one.subscription_id for one in found]


async def test_every_filter_finds_its_subscriptions_in_pages(calls: Subscriptions, clock: FixedClock) -> None:
    org, users = organization(), [new_id() for _ in range(4)]
    made = [await calls.create(org, "free", expire_time=clock.now() + 9 * DAY)]
    for place, user in enumerate(users):
        made.append(await calls.create(org, "free", user_id=user, expire_time=clock.now() + (5 - place) * DAY))
        made.append(await calls.model("a" if place % 2 else "b", org, user_id=user))
    await calls.create()
    paused = await calls.pause(made[1])
    made.reverse()

    assert ids(await calls.listed(org, page_size=2)) == ids(made)
    of_user = [one for one in made if one.user_id == users[1]]
    assert ids(await calls.listed(org, user_id=users[1].upper(), page_size=1)) == ids(of_user)
    of_model = [one for one in made if one.model == "a"]
    assert ids(await calls.listed(org, model="a", page_size=1)) == ids(of_model)
    of_plan = [one for one in made if one.plan_code == "free"]
    assert ids(await calls.listed(org, plan_code="free", page_size=2)) == ids(of_plan)
    pending = [one for one in made if one.model]
    assert ids(await calls.listed(org, state=pb.SUBSCRIPTION_STATE_PENDING, page_size=3)) == ids(pending)
    assert await calls.listed(org, state=pb.SUBSCRIPTION_STATE_PAUSED) == [paused]
    both = await calls.listed(org, model="a", user_id=users[1], state=pb.SUBSCRIPTION_STATE_PENDING)
    assert ids(both) == [one.subscription_id for one in of_user if one.model]
    expiring = sorted((one for one in made if one.user_id and not one.model), key=lambda one: one.expire_time.seconds)
    before = clock.now() + 6 * DAY
    assert ids(await calls.listed(org, expire_before_time=before, page_size=1)) == ids(expiring)
    assert ids(await calls.listed(org, expire_before_time=before, user_id=users[0])) == [
        one.subscription_id for one in expiring if one.user_id == users[0]
    ]
    assert await calls.listed(organization()) == []


async def test_token_of_one_list_is_no_token_of_another(calls: Subscriptions, clock: FixedClock) -> None:
    org = organization()
    made = [await calls.create(org, user_id=new_id(), expire_time=clock.now() + DAY) for _ in range(2)]

    async def token(**fields: object) -> str:
        request = pb.ListSubscriptionsRequest(organization_id=org, page_size=1, **fields)  # type: ignore[arg-type]
        return (await calls.stub.ListSubscriptions(request, metadata=calls.metadata)).next_page_token

    assert set(await faults(calls.listed(organization(), page_token=await token()))) == {"page_token"}
    assert set(await faults(calls.listed(org, plan_code="pro", page_token=await token()))) == {"page_token"}
    later = clock.now() + 2 * DAY
    assert set(await faults(calls.listed(org, page_token=await token(expire_before_time=_stamp(later))))) == {
        "page_token"
    }
    assert set(await faults(calls.listed(org, expire_before_time=later, page_token=await token()))) == {"page_token"}
    assert ids(await calls.listed(org, page_token=await token())) == [made[0].subscription_id]


async def test_due_subscriptions_of_all_organizations_are_listed(calls: Subscriptions, clock: FixedClock) -> None:
    made = [await calls.create(start_time=clock.now() + (place + 1) * DAY) for place in range(4)]
    assert await calls.due() == []
    soon = await calls.due(due_before_time=clock.now() + 3.5 * DAY, page_size=1)
    assert sorted(ids(soon)) == sorted(ids(made[:3]))
    clock.advance(1.5 * DAY)
    assert await calls.due() == made[:1]
    assert await calls.due(set_aside=True) == []


async def test_events_come_in_pages(calls: Subscriptions) -> None:
    made = await calls.create()
    for _ in range(3):
        await calls.pause(made)
        await calls.resume(made)
    events = await calls.events(made, page_size=3)
    assert [event.sequence for event in events] == list(range(1, 9))
    assert events[2].actor == "operator:alice"


async def test_every_list_reads_a_range_of_its_index(billing_shards: Shards) -> None:
    org, database = organization(), billing_shards[0]
    some = "00000000-0000-0000-0000-00000000000a"
    now = datetime.now(UTC)
    asked: dict[str, tuple[str, tuple[object, ...]]] = {
        "subscriptions_pkey": (list_store._OF_ORGANIZATION, (org, None, 5)),
        "subscriptions_by_user": (list_store._OF_USER, (org, None, 5, some)),
        "subscriptions_by_model": (list_store._OF_MODEL, (org, None, 5, "m1")),
        "subscriptions_by_plan": (list_store._OF_PLAN, (org, None, 5, "p1")),
        "subscriptions_by_state": (list_store._IN_STATE, (org, None, 5, "PAUSED")),
        "subscriptions_by_expiry": (list_store._EXPIRING, (org, now + 5 * DAY, now, some, 5)),
        "subscriptions_due": (list_store._DUE, (now + DAY, now, org, some, 5)),
        "subscriptions_set_aside": (list_store._SET_ASIDE, (now + DAY, now, org, some, 5)),
    }
    async with database.raw_transaction() as connection:
        await connection.execute(_MANY, org)
        # As billing's own pools have it; and no plan may sort.
        for way in ("seqscan", "bitmapscan", "sort"):
            await connection.execute(f"SET LOCAL enable_{way} = off")
        for index, (statement, values) in asked.items():
            plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *values))
            assert f"using {index} on subscriptions" in plan, plan
            assert "Seq Scan on subscriptions s" not in plan
        rows = await connection.fetch("EXPLAIN " + list_store._TRIAL_OF_MODEL, org, some, "m1")
        assert "on subscriptions_by_user" in "\n".join(row[0] for row in rows).replace("using", "on")


async def test_page_that_filters_much_out_is_short_and_has_a_next_one(
    server: BillingServer, billing_shards: Shards
) -> None:
    org = organization()
    async with billing_shards.of(org).raw_connection() as connection:
        await connection.execute(_MANY, org)
        await connection.execute("UPDATE subscriptions SET due_time = NULL")
    latest = render_time(datetime(2200, 1, 1, tzinfo=UTC))
    request = pb.ListSubscriptionsRequest(
        organization_id=org, model="m3", state=pb.SUBSCRIPTION_STATE_SUSPENDED, expire_before_time=latest
    )
    async with server.start() as ledger:
        calls = Subscriptions(ledger)
        page = await calls.stub.ListSubscriptions(request, metadata=calls.metadata)
        # Of 500 that expire first, 5 are for the model.
        assert (len(page.subscriptions), bool(page.next_page_token)) == (5, True)
        everything = await calls.listed(org, model="m3", plan_code="p3", state=pb.SUBSCRIPTION_STATE_SUSPENDED)
        assert len(everything) == 30


async def test_subscription_that_was_set_aside_goes_on_when_an_operator_updates_it(
    calls: Subscriptions, clock: FixedClock, database_admin_url: str
) -> None:
    made = await calls.create()
    await execute_in_shards(
        database_admin_url,
        "UPDATE billing.subscriptions SET set_aside_time = $1, set_aside_reason = 'broken'",
        clock.now() - DAY,
    )
    clock.advance(40 * DAY)

    assert await calls.due() == []
    (found,) = await calls.due(set_aside=True)
    assert (found.subscription_id, found.set_aside_reason) == (made.subscription_id, "broken")
    assert not (await calls.cancel(made, PERIOD_END)).HasField("next_payment_time")
    assert (await calls.kinds(made))[2:] == ["CANCELLATION_SCHEDULED"]
    await calls.withdraw_cancellation(made)

    goes_on = await calls.update(made, metadata={})
    assert goes_on.set_aside_reason == ""
    assert goes_on.period_start_time == made.period_end_time
    assert await calls.due(set_aside=True) == []
    await settled(calls.ledger, made.organization_id)
