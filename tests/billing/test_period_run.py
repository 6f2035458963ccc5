"""The run of periods: each period once, in order, whatever crashes, however late; and one that fails stops no other."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from libs.common.errors import Unavailable
from libs.common.ids import new_id
from services.billing import errors
from services.billing.ledger.domain import SettleGrants
from services.billing.plan.domain import Interval, IntervalUnit, PastDueEnd, Rollover
from services.billing.subscription import event_store, execution, run_store
from services.billing.subscription.domain import Subject, Subscription
from services.billing.subscription.states import EventKind, State
from tests.billing import dying_run
from tests.billing.period_house import DAY, House, open_house, pending, terms, utc
from tests.support.clock import FixedClock
from tests.support.forked import exit_code_of
from tests.support.kills import KILLS_AT_EACH_POINT
from tests.support.sharded import execute_in_shards

STARTED = EventKind.PERIOD_STARTED


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(utc("2026-01-31"))


@pytest.fixture
async def house(database_urls: dict[str, str], clock: FixedClock) -> AsyncIterator[House]:
    async with open_house(database_urls["billing"], clock) as house:
        yield house
        assert await house.findings() == []


async def kinds(house: House, subscription: Subscription) -> list[EventKind]:
    return [event.kind for event in await house.events(subscription)]


@pytest.mark.shards
async def test_a_year_without_any_run_is_caught_up_in_order(house: House, clock: FixedClock) -> None:
    plan = await house.plan("monthly", terms(10, included=100))
    subscription = await house.add(pending(plan, clock.now()))
    await house.pay_in(subscription.organization_id, "1000")
    clock.set(utc("2027-02-01"))
    assert await house.work_off() == 13
    events = await house.events(subscription)
    days = [event.effective_time.strftime("%m-%d") for event in events[1:]]
    short = ["01-31", "02-28", "03-31", "04-30", "05-31", "06-30", "07-31", "08-31"]
    assert days == [*short, "09-30", "10-31", "11-30", "12-31", "01-31"]
    assert [event.sequence for event in events] == list(range(1, 15))
    assert (await house.statement(subscription.organization_id))[-1][3:] == ("-10", "870")
    credits_ = await house.statement(subscription.organization_id, "CREDIT")
    assert Counter((kind, amount) for _, kind, _, amount, _ in credits_) == {
        ("GRANT", "100"): 13,
        ("EXPIRY", "-100"): 12,
    }
    assert [line[0] for line in credits_ if line[1] == "GRANT"][1] == "2026-02-28"


@pytest.mark.parametrize(
    ("rollover", "most", "expected"),
    [(Rollover.NONE, None, "100"), (Rollover.ALL, None, "170"), (Rollover.UP_TO, 120, "120")],
)
async def test_a_grant_at_the_very_reset_is_there_once(
    house: House, clock: FixedClock, rollover: Rollover, most: int | None, expected: str
) -> None:
    """Acceptance 11: 100 a month, 30 used; and a promotional grant of 200 is left alone."""
    clock.set(utc("2026-09-01"))
    plan = await house.plan("refilled", terms(0, included=100, rollover=rollover, rollover_max=most))
    subscription = await house.add(pending(plan, clock.now()))
    org = subscription.organization_id
    await house.work_off()
    assert (await house.statement(org, "CREDIT"))[-1][4] == "100"
    await house.use(org, "30")
    await house.promote(org, "200")
    clock.set(utc("2026-10-01"))
    await house.work_off()
    await house.engine.settle_grants([SettleGrants(org, "", None, "CREDIT")])
    assert (await house.statement(org, "CREDIT"))[-1][4] == str(int(expected) + 200)


async def test_local_months_begin_at_local_midnight_also_where_clocks_change(house: House, clock: FixedClock) -> None:
    clock.set(utc("2026-02-28T23:00"))
    plan = await house.plan("berlin", terms(31))
    subscription = await house.add(pending(plan, clock.now(), zone="Europe/Berlin"))
    await house.pay_in(subscription.organization_id, "1000")
    await house.work_off()
    clock.set(utc("2026-03-31T21:59:59"))
    assert await house.work_off() == 0
    clock.set(utc("2026-03-31T22:00"))
    assert await house.work_off() == 1
    clock.set(utc("2026-10-31T22:59:59"))
    assert await house.work_off() == 6
    clock.set(utc("2026-10-31T23:00"))
    assert await house.work_off() == 1


async def test_what_cannot_be_paid_is_past_due_and_a_plan_that_is_free_takes_over(
    house: House, clock: FixedClock
) -> None:
    free = await house.plan("gratis", terms(0, included=5))
    own = terms(10, included=100, retries=(DAY, 3 * DAY), end=PastDueEnd.CHANGE_PLAN, fallback="gratis")
    plan = await house.plan("paid", own)
    subscription = await house.add(pending(plan, clock.now()))
    await house.pay_in(subscription.organization_id, "10")
    # Nobody works off what is due for a while, and then once a day.
    for day, attempts in (("03-10", 1), ("03-11", 2), ("03-12", 2)):
        clock.set(utc(f"2026-{day}"))
        await house.work_off()
        found = await house.find(subscription)
        assert (found.state, found.payment_attempts) == (State.PAST_DUE, attempts)
    clock.set(utc("2026-03-13"))
    await house.work_off()
    found = await house.find(subscription)
    assert (found.state, found.plan, found.owed) == (State.ACTIVE, free, None)
    assert await kinds(house, subscription) == [
        *(EventKind.CREATED, STARTED, STARTED, EventKind.PAYMENT_REFUSED, EventKind.PAYMENT_REFUSED),
        EventKind.PLAN_CHANGED,
    ]
    assert len(await house.statement(subscription.organization_id)) == 2


async def test_a_change_by_a_process_whose_clock_is_behind_comes_after_what_others_did(
    house: House, clock: FixedClock
) -> None:
    daily = await house.plan("daily", terms(5, interval=Interval(IntervalUnit.DAY), included=5))
    monthly = await house.plan("monthly", terms(30, included=30))
    clock.set(utc("2026-09-01"))
    subscription = await house.add(pending(daily, clock.now()))
    await house.pay_in(subscription.organization_id, "100")
    await house.work_off()
    clock.set(utc("2026-09-02"))
    await house.work_off()
    clock.set(utc("2026-09-01T23:59:59"))
    key = subscription.organization_id, subscription.subscription_id
    changed = await house.progress.change_plan_now(*key, plan=monthly, actor="operator:test")
    assert changed.event is not None
    assert [f"{one.amount.value:f}" for one in changed.event.lines] == ["-5.000000000", "30.000000000"]
    assert changed.subscription.period_start_time == utc("2026-09-02")
    assert [one[3] for one in await house.statement(subscription.organization_id)] == ["100", "-5", "-5", "-25"]


async def test_an_archived_fallback_plan_ends_the_subscription(
    house: House, clock: FixedClock, database_admin_url: str
) -> None:
    await house.plan("gratis", terms(0))
    plan = await house.plan("paid", terms(10, end=PastDueEnd.CHANGE_PLAN, fallback="gratis"))
    subscription = await house.add(pending(plan, clock.now()))
    await execute_in_shards(
        database_admin_url, "UPDATE billing.plans SET archive_time = now() WHERE plan_code = 'gratis'"
    )
    await house.work_off()
    found = await house.find(subscription)
    assert (found.state, found.due_time) == (State.CANCELLED, None)
    assert "gratis cannot replace it" in found.state_reason


async def test_money_in_another_currency_is_no_money(house: House, clock: FixedClock) -> None:
    plan = await house.plan("paid", terms(10, retries=(DAY,)))
    subscription = await house.add(pending(plan, clock.now()))
    await house.pay_in(subscription.organization_id, "100", "EUR")
    await house.work_off()
    found = await house.find(subscription)
    assert (found.state, found.payment_attempts, found.set_aside_time) == (State.PENDING, 1, None)
    assert found.next_payment_time == clock.now() + timedelta(days=1)


@pytest.mark.shards
async def test_subscriptions_that_fail_are_set_aside_and_stop_no_other(
    house: House, clock: FixedClock, database_admin_url: str
) -> None:
    plan = await house.plan("paid", terms(10, included=100))
    subscriptions = [await house.add(pending(plan, clock.now())) for _ in range(12)]
    for one in subscriptions:
        await house.pay_in(one.organization_id, "100")
    closed, lost, nowhere, twice = subscriptions[2], subscriptions[5], subscriptions[7], subscriptions[9]

    async def damage(statement: str, subscription: Subscription) -> None:
        await execute_in_shards(
            database_admin_url,
            f"{statement} WHERE organization_id = '{subscription.organization_id}'",
        )

    await damage("UPDATE billing.accounts SET state = 'CLOSED', revision = revision + 1", closed)
    await damage("UPDATE billing.subscriptions SET plan_version = 99", lost)
    await damage("UPDATE billing.subscriptions SET time_zone = 'Mars/Olympus'", nowhere)
    # Its first period is there already, so that writing the batch fails as a whole.
    await damage(
        "INSERT INTO billing.subscription_events SELECT organization_id, subscription_id, 99, 'PERIOD_STARTED', false,"
        " from_state, to_state, reason, actor, request_id, plan_code, plan_version, effective_time,"
        " effective_time + interval '1 month', effective_time, NULL, NULL, NULL, '{}', details, create_time"
        " FROM billing.subscription_events",
        twice,
    )
    await house.work_off()
    reasons = {}
    for one in subscriptions:
        found = await house.find(one)
        if found.set_aside_time is None:
            assert (found.state, found.period_paid) == (State.ACTIVE, True)
        else:
            reasons[one.subscription_id] = found.set_aside_reason.split(":")[0]
    assert reasons == {
        closed.subscription_id: "ACCOUNT_CLOSED",
        lost.subscription_id: "LookupError",
        nowhere.subscription_id: "UnknownTimeZone",
        twice.subscription_id: "ConstraintViolation",
    }
    assert await house.work_off() == 0

    await damage("UPDATE billing.accounts SET state = 'OPEN', revision = revision + 1", closed)
    await damage("UPDATE billing.subscriptions SET plan_version = 1", lost)
    await damage("UPDATE billing.subscriptions SET time_zone = 'UTC'", nowhere)
    for one in (closed, lost, nowhere):
        await house.progress.retry_payment(one.organization_id, one.subscription_id, actor="operator:test")
        found = await house.find(one)
        assert (found.state, found.set_aside_time) == (State.ACTIVE, None)
        assert (await house.statement(one.organization_id))[-1][4] == "90"
    await execute_in_shards(
        database_admin_url,
        "UPDATE billing.subscription_events SET kind = 'UPDATED', sequence = 2, to_state = 'PENDING',"
        " period_start_time = NULL, period_end_time = NULL WHERE sequence = 99",
    )
    await damage("UPDATE billing.subscriptions SET last_sequence = 2", twice)


@pytest.mark.shards
async def test_two_workers_do_each_period_once(house: House, clock: FixedClock, database_urls: dict[str, str]) -> None:
    plan = await house.plan("shared", terms(1, included=3))
    subscriptions = [await house.add(pending(plan, clock.now())) for _ in range(450)]
    await asyncio.gather(*(house.pay_in(one.organization_id, "100") for one in subscriptions))
    clock.set(utc("2026-03-01"))
    async with open_house(database_urls["billing"], clock) as other:
        done = await asyncio.gather(house.work_off(), other.work_off())
    # One locks 400 of a shard at most, so both have work; which of them gets how much is chance.
    assert sum(done) == 900
    assert all(done)
    for one in subscriptions:
        assert await kinds(house, one) == [EventKind.CREATED, STARTED, STARTED]
        assert (await house.statement(one.organization_id))[-1][4] == "98"


@pytest.mark.shards
async def test_a_caller_and_the_run_at_the_same_time_charge_once(house: House, clock: FixedClock) -> None:
    plan = await house.plan("paid", terms(10, included=100))
    subscriptions = [await house.add(pending(plan, clock.now())) for _ in range(20)]
    await asyncio.gather(*(house.pay_in(one.organization_id, "100") for one in subscriptions))
    await asyncio.gather(
        house.work_off(),
        *(house.progress.run_due(one.organization_id, one.subscription_id, clock.now()) for one in subscriptions),
    )
    for one in subscriptions:
        assert await kinds(house, one) == [EventKind.CREATED, STARTED]


async def until_no_transaction_is_open(house: House) -> None:
    """Wait until Postgres has rolled back what a killed process had begun: the next one skips rows that are locked."""
    others = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(30), house.shards[0].raw_connection() as connection:
        while await connection.fetchval(others):  # noqa: ASYNC110 -- Postgres tells of no end.
            await asyncio.sleep(0.01)


@pytest.mark.shards
@pytest.mark.timeout(300)
async def test_sigkill_at_every_commit_leaves_nothing_missed_or_doubled(
    house: House, clock: FixedClock, database_urls: dict[str, str]
) -> None:
    start = clock.now()
    paid = await house.plan("paid", terms(10, included=100, retries=(DAY,), end=PastDueEnd.SUSPEND))
    kept = await house.plan("kept", terms(0, included=100, rollover=Rollover.UP_TO, rollover_max=150))
    ids = {name: pending(plan, start) for name, plan in (("a", paid), ("b", paid), ("poor", paid), ("kept", kept))}
    ids["trial"] = pending(paid, start, trial_end=start + timedelta(days=3))
    ids["user"] = pending(paid, start, subject=Subject.USER)
    ids["model"] = pending(None, start, subject=Subject.MODEL)
    ids["minimum"] = pending(await house.plan("at-least", terms(10, minimum="5")), start)
    for one in ids.values():
        await house.add(one)
        await house.pay_in(one.organization_id, "10000" if one is not ids["poor"] else "15")
    clock.set(utc("2030-01-15"))
    killed: Counter[str] = Counter()
    for commit in dying_run.COMMITS * KILLS_AT_EACH_POINT:
        ended = await exit_code_of(dying_run.run, database_urls["billing"], clock.now(), commit)
        assert ended == -signal.SIGKILL
        await until_no_transaction_is_open(house)
        killed[commit] += 1
    assert killed == dict.fromkeys(dying_run.COMMITS, KILLS_AT_EACH_POINT)
    await house.work_off()
    # From 31 January 2026 until the end of 2029 there are 48 periods.
    for name in ("a", "b", "user"):
        assert Counter(await kinds(house, ids[name])) == {EventKind.CREATED: 1, STARTED: 48}, name
        assert (await house.statement(ids[name].organization_id))[-1][4] == str(10_000 - 480)
    for name in ("kept", "model"):
        assert Counter(await kinds(house, ids[name])) == {EventKind.CREATED: 1, STARTED: 48}
    assert (await house.statement(ids["kept"].organization_id, "CREDIT"))[-1][4] == "150"
    assert Counter(await kinds(house, ids["trial"]))[STARTED] == 48
    expected = {EventKind.CREATED: 1, STARTED: 48, EventKind.MINIMUM_CHARGED: 47}
    assert Counter(await kinds(house, ids["minimum"])) == expected
    assert (await house.statement(ids["minimum"].organization_id))[-1][4] == str(10_000 - 480 - 47 * 5)
    assert (await house.find(ids["poor"])).state is State.PAST_DUE
    clock.set(utc("2030-01-16"))
    await house.work_off()
    assert (await house.find(ids["poor"])).state is State.SUSPENDED


async def test_a_change_that_dies_between_money_and_answer_is_made_once(
    house: House, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (
        await house.plan("small", terms(30, included=300)),
        await house.plan("large", terms(60, included=600)),
    )
    clock.set(utc("2026-09-01"))
    subscription = await house.add(pending(small, clock.now()))
    org, key = subscription.organization_id, (subscription.organization_id, subscription.subscription_id)
    await house.pay_in(org, "100")
    await house.work_off()
    clock.set(utc("2026-09-16"))

    async def lost(*_: object) -> None:
        raise Unavailable(dependency="database")

    with monkeypatch.context() as patched:
        patched.setattr(execution.Execution, "_complete", lost)
        with pytest.raises(Unavailable):
            await house.progress.change_plan_now(*key, plan=large, actor="operator:test", request_id="r-1")
    assert (await house.find(subscription)).plan == small
    for _ in range(2):
        changed = await house.progress.change_plan_now(*key, plan=large, actor="operator:test", request_id="r-1")
        assert changed.replayed
        assert changed.event is not None
        assert changed.event.charge is not None
        assert changed.event.charge.value == 15
    assert (await house.find(subscription)).plan == large
    assert [line[3] for line in await house.statement(org)] == ["100", "-30", "-15"]
    credits_ = [(kind, amount) for _, kind, _, amount, _ in await house.statement(org, "CREDIT")]
    assert credits_ == [("GRANT", "300"), ("VOID", "-300"), ("GRANT", "300")]


async def test_a_refused_change_changes_nothing_and_can_be_made_later(house: House, clock: FixedClock) -> None:
    small, large = await house.plan("small", terms(30, included=300)), await house.plan("large", terms(60))
    clock.set(utc("2026-09-01"))
    subscription = await house.add(pending(small, clock.now()))
    org, key = subscription.organization_id, (subscription.organization_id, subscription.subscription_id)
    await house.pay_in(org, "44")
    await house.work_off()
    clock.set(utc("2026-09-16"))
    with pytest.raises(errors.InsufficientBalance):
        await house.progress.change_plan_now(*key, plan=large, actor="operator:test", request_id="r-1")
    found = await house.find(subscription)
    assert (found.plan, found.state) == (small, State.ACTIVE)
    assert (await house.statement(org, "CREDIT"))[-1][4] == "300"
    await house.pay_in(org, "1")
    preview = await house.progress.preview_change(*key, plan=large)
    changed = await house.progress.change_plan_now(*key, plan=large, actor="operator:test", request_id="r-1")
    assert preview.event is not None
    assert changed.event is not None
    assert (preview.event.lines, preview.event.charge) == (changed.event.lines, changed.event.charge)
    assert (await house.statement(org))[-1][3:] == ("-15", "0")


@pytest.mark.shards
async def test_what_is_due_and_planned_is_found_by_an_index(house: House) -> None:
    org, some = new_id(), new_id()
    asked: list[tuple[str, str, tuple[object, ...]]] = [
        ("subscriptions_due", run_store._LOCK_DUE, (utc("2026-01-31"), 200)),
        ("subscriptions_due", run_store._COUNT_DUE, (utc("2026-01-31"), 200)),
        ("subscription_events_planned_once", run_store._PLANNED, ([org], [some])),
        ("subscription_events_pkey", event_store._OF_REQUEST, (org, some, "r-1")),
        ("subscription_events_pkey", run_store._MAKE_DONE, ([org], [some], [3])),
    ]
    async with house.shards[0].raw_transaction() as connection:
        for way in ("seqscan", "bitmapscan", "sort"):
            await connection.execute(f"SET LOCAL enable_{way} = off")
        for index, statement, values in asked:
            plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *values))
            assert f"using {index} on" in plan, plan
            assert "Seq Scan" not in plan
