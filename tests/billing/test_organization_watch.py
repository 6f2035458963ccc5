"""Billing follows identity's organizations: each is handled, none is lost, and one that fails stops no other."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from libs.common.database import Database, open_database
from libs.common.errors import NotFound
from libs.common.ports import free_port
from services.billing.clients import organizations as watch_module
from services.billing.clients.organizations import Organization, backoff
from services.identity.organization.watch import feed as feed_module
from tests.billing import organization_follower
from tests.billing.organization_watches import Billing, Handler, delete_organization, make_organizations, until_true
from tests.identity.support import Identity, open_identity
from tests.support.callers import Callers
from tests.support.clock import ShiftedClock
from tests.support.forked import forked


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds are short. The lease is long: a busy machine must not lose it."""
    monkeypatch.setattr(watch_module, "LEASE_S", 60)
    monkeypatch.setattr(feed_module, "_ROUND_S", 0.05)
    monkeypatch.setattr(watch_module, "_RENEW_EVERY_S", 0.2)
    monkeypatch.setattr(watch_module, "_RETRY_ROUND_S", 0.05)
    monkeypatch.setattr(watch_module, "_WATCH_AGAIN_AFTER_MAX_S", 0.4)


@pytest.fixture
async def identity(callers: Callers, database_urls: dict[str, str], tmp_path: Path) -> AsyncIterator[Identity]:
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        yield identity


@pytest.fixture
async def billing_database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = open_database(database_urls["billing"], schema="billing", pool_size=3)
    yield database
    await database.close()


@pytest.fixture
def billing(callers: Callers, billing_database: Database) -> Billing:
    return Billing(callers, billing_database, ShiftedClock())


async def test_all_organizations_are_handled_and_then_each_that_is_created_or_deleted(
    identity: Identity, billing: Billing
) -> None:
    ada = await identity.create_user()
    shared, _ = await identity.create_organization(ada.user_id)
    handler = Handler()
    async with billing.watch(identity.port, handler):
        await handler.until(ada.personal_organization_id, shared)
        grace = await identity.create_user()
        await handler.until(grace.personal_organization_id)
        await delete_organization(identity, shared)
        await until_true(lambda: any(one.delete_time for one in handler.calls))

    now = {one.organization_id: one for one in handler.calls}
    assert {id_: (one.personal, one.owner_user_id, one.delete_time is None) for id_, one in now.items()} == {
        ada.personal_organization_id: (True, ada.user_id, True),
        grace.personal_organization_id: (True, grace.user_id, True),
        shared: (False, None, False),
    }
    assert len(handler.calls) == 4, "nothing was handled twice"


async def test_what_is_created_while_identity_is_away_is_handled_when_it_is_back(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path, billing: Billing, identity_database: Database
) -> None:
    port, handler = free_port(), Handler()
    async with AsyncExitStack() as stack:
        async with open_identity(callers, database_urls["identity"], tmp_path, port=port):
            await stack.enter_async_context(billing.watch(port, handler))
            (first,) = await make_organizations(identity_database, 1)
            await handler.until(first)
        (second,) = await make_organizations(identity_database, 1)
        async with open_identity(callers, database_urls["identity"], tmp_path, port=port):
            await handler.until(second)
            (third,) = await make_organizations(identity_database, 1)
            await handler.until(third)
    assert [one.organization_id for one in handler.calls] == [first, second, third]


async def test_what_a_killed_process_had_not_finished_is_handled_by_another_one_within_seconds(
    callers: Callers,
    identity: Identity,
    identity_database: Database,
    billing: Billing,
    database_urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "LEASE_S", 2.5)
    ids = set(await make_organizations(identity_database, 30))
    output = tmp_path / "handled"
    output.touch()
    target, key_file = f"127.0.0.1:{identity.port}", callers.signing_key_file("billing", tmp_path)
    follower = (target, database_urls["billing"], key_file, output, 20, watch_module.LEASE_S)
    handler = Handler()
    async with forked(organization_follower.run, *follower) as killed:
        await until_true(lambda: len(output.read_text().splitlines()) >= 20)
        async with billing.watch(identity.port, handler):
            await asyncio.sleep(0.5)
            assert not handler.calls, "the process that has the lease is alive"
            killed.kill()
            await asyncio.to_thread(killed.join)
            killed_s = time.monotonic()
            await handler.until(*ids)
            assert time.monotonic() - killed_s < watch_module.LEASE_S + 5
    assert handler.ids == ids
    assert await billing.unhandled() == {}


