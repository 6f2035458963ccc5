"""Credit grants are used up in order, begin and expire at their times, and never expire under a hold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.billing.ledger.grants import (
    ZERO,
    Event,
    Grant,
    GrantKind,
    GrantState,
    Reserved,
    Standing,
    Step,
    after_use,
    due_steps,
    in_order,
    next_due,
)

START = datetime(2026, 11, 1, tzinfo=UTC)


def grant(
    grant_id: str,
    amount: str,
    *,
    priority: int = 0,
    days: int | None = None,
    begins: int = 0,
    kind: GrantKind = GrantKind.PROMOTIONAL,
    created: int = 0,
    state: GrantState = GrantState.ACTIVE,
) -> Grant:
    return Grant(
        grant_id,
        kind,
        priority,
        Decimal(amount),
        START + timedelta(days=begins),
        None if days is None else START + timedelta(days=days),
        START + timedelta(seconds=created),
        state,
        Decimal(amount),
    )


def standing(*grants: Grant) -> Standing:
    return Standing(ZERO, ZERO, in_order(grants))


def settle(
    last: Standing, scheduled: list[Grant], now: datetime, held_before: dict[datetime, Decimal]
) -> tuple[Standing, list[Step]]:
    """Settle grants of which nothing was used since the standing."""
    return due_steps(last, last.used, scheduled, now, Reserved(before=held_before))


def rests(of: Standing) -> dict[str, int]:
    """What is left of each active grant; the amounts here are whole."""
    return {one.grant_id: int(one.rest) for one in of.grants}


def test_grants_are_used_by_priority_then_end() -> None:
    """Acceptance case 10."""
    before = standing(
        grant("first", "10", priority=2, days=29),
        grant("second", "5", priority=1, days=60),
        grant("third", "5", priority=1, days=29),
    )
    after = after_use(before, Decimal(7))
    assert rests(after) == {"third": 0, "second": 3, "first": 10}


def test_with_the_same_priority_and_end_promotional_before_paid_and_the_older_first() -> None:
    paid = grant("paid", "5", kind=GrantKind.PURCHASED, created=0)
    included = grant("included", "5", kind=GrantKind.INCLUDED, created=1)
    newer, older = grant("newer", "5", created=3), grant("older", "5", created=2)
    assert [one.grant_id for one in in_order([paid, newer, included, older])] == ["older", "newer", "included", "paid"]


def test_use_beyond_all_grants_is_taken_from_the_rest_of_the_account() -> None:
    after = after_use(standing(grant("a", "5")), Decimal(8))
    assert (rests(after), int(after.used_beside)) == ({"a": 0}, 3)


def test_a_reversal_gives_back_what_was_used_last() -> None:
    before = after_use(standing(grant("a", "5", priority=1), grant("b", "5", priority=2)), Decimal(12))
    after = after_use(before, Decimal(4))
    assert (rests(after), int(after.used_beside)) == ({"a": 1, "b": 5}, 0)


def test_a_grant_is_there_from_its_effective_time_and_not_from_its_expire_time_on() -> None:
    """Acceptance case 11: monthly grants of 100, of which 30 are used before the next."""
    month, second = timedelta(days=30), START + timedelta(days=30)
    october = grant("1", "100", days=30)
    november = grant("2", "100", begins=30, days=60, state=GrantState.SCHEDULED)
    used = after_use(standing(october), Decimal(30))
    just_before, steps = settle(used, [november], START + month - timedelta(microseconds=1), {})
    assert (rests(just_before), steps) == ({"1": 70}, [])
    after, steps = settle(used, [november], second, {})
    assert rests(after) == {"2": 100}
    assert [(one.event, one.grant.grant_id, int(one.amount), one.time) for one in steps] == [
        (Event.EXPIRY, "1", 70, second),
        (Event.BEGIN, "2", 100, second),
    ]


def test_grants_of_a_year_in_which_nobody_looked_begin_and_expire_in_order() -> None:
    months = [grant(str(n), "100", begins=30 * n, days=30 * n + 30, state=GrantState.SCHEDULED) for n in range(12)]
    after, steps = settle(standing(), months, START + timedelta(days=345), {})
    assert rests(after) == {"11": 100}
    assert [one.time for one in steps] == sorted(one.time for one in steps)
    assert len(steps) == 23
    assert sum(one.amount if one.event is Event.BEGIN else -one.amount for one in steps) == 100


def test_what_is_held_does_not_expire_under_the_hold() -> None:
    end = START + timedelta(days=1)
    before = standing(grant("a", "10", days=1))
    held, steps = settle(before, [], end, {end: Decimal(4)})
    assert rests(held) == {"a": 4}
    assert [(one.event, int(one.amount)) for one in steps] == [(Event.EXPIRY, 6)]
    released, steps = settle(held, [], end + timedelta(hours=1), {})
    assert (rests(released), [int(one.amount) for one in steps]) == ({}, [4])
    captured = after_use(held, Decimal(4))
    over, steps = settle(captured, [], end + timedelta(hours=1), {})
    assert (rests(over), steps) == ({}, [])


def test_a_hold_reserves_of_the_grants_that_are_used_first() -> None:
    end = START + timedelta(days=1)
    before = standing(grant("later", "10", priority=1, days=1), grant("first", "3", priority=0, days=9))
    after, steps = settle(before, [], end, {end: Decimal(5)})
    assert (rests(after), [int(one.amount) for one in steps]) == ({"first": 3, "later": 2}, [8])


def test_the_next_event_is_the_earliest_beginning_or_end() -> None:
    waiting = grant("w", "1", begins=3, days=9, state=GrantState.SCHEDULED)
    ended = replace(grant("e", "1", days=1), state=GrantState.ENDED)
    assert next_due([ended]) is None
    assert next_due([grant("never", "1")]) is None
    assert next_due([waiting, grant("a", "1", days=5), ended]) == START + timedelta(days=3)


amounts = st.integers(1, 50).map(Decimal)
grants = st.lists(
    st.builds(
        lambda n, amount, priority, days, kind: replace(
            grant(f"{n:04}", "1", priority=priority, days=days, kind=kind, created=n), amount=amount, rest=amount
        ),
        st.integers(0, 9999),
        amounts,
        st.integers(0, 3),
        st.none() | st.integers(1, 5),
        st.sampled_from(GrantKind),
    ),
    max_size=6,
    unique_by=lambda one: one.grant_id,
)


@given(grants, st.lists(st.integers(0, 40), max_size=8))
def test_use_step_by_step_equals_use_at_once(listed: list[Grant], uses: list[int]) -> None:
    """A plain reference: unit by unit, each taken from the first grant that has one."""
    reference = {one.grant_id: int(one.amount) for one in listed}
    order = [one.grant_id for one in in_order(listed)]
    beside, total, step_by_step = 0, 0, standing(*listed)
    for use in uses:
        for _ in range(use):
            source = next((one for one in order if reference[one]), None)
            if source is None:
                beside += 1
            else:
                reference[source] -= 1
        total += use
        step_by_step = after_use(step_by_step, Decimal(total))
    at_once = after_use(standing(*listed), Decimal(total))
    assert rests(step_by_step) == rests(at_once) == reference
    assert step_by_step.used_beside == at_once.used_beside == beside


@given(grants, st.integers(0, 200), st.integers(0, 200))
def test_what_is_given_back_is_what_would_not_have_been_used(listed: list[Grant], used: int, less: int) -> None:
    there = after_use(standing(*listed), Decimal(max(used, less)))
    back = after_use(there, Decimal(min(used, less)))
    assert rests(back) == rests(after_use(standing(*listed), Decimal(min(used, less))))


@given(grants, st.integers(0, 200), st.integers(0, 100), st.lists(st.integers(0, 7), min_size=1, max_size=4))
def test_no_credit_is_lost_or_made(listed: list[Grant], used: int, held: int, days: list[int]) -> None:
    """What a grant had is used, expired or left, and never more expires than holds leave."""
    before = after_use(standing(*listed), Decimal(used))
    now_standing = before
    expired = {one.grant_id: ZERO for one in listed}
    for day in sorted(days):
        now = START + timedelta(days=day)
        ends = {one.expire_time: Decimal(held) for one in listed if one.expire_time is not None}
        now_standing, steps = settle(now_standing, [], now, ends)
        for step in steps:
            assert step.event is Event.EXPIRY
            assert step.amount > 0
            assert step.grant.expire_time is not None
            assert step.grant.expire_time <= now
            expired[step.grant.grant_id] += step.amount
        left = rests(now_standing)
        for one in before.grants:
            assert one.used + expired[one.grant_id] + left.get(one.grant_id, 0) == one.amount
        for one in now_standing.grants:
            if one.expire_time is not None and one.expire_time <= now:
                assert one.rest <= held
        assert sum(left.values()) >= min(held, int(sum(one.rest for one in before.grants)))
