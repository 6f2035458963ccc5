"""Re-rating prices recorded usage again: what changes is corrected once, with its money, and all else is counted."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.status import reason_of
from libs.common.timestamps import render_time
from tests.metering.corrections.calls import amend, charged, found, moved, tokens, void
from tests.metering.corrections.test_corrections_against_reference import counted, limit
from tests.metering.rerates.calls import begun, done, ended, job, later, previewed, rerate
from tests.metering.support import Metering, Platform, refused, usage, usd
from tollhouse.metering.v1 import model_pb2
from tollhouse.metering.v1 import usage_pb2 as pb

pytestmark = [pytest.mark.shards, pytest.mark.own_database]


def totals(differences: list[pb.RerateDifference]) -> dict[str, tuple[int, str, str]]:
    """Return of each model how many usages change, and what they cost before and after."""
    return {
        one.model: (one.sums.changed_count, one.sums.amounts[0].before.value, one.sums.amounts[0].after.value)
        for one in differences
        if one.sums.changed_count
    }


async def test_usage_is_priced_again_at_what_is_in_force_and_back(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await limit(metering, organization_id)
    for name in ("a", "b", "c", "test"):
        await metering.record(usage(organization_id, name))
    await void(metering, organization_id, "c")
    first = (await metering.get(organization_id, "a")).price_version_id
    dearer = await metering.set_price(price_in="5", price_out="20", effective_time=later(2))

    differences, digest = await previewed(metering, rerate(organization_id))
    assert totals(differences) == {"gpt-4o": (3, "0.0105", "0.021")}
    assert differences[0].sums.voided_count == 1
    last = await done(metering, rerate(organization_id, digest=digest, reason="dearer"))

    assert (last.sums.changed_count, last.sums.voided_count, last.sums.usage_count) == (3, 1, 4)
    assert last.sums.amounts[0].after == usd("0.021")
    answer = await found(metering, organization_id, "a")
    (correction,) = answer.corrections
    assert (correction.kind, correction.reason) == (pb.USAGE_CORRECTION_KIND_RERATE, "dearer")
    assert correction.operation_id == f"rerate:{last.job_id}:{answer.usage.usage_id}"
    assert correction.actor == last.actor
    assert correction.after.price_version_id == dearer.price_version_id
    assert moved(correction) == [("0.0035", False)]
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.021")
    assert (await counted(metering, organization_id))["spend"] == Decimal("0.021")
    # An amendment computes with the new version, and a further re-rate finds nothing to do.
    amended = await amend(metering, organization_id, "a", tokens=tokens(2000, 100))
    assert amended.correction.after.cost == usd("0.012")
    again = await done(metering, rerate(organization_id))
    assert (again.sums.changed_count, again.sums.unchanged_count) == (0, 3)
    # Back at the price before: the latest charges are given back first.
    back = await done(metering, rerate(organization_id, price_version_id=first))
    assert back.sums.changed_count == 3
    (last_one, *_) = (await found(metering, organization_id, "b")).corrections
    assert moved(last_one) == [("0.0035", True)]
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.013")
    assert (await counted(metering, organization_id))["spend"] == Decimal("0.013")
    assert await metering.findings() == []
    assert await platform.ledger.findings() == []


async def test_usage_that_cost_nothing_is_counted_as_spent_when_it_has_a_price_and_no_more_without(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("free")
    free = await metering.set_price("free", price_in="0", price_out="0")
    await limit(metering, organization_id)
    for name in ("a", "b"):
        await metering.record(usage(organization_id, name, model="free"))
    before = await counted(metering, organization_id)
    assert before["spend"] == 0
    await metering.set_price("free", effective_time=later(2))
    for version, spent in (("", "0.007"), (free.price_version_id, "0"), ("", "0.007")):
        last = await done(metering, rerate(organization_id, price_version_id=version))
        assert last.sums.changed_count == 2
        assert await counted(metering, organization_id) == before | {"spend": Decimal(spent)}
        await platform.settled()
        assert await charged(platform, organization_id) == Decimal(spent)
    assert await metering.findings() == []
    assert await platform.ledger.findings() == []


async def test_sums_are_kept_by_the_currency_in_which_the_provider_is_paid_then(
    metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "a"))
    for number, currency_code in enumerate(("EUR", "EUR", "USD"), start=2):
        rates = [
            model_pb2.Rate(unit=f"{side}_tokens", price=str(number), per=1_000_000, provider_cost=str(number))
            for side in ("input", "output")
        ]
        request = model_pb2.SetPriceRequest(
            request_id=new_id(),
            model_id="gpt-4o",
            currency_code="USD",
            rate_card=model_pb2.RateCard(rates=rates, provider_currency_code=currency_code),
            effective_time=later(number),
        )
        await metering.models.SetPrice(request, metadata=metering.operator)
        assert (await done(metering, rerate(organization_id))).sums.changed_count == 1
        (correction, *_) = (await found(metering, organization_id, "a")).corrections
        assert correction.after.provider_cost.currency_code == currency_code
        assert await metering.findings() == []


async def test_what_cannot_be_priced_again_is_counted_with_its_reason_and_stays(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("stated")
    await metering.add_model("waiting")
    await metering.add_model("euros")
    await metering.set_price("euros")
    await metering.record(usage(organization_id, "stated", model="stated", stated_amount=usd("2")))
    await metering.record(usage(organization_id, "waiting", model="waiting"))
    await metering.record(usage(organization_id, "euros", model="euros"))
    await metering.record(usage(organization_id, "audio", tokens=model_pb2.TokenCounts(image=5)))
    await metering.set_price("euros", currency_code="EUR", effective_time=later(2))

    differences, digest = await previewed(metering, rerate(organization_id), size=1)
    last = await done(metering, rerate(organization_id, digest=digest))

    assert len({(one.model, one.sums.usage_count) for one in differences}) == 4
    assert [(one.reason, one.usage_count) for one in last.sums.failures] == [("PRICE_OF_ANOTHER_CURRENCY", 1)]
    sums = last.sums
    assert (sums.stated_count, sums.pending_price_count, sums.unchanged_count, sums.changed_count) == (1, 1, 1, 0)
    page = await metering.usage.ListUsageCorrections(
        pb.ListUsageCorrectionsRequest(organization_id=organization_id), metadata=metering.operator
    )
    assert not page.corrections
    assert await metering.findings() == []


async def test_filters_take_the_usage_as_it_was_recorded(metering: Metering, organization_id: str) -> None:
    user_id, project_id, other = new_id(), new_id(), new_id()
    await metering.add_model("another")
    await metering.set_price("another")
    long_ago = render_time(SystemClock().now() - timedelta(days=5))
    await metering.record(usage(organization_id, "user", user_id=user_id))
    await metering.record(usage(organization_id, "project", project_id=project_id))
    await metering.record(usage(organization_id, "another", model="another"))
    await metering.record(usage(organization_id, "early", occur_time=long_ago))
    await metering.record(usage(other, "other"))
    version = (await metering.get(organization_id, "user")).price_version_id
    chosen = await metering.set_price(price_in="1", price_out="1", effective_time=later(2))
    await metering.set_price("another", price_in="1", price_out="1", effective_time=later(2))

    async def changed(**fields: object) -> int:
        differences, _ = await previewed(metering, rerate(**fields))  # type: ignore[arg-type]
        return sum(one.sums.changed_count for one in differences)

    mine = {"organization_id": organization_id}
    assert await changed() == 4
    assert await changed(**mine) == 3
    assert await changed(user_id=user_id.upper()) == 1
    assert await changed(project_id=project_id) == 1
    assert await changed(**mine, subscription_id=user_id) == 0
    assert await changed(**mine, api_key_id=user_id) == 0
    assert await changed(**mine, models=["another"]) == 1
    assert await changed(**mine, current_price_version_id=version) == 2
    assert await changed(**mine, current_price_version_id=chosen.price_version_id) == 0
    assert await changed(**mine, price_version_id=chosen.price_version_id.upper()) == 2
    assert await changed(**mine, start_time=render_time(SystemClock().now() - timedelta(days=9))) == 4


async def test_a_request_that_makes_no_sense_is_refused_and_changes_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.add_model("another")
    another = await metering.set_price("another")
    await metering.record(usage(organization_id, "a"))
    euros = await metering.set_price(currency_code="EUR", effective_time=later(2))
    own = await metering.set_price(organization_id=organization_id, effective_time=later(2))
    version = (await metering.get(organization_id, "a")).price_version_id
    now = SystemClock().now()
    cases = {
        "PRICE_OF_ANOTHER_MODEL": rerate(models=["gpt-4o"], price_version_id=another.price_version_id),
        "PRICE_OF_ANOTHER_CURRENCY": rerate(current_price_version_id=version, price_version_id=euros.price_version_id),
        "NOT_FOUND": rerate(price_version_id=new_id()),
        "RERATE_CHANGED": rerate(organization_id, digest="0" * 31 + "1"),
    }
    for reason, request in cases.items():
        call = metering.usage.RerateUsage(request, metadata=metering.operator)
        assert (await refused(call))[1] == reason
    assert (await refused(_call(metering, rerate(new_id(), price_version_id=own.price_version_id))))[
        0
    ] is grpc.StatusCode.NOT_FOUND
    for wrong in (
        rerate(start_time=render_time(now + timedelta(days=1))),
        rerate(start_time=render_time(now - timedelta(days=401))),
        rerate(page_size=5),
        rerate(page_token="x"),
        rerate(validate_only=True, page_token="x"),
        rerate("acme"),
        rerate(digest="abc"),
        rerate(digest="A" * 32),
    ):
        assert (await refused(_call(metering, wrong)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    empty = rerate()
    empty.ClearField("start_time")
    assert (await refused(_call(metering, empty)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    page = await metering.usage.ListRerateJobs(pb.ListRerateJobsRequest(), metadata=metering.operator)
    assert not page.jobs
    assert not (await found(metering, organization_id, "a")).corrections


async def test_an_organization_that_does_not_exist_is_named(platform: Platform) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    assert not (await previewed(platform.metering, rerate(organization_id)))[0]
    refusal = await refused(_call(platform.metering, rerate(new_id())))
    assert refusal == (grpc.StatusCode.NOT_FOUND, "ORGANIZATION_NOT_FOUND")


async def test_a_repeat_gives_the_job_and_another_body_is_refused(metering: Metering, organization_id: str) -> None:
    request = rerate(organization_id)
    first = await done(metering, request)
    again = await metering.usage.RerateUsage(request, metadata=metering.operator)
    assert again.replayed
    assert again.job == first
    request.reason = "another"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await _call(metering, request)
    assert reason_of(error.value) == "OPERATION_ID_REUSED"
    assert "reason" in str(error.value.details())


async def test_a_paused_job_does_nothing_until_it_is_resumed_and_an_ended_one_stays(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.rerate.worker.SLICE_MAX", 1)
    for number in range(6):
        await metering.record(usage(organization_id, f"call-{number}"))
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    running = await begun(metering, rerate(organization_id))
    paused = await told(metering, "Pause", running.job_id)
    assert paused.state == pb.RERATE_JOB_STATE_PAUSED
    await asyncio.sleep(0.3)
    assert await told(metering, "Pause", running.job_id) == paused
    assert (await told(metering, "Resume", running.job_id.upper())).state == pb.RERATE_JOB_STATE_RUNNING
    last = await ended(metering, running.job_id)
    assert (last.state, last.sums.changed_count) == (pb.RERATE_JOB_STATE_DONE, 6)
    await metering.set_price(effective_time=later(3))
    other = await begun(metering, rerate(organization_id))
    canceled = await told(metering, "Cancel", other.job_id)
    assert canceled.state == pb.RERATE_JOB_STATE_CANCELED
    assert await told(metering, "Cancel", other.job_id) == canceled
    for verb, job_id in (("Pause", running), ("Resume", running), ("Cancel", running), ("Pause", canceled)):
        assert (await refused(told(metering, verb, job_id.job_id)))[1] == "RERATE_JOB_ENDED"
    for verb in ("Pause", "Resume", "Cancel", "Get"):
        assert (await refused(told(metering, verb, new_id())))[0] is grpc.StatusCode.NOT_FOUND
    assert await job(metering, other.job_id) == canceled
    stub, operator = metering.usage, metering.operator
    first = await stub.ListRerateJobs(pb.ListRerateJobsRequest(page_size=1), metadata=operator)
    request = pb.ListRerateJobsRequest(page_size=1, page_token=first.next_page_token)
    second = await stub.ListRerateJobs(request, metadata=operator)
    assert [first.jobs[0].job_id, second.jobs[0].job_id] == [other.job_id, running.job_id]
    assert await metering.findings() == []


async def told(metering: Metering, verb: str, job_id: str) -> pb.RerateJob:
    request = getattr(pb, f"{verb}RerateJobRequest")(job_id=job_id)
    answer = await getattr(metering.usage, f"{verb}RerateJob")(request, metadata=metering.operator)
    found: pb.RerateJob = answer.job
    return found


async def test_what_the_call_cannot_compare_the_job_does_before_it_corrects_anything(
    metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.rerate.previews.LOOKED_AT_MAX", 1)
    monkeypatch.setattr("services.metering.usage.rerate.previews._SLICE_MAX", 1)
    monkeypatch.setattr("services.metering.usage.rerate.worker.SLICE_MAX", 1)
    for number in range(3):
        await metering.record(usage(organization_id, f"call-{number}"))
    await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    differences, digest = await previewed(metering, rerate(organization_id))
    assert len(differences) == 3
    await void(metering, organization_id, "call-1")
    changed = await ended(metering, (await begun(metering, rerate(organization_id, digest=digest))).job_id)
    assert (changed.state, changed.refusal_reason) == (pb.RERATE_JOB_STATE_REFUSED, "RERATE_CHANGED")
    assert not (await found(metering, organization_id, "call-0")).corrections
    _, digest = await previewed(metering, rerate(organization_id))
    last = await done(metering, rerate(organization_id, digest=digest))
    assert (last.sums.changed_count, last.sums.usage_count) == (2, 3)


async def test_two_jobs_over_the_same_usage_end_as_one_after_another(
    platform: Platform, metering: Metering, organization_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metering.usage.rerate.worker.SLICE_MAX", 3)
    for number in range(20):
        await metering.record(usage(organization_id, f"call-{number}"))
    first = (await metering.get(organization_id, "call-0")).price_version_id
    dearer = await metering.set_price(price_in="5", price_out="20", effective_time=later(2))
    other = await platform.start_metering()
    requests = [
        rerate(organization_id, price_version_id=version)
        for version in (dearer.price_version_id, first, dearer.price_version_id)
    ]
    jobs = [await begun(server, one) for server, one in zip((metering, other, metering), requests, strict=True)]
    for one in jobs:
        last = await ended(other, one.job_id)
        assert last.state == pb.RERATE_JOB_STATE_DONE
        assert last.sums.changed_count + last.sums.unchanged_count == 20
    await platform.settled()
    total = Decimal(0)
    for number in range(20):
        answer = await found(other, organization_id, f"call-{number}")
        total += Decimal((answer.corrections[0].after if answer.corrections else answer.usage).cost.value)
    assert await charged(platform, organization_id) == total
    assert await other.findings() == []
    await metering.service.stop(0)


def _call(metering: Metering, request: pb.RerateUsageRequest) -> Awaitable[pb.RerateUsageResponse]:
    return metering.usage.RerateUsage(request, metadata=metering.operator)