async def test_one_of_two_processes_follows_and_the_other_takes_over_at_once_when_it_stops(
    identity: Identity, identity_database: Database, billing: Billing
) -> None:
    handlers = Handler(), Handler()
    async with (
        billing.watch(identity.port, handlers[0]) as first,
        billing.watch(identity.port, handlers[1]) as second,
    ):
        before = await make_organizations(identity_database, 20)
        await until_true(lambda: handlers[0].ids | handlers[1].ids == set(before))
        await until_true(lambda: billing.is_at(20))
        assert sorted([len(handlers[0].calls), len(handlers[1].calls)]) == [0, 20]
        following, waiting = (first, 1) if handlers[0].calls else (second, 0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        after = await make_organizations(identity_database, 20)
        await handlers[waiting].until(*after)
        # Long before the lease would have ended by itself: it was released.
        assert len(handlers[waiting].calls) == 20


async def test_process_that_lost_its_lease_moves_nothing(
    identity: Identity, identity_database: Database, billing: Billing
) -> None:
    going_on = asyncio.Event()

    async def wait(_: Organization) -> None:
        await going_on.wait()

    handler = Handler(behaviour=wait)
    ids = await make_organizations(identity_database, 3)
    async with billing.watch(identity.port, handler):
        await handler.until(*ids)
        await billing.execute(
            "UPDATE billing.watch_positions SET holder = gen_random_uuid(), lease_expire_time = now() + interval '1 h'"
        )
        going_on.set()
        await asyncio.sleep(0.5)
        assert await billing.position() == 0
        assert len(handler.calls) == 3
        await billing.execute("UPDATE billing.watch_positions SET lease_expire_time = now()")
        await until_true(lambda: len(handler.calls) == 6)


async def test_ten_thousand_organizations_are_handled_a_page_at_a_time(
    identity: Identity, identity_database: Database, billing: Billing
) -> None:
    await make_organizations(identity_database, 10_000)
    handled: set[str] = set()
    kept: list[int] = []

    async def count(organization: Organization) -> None:
        handled.add(organization.organization_id)
        if len(handled) % 2_500 == 0:
            kept.append(sum(isinstance(one, Organization) for one in gc.get_objects()))

    async def keep_nothing(organization: Organization) -> None:
        handler.calls.clear()
        await count(organization)

    handler = Handler(behaviour=keep_nothing)
    async with billing.watch(identity.port, handler):
        await until_true(lambda: len(handled) == 10_000, progress=lambda: len(handled))
        await until_true(lambda: billing.is_at(10_000))
    assert len(kept) == 4
    assert max(kept) <= 1_000


async def test_organizations_that_fail_are_set_aside_and_tried_again_and_stop_no_other(
    identity: Identity, identity_database: Database, billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_HANDLE_WITHIN_S", 0.2)
    refused, unexpected, timed_out, hanging, *good = await make_organizations(identity_database, 6)
    problems = {
        refused: NotFound(resource_type="\x00", resource_name="x"),
        unexpected: ValueError("x"),
        timed_out: TimeoutError("x"),
    }

    async def fail(organization: Organization) -> None:
        if organization.organization_id == hanging:
            await asyncio.Event().wait()
        if organization.organization_id in problems:
            raise problems[organization.organization_id]

    handler = Handler(behaviour=fail)

    def attempts() -> list[int]:
        return [sum(one.organization_id == bad for one in handler.calls) for bad in (*problems, hanging)]

    async with billing.watch(identity.port, handler):
        await until_true(lambda: billing.is_at(6))
        assert await billing.unhandled() == {
            refused: "NOT_FOUND: There is no such \ufffd.",
            unexpected: "ValueError",
            timed_out: "TimeoutError",
            hanging: "It took longer than 0.2 s.",
        }
        (later,) = await make_organizations(identity_database, 1)
        await handler.until(*good, later)
        billing.clock.advance(timedelta(seconds=11))
        await until_true(lambda: attempts() == [2] * 4)
        # The next attempts are further away.
        billing.clock.advance(timedelta(seconds=4))
        await asyncio.sleep(0.3)
        assert attempts() == [2] * 4
        handler.behaviour = None
        billing.clock.advance(timedelta(seconds=21))
        await until_true(billing.has_set_nothing_aside)
        assert attempts() == [3] * 4


async def test_news_of_an_organization_replace_what_was_set_aside_of_it(identity: Identity, billing: Billing) -> None:
    async def fail(organization: Organization) -> None:
        if organization.organization_id == organization_id and organization.delete_time is None:
            raise ValueError

    handler = Handler(behaviour=fail)
    organization_id, _ = await identity.create_organization()
    async with billing.watch(identity.port, handler):
        await until_true(lambda: billing.has_set_aside(organization_id))
        await delete_organization(identity, organization_id)
        await until_true(lambda: any(one.delete_time for one in handler.calls))
        await until_true(billing.has_set_nothing_aside)
        billing.clock.advance(timedelta(days=1))
        await asyncio.sleep(0.3)
    (*_, last) = [one for one in handler.calls if one.organization_id == organization_id]
    assert last.delete_time is not None


async def test_one_organization_is_never_handled_twice_at_a_time(identity: Identity, billing: Billing) -> None:
    going_on, attempts = asyncio.Event(), 0

    async def fail_then_wait(organization: Organization) -> None:
        nonlocal attempts
        if organization.organization_id != organization_id:
            return
        attempts += 1
        if attempts == 1:
            raise ValueError
        await going_on.wait()

    handler = Handler(behaviour=fail_then_wait)
    organization_id, _ = await identity.create_organization()
    async with billing.watch(identity.port, handler):
        await until_true(lambda: billing.has_set_aside(organization_id))
        billing.clock.advance(timedelta(seconds=11))
        await until_true(lambda: attempts == 2)
        await delete_organization(identity, organization_id)
        await asyncio.sleep(0.3)
        assert attempts == 2
        going_on.set()
        await until_true(lambda: attempts == 3)
        await until_true(billing.has_set_nothing_aside)
    assert handler.calls[-1].delete_time is not None


async def test_stream_that_falls_silent_is_opened_again(
    identity: Identity, identity_database: Database, billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_HEARTBEAT_S", 3600)
    monkeypatch.setattr(watch_module, "_SILENCE_MAX_S", 0.1)
    handler = Handler()
    async with billing.watch(identity.port, handler):
        await handler.until(*await make_organizations(identity_database, 1))
        # From now on no open stream is woken, so that only a new one reads what is there.
        monkeypatch.setattr(feed_module.OrganizationFeed, "_wake", lambda _feed, _newest: None)
        await handler.until(*await make_organizations(identity_database, 1))


async def test_where_too_many_are_set_aside_no_more_are_taken_in_and_none_is_lost(
    identity: Identity, identity_database: Database, billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "UNHANDLED_MAX", 3)

    async def fail(_: Organization) -> None:
        raise ValueError

    handler = Handler(behaviour=fail)
    first = await make_organizations(identity_database, 3)
    async with billing.watch(identity.port, handler):
        await until_true(lambda: billing.is_at(3))
        second = await make_organizations(identity_database, 3)
        await asyncio.sleep(0.5)
        assert handler.ids == set(first)
        assert await billing.position() == 3
        handler.behaviour = None
        billing.clock.advance(timedelta(seconds=11))
        await handler.until(*second)
        await until_true(lambda: billing.is_at(6))
        assert await billing.unhandled() == {}


async def test_after_identity_was_restored_to_an_earlier_state_everything_is_handled_again(
    identity: Identity, identity_database: Database, billing: Billing
) -> None:
    ids = await make_organizations(identity_database, 3)
    await billing.execute(
        "INSERT INTO billing.watch_positions VALUES ('organizations', 1000000, gen_random_uuid(), now())"
    )
    await billing.execute(
        "INSERT INTO billing.unhandled_organizations"
        " VALUES (gen_random_uuid(), 999999, false, NULL, now(), NULL, 'lost', 1, now(), now())"
    )
    handler = Handler()
    async with billing.watch(identity.port, handler):
        await handler.until(*ids)
        await until_true(lambda: billing.is_at(3))
    assert await billing.unhandled() == {}


def test_attempts_become_rarer_and_never_stop() -> None:
    waits_s = [backoff(attempt).total_seconds() for attempt in range(1, 1_000)]
    assert all(5 <= wait_s <= 3_600 for wait_s in waits_s)
    assert min(waits_s[12:]) >= 1_800
