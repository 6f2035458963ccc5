"""Experiments on plans: who gets which variant, and what is counted of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from services.billing.plan import experiments as experiments_module
from tests.billing.experiment_calls import Experiments, expected, organization_of
from tests.billing.plan_calls import archived, created, faults, found, new_plan, published, reason, repriced, terms
from tests.billing.subscription_calls import FAILED, NOT_FOUND, NOW, PERIOD_END, Subscriptions, add_plan, settled, state
from tests.billing.support import BillingServer, Ledger, organization
from tests.identity.support import open_identity
from tests.support.callers import Callers, bearer
from tests.support.clock import FixedClock
from tests.support.sharded import value_over_shards
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.billing.v1 import subscription_pb2
from tollhouse.identity.v1 import api_key_pb2

DAY: Final = timedelta(days=1)
MONTH: Final = timedelta(days=31)
TWO_WEEKS: Final = pb.Interval(unit=pb.INTERVAL_UNIT_DAY, count=14)
WEEK: Final = Duration(seconds=7 * 86_400)
HALVES: Final = {"pro": 1, "pro-cheap": 1}
RUNNING: Final = (FAILED, "EXPERIMENT_RUNNING")
IN_EXPERIMENT: Final = (FAILED, "PLAN_IN_EXPERIMENT")


@pytest.fixture
async def calls(timed: Ledger) -> AsyncIterator[Subscriptions]:
    calls = Subscriptions(timed)
    yield calls
    for organization_id in calls.organization_ids:
        await settled(timed, organization_id)


@pytest.fixture
async def experiments(timed: Ledger) -> Experiments:
    """On a platform with another plan for `pro`, at 10 instead of 29.99, which users do not see."""
    await published(timed, await created(timed, new_plan("pro-cheap", terms=terms("10"), inactive=True)))
    return Experiments(timed)


async def paying(ledger: Ledger, experiment: pb.PlanExperiment, plan_code: str) -> str:
    """A new organization that gets a variant, with money."""
    organization_id = organization_of(experiment, plan_code)
    await ledger.credit(organization_id, "top-up", "1000")
    return organization_id


async def test_subjects_are_offered_the_variant_that_the_contract_computes_for_them(experiments: Experiments) -> None:
    running = await experiments.set({"pro-cheap": 3, "pro": 1, "basic": 2})

    assert [(one.plan_code, one.weight) for one in running.variants] == [("basic", 2), ("pro", 1), ("pro-cheap", 3)]
    subjects = [(organization(), user) for user in ("", new_id()) for _ in range(15)]
    plans = [await experiments.offered(*subject) for subject in subjects]
    assert plans == [expected(running, *subject) for subject in subjects]
    assert {*plans} == {"basic", "pro", "pro-cheap"}
    # Repeats, also in another spelling, are of the same subject.
    assert [await experiments.offered(org.upper(), user.upper()) for org, user in subjects] == plans
    saw = {code: count for code, (count, *_) in (await experiments.counts()).items()}
    assert saw == {code: plans.count(code) for code in ("basic", "pro", "pro-cheap")}


async def test_offer_is_the_plan_itself_while_no_experiment_runs(experiments: Experiments, timed: Ledger) -> None:
    org = organization()
    before = await experiments.offer(org)
    assert (before.plan, before.experiment_id) == (await found(timed, "pro"), "")
    running = await experiments.set(HALVES)
    assert (await experiments.offer(org, plan_code="basic")).experiment_id == ""
    assert (await experiments.offer(org)).experiment_id == running.experiment_id

    await experiments.set({})

    assert await experiments.offer(org) == before
    assert (await experiments.counts())[expected(running, org)] == (1, 0, 0, 0)


async def test_offer_shows_the_published_version_and_no_draft(experiments: Experiments, timed: Ledger) -> None:
    running = await experiments.set(HALVES)
    plan = await found(timed, "pro-cheap")
    await repriced(timed, plan, "11")
    org = organization_of(running, "pro-cheap")

    offered = (await experiments.offer(org)).plan
    assert (offered.published_version.terms.price.value, offered.HasField("draft_version")) == ("10", False)
    await published(timed, plan, version=2)
    assert (await experiments.offer(org)).plan.published_version.terms.price.value == "11"


async def test_subject_keeps_its_variant_whatever_the_weights_become(experiments: Experiments) -> None:
    first = await experiments.set({"pro": 1, "pro-cheap": 1000})
    org = organization_of(first, "pro-cheap")
    assert await experiments.offered(org) == "pro-cheap"

    second = await experiments.set({"pro-cheap": 1, "pro": 1000}, etag=first.etag)

    assert second.experiment_id == first.experiment_id
    assert expected(second, org) == "pro"
    assert await experiments.offered(org) == "pro-cheap"
    later = organization_of(second, "pro")
    assert [await experiments.offered(later), await experiments.offered(org)] == ["pro", "pro-cheap"]


async def test_of_many_offers_at_once_one_assignment_is_made(experiments: Experiments, database_admin_url: str) -> None:
    running = await experiments.set(HALVES)
    org, user = organization(), new_id()

    async def weights() -> None:
        await experiments.set({"pro": 999, "pro-cheap": 1})

    offers = [experiments.offered(org, user) for _ in range(12)]
    answers = await asyncio.gather(*offers[:6], weights(), *offers[6:])
    assert len({answer for answer in answers if answer}) == 1
    rows = "SELECT count(*) FROM billing.plan_assignments"
    assert await value_over_shards(database_admin_url, rows) == 1
    assert sum(one.saw_count for one in (await experiments.report()).results) == 1
    assert (await experiments.report()).experiment.experiment_id == running.experiment_id


@pytest.mark.shards
async def test_subscription_is_to_the_variant_that_was_offered(
    experiments: Experiments, calls: Subscriptions, timed: Ledger
) -> None:
    running = await experiments.set(HALVES)
    for plan_code in HALVES:
        org = await paying(timed, running, plan_code)
        assert await experiments.offered(org) == plan_code
        made = await calls.create(org, "pro", request_id="r")
        assert (made.plan_code, state(made)) == (plan_code, "ACTIVE")
        assert (await calls.creation(org, "pro", request_id="r")).subscription == made
        user = new_id()
        of_user = await calls.create(org, "pro", user_id=user)
        assert of_user.plan_code == expected(running, org, user)
        assert (await calls.create(org, "pro", user_id=user, model="gpt-9")).plan_code == of_user.plan_code
    counts = await experiments.counts()
    assert sum(int(str(saw)) for saw, *_ in counts.values()) == 4


async def test_automatic_free_plan_is_the_variant_too(experiments: Experiments, calls: Subscriptions) -> None:
    await add_plan(experiments.ledger, "free-10", "0")
    running = await experiments.set({"free": 1, "free-10": 1}, "free")
    for plan_code in ("free", "free-10"):
        assert (await calls.create(organization_of(running, plan_code), "free")).plan_code == plan_code


async def test_change_of_plan_is_to_the_variant(
    experiments: Experiments, calls: Subscriptions, timed: Ledger, database_admin_url: str
) -> None:
    running = await experiments.set(HALVES)
    org = await paying(timed, running, "pro-cheap")
    made = await calls.create(org, "free")

    preview = await calls.change(made, "pro", validate_only=True)
    assert [line.plan_code for line in preview.lines] == ["pro-cheap"]
    assert await value_over_shards(database_admin_url, "SELECT count(*) FROM billing.plan_assignments") == 0

    changed = (await calls.change(made, "pro", NOW, request_id="up")).subscription
    assert changed.plan_code == "pro-cheap"
    assert (await calls.change(made, "pro", NOW, request_id="up")).replayed
    assert await reason(calls.change(made, "pro")) == (FAILED, "SAME_PLAN")
    assert await experiments.counts() == {"pro": (0, 0, 0, 0), "pro-cheap": (1, 0, 1, 0, "10 USD")}


@pytest.mark.shards
async def test_report_counts_who_saw_tried_subscribed_and_stayed_and_what_they_brought(
    experiments: Experiments, calls: Subscriptions, timed: Ledger, clock: FixedClock
) -> None:
    await add_plan(timed, "pro-trial", "20", trial=TWO_WEEKS, past_due=pb.PastDuePolicy(retry_after=[WEEK]))
    running = await experiments.set({"pro": 1, "pro-trial": 1})

    async def counts() -> list[tuple[object, ...]]:
        counted = await experiments.counts()
        return [counted["pro"], counted["pro-trial"]]

    # One only looks, one tries, one cannot pay after the trial, and one has had the plan since before.
    await experiments.offer(organization_of(running, "pro"))
    tries = await calls.create(await paying(timed, running, "pro-trial"), "pro")
    poor = await calls.create(organization_of(running, "pro-trial"), "pro")
    plain = await calls.create(await paying(timed, running, "pro"), "pro")
    assert await counts() == [(2, 0, 1, 0, "29.99 USD"), (2, 2, 0, 0)]

    clock.advance(15 * DAY)
    tries = await calls.update(tries, metadata={"a": "1"})
    assert state(await calls.update(poor, metadata={"a": "1"})) == "PAST_DUE"
    assert await counts() == [(2, 0, 1, 0, "29.99 USD"), (2, 2, 1, 0, "20 USD")]
    await timed.credit(poor.organization_id, "top-up", "20")
    await calls.retry(poor)
    assert await counts() == [(2, 0, 1, 0, "29.99 USD"), (2, 2, 2, 0, "40 USD")]

    # What follows counts after the end of the experiment, too; who comes then does not.
    await experiments.set({})
    late = await calls.create(await paying(timed, running, "pro"), "pro")
    clock.advance(MONTH)
    for one in (tries, plain, late):
        await calls.update(one, metadata={"a": "2"})
    assert await counts() == [(2, 0, 1, 1, "59.98 USD"), (2, 2, 2, 1, "60 USD")]

    # Leaving the plan gives the rest of the period back: 29 of the 30 days from April 29 on.
    await calls.change(tries, "free")
    assert await counts() == [(2, 0, 1, 1, "59.98 USD"), (2, 2, 2, 1, "40.666666667 USD")]


async def test_subscribers_from_before_the_offer_are_not_counted_as_its_success(
    experiments: Experiments, calls: Subscriptions, timed: Ledger, clock: FixedClock
) -> None:
    org = organization()
    await timed.credit(org, "top-up", "1000")
    old = await calls.create(org, "pro")
    clock.advance(DAY)
    running = await experiments.set({"pro": 1000, "pro-cheap": 1})
    assert await experiments.offered(org) == expected(running, org)
    clock.advance(MONTH)
    await calls.update(old, metadata={"a": "1"})
    assert (await experiments.counts())[expected(running, org)] == (1, 0, 0, 0)


async def test_change_at_the_end_of_a_period_counts_once_the_period_of_the_variant_is_paid(
    experiments: Experiments, calls: Subscriptions, timed: Ledger, clock: FixedClock
) -> None:
    running = await experiments.set(HALVES)
    org = await paying(timed, running, "pro-cheap")
    made = await calls.create(org, "basic")
    await calls.change(made, "pro", PERIOD_END)
    clock.advance(DAY)
    await experiments.set({})
    assert (await experiments.counts())["pro-cheap"] == (1, 0, 0, 0)

    for expected_counts in ((1, 0, 1, 0, "10 USD"), (1, 0, 1, 1, "20 USD")):
        clock.advance(MONTH)
        made = await calls.update(made, metadata={"at": str(clock.now())})
        assert made.plan_code == "pro-cheap"
        assert (await experiments.counts())["pro-cheap"] == expected_counts


@pytest.mark.shards
async def test_report_reads_all_subjects_of_all_shards_page_by_page(
    experiments: Experiments, calls: Subscriptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments_module, "_SUBJECTS_AT_A_TIME", 2)
    running = await experiments.set(HALVES)
    subjects = [(organization(), user) for _ in range(5) for user in ("", new_id())]
    subjects += [(subjects[0][0], new_id()) for _ in range(4)]
    for subject in subjects:
        await experiments.offer(*subject)
    plans = [expected(running, *subject) for subject in subjects]
    assert await experiments.counts() == {code: (plans.count(code), 0, 0, 0) for code in HALVES}


async def test_setting_what_is_there_already_changes_nothing(experiments: Experiments, clock: FixedClock) -> None:
    begun = await experiments.set(HALVES)
    clock.advance(DAY)
    assert await experiments.set(dict(reversed(HALVES.items())), etag="stale") == begun
    other = {"pro": 1, "pro-cheap": 9}
    assert await reason(experiments.set(other, etag="stale")) == (grpc.StatusCode.ABORTED, "STALE_ETAG")
    changed = await experiments.set(other, etag=begun.etag)
    clock.advance(DAY)
    ended = await experiments.set({}, etag=changed.etag)
    assert ended.end_time.ToDatetime(clock.now().tzinfo) == clock.now()
    clock.advance(DAY)
    assert await experiments.set({}, etag="stale") == ended
    assert await reason(experiments.set(HALVES, etag=changed.etag)) == (grpc.StatusCode.ABORTED, "STALE_ETAG")
    again = await experiments.set(HALVES, etag=ended.etag)

    assert again.experiment_id > begun.experiment_id
    assert (await experiments.report()).experiment == again
    assert (await experiments.report(experiment_id=begun.experiment_id.upper())).experiment == ended
    assert await experiments.audited(begun) == [
        {"plan_code": ("", "pro"), "variants.pro": ("", "1"), "variants.pro-cheap": ("", "1"), "ended": ("", "false")},
        {"variants.pro-cheap": ("1", "9")},
        {"ended": ("false", "true")},
    ]


async def test_of_experiments_set_at_once_one_begins(experiments: Experiments) -> None:
    begun = await asyncio.gather(*(experiments.set(HALVES) for _ in range(6)))
    assert len({one.experiment_id for one in begun}) == 1


async def test_running_experiment_keeps_its_plans(experiments: Experiments, timed: Ledger) -> None:
    begun = await experiments.set(HALVES)
    assert await reason(experiments.set({"pro": 1, "basic": 1})) == RUNNING
    assert await reason(experiments.set({**HALVES, "basic": 1})) == RUNNING
    for on, weights in (("basic", {"basic": 1, "pro-cheap": 1}), ("pro-cheap", {"free": 1, "basic": 1})):
        assert await reason(experiments.set(weights, on)) == IN_EXPERIMENT
    for code in ("pro", "pro-cheap"):
        assert await reason(archived(timed, await found(timed, code))) == IN_EXPERIMENT
    assert (await experiments.report()).experiment == begun

    await experiments.set({})
    assert (await archived(timed, await found(timed, "pro-cheap"))).HasField("archive_time")


async def test_plans_that_nobody_can_subscribe_to_are_refused_by_name(experiments: Experiments, timed: Ledger) -> None:
    await archived(timed, await found(timed, "pro-cheap"))
    await created(timed, new_plan("draft"))
    wrong = await faults(experiments.set({"pro": 1, "pro-cheap": 1, "draft": 1, "nothing": 1}))
    assert wrong == {
        "variants[1].plan_code": "must not be an archived plan, as pro-cheap is",
        "variants[2].plan_code": "must be a plan with a published version, which draft lacks",
        "variants[3].plan_code": "must be the code of a plan",
    }
    usable = {"pro": 1, "basic": 1}
    assert await reason(experiments.set(usable, "pro-cheap")) == (FAILED, "PLAN_ARCHIVED")
    assert await reason(experiments.set(usable, "draft")) == (FAILED, "PLAN_NOT_PUBLISHED")
    for code, why in (("pro-cheap", "PLAN_ARCHIVED"), ("draft", "PLAN_NOT_PUBLISHED")):
        assert await reason(experiments.offer(organization(), plan_code=code)) == (FAILED, why)
    nothing: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: experiments.set(usable, "nothing"),
        lambda: experiments.set({}),
        lambda: experiments.report(),
        lambda: experiments.report("nothing"),
        lambda: experiments.report(experiment_id=new_id()),
        lambda: experiments.offer(organization(), plan_code="nothing"),
    )
    for call in nothing:
        assert (await reason(call()))[0] is NOT_FOUND


async def test_bad_variants_are_refused_with_the_fields_at_fault(experiments: Experiments, timed: Ledger) -> None:
    def variants(*given: tuple[str, int]) -> Awaitable[object]:
        request = pb.SetPlanExperimentRequest(plan_code="pro")
        request.variants.extend(pb.PlanVariant(plan_code=code, weight=weight) for code, weight in given)
        return timed.plans.SetPlanExperiment(request, metadata=timed.metadata)

    for call, at_fault in (
        (variants(("pro", 1)), {"variants"}),
        (variants(*((f"plan-{number}", 1) for number in range(9))), {"variants"}),
        (variants(("pro", 1), ("pro", 1)), {"variants[1].plan_code"}),
        (variants(("pro", 0), ("basic", 1001)), {"variants[0].weight", "variants[1].weight"}),
        (variants(("pro", 1), ("Pro", -1)), {"variants[1].plan_code", "variants[1].weight"}),
        (experiments.offer("me", "you", "Pro"), {"organization_id", "user_id", "plan_code"}),
        (experiments.report("", "first"), {"plan_code", "experiment_id"}),
    ):
        assert (await faults(call)).keys() == at_fault
    assert (await reason(experiments.report()))[0] is NOT_FOUND


async def test_service_cannot_take_a_variant_back(experiments: Experiments, database_urls: dict[str, str]) -> None:
    await experiments.set(HALVES)
    org = organization()
    await experiments.offer(org)
    connection = await asyncpg.connect(database_urls["billing"].replace("+asyncpg", ""))
    try:
        for statement in (
            "UPDATE billing_00.plan_assignments SET plan_id = $1",
            "DELETE FROM billing.plan_experiments",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement.replace("$1", f"'{org}'"))
    finally:
        await connection.close()


async def test_people_are_offered_plans_for_themselves_and_what_they_may_see(
    callers: Callers, database_urls: dict[str, str], database_admin_url: str, tmp_path: Path
) -> None:
    server = BillingServer(callers, database_urls["billing"])
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        scopes = ["tollhouse:subscriptions.read"]
        ours, theirs = [await identity.create_key(api_key_pb2.CreateApiKeyRequest(scopes=scopes)) for _ in range(2)]
        org, owner = ours.api_key.organization_id, ours.api_key.user_id
        bare = await identity.create_key(
            api_key_pb2.CreateApiKeyRequest(organization_id=org, user_id=owner, scopes=["anything"])
        )
        key_file = callers.signing_key_file("billing", tmp_path)
        async with server.start(identity_target=f"127.0.0.1:{identity.port}", signing_key_file=key_file) as ledger:
            await published(ledger, await created(ledger, new_plan("pro-cheap", inactive=True)))
            experiments = Experiments(ledger)
            running = await experiments.set(HALVES)

            mine = bearer(ours.secret)
            offered = await experiments.offer(org, metadata=mine)
            assert offered.plan.plan_code == expected(running, org)
            assert (await experiments.offer(org, owner, metadata=mine)).experiment_id == running.experiment_id
            stranger = theirs.api_key.user_id
            denied = (grpc.StatusCode.PERMISSION_DENIED, NOT_FOUND)
            for call in (
                experiments.offer(org, stranger),
                experiments.offer(org, stranger, metadata=mine),
                experiments.offer(org, metadata=bearer(theirs.secret)),
                experiments.offer(org, metadata=bearer(bare.secret)),
                ledger.plans.GetPlanExperiment(pb.GetPlanExperimentRequest(plan_code="pro"), metadata=mine),
                ledger.plans.SetPlanExperiment(pb.SetPlanExperimentRequest(plan_code="pro"), metadata=mine),
            ):
                assert (await reason(call))[0] in denied
            unknown = subscription_pb2.CreateSubscriptionRequest(organization_id=org, user_id=stranger, plan_code="pro")
            assert (await reason(ledger.subscriptions.CreateSubscription(unknown, metadata=ledger.metadata)))[
                0
            ] is NOT_FOUND
            rows = "SELECT count(*) FROM billing.plan_assignments"
            assert await value_over_shards(database_admin_url, rows) == 2
