"""GetEntitlements, and overrides: which rule wins, until when, who is told of it, and what is refused."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.shards import Shards
from services.billing.subscription.domain import Subject
from services.billing.subscription.states import State
from tests.billing.entitlement_calls import (
    clearing,
    entitlements,
    override,
    overrides,
    plan_that_says,
    said,
    set_override,
    texts,
)
from tests.billing.plan_calls import archived, faults, found, limit, published, update, updated
from tests.billing.subscriptions import MODEL, USER, put, subscription
from tests.billing.support import BillingServer, Ledger, organization, refusal
from tests.support.clock import FixedClock
from tollhouse.billing.v1 import plan_pb2
from tollhouse.billing.v1 import subscription_pb2 as pb
from tollhouse.common.v1 import audit_pb2, audit_pb2_grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DAY = timedelta(days=1)
OTHER_USER = "0197c5a8-0000-7000-8000-0000000000cc"


def at(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


@pytest.fixture
async def timed(server: BillingServer, clock: FixedClock) -> AsyncIterator[Ledger]:
    """Billing on a clock that the test moves. Some subscriptions here have no period, which its checks would find."""
    async with server.start(clock, sweep_every_s=3600, period_run_every_s=3600) as ledger:
        yield ledger


async def test_each_value_comes_from_the_nearest_rule(timed: Ledger, clock: FixedClock, billing_shards: Shards) -> None:
    org = organization()
    ours, theirs, models = [
        await plan_that_says(timed, code, *(said(one, code) for one in codes))
        for code, codes in (("ours", "abcd"), ("theirs", "abc"), ("models", "ab"))
    ]
    await plan_that_says(timed, "default", *(said(one, "default") for one in "abcde"))
    month = clock.now() - DAY, clock.now() + 29 * DAY
    organizations = subscription(Subject.ORGANIZATION, organization_id=org, plan=ours, period=month)
    users = subscription(Subject.USER, organization_id=org, plan=theirs)
    of_model = subscription(Subject.MODEL, organization_id=org, plan=models, expire_time=clock.now() + DAY)
    await put(billing_shards, organizations, users, of_model)
    await set_override(timed, override(org, "a", "override", user_id=USER))

    assert await texts(timed, org) == {
        **dict.fromkeys("abcd", ("ours", "organization_plan")),
        "e": ("default", "platform_default"),
    }
    assert await texts(timed, org, user_id=USER) == {
        "a": ("override", "override"),
        "b": ("theirs", "user_plan"),
        "c": ("theirs", "user_plan"),
        "d": ("ours", "organization_plan"),
        "e": ("default", "platform_default"),
    }
    answer = await entitlements(timed, org, user_id=USER.upper(), model=MODEL)
    assert [(one.entitlement.text, one.subscription_id) for one in answer.entitlements] == [
        ("override", ""),
        ("models", of_model.subscription_id),
        ("theirs", users.subscription_id),
        ("ours", organizations.subscription_id),
        ("default", ""),
    ]
    assert [one.HasField("until_time") for one in answer.entitlements] == [False, True, False, True, False]
    assert [one.plan_code for one in answer.subscriptions] == ["models", "theirs", "ours"]
    assert (answer.period_start_time, answer.period_end_time) == tuple(map(at, month))
    assert answer.until_time == at(clock.now() + DAY)
    assert await texts(timed, org, user_id=OTHER_USER) == await texts(timed, org)
    assert {source for _, source in (await texts(timed, organization(), user_id=USER)).values()} == {"platform_default"}


@pytest.mark.own_database
async def test_overrides_of_a_user_with_a_model_win_over_those_of_either(timed: Ledger) -> None:
    org = organization()
    subjects: list[dict[str, str]] = [{}, {"model": MODEL}, {"user_id": USER}, {"user_id": USER, "model": MODEL}]
    for number, subject in enumerate(subjects):
        await set_override(timed, override(org, text=str(number), **subject))
    seen = [(await texts(timed, org, **subject))["tier"][0] for subject in subjects]
    assert seen == ["0", "1", "2", "3"]
    assert (await texts(timed, org, user_id=OTHER_USER, model=MODEL))["tier"][0] == "1"
    assert (await texts(timed, org, user_id=USER, model="another"))["tier"][0] == "2"
    await set_override(timed, clearing(org, user_id=USER, model=MODEL))
    assert (await texts(timed, org, user_id=USER, model=MODEL))["tier"][0] == "2"


async def test_only_states_that_entitle_count(timed: Ledger, billing_shards: Shards) -> None:
    plan = await plan_that_says(timed, "ours", said("a", "ours"))
    for state in State:
        if state is not State.PENDING:
            org = organization()
            await put(billing_shards, subscription(Subject.ORGANIZATION, organization_id=org, plan=plan, state=state))
            answer = await entitlements(timed, org)
            assert len(answer.entitlements) == len(answer.subscriptions) == state.entitles


async def test_an_expired_override_and_subscription_end_without_any_call(
    timed: Ledger, clock: FixedClock, billing_shards: Shards
) -> None:
    org, end = organization(), clock.now() + DAY
    plan = await plan_that_says(timed, "ours", said("a", "ours"))
    await put(billing_shards, subscription(Subject.ORGANIZATION, organization_id=org, plan=plan, expire_time=end))
    await set_override(timed, override(org, expire_time=at(end)))
    assert {one.until_time.seconds for one in (await entitlements(timed, org)).entitlements} == {at(end).seconds}
    assert len(await overrides(timed, org)) == 1
    clock.set(end)
    answer = await entitlements(timed, org)
    assert (len(answer.entitlements), len(answer.subscriptions)) == (0, 0)
    assert await overrides(timed, org) == []
    assert not (await set_override(timed, clearing(org))).HasField("entitlement_override")
    again = override(org, expire_time=at(clock.now() + DAY))
    assert (await set_override(timed, again)).entitlement_override.create_time == at(clock.now())


@pytest.mark.own_database
async def test_the_default_is_the_published_version_of_the_plan_of_that_code(timed: Ledger) -> None:
    org = organization()
    assert await texts(timed, org) == {}
    await plan_that_says(timed, "default", said("a", "first"))
    assert await texts(timed, org) == {"a": ("first", "platform_default")}
    plan = await found(timed, "default")
    terms = plan_pb2.PlanTerms(entitlements=[said("a", "second")])
    await updated(timed, update(plan, ["terms.entitlements"], terms=terms))
    assert (await texts(timed, org))["a"][0] == "first"
    await published(timed, plan, 2)
    assert (await texts(timed, org))["a"][0] == "second"
    await archived(timed, plan)
    assert await texts(timed, org) == {}


@pytest.mark.own_database
async def test_setting_what_is_set_changes_nothing(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    first = (await set_override(timed, override(org))).entitlement_override
    revision = (await entitlements(timed, org)).revision
    clock.advance(DAY)
    assert (await set_override(timed, override(org))).entitlement_override == first
    assert (await entitlements(timed, org)).revision == revision
    changed = (await set_override(timed, override(org, text="silver"))).entitlement_override
    assert (changed.entitlement.text, changed.create_time) == ("silver", at(clock.now()))
    assert (await entitlements(timed, org)).revision != revision
    assert not (await set_override(timed, clearing(org))).HasField("entitlement_override")
    assert not (await set_override(timed, clearing(org))).HasField("entitlement_override")
    assert await events(timed, org) == ["value: ", "reason: ", "value: ", "value: ", "reason: "]


async def events(ledger: Ledger, org: str) -> list[str]:
    """The changes in the audit trail, the oldest first."""
    request = audit_pb2.ListAuditEventsRequest(organization_id=org, page_size=1000)
    stub = audit_pb2_grpc.AuditServiceStub(ledger.channel)
    listed = (await stub.ListAuditEvents(request, metadata=ledger.metadata)).events
    return [f"{change.field}: {change.after}" for event in reversed(listed) for change in event.changes]


@pytest.mark.own_database
async def test_the_audit_trail_tells_the_subject_and_the_value_but_no_texts(timed: Ledger, clock: FixedClock) -> None:
    org, end = organization(), clock.now() + DAY
    request = override(org, "requests_per_minute", user_id=USER, model=MODEL, expire_time=at(end))
    request.entitlement.CopyFrom(limit(value="75"))
    await set_override(timed, request)
    stub = audit_pb2_grpc.AuditServiceStub(timed.channel)
    listed = await stub.ListAuditEvents(audit_pb2.ListAuditEventsRequest(organization_id=org), metadata=timed.metadata)
    (event,) = listed.events
    assert (event.action, event.resource_type) == ("SetEntitlementOverride", "entitlement_override")
    assert event.resource_id == f"requests_per_minute user:{USER} model:{MODEL}"
    assert [(change.field, change.after) for change in event.changes] == [
        ("value", "75 requests per MINUTE"),
        ("expire_time", end.isoformat()),
        ("reason", ""),
    ]


@pytest.mark.own_database
async def test_overrides_are_listed_in_pages_and_by_user(timed: Ledger) -> None:
    org, other = organization(), organization()
    codes = [f"code_{number}" for number in range(5)]
    for code in codes:
        await set_override(timed, override(org, code, user_id=USER))
        await set_override(timed, override(org, code, model=MODEL))
        await set_override(timed, override(other, code))
    listed = await overrides(timed, org, page_size=2)
    assert len(listed) == 10
    assert {(one.user_id, one.model, one.entitlement.entitlement_code) for one in listed} == {
        *((USER, "", code) for code in codes),
        *(("", MODEL, code) for code in codes),
    }
    assert {one.user_id for one in await overrides(timed, org, user_id=USER, page_size=3)} == {USER}
    assert len(await overrides(timed, org, user_id=USER)) == 5
    assert {one.organization_id for one in listed} == {org}


async def test_a_thousand_overrides_fit_and_no_more(timed: Ledger, billing_shards: Shards, clock: FixedClock) -> None:
    org, other = organization(), organization()
    await set_override(timed, override(org, expire_time=at(clock.now() + DAY)))
    async with billing_shards.of(org).raw_transaction() as connection:
        await connection.execute(
            """INSERT INTO entitlement_overrides
            SELECT organization_id, user_id, model, 'code_' || n, entitlement, expire_time, reason, actor, create_time
            FROM entitlement_overrides, generate_series(2, 999) AS n WHERE organization_id = $1""",
            org,
        )
    await set_override(timed, override(org, "one_more"))
    code, reason, facts = await refusal(set_override(timed, override(org, "too_many")))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_OVERRIDES")
    assert facts == {"overrides": "1000"}
    assert len(await overrides(timed, org, page_size=1000)) == 1000
    await set_override(timed, override(org, "one_more", "changed"))
    await set_override(timed, override(other))
    clock.advance(2 * DAY)
    await set_override(timed, override(org, "too_many"))
    assert [one.entitlement.entitlement_code for one in await overrides(timed, org)] == ["one_more", "too_many"]


@pytest.mark.own_database
async def test_bad_overrides_are_refused_field_by_field(timed: Ledger, clock: FixedClock) -> None:
    org = organization()
    nil = "00000000-0000-0000-0000-000000000000"
    spend = limit("tier", "5", metric="spend")
    cases: list[tuple[pb.SetEntitlementOverrideRequest, set[str]]] = [
        (override(org, reason="  "), {"reason"}),
        (override(org, entitlement=None), {"entitlement"}),
        (override(org, entitlement=said("another", "x")), {"entitlement.entitlement_code"}),
        (override(org, entitlement=plan_pb2.Entitlement(entitlement_code="tier")), {"entitlement.value"}),
        (override(org, entitlement=spend), {"entitlement.limit.currency_code"}),
        (override(org, expire_time=at(clock.now())), {"expire_time"}),
        (override(org, expire_time=Timestamp(seconds=-5)), {"expire_time"}),
        (override(org, user_id=nil), {"user_id"}),
        (override(org, user_id="me", model="two words"), {"user_id", "model"}),
        (override("", "Tier"), {"organization_id", "entitlement_code", "entitlement.entitlement_code"}),
        (
            clearing(org, entitlement=said("tier", "x"), expire_time=at(clock.now() + DAY)),
            {"entitlement", "expire_time"},
        ),
    ]
    for request, fields in cases:
        assert set(await faults(set_override(timed, request))) == fields, request
    assert await overrides(timed, org) == []
    assert await events(timed, org) == []


@pytest.mark.own_database
async def test_the_nil_user_and_foreign_tokens_are_refused(timed: Ledger) -> None:
    org = organization()
    nil = "00000000-0000-0000-0000-000000000000"
    assert (await refusal(entitlements(timed, org, user_id=nil)))[0] is INVALID
    assert (await refusal(overrides(timed, org, user_id=nil)))[0] is INVALID
    for code in ("one", "two"):
        await set_override(timed, override(org, code))
    request = pb.ListEntitlementOverridesRequest(organization_id=org, page_size=1)
    token = (await timed.subscriptions.ListEntitlementOverrides(request, metadata=timed.metadata)).next_page_token
    assert (await refusal(overrides(timed, organization(), page_token=token)))[0] is INVALID
    assert (await refusal(overrides(timed, org, user_id=USER, page_token=token)))[0] is INVALID
    assert (await refusal(overrides(timed, org, page_token="bm9uZQ==")))[0] is INVALID


async def test_an_odd_revision_is_refused_before_anything_is_streamed(ledger: Ledger) -> None:
    for revision in ("\0", "x" * 4_097):
        request = pb.WatchEntitlementsRequest(revision=revision)
        stream = aiter(ledger.subscriptions.WatchEntitlements(request, metadata=ledger.metadata, timeout=20))
        assert set(await faults(anext(stream))) == {"revision"}
