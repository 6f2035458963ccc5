"""Plans: those that come with Tollhouse, what is kept of each, who sees which, and how many there can be."""

import asyncio
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from libs.common.ids import new_id
from services.billing.plan.domain import PLANS_MAX, VERSIONS_MAX
from tests.billing.plan_calls import (
    SEEDED,
    archived,
    codes,
    created,
    credit,
    events,
    everything,
    executed,
    faults,
    feature,
    fetched,
    found,
    included,
    limit,
    listed,
    new_plan,
    published,
    reason,
    reference,
    repriced,
    terms,
    update,
    updated,
)
from tests.billing.support import BillingServer, Ledger, refusal, usd
from tests.identity.support import open_identity
from tests.support.callers import Callers, bearer
from tollhouse.billing.v1 import plan_pb2 as pb

pytestmark = pytest.mark.own_database

# Of each plan that comes with Tollhouse: the price, the credits, the requests a minute, an hour and a day, and the
# features, of which each plan also has those of the plans before it.
SEEDS: Final = {
    "free": ("0", "10", "5", "50", "5", "basic_generation csv_upload"),
    "basic": ("9.99", "100", "20", "500", "", "enhanced_generation email_support"),
    "pro": ("29.99", "1000", "50", "2000", "", "priority_support custom_templates api_access"),
    "enterprise": ("99.99", "10000", "100", "10000", "", "white_label custom_integrations unlimited_access"),
}


async def test_installation_has_four_published_plans(ledger: Ledger) -> None:
    plans = await listed(ledger)

    assert codes(plans) == list(SEEDED)
    features: list[str] = []
    for plan in plans:
        price, amount, per_minute, per_hour, per_day, more_features = SEEDS[plan.plan_code]
        features += more_features.split()
        limits = [
            limit("requests_per_minute", per_minute),
            limit("requests_per_hour", per_hour, window=pb.LIMIT_WINDOW_HOUR),
        ]
        if per_day:
            limits.append(limit("max_api_calls_per_day", per_day, window=pb.LIMIT_WINDOW_DAY))
        past_due = pb.PastDuePolicy(end=pb.PAST_DUE_END_CANCEL)
        if plan.plan_code != "free":
            after = [Duration(seconds=days * 86_400) for days in (1, 3, 7)]
            past_due = pb.PastDuePolicy(retry_after=after, end=pb.PAST_DUE_END_CHANGE_PLAN, fallback_plan_code="free")
        assert plan.published_version.terms == terms(
            price,
            credits=[included(amount)],
            entitlements=[*limits, *map(feature, features)],
            past_due=past_due,
        )
        assert (plan.published_version.version, plan.published_version.state) == (1, pb.PLAN_VERSION_STATE_PUBLISHED)
        assert (plan.active, plan.HasField("draft_version"), plan.HasField("archive_time")) == (True, False, False)
        assert plan == await found(ledger, plan.plan_code)
    assert [plan.plan_id[-2:] for plan in plans] == ["01", "02", "03", "04"]


async def test_seeded_terms_are_stored_as_the_service_stores_them(ledger: Ledger, database_admin_url: str) -> None:
    query = "SELECT terms::text FROM billing.plan_versions"
    before = await fetched(database_admin_url, query)
    for plan in await listed(ledger):
        await published(ledger, await repriced(ledger, plan, "1"), version=2)
        await published(ledger, await repriced(ledger, plan, plan.published_version.terms.price.value), version=3)

    after = await fetched(database_admin_url, f"{query} WHERE version = 3")
    assert len(before) == len(SEEDED)
    assert sorted(after) == sorted(before)


async def test_created_plan_is_kept_as_it_was_sent_and_is_a_draft(ledger: Ledger) -> None:
    references = [reference("4711"), reference("4711", kind="product"), reference("a/b", provider="stripe")]
    request = new_plan(
        description="For many.", inactive=True, sort_order=-7, provider_references=references[::-1], terms=everything()
    )

    plan = await created(ledger, request)

    assert (plan.plan_code, plan.name, plan.description) == ("team", "Team", "For many.")
    assert (plan.active, plan.sort_order) == (False, -7)
    assert list(plan.provider_references) == [references[1], references[0], references[2]]
    assert plan.draft_version.terms == everything()
    assert (plan.draft_version.version, plan.draft_version.state) == (1, pb.PLAN_VERSION_STATE_DRAFT)
    assert not plan.HasField("published_version")
    assert plan.create_time == plan.update_time == plan.draft_version.create_time
    assert plan == await found(ledger)
    by_id = pb.GetPlanRequest(plan_id=plan.plan_id.upper())
    assert (await ledger.plans.GetPlan(by_id, metadata=ledger.metadata)).plan == plan


