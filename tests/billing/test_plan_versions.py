"""Versions of plans: what was published stays, and the audit trail tells of each change."""

from typing import Final

import asyncpg
import grpc
import pytest

from libs.common.audit.recording import PLATFORM
from libs.common.clock import SystemClock
from libs.common.database import open_database
from libs.common.database_url import plain_url
from libs.common.integrity.domain import Finding
from libs.common.integrity.verification import Part, Verification
from libs.common.shards import Shards
from services.billing.invariants import PLATFORM_CHECKS
from tests.billing.plan_calls import (
    SEEDED,
    archived,
    codes,
    created,
    events,
    everything,
    executed,
    faults,
    feature,
    found,
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
from tests.support.invariants import findings_of
from tollhouse.billing.v1 import plan_pb2 as pb
from tollhouse.common.v1 import audit_pb2

pytestmark = pytest.mark.own_database

USAGE_CHARGES = (
    "pages, VOLUME pages of reader, acme/reader-2: from 0 to 250.5 at 0.02 and 1 for the step; "
    "above 250.5 at 0; flat fee 9.5, also without usage"
)


def changes(event: audit_pb2.AuditEvent) -> dict[str, tuple[str, str]]:
    return {change.field: (change.before, change.after) for change in event.changes}


async def test_subscribers_version_stays_as_it_was_published(ledger: Ledger) -> None:
    plan = await published(ledger, await created(ledger, new_plan(terms=everything())))
    first = plan.published_version

    changed = await repriced(ledger, plan, "50")
    assert (changed.published_version, changed.draft_version.version) == (first, 2)
    assert changed.draft_version.state == pb.PLAN_VERSION_STATE_DRAFT
    renamed = await updated(ledger, update(plan, name="Teams"))
    assert (renamed.name, renamed.draft_version) == ("Teams", changed.draft_version)
    second = await published(ledger, plan, version=2)

    assert not second.HasField("draft_version")
    assert second.published_version.terms.price == usd("50")
    assert second.published_version.create_time == changed.draft_version.create_time
    asked = (await found(ledger, version=1)).asked_version
    assert (asked.version, asked.state, asked.terms) == (1, pb.PLAN_VERSION_STATE_ARCHIVED, everything())
    assert (asked.create_time, asked.publish_time) == (first.create_time, first.publish_time)
    assert asked.archive_time == second.published_version.publish_time
    assert not (await found(ledger, version=2)).HasField("asked_version")
    for version in (3, 2**31 - 1):
        assert (await reason(found(ledger, version=version)))[0] is grpc.StatusCode.NOT_FOUND


async def test_service_has_no_right_to_change_what_was_published(ledger: Ledger, database_urls: dict[str, str]) -> None:
    connection = await asyncpg.connect(plain_url(database_urls["billing"]))
    try:
        for statement in (
            "UPDATE billing.plan_versions SET terms = '{}'",
            "UPDATE billing.plan_versions SET version = 7",
            "UPDATE billing.plan_versions SET publish_time = now()",
            "DELETE FROM billing.plan_versions",
            "TRUNCATE billing.plan_versions",
            "DELETE FROM billing.plans",
            "UPDATE billing.plan_requests SET response = ''",
            "DELETE FROM billing.plan_requests",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_publishing_can_be_repeated_and_never_goes_back(ledger: Ledger) -> None:
    plan = await created(ledger)
    first = await published(ledger, plan, etag=plan.etag)

    assert await published(ledger, plan, etag=plan.etag) == first
    assert (await reason(published(ledger, plan, version=2)))[0] is grpc.StatusCode.NOT_FOUND
    await repriced(ledger, plan, "13")
    assert (await published(ledger, plan, version=1)).draft_version.version == 2
    second = await published(ledger, plan, version=2)
    assert await published(ledger, plan, version=2) == second
    assert await reason(published(ledger, plan, version=1)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PLAN_VERSION_ARCHIVED",
    )
    assert [event.action for event in await events(ledger, plan.plan_id)] == [
        *("CreatePlan", "PublishPlanVersion", "UpdatePlan", "PublishPlanVersion")
    ]


async def test_archived_plan_keeps_its_versions_and_is_not_changed(ledger: Ledger) -> None:
    plan = await published(ledger, await created(ledger))
    await repriced(ledger, plan, "13")

    first, again = await archived(ledger, plan), await archived(ledger, plan)

    assert first == again
    assert first.HasField("archive_time")
    assert first.published_version == plan.published_version
    for attempt in (updated(ledger, update(plan, name="Teams")), published(ledger, plan, version=2)):
        assert await reason(attempt) == (grpc.StatusCode.FAILED_PRECONDITION, "PLAN_ARCHIVED")
    assert await published(ledger, plan, version=1) == first
    assert await found(ledger) == first
    assert codes(await listed(ledger)) == list(SEEDED)
    assert len(await listed(ledger, include_inactive=True)) == len(SEEDED) + 1


async def test_fallback_is_another_published_plan_that_costs_nothing(ledger: Ledger) -> None:
    draft = await created(ledger, new_plan("draft", terms=terms("0")))
    gone = await published(ledger, await created(ledger, new_plan("gone", terms=terms("0"))))
    await archived(ledger, gone)
    plan = await published(ledger, await created(ledger, new_plan(terms=terms("0"))))

    def falling_back_to(plan_code: str) -> pb.PlanTerms:
        past_due = pb.PastDuePolicy(end=pb.PAST_DUE_END_CHANGE_PLAN, fallback_plan_code=plan_code)
        return terms("0", past_due=past_due)

    field = "terms.past_due.fallback_plan_code"
    for code in ("nothing", draft.plan_code, gone.plan_code, "basic", plan.plan_code):
        wanted = falling_back_to(code)
        assert (await faults(updated(ledger, update(plan, ["terms.past_due"], terms=wanted)))).keys() == {field}
        if code != plan.plan_code:
            assert (await faults(created(ledger, new_plan("new", terms=wanted)))).keys() == {field}
    await published(ledger, draft)
    changed = await updated(ledger, update(plan, ["terms"], terms=falling_back_to("draft")))
    assert changed.draft_version.terms.past_due.fallback_plan_code == "draft"
    # It costs something by the time of the publication.
    await repriced(ledger, draft, "1")
    await published(ledger, draft, version=2)
    assert await reason(published(ledger, plan, version=2)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "FALLBACK_PLAN_UNUSABLE",
    )
    await repriced(ledger, draft, "0")
    await published(ledger, draft, version=3)
    assert (await published(ledger, plan, version=2)).published_version.version == 2


async def test_each_change_of_a_plan_has_one_event(ledger: Ledger) -> None:
    create = new_plan(request_id="c", description="Told by Jane.", terms=everything())
    plan = await created(ledger, create)
    await created(ledger, create)
    other = terms("51", entitlements=[limit(value="6"), *everything().entitlements[1:5]], metadata={"Jane": "x"})
    paths = ["description", "provider_references", "terms.price", "terms.entitlements", "terms.metadata"]
    change = update(
        plan, paths, request_id="u", description="Jane again.", terms=other, provider_references=[reference()]
    )
    for _ in range(2):
        await ledger.plans.UpdatePlan(change, metadata=ledger.metadata)
        await published(ledger, plan)
    for _ in range(2):
        await archived(ledger, plan)
    await refusal(updated(ledger, update(plan, name="x")))

    told = await events(ledger, plan.plan_id)

    assert [(event.action, event.request_id) for event in told] == [
        ("CreatePlan", "c"),
        ("UpdatePlan", "u"),
        ("PublishPlanVersion", ""),
        ("ArchivePlan", ""),
    ]
    assert changes(told[0]) == {
        "plan_code": ("", "team"),
        "name": ("", "Team"),
        "active": ("", "true"),
        "sort_order": ("", "0"),
        "provider_references": ("", ""),
        "archived": ("", "false"),
        "draft_version": ("", "1"),
        "description": ("", ""),
        "terms.price": ("", "49.000000001 USD"),
        "terms.billing_interval": ("", "10 YEAR"),
        "terms.trial": ("", "14 DAY"),
        "terms.credits.CREDIT": ("", "100, rollover UP_TO 250, priority 1000"),
        "terms.credits.USD": ("", "0.5, rollover ALL, priority 3"),
        "terms.past_due": ("", "retries after 1 s, 7776000 s, CHANGE_PLAN free"),
        "terms.entitlements.api_access": ("", "true"),
        "terms.entitlements.white_label": ("", "false"),
        "terms.entitlements.seats": ("", "-2.5"),
        "terms.entitlements.region": ("", ""),
        "terms.entitlements.no_text": ("", ""),
        "terms.entitlements.requests_per_minute": ("", "5 requests per MINUTE"),
        "terms.entitlements.budget": ("", "20 spend USD per PERIOD, soft"),
        "terms.entitlements.tokens": ("", "unlimited total_tokens per LIFETIME"),
        "terms.usage_charges": ("", USAGE_CHARGES),
        "terms.metadata": ("", ""),
    }
    assert changes(told[1]) == {
        "description": ("", ""),
        "provider_references": ("", "lemon_squeezy/variant/4711"),
        "terms.price": ("49.000000001 USD", "51 USD"),
        "terms.entitlements.api_access": ("true", ""),
        "terms.entitlements.requests_per_minute": ("5 requests per MINUTE", "6 requests per MINUTE"),
        "terms.entitlements.budget": ("20 spend USD per PERIOD, soft", ""),
        "terms.entitlements.tokens": ("unlimited total_tokens per LIFETIME", ""),
        "terms.metadata": ("", ""),
    }
    assert changes(told[2]) == {"published_version": ("", "1"), "draft_version": ("1", "")}
    assert changes(told[3]) == {"archived": ("false", "true")}
    for event in told:
        assert (event.actor, event.organization_id) == ("operator:alice", PLATFORM)
        assert "Jane" not in str(event)


async def test_event_says_how_many_changes_it_leaves_out(ledger: Ledger) -> None:
    features = [feature(f"feature_{number}") for number in range(200)]
    plan = await created(ledger, new_plan(terms=terms(entitlements=features)))

    (told,) = await events(ledger, plan.plan_id)

    assert len(told.changes) <= 100
    assert changes(told)["terms.entitlements"] == ("", "and 140 more")
    assert "terms.price" in changes(told)


DAMAGE: Final = (
    "UPDATE billing.plan_versions SET version = 3 WHERE version = 2",
    "UPDATE billing.plan_versions SET archive_time = now()",
    "DELETE FROM billing.plan_versions WHERE version = 1 AND archive_time IS NOT NULL",
    "UPDATE billing.plan_drafts SET version = version + 1",
    "DELETE FROM billing.plan_drafts",
)


@pytest.mark.parametrize("statement", DAMAGE)
async def test_damaged_versions_are_found_wherever_ranges_of_plans_end(
    server: BillingServer,
    database_admin_url: str,
    database_urls: dict[str, str],
    statement: str,
    billing_shards: Shards,
) -> None:
    async with server.start() as ledger:
        plan = await published(ledger, await created(ledger))
        await published(ledger, await repriced(ledger, plan, "13"), version=2)
        await repriced(ledger, plan, "14")
        await created(ledger, new_plan("club"))
        assert await ledger.findings() == []
        await executed(database_admin_url, statement)
    platform = open_database(database_urls["billing"], schema="billing")

    async def found_by(rows_max: int) -> list[Finding]:
        part = Part(platform, PLATFORM_CHECKS)
        return await findings_of(Verification(billing_shards, SystemClock(), (), part, rows_max=rows_max))

    try:
        findings = await found_by(10_000)
        assert {finding.invariant for finding in findings} == {"plan_versions_follow_each_other"}
        for rows_max in (1, 2, 3):
            assert await found_by(rows_max) == findings
    finally:
        await platform.close()
