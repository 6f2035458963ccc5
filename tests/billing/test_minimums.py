"""The minimum spend of a plan: prorated like the price, charged once when the period ends, and never too much."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import new_id
from libs.common.shards import Shards
from services.billing.ledger.domain import Credit, Debit, GrantCredits, Mode, Posted, Reverse, SystemAccount, Transfer
from services.billing.ledger.grants import GrantKind
from services.billing.subscription import execution
from services.billing.subscription.domain import Subscription
from services.billing.subscription.minimum_store import spent
from services.billing.subscription.minimums import short_of
from services.billing.subscription.self_service import is_downgrade
from services.billing.subscription.states import EventKind, State
from tests.billing import plan_calls
from tests.billing.invoice_calls import issue, set_issuer
from tests.billing.period_house import DAY, House, open_house, pending, terms, utc
from tests.billing.subscription_calls import PERIOD_END, Subscriptions, add_plan
from tests.billing.support import Ledger, balance_of, organization, refusal, usd
from tests.billing.test_run_periods import run
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import invoice_pb2, subscription_pb2
from tollhouse.billing.v1.plan_pb2 import PlanTerms

CHARGED = subscription_pb2.SUBSCRIPTION_EVENT_KIND_MINIMUM_CHARGED


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(utc("2026-10-01"))


@pytest.fixture
async def house(database_urls: dict[str, str], clock: FixedClock) -> AsyncIterator[House]:
    async with open_house(database_urls["billing"], clock) as house:
        yield house
        assert await house.findings() == []


async def settled(house: House, s: Subscription) -> list[tuple[str, str, str]]:
    """The day, the minimum and what was charged for it, of each time that a minimum had its say."""
    return [
        (
            event.effective_time.strftime("%m-%d"),
            event.reason.removeprefix("minimum spend of ").split(" ")[0],
            "0" if event.charge is None else format(event.charge.value.normalize(), "f"),
        )
        for event in await house.events(s)
        if event.kind is EventKind.MINIMUM_CHARGED
    ]


async def use(house: House, organization_id: str, value: str) -> None:
    """Charge usage."""
    metadata = {"source": "metering"}
    await house.submit(
        Debit(
            organization_id,
            new_id(),
            None,
            "USD",
            Decimal(value),
            Mode.MUST_POST,
            "usage",
            metadata,
            "service:metering",
        )
    )


async def test_minimum_of_a_month_begun_on_the_17th(timed: Ledger, clock: FixedClock) -> None:
    """Acceptance case 9: 15.00 of 31.00; usage of 2.00 is short of 13.00; 15.00 and 20.00 of nothing."""
    await set_issuer(timed, prefix="MIN-")
    await add_plan(timed, "at-least", "0", minimum=usd("31"))
    subscriptions = Subscriptions(timed)
    for usage, short in (("2", "13"), ("15", ""), ("20", "")):
        clock.set(utc("2026-10-17"))
        org = organization()
        await timed.credit(org, "top-up", "100")
        made = await subscriptions.create(org, "at-least", anchor_time=utc("2026-10-01"))
        assert made.minimum_amount.value == "15"
        clock.set(utc("2026-10-20"))
        await timed.debit(org, "usage", usage)
        clock.set(utc("2026-11-01"))
        await run(timed)
        await run(timed)
        (event,) = [event for event in await subscriptions.events(made) if event.kind == CHARGED]
        assert event.reason == f"minimum spend of 15 USD, {usage} was spent"
        assert [line.amount.value for line in event.lines] == ([short] if short else [])
        left = Decimal(100) - max(Decimal(usage), Decimal(15))
        assert Decimal((await balance_of(timed, org)).posted.value) == left
        assert (await subscriptions.get(made)).minimum_amount.value == "31"
        invoice = await issue(timed, org, "2026-11-01")
        lines = [line for line in invoice.lines if line.kind == invoice_pb2.INVOICE_LINE_KIND_SUBSCRIPTION]
        assert [(line.description, line.amount.value) for line in lines] == ([(event.reason, short)] if short else [])
        assert invoice.total.value == str(max(int(usage), 15))


async def test_usage_after_the_minimum_was_settled_counts_in_the_period_in_which_it_comes(
    house: House, clock: FixedClock
) -> None:
    s = await house.add(pending(await house.plan("at-least", terms(0, minimum="31")), clock.now()))
    await house.work_off()
    clock.set(utc("2026-11-01"))
    await house.work_off()
    await use(house, s.organization_id, "30")
    clock.set(utc("2026-12-01"))
    await house.work_off()
    assert await settled(house, s) == [("11-01", "31", "31"), ("12-01", "31", "1")]


async def test_a_run_that_is_late_counts_what_was_posted_within_the_period_alone(
    house: House, clock: FixedClock
) -> None:
    s = await house.add(pending(await house.plan("at-least", terms(0, minimum="31")), clock.now()))
    await house.work_off()
    for moment, value in (("2026-10-31T23:59:59.999999", "1"), ("2026-11-01", "20"), ("2026-12-05", "40")):
        clock.set(utc(moment))
        await use(house, s.organization_id, value)
    clock.set(utc("2027-01-02"))
    await house.work_off()
    assert await settled(house, s) == [("11-01", "31", "30"), ("12-01", "31", "11"), ("01-01", "31", "0")]


async def test_a_change_of_plan_keeps_the_days_of_both_minimums_and_counts_the_whole_period(
    house: House, clock: FixedClock
) -> None:
    small = await house.plan("small", terms(0, minimum="30"))
    large = await house.plan("large", terms(0, minimum="60"))
    none = await house.plan("none", terms(0))
    clock.set(utc("2026-09-01"))
    up, down = [await house.add(pending(small, clock.now())) for _ in range(2)]
    await house.work_off()
    await use(house, up.organization_id, "10")
    clock.set(utc("2026-09-16"))
    for s, plan in ((up, large), (down, none)):
        await house.progress.change_plan_now(s.organization_id, s.subscription_id, plan=plan, actor="operator:test")
    clock.set(utc("2026-10-01"))
    await house.work_off()
    # 15 days at 30 and 15 at 60 of 30 days; and 15 days at 30 alone.
    assert await settled(house, up) == [("10-01", "45", "35")]
    assert await settled(house, down) == [("10-01", "15", "15")]
    assert (await house.find(down)).minimum is None


async def test_a_subscription_that_expires_within_the_period_owes_the_days_that_were_used(
    house: House, clock: FixedClock
) -> None:
    plan = await house.plan("at-least", terms(0, minimum="31"))
    s = await house.add(pending(plan, clock.now(), expire=utc("2026-10-11")))
    await house.work_off()
    clock.set(utc("2026-10-11"))
    await house.work_off()
    assert await settled(house, s) == [("10-11", "10", "10")]
    assert (await house.find(s)).state is State.EXPIRED


async def test_cancelling_now_settles_the_minimum_and_keeps_the_etag(timed: Ledger, clock: FixedClock) -> None:
    await add_plan(timed, "at-least", "0", minimum=usd("31"))
    subscriptions = Subscriptions(timed)
    made = await subscriptions.create(organization(), "at-least")
    clock.set(utc("2026-10-11"))
    assert (await refusal(subscriptions.cancel(made, etag="0")))[1] == "STALE_ETAG"
    cancelled = await subscriptions.cancel(made, etag=made.etag)
    assert (await subscriptions.kinds(made))[-2:] == ["MINIMUM_CHARGED", "CANCELLED"]
    assert not cancelled.HasField("minimum_amount")
    assert (await balance_of(timed, made.organization_id)).posted.value == "-10"
    assert await subscriptions.cancel(made) == cancelled


async def test_cancelling_now_settles_the_minimum_of_a_period_that_no_run_has_begun(
    timed: Ledger, clock: FixedClock
) -> None:
    await add_plan(timed, "without", "0")
    await add_plan(timed, "at-least", "0", minimum=usd("30"))
    subscriptions = Subscriptions(timed)
    made = await subscriptions.create(organization(), "without")
    await subscriptions.change(made, "at-least", PERIOD_END)
    clock.set(utc("2026-11-11"))
    await subscriptions.cancel(made)
    assert (await subscriptions.kinds(made))[-2:] == ["MINIMUM_CHARGED", "CANCELLED"]
    assert (await balance_of(timed, made.organization_id)).posted.value == "-10"


async def test_a_period_that_is_not_paid_has_no_minimum_until_it_is(house: House, clock: FixedClock) -> None:
    plan = await house.plan("both", terms(10, minimum="31", retries=(DAY, 3 * DAY)))
    s = await house.add(pending(plan, clock.now()))
    await house.pay_in(s.organization_id, "10")
    await house.work_off()
    clock.set(utc("2026-11-01"))
    await house.work_off()
    found = await house.find(s)
    assert (found.state, found.minimum) == (State.PAST_DUE, None)
    await house.pay_in(s.organization_id, "100")
    clock.set(utc("2026-11-02"))
    await house.work_off()
    found = await house.find(s)
    assert found.minimum is not None
    assert (found.minimum.amount.value, found.minimum.since) == (Decimal(31), utc("2026-11-01"))
    # The price of 10 is no usage.
    assert await settled(house, s) == [("11-01", "31", "31")]


async def test_an_account_is_opened_for_a_minimum_where_there_are_credits_alone(
    house: House, clock: FixedClock
) -> None:
    s = await house.add(pending(await house.plan("at-least", terms(0, minimum="31", included=5)), clock.now()))
    await house.work_off()
    clock.set(utc("2026-11-01"))
    await house.work_off()
    assert [line[3:] for line in await house.statement(s.organization_id)] == [("-31", "-31")]


async def test_a_minimum_that_dies_before_it_is_completed_is_charged_once_whatever_was_used_meanwhile(
    house: House, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = await house.plan("at-least", terms(0, minimum="31"))
    found = [await house.add(pending(plan, clock.now())) for _ in range(2)]
    await house.work_off()
    clock.set(utc("2026-10-20"))
    for s in found:
        await use(house, s.organization_id, "1")
    clock.set(utc("2026-11-01"))

    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    # After it is planned, and after it is charged.
    for s, dies_in in zip(found, ("_charge", "_complete"), strict=True):
        with monkeypatch.context() as patched:
            patched.setattr(execution.Execution, dies_in, die)
            with pytest.raises(Killed):
                await house.progress.run_due(s.organization_id, s.subscription_id, clock.now())
        await use(house, s.organization_id, "7")
    await house.work_off()
    for s in found:
        assert await settled(house, s) == [("11-01", "31", "30")]


async def test_a_minimum_that_cannot_be_is_refused_by_name(timed: Ledger) -> None:
    for minimum, fault in (
        (usd("0"), "value"),
        (usd("-1"), "value"),
        (usd("1000000000.1"), "value"),
        (plan_calls.credit("5"), "currency_code"),
    ):
        request = plan_calls.new_plan("odd", terms=plan_calls.terms("1", minimum=minimum))
        assert set(await plan_calls.faults(plan_calls.created(timed, request))) == {f"terms.minimum.{fault}"}
    plan = await add_plan(timed, "at-least", "1", minimum=usd("5"))
    update = plan_calls.update(plan, ["terms.price"], terms=PlanTerms(price=plan_calls.credit("5")))
    assert set(await plan_calls.faults(plan_calls.updated(timed, update))) == {"terms.minimum.currency_code"}
    # Charges do not say for whom they are.
    subscriptions, user = Subscriptions(timed), new_id()
    for model in ("", "gpt-9"):
        call = subscriptions.create(organization(), "at-least", user_id=user, model=model)
        assert (await refusal(call))[1] == "MINIMUM_OF_ORGANIZATION"
    made = await subscriptions.create(organization(), "free", user_id=user)
    for timing in (subscription_pb2.CHANGE_TIMING_NOW, subscription_pb2.CHANGE_TIMING_PERIOD_END):
        assert (await refusal(subscriptions.change(made, "at-least", timing)))[1] == "MINIMUM_OF_ORGANIZATION"


def test_a_plan_without_the_minimum_is_cheaper() -> None:
    with_minimum, plain = terms(5, minimum="31"), terms(5)
    assert is_downgrade(with_minimum, plain)
    assert not is_downgrade(plain, with_minimum)


@given(minimum=st.decimals("0", "1000", places=9), spent_=st.decimals("-1000", "1000", places=9))
def test_what_is_short_is_never_negative_and_never_above_the_minimum(minimum: Decimal, spent_: Decimal) -> None:
    short = short_of(minimum, spent_)
    assert 0 <= short <= minimum
    assert short == minimum or short + spent_ >= minimum


async def _moved(house: House, org: str, projects: tuple[str, str], number: int) -> None:
    """Make one of each kind of movement."""
    name, usd_, actor = str(number), "USD", "operator:test"
    project, other = projects
    await house.pay_in(org, "100", operation_id=f"paid-{name}")
    answer = await house.submit(
        Debit(org, f"work-{name}", None, usd_, Decimal("7.25"), Mode.MUST_POST, "", {"source": "metering"}, actor)
    )
    assert isinstance(answer, Posted)
    await house.submit(
        Reverse(org, f"undo-{name}", answer.movement.transaction_id, None, Decimal("0.75"), "", None, actor)
    )
    await house.submit(Credit(org, f"kind-{name}", None, usd_, Decimal(3), SystemAccount.ADJUSTMENTS, "", None, actor))
    await house.submit(
        GrantCredits(
            org, f"gift-{name}", None, usd_, Decimal(4), GrantKind.PROMOTIONAL, 1, None, None, "", "", None, actor
        )
    )
    for to in (project, other):
        await house.submit(Transfer(org, f"give-{to}-{name}", None, to, usd_, Decimal(5), "", None, actor))
    await house.submit(Transfer(org, f"take-{name}", other, project, usd_, Decimal(1), "", None, actor))
    await house.submit(Debit(org, f"part-{name}", project, usd_, Decimal("1.5"), Mode.MUST_POST, "", None, actor))


async def test_charges_count_less_their_reversals_and_prices_of_subscriptions_do_not(
    house: House, clock: FixedClock
) -> None:
    s = await house.add(pending(await house.plan("both", terms(10, minimum="31")), clock.now()))
    org, projects = s.organization_id, (new_id(), new_id())
    moments = [clock.now() + timedelta(days=days) for days in (0, 1, 31, 31.5, 62, 70)]
    for number, moment in enumerate(moments):
        clock.set(moment)
        await _moved(house, org, projects, number)
        await house.work_off()
    price = next(row for row in await _rows(house.shards, org) if _is_price(row))
    await house.submit(Reverse(org, "undo", str(price["transaction_id"]), None, Decimal(2), "", None, "operator:test"))
    rows = await _rows(house.shards, org)
    for since in moments:
        for until in (moment + timedelta(microseconds=more) for moment in moments for more in (0, 1)):
            within = [_counted(row, rows) for row in rows if since <= row["create_time"] < until]
            async with house.shards.of(org).raw_connection() as connection:
                found = await spent(connection, org, s.subscription_id, "USD", since, until)
            assert found == sum(within), (since, until)


async def _rows(shards: Shards, org: str) -> list[dict[str, Any]]:
    async with shards.of(org).raw_connection() as connection:
        rows = await connection.fetch("SELECT * FROM transactions WHERE organization_id = $1::uuid", org)
    return [dict(row) for row in rows]


def _counted(row: dict[str, Any], rows: list[dict[str, Any]]) -> Decimal:
    """Return what a movement adds to what was spent."""
    reversed_ = next((one for one in rows if one["transaction_id"] == row["reverses_transaction_id"]), row)
    if row["system_account"] != "REVENUE" or _is_price(reversed_):
        return Decimal(0)
    amount: Decimal = row["amount"]
    return amount if row["direction"] == "DEBIT" else -amount


def _is_price(row: dict[str, Any]) -> bool:
    return str(row["operation_id"]).startswith("subscription/")
