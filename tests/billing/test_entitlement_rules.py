"""Which rule gives the value of an entitlement, against a plain model that looks at one moment after the other."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from services.billing.plan.domain import Entitlement, Terms
from services.billing.subscription.domain import Agreement, Subject, WaitsFor
from services.billing.subscription.entitlement_domain import Effective, Override, Source, entitled
from services.billing.subscription.offers import terms_without_plan
from services.billing.subscription.states import State
from tests.billing.subscriptions import ORGANIZATION, USER, agreement, subscription

NOW: Final = datetime(2026, 9, 16, 12, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MODEL: Final = "gpt-4o"
CODES: Final = ("alpha", "beta", "gamma")
_NOTHING: Final = (None, None)


def override(code: str, text: str, user_id: str | None, model: str | None, until: datetime | None) -> Override:
    return Override(ORGANIZATION, user_id, model, Entitlement(code, text), until, "test", "operator:ada", NOW)


@dataclass(frozen=True)
class World:
    """Everything that concerns one subject."""

    overrides: tuple[Override, ...]
    agreements: tuple[Agreement, ...]
    default: tuple[Entitlement, ...]

    def value_at(self, code: str, moment: datetime) -> tuple[object, object]:
        """The value and the subscription that gives it, if nobody changes anything and all falls due in time."""
        subjects = ((USER, MODEL), (USER, None), (None, MODEL), (None, None))
        for subject in subjects:
            for one in self.overrides:
                lasts = one.expire_time is None or moment < one.expire_time
                if (one.user_id, one.model) == subject and one.entitlement.entitlement_code == code and lasts:
                    return one.entitlement.value, None
        for kind in (Subject.MODEL, Subject.USER, Subject.ORGANIZATION):
            for agreed in self.agreements:
                sub = agreed.subscription
                if sub.subject is not kind or not self._entitles(agreed, moment):
                    continue
                for entitlement in agreed.terms.entitlements:
                    if entitlement.entitlement_code == code:
                        return entitlement.value, sub.subscription_id
        for entitlement in self.default:
            if entitlement.entitlement_code == code:
                return entitlement.value, None
        return _NOTHING

    @staticmethod
    def _entitles(agreed: Agreement, moment: datetime) -> bool:
        sub = agreed.subscription
        if sub.expire_time is not None and sub.expire_time <= moment:
            return False
        if sub.cancel_at_period_end and sub.period_end_time is not None and sub.period_end_time <= moment:
            return False
        # Nothing has begun yet that waits: its beginning is an event.
        return sub.state in (State.TRIALING, State.ACTIVE, State.PAST_DUE)


def _ends() -> st.SearchStrategy[datetime | None]:
    return st.none() | st.integers(-3, 6).map(lambda days: NOW + days * DAY)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    overrides: dict[tuple[str | None, str | None, str], Override] = {}
    for user_id, model in ((USER, MODEL), (USER, None), (None, MODEL), (None, None)):
        for code in CODES:
            if draw(st.booleans()):
                one = override(code, f"override {len(overrides)}", user_id, model, draw(_ends()))
                overrides[user_id, model, code] = one
    agreements = []
    for subject in Subject:
        state = draw(st.none() | st.sampled_from(State))
        if state is None or state.is_final:
            continue
        start = NOW + draw(st.integers(-2, 3)) * DAY
        sub = subscription(
            subject,
            state=state,
            waits_for=draw(st.sampled_from(WaitsFor)) if state is State.PENDING else None,
            start_time=start,
            expire_time=draw(_ends()),
            period=(start, start + draw(st.integers(1, 5)) * DAY) if draw(st.booleans()) else None,
            trial_end_time=start + DAY if state is State.TRIALING else None,
            next_payment_time=draw(_ends()) if state is State.PAST_DUE else None,
            cancel_at_period_end=draw(st.booleans()),
        )
        codes = draw(st.sets(st.sampled_from(CODES)))
        agreements.append(agreement(sub, [Entitlement(code, f"plan of {subject}") for code in sorted(codes)]))
    default = [Entitlement(code, "default") for code in sorted(draw(st.sets(st.sampled_from(CODES))))]
    return World(
        tuple(draw(st.permutations(list(overrides.values())))), tuple(draw(st.permutations(agreements))), tuple(default)
    )


@given(worlds())
def test_the_nearest_rule_gives_each_value_and_it_holds_for_as_long_as_is_said(world: World) -> None:
    found = entitled(world.overrides, world.agreements, world.default, NOW)
    values = {one.entitlement.entitlement_code: one for one in found.entitlements}
    assert [one.entitlement.entitlement_code for one in found.entitlements] == sorted(values)
    for code in CODES:
        now = world.value_at(code, NOW)
        assert (code in values) == (now != _NOTHING)
        if code in values:
            one = values[code]
            assert (one.entitlement.value, one.subscription_id) == now
            _check_until(world, code, one)
            assert found.until_time is None or one.until_time is None or found.until_time <= one.until_time


def _check_until(world: World, code: str, one: Effective) -> None:
    """Nothing that is known to come changes the value before its until_time."""
    end = one.until_time or NOW + 30 * DAY
    moment = NOW
    while moment < end:
        assert world.value_at(code, moment) == world.value_at(code, NOW)
        moment += DAY / 2
    due = [
        moment
        for agreed in world.agreements
        for sub in [agreed.subscription]
        if sub.subscription_id == one.subscription_id
        for moment in (sub.period_end_time, sub.expire_time, sub.next_payment_time)
        if moment is not None
    ]
    # What falls due for the subscription that gives it may change it, so it is sure until then only.
    assert not due or end <= min(due)


@given(worlds())
def test_only_subscriptions_that_entitle_are_listed_and_the_nearest_comes_first(world: World) -> None:
    found = entitled(world.overrides, world.agreements, world.default, NOW)
    order = [Subject.MODEL, Subject.USER, Subject.ORGANIZATION]
    subjects = [one.subject for one in found.subscriptions]
    assert subjects == [subject for subject in order if subject in subjects]
    listed = {one.subscription_id for one in found.subscriptions}
    for agreed in world.agreements:
        assert (agreed.subscription.subscription_id in listed) == World._entitles(agreed, NOW)
    assert {one.subscription_id for one in found.entitlements} - {None} <= listed


def test_a_subscription_that_begins_later_limits_how_long_the_farther_value_is_sure() -> None:
    begins = NOW + 2 * DAY
    later = subscription(Subject.USER, state=State.PENDING, waits_for=WaitsFor.START, start_time=begins)
    world = agreement(later, [Entitlement("alpha", "later")])
    found = entitled([], [world], [Entitlement("alpha", "default"), Entitlement("beta", "default")], NOW)
    assert [(one.source, one.until_time) for one in found.entitlements] == [
        (Source.PLATFORM_DEFAULT, begins),
        (Source.PLATFORM_DEFAULT, None),
    ]
    assert found.until_time == begins
    assert found.subscriptions == ()


def test_a_subscription_whose_period_has_passed_still_entitles_until_its_run_but_for_no_sure_time() -> None:
    sub = subscription(Subject.ORGANIZATION, period=(NOW - 31 * DAY, NOW - DAY))
    found = entitled([], [agreement(sub, [Entitlement("alpha", "plan")])], [], NOW)
    assert [one.until_time for one in found.entitlements] == [NOW - DAY]
    assert found.until_time == NOW - DAY
    ends = replace(sub, cancel_at_period_end=True)
    assert entitled([], [agreement(ends, [Entitlement("alpha", "plan")])], [], NOW).entitlements == ()


def test_a_subscription_to_a_model_without_a_plan_gives_its_limits() -> None:
    limits = (Entitlement("requests", "many"),)
    sub = replace(subscription(Subject.MODEL), plan=None, limits=limits)
    terms: Terms = terms_without_plan(limits)
    found = entitled([], [Agreement(sub, terms)], [Entitlement("requests", "few")], NOW)
    assert [(one.entitlement.value, one.source) for one in found.entitlements] == [("many", Source.MODEL_SUBSCRIPTION)]


def test_the_period_is_that_of_the_nearest_subscription_that_has_one() -> None:
    near = subscription(Subject.USER)
    far = subscription(Subject.ORGANIZATION, period=(NOW - DAY, NOW + DAY))
    found = entitled([], [agreement(near, []), agreement(far, [])], [], NOW)
    assert found.period == (NOW - DAY, NOW + DAY)
    assert entitled([], [agreement(near, [])], [], NOW).period is None
