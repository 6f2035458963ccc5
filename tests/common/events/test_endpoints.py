"""Endpoints are created, changed and deleted once, within bounds, audited, and with their secrets encrypted."""

import asyncio
from datetime import timedelta

import pytest

from libs.common.audit.trail import Filters, Trail
from libs.common.database import Database
from libs.common.errors import (
    EventEndpointOff,
    EventsNotSetUp,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    StaleEtag,
    TooManyEventEndpoints,
)
from libs.common.events.domain import Status
from libs.common.events.replays import Wanted
from libs.common.ids import new_id
from libs.common.sealing import NotReadable, SealingKeys, place_of_secret
from libs.common.sharding import PLATFORM
from tests.common.events.receiver import Receiver, status
from tests.common.events.support import HIGHEST, KEYS, House

HOUR = timedelta(hours=1)


async def test_the_same_creation_twenty_times_at_once_makes_one_endpoint_and_shows_its_secret_once(
    house: House, receiver: Receiver, patient_locks: None
) -> None:
    org = new_id()
    made = await asyncio.gather(
        *(house.endpoints.create(org, url=receiver.url, types=(), description="", request_id="one") for _ in range(20))
    )
    assert len({one.endpoint.endpoint_id for one in made}) == 1
    assert sorted(bool(one.secret) for one in made) == [False] * 19 + [True]
    with pytest.raises(RequestIdReused) as refused:
        await house.endpoints.create(org, url=receiver.url, types=("tollhouse.a.b",), description="", request_id="one")
    assert refused.value.facts["field"] == "types"
    elsewhere = await house.endpoints.create(new_id(), url=receiver.url, types=(), description="", request_id="one")
    assert not elsewhere.replayed


async def test_the_fifty_first_endpoint_is_refused_also_when_all_come_at_once(
    house: House, receiver: Receiver, patient_locks: None
) -> None:
    org = new_id()
    tries = (house.add_endpoint(org, receiver.url) for _ in range(53))
    made = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, TooManyEventEndpoints) for one in made) == 3
    found = await house.endpoints.page(org, HIGHEST, 100)
    assert len(found) == 50
    await house.endpoints.delete(org, found[0].endpoint_id, etag="")
    await house.add_endpoint(org, receiver.url)


