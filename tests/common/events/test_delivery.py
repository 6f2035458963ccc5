"""Events are delivered at least once, in the order of their subject, to whoever wants them, and signed."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from libs.common.database import RawConnection
from libs.common.events import delivery_store, worker
from libs.common.events.domain import Status, delay_after
from libs.common.events.outbox import NewEvent, announce
from libs.common.ids import new_id
from libs.common.sealing import seal_data
from libs.common.sharding import PLATFORM
from tests.common.events.receiver import Received, Receiver, hang, receiving, status
from tests.common.events.support import KEYS, House, eventually

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


async def test_an_event_is_sent_as_a_cloud_event_that_the_library_of_standardwebhooks_verifies(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    house.clock.set(datetime.now(UTC))
    made = await house.add_endpoint(org, receiver.url)
    await house.announce(org)
    await house.deliver()
    (request,) = receiver.received
    event = request.verified(made.secret)
    assert request.target == "/events?from=tollhouse"
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["webhook-id"] == event["id"]
    assert event == event | {
        "specversion": "1.0",
        "source": "tollhouse/identity",
        "type": "tollhouse.thing.changed",
        "subject": "thing/1",
        "sequence": "1",
        "organizationid": org,
        "time": house.clock.now().isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {"n": 0},
    }
    delivery = await house.delivery(org, made.endpoint.endpoint_id)
    assert (delivery.status, delivery.attempt_count, delivery.http_status) == (Status.DELIVERED, 1, 204)
    with pytest.raises(WebhookVerificationError):
        request.verified("whsec_" + "A" * 43 + "=")


async def test_during_an_overlap_both_secrets_verify_and_afterwards_the_new_one_alone(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    first = await house.add_endpoint(org, receiver.url)
    second = await house.endpoints.rotate(org, first.endpoint.endpoint_id, overlap=HOUR, request_id="r")
    again = await house.endpoints.rotate(org, first.endpoint.endpoint_id, overlap=HOUR, request_id="r")
    assert (again.secret, again.replayed) == ("", True)
    await house.announce(org)
    await house.deliver()
    await house.announce(org)
    await house.pass_time(HOUR + SECOND)
    during, after = receiver.received
    assert (during.is_signed_by(first.secret), during.is_signed_by(second.secret)) == (True, True)
    assert (after.is_signed_by(first.secret), after.is_signed_by(second.secret)) == (False, True)


async def test_only_endpoints_of_the_organization_and_of_the_platform_that_want_the_type_are_sent_it(
    house: House, receiver: Receiver
) -> None:
    org, other = new_id(), new_id()
    made = {
        "exact": await house.add_endpoint(org, receiver.url, "tollhouse.thing.changed"),
        "beginning": await house.add_endpoint(org, receiver.url, "tollhouse.thing.*", "tollhouse.other.made"),
        "unwanted": await house.add_endpoint(org, receiver.url, "tollhouse.thingy.*", "tollhouse.thing.made"),
        "other": await house.add_endpoint(other, receiver.url),
        "platform": await house.add_endpoint(PLATFORM, receiver.url),
    }
    await house.announce(org)
    await house.deliver()
    ways = {name: await house.deliveries(org, one.endpoint.endpoint_id) for name, one in made.items()}
    assert {name: len(found) for name, found in ways.items()} == {
        "exact": 1,
        "beginning": 1,
        "platform": 1,
        "unwanted": 0,
        "other": 0,
    }
    assert len(receiver.received) == 3


async def test_an_event_is_sent_to_an_endpoint_of_the_platform_that_is_older_whenever_it_is_dispatched(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoints of the platform are read in another transaction than the events."""
    lock = delivery_store.lock_undispatched

    async def lock_later(connection: RawConnection, *arguments: Any) -> Any:
        monkeypatch.setattr(delivery_store, "lock_undispatched", lock)
        await house.add_endpoint(PLATFORM, receiver.url)
        await house.announce(new_id(), "thing/new")
        return await lock(connection, *arguments)

    monkeypatch.setattr(delivery_store, "lock_undispatched", lock_later)
    await house.announce(new_id(), "thing/old")
    await house.deliver()
    await house.deliver()
    assert ("thing/new", 1) in receiver.sequences


async def test_usage_is_sent_only_to_endpoints_that_name_it(house: House, receiver: Receiver) -> None:
    org = new_id()
    names = [("tollhouse.usage.recorded",), ("tollhouse.usage.*", "tollhouse.thing.*"), (), ("tollhouse.thing.*",)]
    made = [(await house.add_endpoint(org, receiver.url, *types)).endpoint.endpoint_id for types in names]
    await house.announce(org, kind="tollhouse.usage.recorded")
    await house.deliver()
    assert [len(await house.deliveries(org, endpoint_id)) for endpoint_id in made] == [1, 1, 0, 0]


