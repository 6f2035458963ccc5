"""Webhooks are kept once, answered at once, and brought to the payments, whatever happens."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from libs.common.database import Database, open_database
from libs.common.errors import InvalidArgument, NotFound, Refusal, Unavailable
from services.billing.errors import WebhookIdReused, WebhookNotWaiting, WebhookSignatureRefused
from services.billing.payment.provider import Applied, Changes, Fact, RefusedFor, Result
from services.billing.payment.providers import http
from services.billing.payment.providers.lemon_squeezy.provider import LemonSqueezy
from services.billing.payment.providers.stripe.provider import Stripe
from services.billing.payment.webhook import retention
from services.billing.payment.webhook import worker as worker_module
from services.billing.payment.webhook.domain import BODY_BYTES_MAX, FAILURES_MAX, State
from services.billing.payment.webhook.webhooks import Filter
from tests.billing.test_provider_facts import lemon_life, stripe_life
from tests.billing.webhook_house import Book, House, close, eventually, house_of
from tests.support.clock import FixedClock
from tests.support.providers.stripe import FakeStripe

EVENTS = stripe_life().events


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WAIT_FIRST_S", 0.001)


@pytest.fixture
async def house(platform: Database, clock: FixedClock) -> AsyncIterator[House]:
    house = house_of(platform, clock, FakeStripe(clock=clock), lemon_life(), Book())
    yield house
    await close(house)


async def test_webhook_that_comes_twenty_times_at_once_is_kept_and_applied_once(house: House) -> None:
    answers = await asyncio.gather(*(house.send(EVENTS[0]) for _ in range(20)))
    assert len({one.webhook_id for one in answers}) == 1
    assert sorted(one.replayed for one in answers) == [False] + [True] * 19
    await house.work()
    assert list(house.book.brought.values()) == [1]
    assert (await house.send(EVENTS[0])).replayed
    assert await house.work() == 0
    assert await house.counted() == {"RECEIVED": 1, "REPEATED": 20, "APPLIED": 1}


async def test_every_event_of_both_providers_is_applied_and_its_body_is_not_kept_longer(house: House) -> None:
    documents: list[dict[str, Any]] = [*EVENTS, *house.lemon.webhooks]
    answers = await asyncio.gather(*map(house.send, documents))
    kept = [one for one in answers if one.webhook_id]
    assert len(kept) == len({one.webhook_id for one in kept}) >= 25
    await house.work()
    rows = await house.rows()
    assert {(row["state"], row["body"]) for row in rows} == {("APPLIED", None)}
    assert sum(house.book.brought.values()) == len(kept)


async def test_what_is_forged_too_large_or_unreadable_is_counted_and_nothing_else_is_kept(house: House) -> None:
    headers, body = house.stripe.webhook(EVENTS[0])
    receive = house.inbox.receive
    for sent_headers, sent_body in (
        ({}, body),
        (headers, body + b" "),
        (house.stripe.webhook(EVENTS[0], "x")[0], body),
    ):
        with pytest.raises(WebhookSignatureRefused):
            await receive("stripe", sent_headers, sent_body)
    with pytest.raises(InvalidArgument):
        await receive("stripe", *house.stripe.webhook({"x": "y" * BODY_BYTES_MAX}))
    for unreadable in ({"x": 1}, EVENTS[0] | {"data": None}):
        with pytest.raises(InvalidArgument):
            await receive("stripe", *house.stripe.webhook(unreadable))
    house.clock.advance(timedelta(minutes=5, seconds=1))
    with pytest.raises(WebhookSignatureRefused):
        await receive("stripe", headers, body)
    for unknown in ("paypal", "", "stripe\x00"):
        with pytest.raises(NotFound):
            await receive(unknown, headers, body)
    assert await house.rows() == []
    assert await house.counted() == {"FORGED": 4, "OVERSIZED": 1, "UNREADABLE": 2}


async def test_largest_body_is_taken(house: House) -> None:
    event = EVENTS[0] | {"filler": ""}
    room = BODY_BYTES_MAX - len(json.dumps(event))
    assert (await house.send(event | {"filler": "x" * room})).webhook_id


async def test_same_event_with_another_content_is_refused_and_with_other_bytes_it_is_the_same(house: House) -> None:
    await house.send(EVENTS[0])
    event = json.loads(json.dumps(EVENTS[0]))
    assert (await house.send(event | {"pending_webhooks": 7})).replayed
    event["data"]["object"]["amount"] += 1
    for _ in range(2):
        with pytest.raises(WebhookIdReused):
            await house.send(event)
    await house.work()
    assert [fact.amount for fact in house.book.brought] == [10]  # type: ignore[union-attr]
    assert (await house.counted())["ALTERED"] == 2


async def test_other_mode_and_other_store_are_kept_as_refused_and_never_applied_nor_when_tried_again(
    house: House,
) -> None:
    house.stripe.livemode = False
    of_test = json.loads(json.dumps(EVENTS[0]))
    of_test["data"]["object"]["livemode"] = False
    of_other = EVENTS[1] | {"account": "acct_other"}
    lemon = json.loads(json.dumps(house.lemon.webhooks[0]))
    lemon["data"]["attributes"]["store_id"] = 8
    for document in (of_test, of_other, lemon):
        assert not (await house.send(document)).replayed
    assert await house.work() == 0
    assert [(row["state"], row["reason"]) for row in await house.rows()] == [
        ("REFUSED", "ANOTHER_MODE"),
        ("REFUSED", "ANOTHER_STORE"),
        ("REFUSED", "ANOTHER_STORE"),
    ]
    assert (await house.counted())["REFUSED"] == 2
    assert (await house.counted("lemon_squeezy"))["REFUSED"] == 1
    for row in await house.rows():
        await house.webhooks.retry(str(row["webhook_id"]))
    assert await house.work() == 3
    assert [row["reason"] for row in await house.rows()] == ["ANOTHER_MODE", "ANOTHER_STORE", "ANOTHER_STORE"]
    assert house.book.brought == {}


async def test_event_that_says_nothing_of_payments_is_answered_and_counted(house: House) -> None:
    assert (await house.send(EVENTS[0] | {"type": "product.created"})).webhook_id == ""
    assert await house.rows() == []
    assert await house.counted() == {"IGNORED": 1}


async def test_unknown_object_is_tried_again_until_it_is_known_and_then_set_aside(house: House) -> None:
    house.book.decide = lambda _: Applied(Result.PARKED, detail="Its checkout is not known.")
    received = await house.send(EVENTS[0])
    await house.send(EVENTS[1])
    for attempt in range(1, 5):
        assert await house.work() == 2
        assert await house.work() == 0
        house.clock.advance(timedelta(seconds=2**attempt))
    assert set((await house.states()).values()) == {"PARKED"}
    house.book.decide = lambda fact: Applied(Result.APPLIED if fact in first else Result.PARKED)
    first = set(list(house.book.brought)[:1])
    await house.work()
    assert sorted((await house.states()).values()) == ["APPLIED", "PARKED"]
    house.clock.advance(timedelta(days=3))
    await house.work()
    assert sorted((await house.states()).values()) == ["APPLIED", "SET_ASIDE"]
    page, token = await house.webhooks.page(Filter(State.SET_ASIDE, "stripe"), 10, "")
    assert (len(page), token, page[0].reason) == (1, "", "What it names is not known.")
    # An operator has mended what was wrong.
    house.book.decide = lambda _: Applied(Result.APPLIED)
    for _ in range(2):
        assert (await house.webhooks.retry(page[0].webhook_id)).state is State.WAITING
    await house.work()
    assert set((await house.states()).values()) == {"APPLIED"}
    with pytest.raises(WebhookNotWaiting):
        await house.webhooks.retry(received.webhook_id)
    with pytest.raises(NotFound):
        await house.webhooks.retry("0190a0a0-0000-7000-8000-000000000001")


async def test_refused_fact_is_kept_with_its_reason(house: House) -> None:
    house.book.decide = lambda _: Applied(Result.REFUSED, RefusedFor.WRONG_AMOUNT, detail="It is less than the price.")
    await house.send(EVENTS[0])
    await house.work()
    ((state, reason),) = [(row["state"], row["reason"]) for row in await house.rows()]
    assert (state, reason) == ("REFUSED", "WRONG_AMOUNT: It is less than the price.")


async def test_one_that_fails_or_hangs_holds_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_SLOW_AFTER_S", 0.05)
    for event in EVENTS:
        await house.send(event)
    seen: list[Fact] = []
    released = asyncio.Event()

    async def trouble(fact: Fact) -> None:
        seen.append(fact)
        if len(seen) == 1:
            raise LookupError("a bug")
        if len(seen) == 2:
            await released.wait()

    house.book.before = trouble
    await house.worker.apply_due()
    kept = len(await house.rows())

    async def others_applied() -> bool:
        return sorted((await house.states()).values()) == ["APPLIED"] * (kept - 2) + ["WAITING"] * 2

    await eventually(others_applied)
    released.set()
    house.book.before = None
    await house.worker.close()
    house.clock.advance(timedelta(minutes=2))
    await house.work()
    assert set((await house.states()).values()) == {"APPLIED"}


async def test_error_of_ours_is_tried_for_half_a_day_and_what_is_out_of_reach_for_ever(house: House) -> None:
    async def fail(_: Fact) -> None:
        raise LookupError

    async def unreachable(_: Fact) -> None:
        raise Unavailable(dependency="database")

    await house.send(EVENTS[0])
    for before, state in ((unreachable, "WAITING"), (fail, "SET_ASIDE")):
        house.book.before = before
        for _ in range(FAILURES_MAX + 5):
            await house.work()
            house.clock.advance(timedelta(hours=1))
        assert set((await house.states()).values()) == {state}
    assert [row["reason"] for row in await house.rows()] == ["LookupError"]


async def test_processes_share_the_work_without_doing_anything_twice(
    house: House, database_urls: dict[str, str], clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_BATCH_MAX", 5)
    for event in EVENTS:
        await house.send(event)
    databases = [open_database(database_urls["billing"], schema="billing", pool_size=2) for _ in range(3)]
    houses = [house_of(database, clock, house.stripe, house.lemon, house.book) for database in databases]
    await asyncio.gather(*(one.work() for one in houses))
    assert set((await house.states()).values()) == {"APPLIED"}
    assert set(house.book.brought.values()) == {1}
    for one, database in zip(houses, databases, strict=True):
        await close(one)
        await database.close()


async def test_process_that_dies_at_any_point_leaves_the_rest_to_the_next_one(house: House) -> None:
    """Killed while facts are applied, or before what became of them is stored."""
    for event in EVENTS:
        await house.send(event)
    reached = asyncio.Event()

    async def hang(_: Fact) -> None:
        if len(house.book.brought) >= 3:
            reached.set()
            await asyncio.Event().wait()

    house.book.before = hang
    dying = asyncio.create_task(house.worker.apply_due())
    await reached.wait()
    dying.cancel()
    with suppress(asyncio.CancelledError):
        await dying
    assert set((await house.states()).values()) == {"WAITING"}
    house.book.before = None
    assert await house.work() == 0
    house.clock.advance(worker_module.CLAIMED_FOR)
    await house.work()
    assert set((await house.states()).values()) == {"APPLIED"}
    assert max(house.book.brought.values()) <= 2


async def test_lost_webhooks_are_made_up_for_by_asking(house: House) -> None:
    async with house.stripe.serving(), house.lemon.serving():
        fresh = house_of(house.platform, house.clock, house.stripe, house.lemon, house.book)
        house.stripe.events = list(EVENTS)
        house.clock.advance(timedelta(hours=1))
        assert await fresh.reconciliation.ask_due() == 4
        brought = dict(house.book.brought)
        assert {fact.provider for fact in brought} == {"stripe", "lemon_squeezy"}
        # Not before it is time again, and then only for the last days.
        assert await fresh.reconciliation.ask_due() == 0
        house.clock.advance(timedelta(minutes=10))
        assert await fresh.reconciliation.ask_due() == 2
        house.clock.advance(timedelta(days=1))
        assert await fresh.reconciliation.ask_due() == 4
        await close(fresh)


async def test_provider_that_hangs_keeps_no_other_from_being_asked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> AsyncIterator[Changes]:
        await asyncio.Event().wait()
        yield Changes(())

    monkeypatch.setattr(Stripe, "changed_since", hang)
    async with house.lemon.serving():
        fresh = house_of(house.platform, house.clock, house.stripe, house.lemon, house.book)
        asking = asyncio.create_task(fresh.reconciliation.run())

        async def is_asked() -> bool:
            async with house.platform.raw_connection() as connection:
                ended = "SELECT provider FROM billing.payment_reconciliations WHERE last_end_time IS NOT NULL"
                return [row["provider"] for row in await connection.fetch(ended)] == ["lemon_squeezy"] * 2

        await eventually(is_asked)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await close(fresh)


async def test_three_months_in_which_nobody_asked_are_asked_for_afterwards(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[timedelta] = []
    ask = LemonSqueezy.changed_since

    def note(provider: LemonSqueezy, since: datetime) -> AsyncIterator[Changes]:
        asked.append(house.clock.now() - since)
        return ask(provider, since)

    monkeypatch.setattr(LemonSqueezy, "changed_since", note)
    async with house.stripe.serving(), house.lemon.serving():
        fresh = house_of(house.platform, house.clock, house.stripe, house.lemon, house.book)
        await fresh.reconciliation.ask_due()
        house.clock.advance(timedelta(days=90))
        await fresh.reconciliation.ask_due()
        house.clock.advance(timedelta(days=1))
        await fresh.reconciliation.ask_due()
        await close(fresh)
    recent, usual, gap = timedelta(days=3), timedelta(days=35), timedelta(days=93)
    assert asked == [recent, usual, recent, gap, recent, usual]


async def test_only_one_process_asks_at_a_time_and_one_that_died_keeps_nobody_from_asking(
    house: House, platform: Database
) -> None:
    asked = await asyncio.gather(*(house.reconciliation.ask_due() for _ in range(4)))
    assert sum(asked) == 4
    async with platform.raw_connection() as connection:
        # Nobody listens at the address of the provider, so it is asked again soon.
        failures = await connection.fetch("SELECT failure FROM billing.payment_reconciliations")
        assert all("ProviderDown" in row["failure"] for row in failures)
        await connection.execute(
            "UPDATE billing.payment_reconciliations SET turn_end_time = $1", house.clock.now() + timedelta(minutes=30)
        )
    house.clock.advance(timedelta(minutes=29))
    assert await house.reconciliation.ask_due() == 0
    house.clock.advance(timedelta(minutes=1))
    assert await house.reconciliation.ask_due() == 4


async def test_asking_by_hand_is_bounded(house: House) -> None:
    now = house.clock.now()
    for since in (now + timedelta(seconds=1), now - timedelta(days=36)):
        with pytest.raises(InvalidArgument):
            house.reconciliation.ask("", since)
    with pytest.raises(NotFound):
        house.reconciliation.ask("paypal", None)


async def test_counts_are_kept_until_they_can_be_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.send(EVENTS[0])

    def broken() -> Any:
        raise Unavailable(dependency="database")

    with monkeypatch.context() as patched:
        patched.setattr(house.platform, "raw_connection", broken)
        await house.counts.write()
    with suppress(Refusal):
        await house.counts.write()
    assert await house.counted() == {"RECEIVED": 1}


async def test_webhooks_are_deleted_90_days_after_their_end_and_those_that_wait_are_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than is deleted at a time.
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    events = [one for one in EVENTS if one["type"] == "payment_intent.succeeded"] * 3
    decisions = {
        "PARKED": Applied(Result.PARKED),
        "APPLIED": Applied(Result.APPLIED),
        "REFUSED": Applied(Result.REFUSED, RefusedFor.WRONG_AMOUNT),
    }
    for end, applied in decisions.items():
        house.book.decide = lambda _, applied=applied: applied  # type: ignore[misc]
        for number, event in enumerate(events):
            await house.send(event | {"id": f"{end}_{number}"})
        await house.work()
    house.book.decide = lambda _: decisions["PARKED"]
    house.clock.advance(timedelta(days=4))
    await house.work()
    await house.send(events[0] | {"id": "later"})
    await house.work()
    await house.counts.write()
    processes = [retention.Retention(house.platform, house.clock, timedelta(days=90)) for _ in range(2)]
    for hours, left in (
        (0, {"APPLIED", "REFUSED", "SET_ASIDE", "PARKED"}),
        (2_076, {"SET_ASIDE", "PARKED"}),
        (96, {"PARKED"}),
    ):
        house.clock.advance(timedelta(hours=hours))
        await asyncio.gather(*(one.delete_old() for one in processes))
        assert set((await house.states()).values()) == left
    assert not (await house.send(events[0] | {"id": "APPLIED_0"})).replayed
    assert await _count_rows(house) > 0
    house.clock.advance(timedelta(days=400))
    await processes[0].delete_old()
    assert await _count_rows(house) == 0


async def _count_rows(house: House) -> int:
    async with house.platform.raw_connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM billing.webhook_counts"))
