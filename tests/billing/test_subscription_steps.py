"""What is due for a subscription, against a plain model: periods tile, lines add up, states follow the table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.time_zones import zone_named
from services.billing import errors
from services.billing.plan.domain import Interval, IntervalUnit, PastDueEnd, Terms
from services.billing.subscription.domain import AgreedPlan, Agreement, Event, PlanTerms, due_time_of, last_attempt
from services.billing.subscription.paid_changes import change_plan, change_problem, resume, step_of
from services.billing.subscription.periods import boundary
from services.billing.subscription.states import EventKind, State, may_lead_to
from services.billing.subscription.steps import Cause, Step, next_step, pay, refused, trial_end
from tests.billing.period_house import DAY, pending, terms, utc

PLAN = AgreedPlan("00000000-0000-7000-8000-000000000001", "a", 1)
OTHER = AgreedPlan("00000000-0000-7000-8000-000000000002", "b", 1)
THIRD = AgreedPlan("00000000-0000-7000-8000-000000000003", "c", 1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kathmandu", "Australia/Lord_Howe")
MONTH = Interval(IntervalUnit.MONTH)
INTERVALS = st.builds(Interval, st.sampled_from(IntervalUnit), st.integers(1, 3))
MOMENTS = st.integers(0, 6 * 365 * 86_400).map(lambda second: utc("2023-01-01") + timedelta(seconds=second))
PRICES = st.sampled_from(["0", "1", "30", "9.99", "0.000000001"])


def made(agreement: Agreement, until: datetime, *, pays: bool = True) -> tuple[Agreement, list[Step]]:
    """Make every step that is due by a moment."""
    steps: list[Step] = []
    for _ in range(3_000):
        step = next_step(agreement, until, until)
        if step is None:
            return agreement, steps
        assert step.event.effective_time == agreement.subscription.due_time
        if step.event.charge is not None and not pays:
            step = refused(agreement, step, step.event.effective_time)
        before, event = agreement.subscription, step.event
        assert event.from_state is before.state
        assert event.to_state is step.after.state
        assert may_lead_to(event.kind, before.state, step.after.state), event
        assert step.after.due_time == due_time_of(step.after)
        assert (step.after.last_sequence, step.after.revision) == (event.sequence, before.revision + 1)
        steps.append(step)
        agreement = replace(agreement, subscription=step.after, terms=terms_after(agreement, step))
    raise AssertionError("the steps do not end")


def terms_after(agreement: Agreement, step: Step) -> Terms:
    """Return the terms of the plan that the subscription has after a step that was due."""
    if step.event.kind is not EventKind.PLAN_CHANGED:
        return agreement.terms
    if agreement.next_terms is not None:
        return agreement.next_terms
    assert agreement.fallback is not None
    return agreement.fallback.terms


def began(step: Step) -> tuple[datetime | None, datetime | None]:
    return step.event.period_start_time, step.event.period_end_time


def refilled(step: Step) -> list[tuple[str, datetime | None]]:
    return [(format(one.amount.value.normalize(), "f"), one.expire_time) for one in step.event.refills]


def amounts(events: Sequence[Event]) -> list[str]:
    return [format(line.amount.value.normalize(), "f") for event in events for line in event.lines]


def test_anchor_on_the_31st_gives_twelve_periods_and_goes_back_to_31() -> None:
    agreement = Agreement(pending(PLAN, utc("2026-01-31")), terms(10))
    _, steps = made(agreement, utc("2027-01-30"))
    ends = [step.event.period_end_time.strftime("%m-%d") for step in steps if step.event.period_end_time]
    first_half = ["02-28", "03-31", "04-30", "05-31", "06-30", "07-31"]
    assert ends == [*first_half, "08-31", "09-30", "10-31", "11-30", "12-31", "01-31"]
    assert {step.event.kind for step in steps} == {EventKind.PERIOD_STARTED}


@pytest.mark.parametrize(
    ("start", "interval", "ends"),
    [
        ("2028-01-31", MONTH, ["2028-02-29", "2028-03-31"]),
        ("2026-01-30", MONTH, ["2026-02-28", "2026-03-30"]),
        ("2028-02-29", Interval(IntervalUnit.YEAR), ["2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29"]),
    ],
)
def test_short_months_shorten_one_period_alone(start: str, interval: Interval, ends: list[str]) -> None:
    _, steps = made(Agreement(pending(PLAN, utc(start)), terms(interval=interval)), utc(ends[-2]))
    assert [step.event.period_end_time for step in steps] == [utc(end) for end in ends]


def test_local_dates_have_no_prorated_line() -> None:
    """Acceptance 2: begun on the 28th of February in New York; the price changes after three months."""
    start = datetime.fromisoformat("2023-03-01T03:47:56Z")
    agreement = Agreement(pending(PLAN, start, zone="America/New_York"), terms(10))
    agreement, steps = made(agreement, datetime.fromisoformat("2023-05-01T00:00:00Z"))
    planned = replace(agreement.subscription, next_plan=OTHER, cancel_at_period_end=False)
    agreement, more = made(replace(agreement, subscription=planned, next_terms=terms(20)), utc("2023-05-30"))
    agreement, last = made(
        Agreement(replace(agreement.subscription, cancel_at_period_end=True), terms(20)), utc("2023-08-01")
    )
    lines = [line for step in (*steps, *more, *last) for line in step.event.lines]
    zone = zone_named("America/New_York")
    days = [line.start_time.astimezone(zone).strftime("%m-%d") for line in lines]
    ends = [line.end_time.astimezone(zone).strftime("%m-%d") for line in lines]
    assert days == ["02-28", "03-28", "04-28", "05-28"]
    assert ends == ["03-28", "04-28", "05-28", "06-28"]
    assert [line.amount.value for line in lines] == [10, 10, 10, 20]
    assert all(line.days == line.period_days for line in lines)
    assert [step.event.kind for step in last] == [EventKind.CANCELLED]
    assert last[0].event.effective_time == lines[-1].end_time


@pytest.mark.parametrize(("old", "new", "expected"), [(30, 60, ["-15", "30"]), (60, 30, ["-30", "15"])])
def test_the_day_of_a_change_is_charged_once(old: int, new: int, expected: list[str]) -> None:
    """Acceptance 3."""
    agreement, steps = made(Agreement(pending(PLAN, utc("2026-09-01")), terms(old)), utc("2026-09-01"))
    step = change_plan(agreement, PlanTerms(OTHER, terms(new)), utc("2026-09-16T14:30"), Cause(utc("2026-09-16")), ())
    assert [str(round(line.amount.value)) for line in step.event.lines] == expected
    assert step.event.charge is not None
    assert step.event.charge.value == sum(Decimal(one) for one in expected)
    first, second = steps[0].event.lines[0], step.event.lines[-1]
    assert first.days - step.event.lines[0].days + second.days == 30
    assert (step.after.period_start_time, step.after.period_end_time) == (utc("2026-09-01"), utc("2026-10-01"))


def test_three_plans_on_one_day_cost_what_the_last_does() -> None:
    """Acceptance 4."""
    agreement, steps = made(Agreement(pending(PLAN, utc("2026-09-01T08:00")), terms(0)), utc("2026-09-01T08:00"))
    events = [step.event for step in steps]
    for hour, plan, price in ((9, OTHER, 3), (17, THIRD, 9)):
        new = PlanTerms(plan, terms(price))
        assert change_problem(agreement, new) is None
        moment = utc("2026-09-01") + timedelta(hours=hour)
        step = change_plan(agreement, new, moment, Cause(moment), ())
        events.append(step.event)
        agreement = Agreement(step.after, new.terms)
    lines = [line for event in events for line in event.lines]
    assert amounts(events) == ["3", "-3", "9"]
    assert all(line.days > 0 and line.start_time < line.end_time for line in lines)
    assert sum(line.amount.value for line in lines) == 9


@pytest.mark.parametrize(
    ("start", "expected", "days"),
    [("2026-10-24T22:00", "7", 7), ("2026-03-28T23:00", "3", 3)],
)
def test_days_of_25_and_23_hours_count_as_days(start: str, expected: str, days: int) -> None:
    """Acceptance 5: the first part of a month in Berlin, whose periods are those of the calendar."""
    month = utc("2026-09-30T22:00") if start.startswith("2026-10") else utc("2026-02-28T23:00")
    agreement = Agreement(pending(PLAN, utc(start), zone="Europe/Berlin", anchor=month), terms(31))
    _, steps = made(agreement, utc(start))
    (line,) = steps[0].event.lines
    assert (line.amount.value, line.days, line.period_days) == (Decimal(expected), days, 31)


@given(MOMENTS, INTERVALS, st.sampled_from(ZONES), st.integers(0, 700), st.data())
def test_periods_tile_whatever_is_done_in_between(
    start: datetime, interval: Interval, zone: str, days_of_anchor: int, data: st.DataObject
) -> None:
    """Under any anchor, interval, zone, pause and change of plan, each period begins where the one before ended."""
    has_anchor, has_trial = data.draw(st.booleans()), data.draw(st.booleans())
    anchor = start - timedelta(days=days_of_anchor) if has_anchor else None
    own = terms(data.draw(PRICES), interval=interval, included=10, retries=(DAY,))
    trial = boundary(start, Interval(IntervalUnit.DAY, 9), zone_named(zone), 1) if has_trial else None
    agreement = Agreement(pending(PLAN, start, zone=zone, anchor=anchor, trial_end=trial), own)
    at = start
    events: list[Event] = []
    for _ in range(data.draw(st.integers(1, 6))):
        agreement, steps = made(agreement, at)
        events += [step.event for step in steps]
        s = agreement.subscription
        act = data.draw(st.sampled_from(["nothing", "pause", "resume", "change", "later"]))
        step = None
        if act == "pause" and s.state in (State.ACTIVE, State.TRIALING):
            agreement = replace(agreement, subscription=s.with_state(State.PAUSED, "", at))
        elif act == "resume" and s.state is State.PAUSED:
            step = resume(agreement, at, Cause(at))
        elif act == "change":
            new = PlanTerms(
                data.draw(st.sampled_from([PLAN, OTHER, THIRD])),
                terms(data.draw(PRICES), interval=data.draw(st.sampled_from([interval, MONTH])), included=20),
            )
            if change_problem(agreement, new) is None and new.plan != s.plan:
                step = change_plan(agreement, new, at, Cause(at), ())
                agreement = replace(agreement, terms=new.terms)
        elif act == "later" and s.state in (State.ACTIVE, State.PAUSED):
            later = terms(3, interval=data.draw(INTERVALS))
            agreement = Agreement(replace(s, next_plan=OTHER), agreement.terms, later)
            due = agreement.subscription.due_time
            assert due is not None
            changed = next_step(agreement, due, due)
            assert changed is not None
            events.append(changed.event)
            agreement = Agreement(changed.after, later)
            at = max(at, due)
        if step is not None:
            events.append(step.event)
            agreement = replace(agreement, subscription=step.after)
        at += timedelta(days=data.draw(st.integers(0, 90)), seconds=data.draw(st.integers(0, 86_399)))
    check_tiling(events)


def check_tiling(events: Sequence[Event]) -> None:
    """Each period is the one before it, or follows it; only a change of plan cuts one."""
    known: tuple[datetime, datetime] | None = None
    for event in events:
        start, end = event.period_start_time, event.period_end_time
        if start is None or end is None:
            continue
        assert start < end
        if known is None:
            assert start <= event.effective_time
        elif (start, end) == known:
            pass
        elif event.kind is EventKind.PLAN_CHANGED:
            assert known[0] <= start == event.effective_time <= known[1]
        else:
            assert start == known[1] == event.effective_time
        known = start, end


@dataclass
class Bill:
    """A plain model of what a month costs whose plan changes on given days: the sum over the days."""

    days: int

    def total(self, changes: Sequence[tuple[int, int]]) -> Fraction:
        prices = [next(price for day, price in reversed(changes) if day <= at) for at in range(self.days)]
        return sum((Fraction(price, self.days) for price in prices), start=Fraction(0))


@given(
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 100)), max_size=6),
)
def test_lines_add_up_to_the_days_at_their_prices(first: int, changes: list[tuple[int, int]]) -> None:
    agreement, steps = made(Agreement(pending(PLAN, utc("2026-09-01")), terms(first)), utc("2026-09-01"))
    events = [step.event for step in steps]
    changes.sort(key=lambda change: change[0])
    for number, (day, price) in enumerate(changes):
        new = PlanTerms(AgreedPlan(PLAN.plan_id, f"plan-{number}", 1), terms(price))
        moment = utc("2026-09-01T05:00") + timedelta(days=day)
        step = change_plan(agreement, new, moment, Cause(moment), ())
        assert [line.days for line in step.event.lines] == [30 - day] * len(step.event.lines)
        events.append(step.event)
        agreement = Agreement(step.after, new.terms)
    total = sum((line.amount.value for event in events for line in event.lines), Decimal(0))
    charged = sum((event.charge.value for event in events if event.charge is not None), Decimal(0))
    expected = Bill(30).total([(0, first), *changes])
    assert total == charged
    assert abs(Fraction(total) - expected) <= Fraction(len(changes) + 1, 10**9)


@given(
    MOMENTS,
    st.sampled_from(ZONES),
    st.lists(st.integers(1, 80), max_size=4, unique=True),
    st.sampled_from([PastDueEnd.CANCEL, PastDueEnd.SUSPEND]),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_payments_are_tried_on_schedule_and_then_given_up(
    start: datetime, zone: str, days: list[int], end: PastDueEnd, pays: list[bool]
) -> None:
    """Against a plain model: of each period the price is tried at its start and after each wait, until it is paid."""
    waits = sorted(days)
    own = terms(5, retries=[day * DAY for day in waits], end=end)
    agreement = Agreement(pending(PLAN, start, zone=zone), own)
    tried: list[tuple[datetime, bool]] = []
    outcomes = iter(pays)
    for _ in range(60):
        due = agreement.subscription.due_time
        step = None if due is None or due > start + timedelta(days=200) else next_step(agreement, due, due)
        if step is None:
            break
        if step.event.charge is not None:
            paid = next(outcomes, True)
            tried.append((step.event.effective_time, paid))
            step = step if paid else refused(agreement, step, step.event.effective_time)
        agreement = replace(agreement, subscription=step.after)

    expected: list[tuple[datetime, bool]] = []
    outcomes, number, lost = iter(pays), 0, False
    while not lost and boundary(start, MONTH, zone_named(zone), number) <= start + timedelta(days=200):
        opened = boundary(start, MONTH, zone_named(zone), number)
        for wait in (0, *waits):
            moment = opened + timedelta(days=wait)
            if moment > start + timedelta(days=200):
                lost = True
                break
            expected.append((moment, next(outcomes, True)))
            if expected[-1][1]:
                break
        else:
            lost = True
            final = {PastDueEnd.CANCEL: State.CANCELLED, PastDueEnd.SUSPEND: State.SUSPENDED}[end]
            assert agreement.subscription.state is final
        number += 1
    assert tried == expected


@pytest.mark.parametrize(
    ("first", "expected"), [(0, [0, 1, 3, 7]), (1, [1, 2, 3, 7]), (2, [2, 3, 5, 7]), (10, [10, 11, 13, 17])]
)
def test_an_attempt_that_comes_late_leaves_the_time_to_pay_before_the_next_one(first: int, expected: list[int]) -> None:
    start = utc("2026-03-01")
    own = terms(5, retries=(DAY, 3 * DAY, 7 * DAY))
    agreement, now = Agreement(pending(PLAN, start), own), start + timedelta(days=first)
    tried, ends = [], []
    while (step := next_step(agreement, now, now)) is not None and step.event.charge is not None:
        after = refused(agreement, step, now).after
        agreement = replace(agreement, subscription=after)
        tried.append((now - start).days)
        following = after.next_payment_time
        assert following is not None
        ends.append((last_attempt(after.state_time, own.past_due.retry_after_s, len(tried), following) - start).days)
        now = max(now, following)
    assert tried == expected
    assert ends[:-1] == expected[-1:] * 3


def test_an_event_that_was_planned_leads_to_the_same_step_again() -> None:
    start = utc("2026-01-31")
    own = terms(30, included=300, retries=(DAY,))
    first = Agreement(pending(PLAN, start), own)
    begun = next_step(first, start, start)
    assert begun is not None
    owing = replace(first, subscription=refused(first, begun, start).after)
    active = replace(first, subscription=begun.after)
    moment = utc("2026-02-10T11:11")
    new = PlanTerms(OTHER, terms(60, included=600))
    resting = replace(active, subscription=begun.after.with_state(State.PAUSED, "", start))
    _, passed = made(resting, utc("2026-03-01"))
    later = replace(resting, subscription=passed[-1].after)
    cause = Cause(moment, "why", "operator:ada", "r-1")
    for agreement, step, plan in (
        (first, begun, None),
        (owing, next_step(owing, moment, moment), None),
        (owing, pay(owing, moment, cause), None),
        (active, change_plan(active, new, moment, cause, ("grant-1",)), new),
        (later, resume(later, utc("2026-03-03"), cause), None),
    ):
        assert step is not None
        assert step.event.planned
        assert step_of(agreement, step.event, plan) == step


def test_a_trial_goes_on_under_a_plan_that_has_one_and_ends_with_one_that_has_none() -> None:
    start, cause = utc("2026-03-01"), Cause(utc("2026-03-06"))
    with_trial = terms(30, included=140, trial=Interval(IntervalUnit.DAY, 14))
    subscription = pending(PLAN, start, trial_end=trial_end(pending(PLAN, start), with_trial))
    agreement, steps = made(Agreement(subscription, with_trial), start)
    assert refilled(steps[0]) == [("140", utc("2026-03-15"))]
    goes_on = change_plan(agreement, PlanTerms(OTHER, with_trial), utc("2026-03-06"), cause, ())
    assert goes_on.after.state is State.TRIALING
    assert goes_on.event.charge is None
    assert refilled(goes_on) == [("90", utc("2026-03-15"))]
    ends = change_plan(agreement, PlanTerms(OTHER, terms(30, included=300)), utc("2026-03-06"), cause, ())
    assert (ends.after.state, ends.after.anchor_time) == (State.ACTIVE, utc("2026-03-06"))
    assert ends.event.charge is not None
    assert ends.event.charge.value == 30
    assert began(ends) == (utc("2026-03-06"), utc("2026-04-06"))


def test_a_change_of_interval_begins_a_new_period_and_gives_back_the_old_one() -> None:
    agreement, _ = made(Agreement(pending(PLAN, utc("2026-09-01")), terms(30)), utc("2026-09-01"))
    yearly = PlanTerms(OTHER, terms(300, interval=Interval(IntervalUnit.YEAR)))
    step = change_plan(agreement, yearly, utc("2026-09-16"), Cause(utc("2026-09-16")), ())
    assert amounts([step.event]) == ["-15", "300"]
    assert began(step) == (utc("2026-09-16"), utc("2027-09-16"))


@pytest.mark.parametrize(("interval", "charge"), [(Interval(IntervalUnit.DAY), "5"), (MONTH, "35")])
def test_a_change_after_an_owed_period_has_ended_pays_it_and_nothing_twice(interval: Interval, charge: str) -> None:
    """A day at 5.00 that is not paid for two days: it is owed, and the day after it costs what the new plan does."""
    daily = terms(5, interval=Interval(IntervalUnit.DAY), retries=(3 * DAY,))
    agreement, _ = made(Agreement(pending(PLAN, utc("2026-09-01")), daily), utc("2026-09-01"))
    agreement, _ = made(agreement, utc("2026-09-02"), pays=False)
    assert agreement.subscription.state is State.PAST_DUE
    new = terms(30 if interval == MONTH else 9, interval=interval)
    moment = utc("2026-09-04T12:00")
    step = change_plan(agreement, PlanTerms(OTHER, new), moment, Cause(moment), ())
    assert step.event.charge is not None
    assert step.event.charge.value == Decimal(charge)
    agreement, steps = made(Agreement(step.after, new), moment)
    check_tiling([step.event, *(one.event for one in steps)])
    days = [one.event.effective_time.strftime("%m-%d") for one in steps]
    assert days == (["09-03", "09-04"] if interval != MONTH else [])


def test_what_cannot_be_changed_now_is_named() -> None:
    agreement, _ = made(Agreement(pending(PLAN, utc("2026-09-01")), terms(30)), utc("2026-09-01"))
    assert isinstance(change_problem(agreement, PlanTerms(PLAN, terms(30))), errors.SamePlan)
    other = PlanTerms(OTHER, terms(30, currency="EUR"))
    assert isinstance(change_problem(agreement, other), errors.OtherCurrency)
    resting = replace(agreement, subscription=agreement.subscription.with_state(State.PAUSED, "", utc("2026-09-02")))
    assert isinstance(change_problem(resting, PlanTerms(OTHER, terms(30))), errors.SubscriptionState)


def test_an_expiry_comes_before_everything_else_that_is_due() -> None:
    subscription = pending(PLAN, utc("2026-01-01"), expire=utc("2026-02-01"))
    agreement, steps = made(Agreement(subscription, terms(10)), utc("2026-06-01"))
    assert [step.event.kind for step in steps] == [EventKind.PERIOD_STARTED, EventKind.EXPIRED]
    assert (agreement.subscription.state, agreement.subscription.due_time) == (State.EXPIRED, None)


def test_a_fallback_plan_takes_over_and_drops_what_is_owed() -> None:
    own = terms(10, retries=(DAY,), end=PastDueEnd.CHANGE_PLAN, fallback="free")
    free = PlanTerms(OTHER, terms(0, included=31))
    agreement = Agreement(pending(PLAN, utc("2026-01-01")), own, fallback=free)
    agreement, steps = made(agreement, utc("2026-01-02"), pays=False)
    last = steps[-1]
    assert [step.event.kind for step in steps[:2]] == [EventKind.PAYMENT_REFUSED] * 2
    assert (last.event.kind, last.after.plan, last.after.owed) == (EventKind.PLAN_CHANGED, OTHER, None)
    assert refilled(last) == [("30", utc("2026-02-01"))]
    gone = replace(Agreement(pending(PLAN, utc("2026-01-01")), own))
    assert made(gone, utc("2026-01-02"), pays=False)[0].subscription.state is State.CANCELLED