async def test_terms_are_answered_in_their_shortest_form_and_defaults_are_filled_in(ledger: Ledger) -> None:
    sent = pb.PlanTerms(
        price=usd("-0.00"),
        billing_interval=pb.Interval(unit=pb.INTERVAL_UNIT_DAY, count=3660),
        credits=[pb.IncludedCredits(amount=credit("010.50"))],
        entitlements=[pb.Entitlement(entitlement_code="n", number="-0.0"), limit("l", "007.0")],
    )

    plan = await created(ledger, new_plan(terms=sent))

    assert plan.draft_version.terms == pb.PlanTerms(
        price=usd("0"),
        billing_interval=sent.billing_interval,
        credits=[included("10.5")],
        entitlements=[pb.Entitlement(entitlement_code="n", number="0"), limit("l", "7")],
        past_due=pb.PastDuePolicy(end=pb.PAST_DUE_END_CANCEL),
    )


async def test_plan_is_created_once_however_often_its_request_is_sent(ledger: Ledger) -> None:
    request = new_plan(request_id="r-1")
    first = await ledger.plans.CreatePlan(request, metadata=ledger.metadata)
    await updated(ledger, update(first.plan, name="Teams"))
    again = await ledger.plans.CreatePlan(request, metadata=ledger.metadata)

    assert (first.replayed, again.replayed, again.plan) == (False, True, first.plan)
    assert (await refusal(created(ledger, new_plan(request_id="r-1", terms=terms("13")))))[1:] == (
        "REQUEST_ID_REUSED",
        {"request_id": "r-1", "field": "terms"},
    )
    reused = await refusal(updated(ledger, update(first.plan, request_id="r-1", name="Teams")))
    assert reused[1:] == ("REQUEST_ID_REUSED", {"request_id": "r-1", "field": "rpc"})
    for taken in (new_plan(request_id="r-2"), new_plan(), new_plan("free")):
        assert await reason(created(ledger, taken)) == (grpc.StatusCode.ALREADY_EXISTS, "PLAN_EXISTS")
    await archived(ledger, first.plan)
    assert (await reason(created(ledger)))[1] == "PLAN_EXISTS"
    assert (await found(ledger)).name == "Teams"


async def test_same_plan_created_many_times_at_once_exists_once(ledger: Ledger, server: BillingServer) -> None:
    async with server.start() as other:
        repeats = await asyncio.gather(
            *(
                at.plans.CreatePlan(new_plan(request_id="r"), metadata=at.metadata)
                for _ in range(4)
                for at in (ledger, other)
            )
        )
        rivals = await asyncio.gather(
            *(created(at, new_plan("club", request_id=new_id())) for _ in range(4) for at in (ledger, other)),
            return_exceptions=True,
        )

    assert sorted(repeat.replayed for repeat in repeats) == [False] + [True] * 7
    assert len({repeat.plan.plan_id for repeat in repeats}) == 1
    won = [rival for rival in rivals if isinstance(rival, pb.Plan)]
    lost = [rival for rival in rivals if isinstance(rival, grpc.aio.AioRpcError)]
    assert (len(won), len(lost)) == (1, 7)
    assert {error.code() for error in lost} == {grpc.StatusCode.ALREADY_EXISTS}
    assert [len(await events(ledger, plan.plan_id)) for plan in (repeats[0].plan, won[0])] == [1, 1]


async def test_list_is_in_order_and_comes_in_pages(ledger: Ledger) -> None:
    for number, (code, sort_order) in enumerate((("b", 20), ("a", 20), ("z", -5), ("m", 2**31 - 1), ("l", -(2**31)))):
        await created(ledger, new_plan(code, sort_order=sort_order, inactive=number == 2))

    whole = await listed(ledger, include_inactive=True)

    assert codes(whole) == ["l", "z", "free", "a", "b", "basic", "pro", "enterprise", "m"]
    for size in (1, 4, 9, 1000):
        assert await listed(ledger, include_inactive=True, page_size=size) == whole
        assert await listed(ledger, page_size=size) == [plan for plan in whole if plan.active]