async def test_secrets_are_stored_encrypted_and_bound_to_their_endpoint(
    house: House, receiver: Receiver, identity_database: Database
) -> None:
    made = await house.add_endpoint(new_id(), receiver.url)
    sealed = made.endpoint.secret
    assert sealed is not None
    plain = KEYS.open(sealed, place_of_secret(made.endpoint.endpoint_id))
    assert plain not in sealed
    newer = SealingKeys({1: bytes(range(32)), 2: bytes(32)})
    assert newer.open(sealed, place_of_secret(made.endpoint.endpoint_id)) == plain
    others = (SealingKeys({1: bytes(32)}), SealingKeys({3: bytes(32)}))
    for keys, place in ((KEYS, place_of_secret(new_id())), *((other, "x") for other in others)):
        with pytest.raises(NotReadable):
            keys.open(sealed, place)
    for broken in (b"", sealed[:10], sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        with pytest.raises(NotReadable):
            KEYS.open(broken, place_of_secret(made.endpoint.endpoint_id))


async def test_a_delivery_says_that_the_secret_cannot_be_read_and_is_made_when_it_can(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = await house.add_endpoint(org, receiver.url)
    without = house.another(keys=SealingKeys({9: bytes(32)}))
    await house.announce(org)
    await without.deliver()
    delivery = await house.delivery(org, made.endpoint.endpoint_id)
    assert (delivery.status, delivery.last_reason) == (Status.PENDING, "SECRET_NOT_READABLE")
    await house.pass_time(HOUR)
    assert (await house.delivery(org, made.endpoint.endpoint_id)).status is Status.DELIVERED


async def test_without_keys_no_endpoint_is_made_and_events_are_kept_for_later(house: House, receiver: Receiver) -> None:
    org = new_id()
    with pytest.raises(EventsNotSetUp):
        await house.another(keys=None).add_endpoint(org, receiver.url)
    await house.announce(org)
    await house.another(keys=None).deliver()
    made = await house.add_endpoint(org, receiver.url)
    wanted = Wanted(after=(house.clock.now() - HOUR, new_id()))
    await house.replays.replay(org, made.endpoint.endpoint_id, wanted, request_id="", of_platform=False)
    await house.deliver()
    assert len(receiver.received) == 1


async def test_an_update_changes_what_is_named_once_and_refuses_a_stale_etag(house: House, receiver: Receiver) -> None:
    org = new_id()
    made = (await house.add_endpoint(org, receiver.url)).endpoint
    changed = await house.endpoints.update(org, made.endpoint_id, {"types": ("tollhouse.a.b",)}, etag=made.etag)
    assert (changed.types, changed.url, changed.etag) == (("tollhouse.a.b",), made.url, "2")
    same = await house.endpoints.update(org, made.endpoint_id, {"types": ("tollhouse.a.b",)}, etag="")
    assert same == changed
    with pytest.raises(StaleEtag):
        await house.endpoints.update(org, made.endpoint_id, {"description": "x"}, etag=made.etag)
    with pytest.raises(InvalidArgument):
        await house.endpoints.update(org, made.endpoint_id, {"url": "https://10.0.0.1/"}, etag="")
    await house.endpoints.delete(org, made.endpoint_id, etag="2")
    await house.endpoints.delete(org, made.endpoint_id, etag="2")
    with pytest.raises(NotFound):
        await house.endpoints.get(org, made.endpoint_id)


async def test_endpoints_of_another_organization_and_of_none_look_missing(house: House, receiver: Receiver) -> None:
    org, other = new_id(), new_id()
    made = (await house.add_endpoint(org, receiver.url)).endpoint
    platforms = (await house.add_endpoint(PLATFORM, receiver.url)).endpoint
    for endpoint_id in (made.endpoint_id, platforms.endpoint_id, new_id()):
        for call in (
            house.endpoints.get(other, endpoint_id),
            house.endpoints.update(other, endpoint_id, {"enabled": False}, etag=""),
            house.endpoints.delete(other, endpoint_id, etag=""),
            house.endpoints.rotate(other, endpoint_id, overlap=HOUR, request_id=""),
            house.replays.replay(other, endpoint_id, Wanted((new_id(),)), request_id="", of_platform=False),
        ):
            with pytest.raises(NotFound):
                await call
    assert await house.endpoints.page(other, HIGHEST, 10) == []


async def test_every_change_leaves_an_audit_event_without_the_secret_parts(
    house: House, identity_database: Database
) -> None:
    org = new_id()
    made = await house.add_endpoint(org, "https://example.com/hooks/s3cr3t?key=s3cr3t")
    endpoint_id = made.endpoint.endpoint_id
    await house.endpoints.update(org, endpoint_id, {"enabled": False}, etag="")
    await house.endpoints.rotate(org, endpoint_id, overlap=HOUR, request_id="")
    await house.endpoints.delete(org, endpoint_id, etag="")
    links = await Trail(lambda _: identity_database, lambda _: identity_database).page(Filters(org), None, 10)
    fields = [[change.field for change in link.event.changes] for link in reversed(links)]
    created = ["url", "types", "description", "enabled", "disabled_reason"]
    assert fields == [created, ["enabled"], ["secret"], ["delete_time"]]
    assert "s3cr3t" not in str(links)
    assert made.secret not in str(links) + repr(made)


async def test_a_replay_sends_the_events_again_with_their_ids_in_order_and_only_once_for_a_request_id(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = (await house.add_endpoint(org, receiver.url, "tollhouse.thing.*")).endpoint
    start = house.clock.now()
    await house.announce(org, count=5)
    await house.announce(org, "other/1", kind="tollhouse.other.made")
    await house.deliver()
    wanted = Wanted(after=(start - HOUR, new_id()))
    house.clock.advance(HOUR)
    for _ in range(3):
        done, _ = await house.replays.replay(org, made.endpoint_id, wanted, request_id="again", of_platform=False)
        assert (done.replayed, done.pending, done.unwanted) == (5, 0, 1)
        await house.deliver()
    assert len(receiver.received) == 10
    assert receiver.ids[:5] == receiver.ids[5:]
    found = await house.deliveries(org, made.endpoint_id)
    assert [(one.status, one.replay_count, one.attempt_count) for one in found] == [(Status.DELIVERED, 1, 2)] * 5
    some = Wanted((receiver.ids[1], new_id()))
    done, _ = await house.replays.replay(org, made.endpoint_id, some, request_id="", of_platform=False)
    twice, _ = await house.replays.replay(org, made.endpoint_id, some, request_id="", of_platform=False)
    assert (done.replayed, done.unknown, twice.replayed, twice.pending) == (1, 1, 0, 1)
    assert await house.findings() == []


async def test_a_replay_of_more_than_a_thousand_events_goes_on_where_it_ended(house: House, receiver: Receiver) -> None:
    org = new_id()
    await house.announce(org, count=1500)
    await house.deliver()
    made = (await house.add_endpoint(org, receiver.url)).endpoint
    after = (house.clock.now() - HOUR, new_id())
    done, _ = await house.replays.replay(org, made.endpoint_id, Wanted(after=after), request_id="", of_platform=False)
    assert (done.replayed, bool(done.last_id)) == (1000, True)
    after = (house.clock.now(), done.last_id)
    house.clock.advance(HOUR)
    done, _ = await house.replays.replay(org, made.endpoint_id, Wanted(after=after), request_id="", of_platform=False)
    assert (done.replayed, done.last_id) == (500, "")


async def test_a_failed_delivery_can_be_replayed_and_not_to_an_endpoint_that_is_off(
    house: House, receiver: Receiver
) -> None:
    org = new_id()
    made = (await house.add_endpoint(org, receiver.url)).endpoint
    receiver.answer = status(410)
    await house.announce(org)
    await house.deliver()
    await house.pass_time(HOUR)
    assert (await house.delivery(org, made.endpoint_id)).status is Status.FAILED
    wanted = Wanted((receiver.ids[0],))
    with pytest.raises(EventEndpointOff):
        await house.replays.replay(org, made.endpoint_id, wanted, request_id="", of_platform=False)
    await house.endpoints.update(org, made.endpoint_id, {"enabled": True}, etag="")
    receiver.answer = status(204)
    await house.replays.replay(org, made.endpoint_id, wanted, request_id="", of_platform=False)
    await house.deliver()
    assert (await house.delivery(org, made.endpoint_id)).status is Status.DELIVERED
