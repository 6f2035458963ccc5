"""Random actions of people and moves of the clock, through gRPC, against a plain model of a subscription's life.

The plans cost nothing, so that every action succeeds that the state allows. The model knows states, what waits for the
end of the period, and how many events there are.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from libs.common.status import reason_of
from tests.billing.plan_calls import included
from tests.billing.subscription_calls import NOW, PERIOD_END, Subscriptions, add_plan, settled, state
from tests.billing.support import BillingServer
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import plan_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

_T = TypeVar("_T")
PERIOD: Final = timedelta(days=7)
TRIAL: Final = timedelta(days=3)
ENDED: Final = "SUBSCRIPTION_ENDED"
STATE: Final = "SUBSCRIPTION_STATE"
WITH_TRIAL: Final = ("tried", "tested")
PLANS: Final = (*WITH_TRIAL, "plain", "other")


@dataclass
class Model:
    """A subscription as the documentation describes it. Each action returns why it is refused, or nothing."""

    now: datetime
    plan: str
    state: str
    end: datetime
    events: int
    next_plan: str = ""
    cancels: bool = False
    expires: datetime | None = None
    trial: bool = False

    @property
    def has_ended(self) -> bool:
        return self.state in ("CANCELLED", "EXPIRED")

    @property
    def rests(self) -> bool:
        return self.state in ("PAUSED", "SUSPENDED")

    def catch_up(self) -> None:
        while not self.has_ended:
            due = min(self.end, self.expires or self.end)
            if due > self.now:
                return
            if self.expires == due:
                self._finish("EXPIRED")
            elif self.cancels:
                self._finish("CANCELLED")
            else:
                if self.next_plan:
                    self.plan, self.next_plan = self.next_plan, ""
                    self.events += 1
                if not self.rests:
                    self.state = "ACTIVE"
                self.trial, self.end = False, self.end + PERIOD
                self.events += 1

    def pause(self) -> str:
        return "" if self.state == "PAUSED" else self._move("PAUSED", ("TRIALING", "ACTIVE"))

    def suspend(self) -> str:
        return "" if self.state == "SUSPENDED" else self._move("SUSPENDED", ("TRIALING", "ACTIVE", "PAUSED"))

    def resume(self) -> str:
        return (
            ""
            if self.state in ("TRIALING", "ACTIVE")
            else self._move("TRIALING" if self.trial else "ACTIVE", ("PAUSED", "SUSPENDED"))
        )

    def cancel(self) -> str:
        if self.state == "EXPIRED":
            return ENDED
        if self.state != "CANCELLED":
            self._finish("CANCELLED")
        return ""

    def cancel_at_end(self) -> str:
        if self.state == "EXPIRED":
            return ENDED
        if not self.cancels and not self.has_ended:
            self.cancels = True
            self.events += 1
        return ""

    def keep(self) -> str:
        if self.cancels:
            self.cancels = False
            self.events += 1
        return ENDED if self.has_ended else ""

    def change_now(self, plan: str) -> str:
        if self.has_ended:
            return ENDED
        if plan == self.plan:
            return self.change_at_end(plan)
        if self.rests:
            return STATE
        if self.trial and plan not in WITH_TRIAL:
            self.trial, self.state, self.end = False, "ACTIVE", self.now + PERIOD
        self.plan, self.next_plan = plan, ""
        self.events += 1
        return ""

    def change_at_end(self, plan: str) -> str:
        if self.has_ended:
            return ENDED
        if plan == self.next_plan:
            return ""
        if self.rests:
            return STATE
        if plan == self.plan and not self.next_plan:
            return "SAME_PLAN"
        self.next_plan = "" if plan == self.plan else plan
        self.events += 1
        return ""

    def withdraw(self) -> str:
        if self.next_plan:
            self.next_plan = ""
            self.events += 1
        return ENDED if self.has_ended else ""

    def expire(self, moment: datetime) -> str:
        if self.has_ended:
            return ENDED
        if self.expires != moment:
            self.expires = moment
            self.events += 1
        return ""

    def _move(self, state: str, allowed: tuple[str, ...]) -> str:
        if self.has_ended:
            return ENDED
        if self.state not in allowed:
            return STATE
        self.state = state
        self.events += 1
        return ""

    def _finish(self, state: str) -> None:
        self.state, self.next_plan, self.cancels = state, "", False
        self.events += 1


class SubscriptionMachine(RuleBasedStateMachine):
    """Sends every action to billing, enters it in the model, and compares everything after it."""

    loop: asyncio.AbstractEventLoop
    calls: Subscriptions
    clock: FixedClock
    model: Model
    made: pb.Subscription

    def real(self, call: Coroutine[object, object, _T]) -> _T | str:
        async def answer() -> _T | str:
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                return reason_of(error) or error.code().name

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(30)

    @initialize(plan=st.sampled_from(PLANS))
    def begin(self, plan: str) -> None:
        now, trial = self.clock.now(), plan in WITH_TRIAL
        made = self.real(self.calls.create(plan_code=plan))
        assert isinstance(made, pb.Subscription)
        self.made = made
        end = now + (TRIAL if trial else PERIOD)
        self.model = Model(now, plan, "TRIALING" if trial else "ACTIVE", end, 2, trial=trial)
        self.compare()

    @rule(hours=st.sampled_from((1, 30, 60, 100, 200)))
    def wait(self, hours: int) -> None:
        self.clock.advance(timedelta(hours=hours))

    @rule(action=st.sampled_from(("cancel_at_end", "keep", "withdraw")))
    def schedule(self, action: str) -> None:
        self.act(action)

    def act(self, action: str) -> None:
        call: dict[str, Callable[[pb.Subscription], Coroutine[object, object, pb.Subscription]]] = {
            "pause": self.calls.pause,
            "suspend": self.calls.suspend,
            "resume": self.calls.resume,
            "keep": self.calls.withdraw_cancellation,
            "withdraw": self.calls.withdraw_change,
        }
        made = self.calls.cancel(self.made, PERIOD_END) if action == "cancel_at_end" else call[action](self.made)
        self.check(made, getattr(self.model, action))

    @rule(plan=st.sampled_from(PLANS), now=st.booleans())
    def change(self, plan: str, now: bool) -> None:
        timing = NOW if now else PERIOD_END
        action = self.model.change_now if now else self.model.change_at_end
        self.check(self.calls.change(self.made, plan, timing), lambda: action(plan))

    @rule(hours=st.integers(24 * 10, 24 * 60), sure=st.sampled_from((False, False, True)))
    def expire(self, hours: int, sure: bool) -> None:
        if not sure:
            return
        moment = self.clock.now() + timedelta(hours=hours)
        self.check(self.calls.update(self.made, expire_time=moment), lambda: self.model.expire(moment))

    @rule(action=st.sampled_from(("pause", "suspend", "resume")))
    def rest(self, action: str) -> None:
        self.act(action)

    @rule(sure=st.sampled_from((*[False] * 9, True)))
    def cancel(self, sure: bool) -> None:
        if sure:
            self.check(self.calls.cancel(self.made, NOW), self.model.cancel)

    def check(self, call: Coroutine[object, object, object], action: Callable[[], str]) -> None:
        answer = self.real(call)
        self.model.now = self.clock.now()
        self.model.catch_up()
        expected = action()
        assert (answer if isinstance(answer, str) else "") == expected
        self.compare()

    def compare(self) -> None:
        found, events = self.real(self.calls.get(self.made)), self.real(self.calls.events(self.made))
        assert isinstance(found, pb.Subscription)
        assert not isinstance(events, str)
        model = self.model
        assert (state(found), found.plan_code, found.next_plan_code, found.cancel_at_period_end) == (
            *(model.state, model.plan, model.next_plan),
            model.cancels,
        )
        if not model.has_ended:
            assert found.period_end_time.ToDatetime(UTC) == model.end
        assert [event.sequence for event in events] == list(range(1, model.events + 1))
        assert [event.from_state for event in events[1:]] == [event.to_state for event in events[:-1]]
        times = [event.effective_time.ToDatetime(UTC) for event in events]
        assert times == sorted(times)


async def test_life_of_a_subscription_is_as_the_model_says(server: BillingServer, clock: FixedClock) -> None:
    async with server.start(clock, sweep_every_s=3600, period_run_every_s=3600) as ledger:
        trial = plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_DAY, count=TRIAL.days)
        week = plan_pb2.Interval(unit=plan_pb2.INTERVAL_UNIT_WEEK, count=1)
        for plan in PLANS:
            credits_ = [included("5")] if plan == "other" else []
            await add_plan(
                ledger, plan, "0", billing_interval=week, credits=credits_, trial=trial if plan in WITH_TRIAL else None
            )
        calls = Subscriptions(ledger)
        known = {"loop": asyncio.get_running_loop(), "calls": calls, "clock": clock}
        machine = type("Machine", (SubscriptionMachine,), known)
        chosen = settings(
            max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        )
        await asyncio.to_thread(run_state_machine_as_test, machine, settings=chosen)
        for organization_id in calls.organization_ids:
            await settled(ledger, organization_id)
        assert await ledger.findings() == []