async def test_page_token_is_good_for_its_list_alone(ledger: Ledger) -> None:
    page = await ledger.plans.ListPlans(pb.ListPlansRequest(page_size=1), metadata=ledger.metadata)

    for request in (
        pb.ListPlansRequest(page_token=page.next_page_token, include_inactive=True),
        pb.ListPlansRequest(page_token="W10="),
        pb.ListPlansRequest(page_token="../../etc/passwd"),
        # `["plans/False/False", "99999999999", "x"]` and the like.
        pb.ListPlansRequest(page_token="WyJwbGFucy9GYWxzZS9GYWxzZSIsIjk5OTk5OTk5OTkiLCJ4Il0="),
        pb.ListPlansRequest(page_token="WyJwbGFucy9GYWxzZS9GYWxzZSIsInh5eiIsIngiXQ=="),
        pb.ListPlansRequest(page_token="WyJwbGFucy9GYWxzZS9GYWxzZSIsIjEiXQ=="),
    ):
        assert (await faults(ledger.plans.ListPlans(request, metadata=ledger.metadata))).keys() == {"page_token"}


def large_terms() -> pb.PlanTerms:
    """Return terms of about 200 kB, of the 256 kB that a request may have."""
    text = "\N{FACE WITH TEARS OF JOY}" * 200
    return terms(entitlements=[pb.Entitlement(entitlement_code=f"text_{n}", text=text) for n in range(240)])


async def test_pages_of_large_plans_fit_into_answers(ledger: Ledger, database_admin_url: str) -> None:
    plan = await published(ledger, await created(ledger, new_plan(terms=large_terms())))
    await updated(ledger, update(plan, ["terms.price"], terms=terms("13")))
    await _copied(database_admin_url, 40)

    page = await ledger.plans.ListPlans(pb.ListPlansRequest(page_size=1000), metadata=ledger.metadata)
    assert page.next_page_token
    assert page.ByteSize() < 2_100_000
    assert len(await listed(ledger, page_size=1000)) == len(SEEDED) + 41


async def test_there_are_a_thousand_plans_at_most(ledger: Ledger, database_admin_url: str) -> None:
    plan = await created(ledger, new_plan(request_id="r"))
    await _copied(database_admin_url, PLANS_MAX - len(SEEDED) - 2)

    outcomes = await asyncio.gather(
        *(created(ledger, new_plan(code, request_id=code)) for code in ("one", "two", "three")), return_exceptions=True
    )

    lost = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert [error.code() for error in lost] == [grpc.StatusCode.FAILED_PRECONDITION] * 2
    assert (await refusal(created(ledger, new_plan("four"))))[1:] == ("TOO_MANY_PLANS", {"plans": str(PLANS_MAX)})
    assert len(await listed(ledger, page_size=1000, include_inactive=True)) == PLANS_MAX
    assert (await ledger.plans.CreatePlan(new_plan(request_id="r"), metadata=ledger.metadata)).replayed
    assert (await updated(ledger, update(plan, name="Teams"))).name == "Teams"


async def test_plan_has_a_thousand_versions_at_most(ledger: Ledger, database_admin_url: str) -> None:
    plan = await published(ledger, await created(ledger))
    await executed(database_admin_url, _ADD_VERSIONS, VERSIONS_MAX - 1, plan.plan_id)

    await repriced(ledger, plan, "13")
    last = await published(ledger, plan, version=VERSIONS_MAX)

    assert last.published_version.version == VERSIONS_MAX
    assert await reason(repriced(ledger, plan, "14")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_PLAN_VERSIONS",
    )
    assert await repriced(ledger, plan, "13") == last
    assert (await updated(ledger, update(plan, name="Teams"))).name == "Teams"


