"""Changes of plans: masks, repeats, etags, operators at the same time, and the references of providers."""

import asyncio

import grpc
import pytest

from libs.common.status import reason_of
from tests.billing.plan_calls import (
    created,
    events,
    everything,
    faults,
    feature,
    found,
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
from tollhouse.billing.v1 import plan_pb2 as pb

pytestmark = pytest.mark.own_database


async def test_update_changes_the_fields_of_its_mask_alone(ledger: Ledger) -> None:
    before = await created(ledger, new_plan(description="For many.", sort_order=5, terms=everything()))
    request = update(before, ["name", "terms.price"], name="Teams", terms=terms("20"), description="Not in the mask.")
    request.active, request.sort_order = True, 9

    after = await updated(ledger, request)

    expected = everything()
    expected.price.CopyFrom(usd("20"))
    assert (after.name, after.description, after.sort_order) == ("Teams", "For many.", 5)
    assert after.draft_version.terms == expected
    assert after.draft_version.version == 1
    assert after.etag != before.etag
    assert after.create_time == before.create_time
    assert after.update_time.ToMicroseconds() > before.update_time.ToMicroseconds()
    assert await found(ledger) == after


@pytest.mark.parametrize("field", [field.name for field in pb.PlanTerms.DESCRIPTOR.fields])
async def test_each_field_of_the_terms_is_changed_by_itself(ledger: Ledger, field: str) -> None:
    plan = await created(ledger)
    expected = terms()
    expected.ClearField(field)  # type: ignore[arg-type]  # a name out of the descriptor.
    only = pb.PlanTerms()
    only.MergeFrom(everything())
    for other in pb.PlanTerms.DESCRIPTOR.fields:
        if other.name != field:
            only.ClearField(other.name)  # type: ignore[arg-type]  # the same.
    expected.MergeFrom(only)

    after = await updated(ledger, update(plan, [f"terms.{field}"], terms=everything()))

    assert after.draft_version.terms == expected


async def test_mask_of_the_terms_replaces_all_of_them(ledger: Ledger) -> None:
    plan = await created(ledger, new_plan(terms=everything()))

    assert (await updated(ledger, update(plan, ["terms"], terms=terms()))).draft_version.terms == terms()
    without = pb.PlanTerms(price=usd("1"))
    named = await faults(updated(ledger, update(plan, ["terms", "terms.price"], terms=without)))
    assert named.keys() == {"terms.billing_interval"}


async def test_feature_can_become_a_number(ledger: Ledger) -> None:
    plan = await created(ledger, new_plan(terms=terms(entitlements=[feature("seats")])))
    number = pb.PlanTerms(entitlements=[pb.Entitlement(entitlement_code="seats", number="1")])

    after = await updated(ledger, update(plan, ["terms.entitlements"], terms=number))

    assert list(after.draft_version.terms.entitlements) == list(number.entitlements)


async def test_update_is_done_once_however_often_its_request_is_sent(ledger: Ledger) -> None:
    plan = await created(ledger)
    request = update(plan, request_id="u", name="Teams")
    first = await ledger.plans.UpdatePlan(request, metadata=ledger.metadata)
    await updated(ledger, update(plan, name="Clubs"))
    again = await ledger.plans.UpdatePlan(request, metadata=ledger.metadata)

    assert (first.replayed, again.replayed, again.plan) == (False, True, first.plan)
    assert (await found(ledger)).name == "Clubs"
    reused = await refusal(updated(ledger, update(plan, request_id="u", name="Team")))
    assert reused[1:] == ("REQUEST_ID_REUSED", {"request_id": "u", "field": "name"})


async def test_update_with_the_etag_of_an_earlier_state_is_refused(ledger: Ledger) -> None:
    plan = await created(ledger)
    await repriced(ledger, plan, "13", etag=plan.etag)

    for etag in (plan.etag, "0", "no etag"):
        stale = update(plan, name="Clubs", etag=etag)
        assert await reason(updated(ledger, stale)) == (grpc.StatusCode.ABORTED, "STALE_ETAG")
        assert (await reason(published(ledger, plan, etag=etag)))[1] == "STALE_ETAG"
    now = await found(ledger)
    assert (now.name, now.HasField("published_version")) == ("Team", False)


async def test_of_updates_with_one_etag_at_once_one_is_made(ledger: Ledger, server: BillingServer) -> None:
    plan = await created(ledger)

    async with server.start() as other:
        outcomes = await asyncio.gather(
            *(
                repriced(at, plan, str(number), etag=plan.etag)
                for number, at in enumerate((ledger, other) * 4, start=20)
            ),
            return_exceptions=True,
        )

    (made,) = (outcome for outcome in outcomes if isinstance(outcome, pb.Plan))
    assert {reason_of(one) for one in outcomes if isinstance(one, grpc.aio.AioRpcError)} == {"STALE_ETAG"}
    assert await found(ledger) == made
    assert int(made.etag) == int(plan.etag) + 1


async def test_version_published_by_several_at_once_is_published_once(ledger: Ledger, server: BillingServer) -> None:
    plan = await created(ledger)

    async with server.start() as other:
        outcomes = await asyncio.gather(*(published(at, plan, etag=plan.etag) for at in (ledger, other) * 3))

    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert int(outcomes[0].etag) == int(plan.etag) + 1


async def test_draft_that_changes_while_it_is_published_is_never_published_unread(
    ledger: Ledger, server: BillingServer
) -> None:
    plan = await created(ledger)

    async with server.start() as other:
        outcomes = await asyncio.gather(
            *(repriced(ledger, plan, str(number)) for number in range(20, 24)),
            published(other, plan, etag=plan.etag),
            return_exceptions=True,
        )

    now = await found(ledger)
    if isinstance(outcomes[-1], pb.Plan):
        assert now.published_version.terms == terms()
        assert now.draft_version.version == 2
    else:
        assert isinstance(outcomes[-1], grpc.aio.AioRpcError)
        assert reason_of(outcomes[-1]) == "STALE_ETAG"
        assert (now.HasField("published_version"), now.draft_version.version) == (False, 1)


async def test_updates_without_an_etag_are_all_made_one_after_another(ledger: Ledger, server: BillingServer) -> None:
    plan = await created(ledger)
    requests = (
        update(plan, name="Teams"),
        update(plan, description="x"),
        update(plan, sort_order=3),
        update(plan, ["terms.metadata"], terms=pb.PlanTerms(metadata={"a": "b"})),
    )

    async with server.start() as other:
        await asyncio.gather(
            *(updated(at, request) for request in requests for at in (ledger, other)),
            *(repriced(at, plan, price) for at, price in ((ledger, "1"), (other, "2"))),
        )

    now = await found(ledger)
    assert (now.name, now.description, now.sort_order) == ("Teams", "x", 3)
    assert now.draft_version.terms.price.value in ("1", "2")
    assert dict(now.draft_version.terms.metadata) == {"a": "b"}
    # Of each pair of equal updates one changes something.
    assert int(now.etag) == int(plan.etag) + len(requests) + 2


async def test_update_to_what_the_plan_is_changes_nothing(ledger: Ledger) -> None:
    plan = await created(ledger, new_plan(terms=everything(), provider_references=[reference()]))
    same = update(
        plan,
        name=plan.name,
        description="",
        active=True,
        sort_order=0,
        provider_references=[reference()],
        terms=everything(),
    )

    assert await updated(ledger, same) == plan
    in_force = await published(ledger, plan)
    assert await updated(ledger, same) == in_force
    assert not (await found(ledger)).HasField("draft_version")
    assert len(await events(ledger, plan.plan_id)) == 2


async def test_reference_of_a_provider_belongs_to_one_plan(ledger: Ledger) -> None:
    plan = await created(ledger, new_plan(provider_references=[reference("a"), reference("b")]))
    other = await created(ledger, new_plan("club", provider_references=[reference("c")]))

    for attempt in (
        created(ledger, new_plan("third", provider_references=[reference("x"), reference("b")])),
        updated(ledger, update(other, provider_references=[reference("b"), reference("c")])),
    ):
        status, taken, facts = await refusal(attempt)
        assert (status, taken) == (grpc.StatusCode.ALREADY_EXISTS, "PROVIDER_REFERENCE_TAKEN")
        taken_by = {"provider": "lemon_squeezy", "kind": "variant", "external_id": "b", "resource_type": "plan"}
        assert facts == taken_by
    await updated(ledger, update(plan, provider_references=[reference("a"), reference("b", kind="product")]))
    now = await updated(ledger, update(other, provider_references=[reference("b")]))
    assert list(now.provider_references) == [reference("b")]
    emptied = await updated(ledger, update(other, ["provider_references"]))
    assert list(emptied.provider_references) == []


async def test_plans_that_swap_references_at_once_are_both_refused(ledger: Ledger, server: BillingServer) -> None:
    one = await created(ledger, new_plan(provider_references=[reference("a")]))
    two = await created(ledger, new_plan("club", provider_references=[reference("b")]))

    async with server.start() as other:
        outcomes = await asyncio.gather(
            updated(ledger, update(one, provider_references=[reference("b")])),
            updated(other, update(two, provider_references=[reference("a")])),
            return_exceptions=True,
        )

    refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert [reason_of(error) for error in refused] == ["PROVIDER_REFERENCE_TAKEN"] * 2