async def test_what_is_sealed_reaches_endpoints_of_the_platform_alone(house: House, receiver: Receiver) -> None:
    org = new_id()
    own, operators = await house.add_endpoint(org, receiver.url), await house.add_endpoint(PLATFORM, receiver.url)
    sealed = seal_data(KEYS, org, "invitation/1", {"token": "t-secret"})
    async with house.homes.of(org).raw_transaction() as connection:
        event = NewEvent(org, "tollhouse.invitation.created", "invitation/1", {"role": "member"}, sealed)
        await announce(connection, [event], house.clock.now())
    await house.deliver()
    for request in receiver.received:
        expected = {"role": "member"} | ({"token": "t-secret"} if request.is_signed_by(operators.secret) else {})
        assert request.event["data"] == expected
    assert {request.is_signed_by(own.secret) for request in receiver.received} == {True, False}


async def test_a_failed_attempt_is_made_again_later_and_later_with_the_same_id_and_body(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    receiver.answers = [status(500), status(503), status(429)]
    await house.announce(org)
    await house.deliver()
    for wait in (7 * SECOND, 40 * SECOND, 150 * SECOND):
        before = len(receiver.received)
        await house.pass_time(2 * SECOND)
        assert len(receiver.received) == before
        await house.pass_time(wait)
        assert len(receiver.received) == before + 1
    assert len({(one.headers["webhook-id"], one.body) for one in receiver.received}) == 1
    delivery = await house.delivery(org, made.endpoint.endpoint_id)
    assert (delivery.status, delivery.attempt_count, delivery.last_reason) == (Status.DELIVERED, 4, "")


def test_delays_grow_to_four_hours_vary_by_a_fifth_and_are_as_long_as_asked_up_to_a_day() -> None:
    whole = [delay_after(failures, 0, 0.5).total_seconds() for failures in range(1, 10)]
    assert whole == [5, 30, 120, 600, 1800, 3600, 7200, 14400, 14400]
    assert [delay_after(1, 0, chance).total_seconds() for chance in (0, 1)] == [4, 6]
    assert delay_after(1, 600, 0.5) == 10 * MINUTE
    assert delay_after(1, 10**6, 0.5) == DAY


async def test_an_event_is_given_up_after_three_days_with_the_last_reason(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    receiver.answer = status(500)
    await house.announce(org)
    for _ in range(40):
        await house.pass_time(5 * HOUR)
    delivery = await house.delivery(org, made.endpoint.endpoint_id)
    assert (delivery.status, delivery.last_reason, delivery.http_status) == (Status.FAILED, "HTTP_STATUS", 500)
    assert len(receiver.received) == delivery.attempt_count < 40


async def test_the_events_of_a_subject_come_in_order_though_attempts_fail(house: House, receiver: Receiver) -> None:
    org = new_id()
    await house.add_endpoint(org, receiver.url)
    receiver.answers = [status(500)] * 5
    for subject in ("a/1", "a/2", "a/3"):
        await house.announce(org, subject, count=6)
    await house.deliver()
    for _ in range(8):
        await house.pass_time(3 * MINUTE)
    first_sent = list(dict.fromkeys(receiver.sequences))
    for subject in ("a/1", "a/2", "a/3"):
        assert [n for name, n in first_sent if name == subject] == [1, 2, 3, 4, 5, 6]
    assert len(receiver.received) == 18 + 5


async def test_an_event_waits_an_hour_for_the_one_before_it_and_is_sent_then(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)

    async def refuse_the_first(request: object, writer: asyncio.StreamWriter) -> None:
        sequence = receiver.received[-1].event["sequence"]
        await status(500 if sequence == "1" else 204)(receiver.received[-1], writer)

    receiver.answer = refuse_the_first
    await house.announce(org, count=2)
    await house.deliver()
    await house.pass_time(HOUR - MINUTE)
    assert {n for _, n in receiver.sequences} == {1}
    states = [one.status for one in await house.deliveries(org, made.endpoint.endpoint_id)]
    assert states == [Status.PENDING, Status.WAITING]
    await house.pass_time(2 * MINUTE)
    states = [one.status for one in await house.deliveries(org, made.endpoint.endpoint_id)]
    assert states == [Status.PENDING, Status.DELIVERED]


async def test_an_endpoint_that_hangs_holds_up_no_other_and_has_a_bounded_number_of_attempts(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    house = house.another(under_way_max=12, per_endpoint_max=4)
    async with receiving() as slow:
        slow.answer = hang
        await house.add_endpoint(org, slow.url)
        await house.add_endpoint(org, receiver.url)
        for number in range(30):
            await house.announce(org, f"thing/{number}")
        for home in house.homes.all:
            await house.deliverer.visit(home)
        await eventually(lambda: len(receiver.received) == 30)
        assert slow.under_way == slow.most_under_way == 4
        await house.deliverer.close()
    assert receiver.most_under_way <= 4


async def test_an_organization_whose_endpoints_are_slow_holds_up_no_other(house: House, receiver: Receiver) -> None:
    busy, quiet = new_id(), new_id()
    house = house.another(under_way_max=8, per_endpoint_max=2)
    async with receiving() as slow:
        slow.answer = hang
        for number in range(10):
            await house.add_endpoint(busy, f"{slow.url}/{number}")
        await house.add_endpoint(quiet, receiver.url)
        for number in range(5):
            await house.announce(busy, f"thing/{number}")
        for home in house.homes.all:
            await house.deliverer.visit(home)
        await eventually(lambda: slow.under_way == 4)
        await house.announce(quiet)
        for home in house.homes.all:
            await house.deliverer.visit(home)
        await eventually(lambda: len(receiver.received) == 1)
        assert slow.most_under_way == 4, "half of all"
        await house.deliverer.close()


async def test_of_organizations_the_one_with_the_fewest_attempts_comes_first(house: House, receiver: Receiver) -> None:
    busy, quiet = [new_id(), new_id()], new_id()
    house = house.another(under_way_max=8, per_endpoint_max=2)

    async def late(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await status(204)(received, writer)

    async with receiving() as slow:
        slow.answer = late
        for number in range(8):
            await house.add_endpoint(busy[number % 2], f"{slow.url}/{number}")
        await house.add_endpoint(quiet, receiver.url)
        for number in range(20):
            await house.announce(busy[number % 2], f"thing/{number}")
        for home in house.homes.all:
            await house.deliverer.visit(home)
        await house.announce(quiet)
        for home in house.homes.all:
            await house.deliverer.visit(home)
        await eventually(lambda: len(receiver.received) == 1)
        assert len(slow.received) <= 16, "80 were due before it"
        await house.deliverer.close()


async def test_an_endpoint_that_fails_is_tried_by_one_attempt_at_a_time(house: House, receiver: Receiver) -> None:
    org = new_id()
    await house.add_endpoint(org, receiver.url)
    receiver.answer = status(500)
    for number in range(20):
        await house.announce(org, f"thing/{number}")
    await house.deliver()
    receiver.most_under_way = 0
    await house.pass_time(10 * MINUTE)
    assert receiver.most_under_way == 1


async def test_two_processes_share_the_work_and_send_nothing_twice(house: House, receiver: Receiver) -> None:
    org = new_id()
    await house.add_endpoint(org, receiver.url)
    for number in range(40):
        await house.announce(org, f"thing/{number % 7}", count=2)
    houses = [house, house.another(), house.another()]
    await asyncio.gather(*(one.deliver() for one in houses))
    await house.pass_time(SECOND)
    assert len(receiver.received) == len(set(receiver.ids)) == 80
    for number in range(7):
        sequences = [n for subject, n in receiver.sequences if subject == f"thing/{number}"]
        assert sequences == sorted(sequences)


async def test_an_endpoint_is_switched_off_after_five_days_of_failures_and_others_are_told(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    async with receiving() as dead:
        dead.answer = status(500)
        made = await house.add_endpoint(org, dead.url)
        await house.add_endpoint(org, receiver.url, "tollhouse.event_endpoint.*")
        for _ in range(32):
            await house.announce(org)
            await house.pass_time(4 * HOUR)
    endpoint = await house.endpoints.get(org, made.endpoint.endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, "FAILED_FOR_LONG")
    await house.pass_time(SECOND)
    (notice,) = receiver.received
    assert notice.event["type"] == "tollhouse.event_endpoint.disabled"
    assert notice.event["data"] == {
        "endpoint_id": made.endpoint.endpoint_id,
        "reason": "FAILED_FOR_LONG",
        "description": "",
    }
    for _ in range(4):
        await house.pass_time(4 * HOUR)
    left = {one.status for one in await house.deliveries(org, made.endpoint.endpoint_id)}
    assert left == {Status.FAILED}


async def test_an_endpoint_with_a_new_address_is_not_switched_off_for_the_failures_of_the_old_one(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = (await house.add_endpoint(org, receiver.url)).endpoint
    receiver.answer = status(500)
    for _ in range(29):
        await house.announce(org)
        await house.pass_time(4 * HOUR)
    await house.endpoints.update(org, made.endpoint_id, {"url": f"{receiver.url}&new"}, etag="")
    for _ in range(3):
        await house.announce(org)
        await house.pass_time(4 * HOUR)
    endpoint = await house.endpoints.get(org, made.endpoint_id)
    assert endpoint.enabled
    assert endpoint.failing_since is not None
    assert house.clock.now() - endpoint.failing_since <= 12 * HOUR


async def test_time_in_which_no_process_ran_switches_no_endpoint_off(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    receiver.answers = [status(500), status(500)]
    await house.announce(org)
    await house.deliver()
    started = house.another()
    house.clock.set(house.clock.now() + 90 * DAY)
    await house.announce(org)
    await started.deliver()
    assert (await house.endpoints.get(org, made.endpoint.endpoint_id)).enabled
    await started.pass_time(HOUR)
    assert (await house.endpoints.get(org, made.endpoint.endpoint_id)).failing_since is None


async def test_an_endpoint_that_answers_gone_is_switched_off_at_once(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    receiver.answer = status(410)
    await house.announce(org)
    await house.deliver()
    endpoint = await house.endpoints.get(org, made.endpoint.endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, "GONE")


async def test_one_success_ends_the_count_of_failures(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    receiver.answers = [status(500)]
    await house.announce(org)
    await house.deliver()
    assert (await house.endpoints.get(org, made.endpoint.endpoint_id)).failing_since == house.clock.now()
    await house.pass_time(MINUTE)
    assert (await house.endpoints.get(org, made.endpoint.endpoint_id)).failing_since is None


async def test_nothing_more_is_sent_to_an_endpoint_that_is_deleted_or_switched_off(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    deleted, off = await house.add_endpoint(org, receiver.url), await house.add_endpoint(org, receiver.url)
    receiver.answer = status(500)
    await house.announce(org, count=3)
    await house.deliver()
    before = len(receiver.received)
    await house.endpoints.delete(org, deleted.endpoint.endpoint_id, etag="")
    await house.endpoints.update(org, off.endpoint.endpoint_id, {"enabled": False}, etag="")
    await house.announce(org)
    await house.pass_time(MINUTE)
    for one, reason in ((deleted, "ENDPOINT_DELETED"), (off, "ENDPOINT_OFF")):
        found = await house.deliveries(org, one.endpoint.endpoint_id)
        assert [(delivery.status, delivery.last_reason) for delivery in found] == [(Status.FAILED, reason)] * 3
    assert len(receiver.received) == before


async def test_endpoints_are_forgotten_after_their_time_and_as_many_events_as_there_are(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_FORGOTTEN_AT_ONCE", 2)
    org = new_id()
    kept, *gone = [(await house.add_endpoint(org, receiver.url)).endpoint.endpoint_id for _ in range(4)]
    await house.announce(org, "done/1", count=5)
    await house.deliver()
    for endpoint_id in gone:
        await house.endpoints.delete(org, endpoint_id, etag="")
    late = house.another(kept_for=7 * DAY)
    for days, left in ((6, {kept, *gone}), (2, {kept})):
        late.clock.advance(days * DAY)
        for home in house.homes.all:
            await late.deliverer.tidy(home)
        async with house.homes.of(org).raw_connection() as connection:
            found = await connection.fetch(
                "SELECT endpoint_id::text FROM event_endpoints WHERE organization_id = $1", org
            )
            events = await connection.fetchval("SELECT count(*) FROM events WHERE organization_id = $1", org)
        assert {row[0] for row in found} == left
        assert events == (0 if days == 2 else 5)
    assert await house.findings() == []


async def test_finished_events_are_deleted_after_their_time_and_unfinished_ones_stay(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    await house.announce(org, "done/1", count=3)
    await house.deliver()
    receiver.answer = status(500)
    await house.announce(org, "undone/1", count=3)
    await house.deliver()
    await house.announce(org, "done/1")
    late = house.another(kept_for=HOUR)
    late.clock.advance(2 * HOUR)
    for home in house.homes.all:
        await late.deliverer.tidy(home)
    left = await house.deliveries(org, made.endpoint.endpoint_id)
    assert [(one.subject, one.sequence) for one in left] == [("undone/1", n) for n in (1, 2, 3)]
    assert await house.findings() == []