_ADD_VERSIONS: Final = """
    WITH replaced AS (UPDATE billing.plan_versions SET archive_time = now() WHERE plan_id = $2 RETURNING *)
    INSERT INTO billing.plan_versions
    SELECT plan_id, n, terms, create_time, publish_time, CASE WHEN n < $1 THEN now() END
    FROM replaced, generate_series(2, $1::int) AS n
"""
_COPY_PLANS: Final = """
    INSERT INTO billing.plans SELECT gen_random_uuid(), 'copy-' || n, name, description, active, sort_order, revision,
        create_time, update_time, archive_time
    FROM billing.plans, generate_series(1, $1::int) AS n WHERE plan_code = 'team'
"""
_COPY_VERSIONS: Final = """
    INSERT INTO billing.plan_versions SELECT copy.plan_id, version, terms, v.create_time, publish_time
    FROM billing.plan_versions AS v JOIN billing.plans AS p USING (plan_id), billing.plans AS copy
    WHERE p.plan_code = 'team' AND copy.plan_code LIKE 'copy-%' AND $1::int > 0
"""
_COPY_DRAFTS: Final = """
    INSERT INTO billing.plan_drafts SELECT copy.plan_id, version, terms, v.create_time
    FROM billing.plan_drafts AS v JOIN billing.plans AS p USING (plan_id), billing.plans AS copy
    WHERE p.plan_code = 'team' AND copy.plan_code LIKE 'copy-%' AND $1::int > 0
"""


async def _copied(admin_url: str, count: int) -> None:
    """Add copies of the plan `team` with its versions, past the service."""
    for statement in (_COPY_PLANS, _COPY_VERSIONS, _COPY_DRAFTS):
        await executed(admin_url, statement, count)


async def test_users_see_what_is_offered_and_no_drafts(
    callers: Callers, database_urls: dict[str, str], tmp_path: Path
) -> None:
    server = BillingServer(callers, database_urls["billing"])
    async with open_identity(callers, database_urls["identity"], tmp_path) as identity:
        owner = bearer((await identity.create_key()).secret)
        key_file = callers.signing_key_file("billing", tmp_path)
        async with server.start(identity_target=f"127.0.0.1:{identity.port}", signing_key_file=key_file) as ledger:
            plan = await created(ledger)
            hidden = await published(ledger, await created(ledger, new_plan("hidden", inactive=True)))
            gone = await archived(ledger, await published(ledger, await created(ledger, new_plan("gone"))))

            async def seen(plan_code: str, version: int = 0) -> pb.Plan:
                request = pb.GetPlanRequest(plan_code=plan_code, version=version)
                return (await ledger.plans.GetPlan(request, metadata=owner)).plan

            assert codes(await listed(ledger, owner)) == list(SEEDED)
            assert (await reason(seen("team")))[0] is grpc.StatusCode.NOT_FOUND
            # Those who have subscribed to a plan that is not offered any more can read it.
            assert (await seen("hidden"), await seen("gone")) == (hidden, gone)
            first = await published(ledger, plan)
            await repriced(ledger, plan, "13")
            assert codes(await listed(ledger, owner)) == ["team", *SEEDED]
            for answer in (await seen("team"), (await listed(ledger, owner))[0]):
                assert (answer.published_version, answer.HasField("draft_version")) == (first.published_version, False)
            assert (await reason(seen("team", version=2)))[0] is grpc.StatusCode.NOT_FOUND
            await published(ledger, plan, version=2)
            assert (await seen("team", version=1)).asked_version.terms == terms()
            assert (await listed(ledger, callers.service("gateway"), include_inactive=True))[-1].plan_code
            for call in (
                listed(ledger, owner, include_inactive=True),
                ledger.plans.CreatePlan(new_plan("mine"), metadata=owner),
                ledger.plans.UpdatePlan(update(plan, name="Mine"), metadata=owner),
                ledger.plans.PublishPlanVersion(
                    pb.PublishPlanVersionRequest(plan_id=plan.plan_id, version=2), metadata=owner
                ),
                ledger.plans.ArchivePlan(pb.ArchivePlanRequest(plan_id=plan.plan_id), metadata=owner),
                ledger.plans.CreatePlan(new_plan("mine"), metadata=callers.service("gateway")),
            ):
                assert (await reason(call))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_unknown_plan_is_not_found(ledger: Ledger) -> None:
    nothing = pb.Plan(plan_id=new_id())
    for call in (
        found(ledger, "nothing"),
        ledger.plans.GetPlan(pb.GetPlanRequest(plan_id=nothing.plan_id), metadata=ledger.metadata),
        updated(ledger, update(nothing, name="x")),
        published(ledger, nothing),
        archived(ledger, nothing),
    ):
        assert (await reason(call))[0] is grpc.StatusCode.NOT_FOUND
