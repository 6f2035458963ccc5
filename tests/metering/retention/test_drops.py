"""A month that was exported is dropped, and everything that was said of it is said as before."""

import asyncio
from decimal import Decimal

import pytest

from libs.common.ids import new_id
from tests.metering.corrections.calls import amend, tokens, void
from tests.metering.retention.calls import (
    MONTH,
    NAME,
    ask,
    at,
    drop,
    ended,
    months,
    months_ago,
    old_usage,
    retain,
    send,
)
from tests.metering.support import Metering, Platform, eventually, refused, usage, usd
from tollhouse.common.v1.amount_pb2 import Amount
from tollhouse.metering.v1 import charge_pb2, usage_pb2
from tollhouse.metering.v1 import retention_pb2 as pb

pytestmark = [pytest.mark.own_database, pytest.mark.shards]

PARTITIONS = "SELECT count(*) FROM pg_class WHERE strpos(relname, $1) > 0"


async def sums(metering: Metering, organization_id: str) -> list[str]:
    """Return the answers to a question by hour, day and month."""
    answers = []
    for window in (usage_pb2.USAGE_WINDOW_HOUR, usage_pb2.USAGE_WINDOW_DAY, usage_pb2.USAGE_WINDOW_MONTH):
        request = usage_pb2.QueryUsageRequest(
            organization_id=organization_id,
            start_time=at(MONTH),
            end_time=at(MONTH, days=27),
            window=window,
            group_by=[usage_pb2.USAGE_DIMENSION_MODEL],
        )
        answers.append(str(await metering.usage.QueryUsage(request, metadata=metering.operator)))
    return answers


async def listed(metering: Metering, organization_id: str) -> usage_pb2.ListUsageResponse:
    request = usage_pb2.ListUsageRequest(
        organization_id=organization_id, start_time=at(MONTH), end_time=at(MONTH, days=27)
    )
    return await metering.usage.ListUsage(request, metadata=metering.operator)


async def requests(metering: Metering, organization_id: str, minutes: int = 60) -> tuple[str, list[str]]:
    """Return how often was used within some minutes from one o'clock, and the months of which that lacks some."""
    request = charge_pb2.GetUsedQuantityRequest(
        organization_id=organization_id,
        subscription_id=new_id(),
        with_unsubscribed=True,
        unit="requests",
        start_time=at(MONTH, days=2, hours=1),
        end_time=at(MONTH, days=2, hours=1, minutes=minutes),
    )
    answer = await metering.charge.GetUsedQuantity(request, metadata=metering.operator)
    return answer.quantity, list(answer.dropped_months)


async def recorded(platform: Platform, organization_id: str) -> None:
    """Record usage of the month of which some is corrected, one is free and one is of a test."""
    metering = platform.metering
    for number in range(5):
        await metering.record(old_usage(organization_id, f"call-{number}"))
    await metering.record(old_usage(organization_id, "test", environment=usage_pb2.ENVIRONMENT_TEST))
    await metering.record(usage(organization_id, "now"))
    await amend(metering, organization_id, "call-1", tokens=tokens(3000, 100))
    await void(metering, organization_id, "call-2")
    await platform.settled()


async def test_dropped_month_stays_answerable_and_checked(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    other_id, _ = await identity.create_organization()
    await recorded(platform, organization_id)
    used, dropped = await requests(metering, organization_id, minutes=30), await requests(metering, organization_id)
    assert (used, dropped) == (("4", []), ("4", []))
    await metering.record(old_usage(other_id, "other"))
    await platform.settled()
    before, charges = await sums(metering, organization_id), await metering.charges()
    await retain(metering, organization_id)

    assert (await months(metering, organization_id))[NAME].expired
    done = await drop(metering, organization_id)

    assert done.state == pb.USAGE_DROP_STATE_DROPPED, done
    assert done.dropped_count == 6
    assert await platform.value("SELECT count(*) FROM metering.usage_records") == 2
    assert await sums(metering, organization_id) == before
    assert await metering.charges() == charges
    # All usage was at one. Of a full hour it is known still, of a part of it not, and the answer says so.
    assert await requests(metering, organization_id) == ("4", [])
    assert await requests(metering, organization_id, minutes=30) == ("0", [NAME])
    assert list((await listed(metering, organization_id)).dropped_months) == [NAME]
    assert (await months(metering, organization_id))[NAME].state == pb.USAGE_MONTH_STATE_DROPPED
    assert await metering.findings() == []
    assert await platform.verify() == []

    assert (await refused(metering.get(organization_id, "call-0")))[1] == "USAGE_DROPPED"
    assert (await refused(metering.get(other_id, "call-0")))[1] == "NOT_FOUND"
    assert (await refused(metering.record(old_usage(organization_id, "call-0"))))[1] == "USAGE_DROPPED"
    changed = old_usage(organization_id, "call-0", user_id=new_id())
    assert (await refused(metering.record(changed)))[1] == "OPERATION_ID_REUSED"
    for call in (
        amend(metering, organization_id, "call-0", tokens=tokens(1)),
        void(metering, organization_id, "call-1"),
    ):
        assert (await refused(call))[1] == "USAGE_DROPPED"
    assert (await refused(metering.record(old_usage(organization_id))))[1] == "USAGE_MONTH_DROPPED"
    await metering.record(old_usage(other_id))
    late = usage(organization_id, "late", corrects_operation_id="call-0")
    assert [(await metering.record(late)).replayed for _ in range(2)] == [False, True]
    assert (await metering.get(organization_id, "late")).corrects_operation_id == "call-0"
    found = (
        await metering.usage.ListUsage(
            usage_pb2.ListUsageRequest(organization_id=organization_id), metadata=metering.operator
        )
    ).usages
    assert {one.operation_id: one.corrects_operation_id for one in found if one.corrects_operation_id} == {
        "late": "call-0"
    }
    for corrects, reason in (("now", "USAGE_NOT_DROPPED"), ("nothing", "NOT_FOUND")):
        wrong = usage(organization_id, corrects_operation_id=corrects)
        assert (await refused(metering.record(wrong)))[1] == reason
    late.corrects_operation_id = "call-1"
    assert (await refused(metering.record(late)))[1] == "OPERATION_ID_REUSED"
    await platform.settled()
    assert await platform.verify() == []


async def test_month_without_records_is_listed_as_dropped_after_its_drop(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    await retain(metering, organization_id)
    await send(metering, await ask(metering, organization_id, usage_count=1))
    assert (await ended(metering, organization_id)).state == pb.USAGE_DROP_STATE_REFUSED
    assert await platform.value(PARTITIONS, f"usage_records_{MONTH:%Y_%m}") == 0
    assert (await drop(metering, organization_id)).state == pb.USAGE_DROP_STATE_DROPPED
    assert (await months(metering))[NAME].state == pb.USAGE_MONTH_STATE_DROPPED
    assert await platform.value(PARTITIONS, f"usage_records_{MONTH:%Y_%m}") == 0


async def test_partition_goes_with_all_its_usage_while_others_record(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    ids = [(await identity.create_organization())[0] for _ in range(4)]
    free_id, _ = await identity.create_organization()
    for organization_id in ids:
        await recorded(platform, organization_id)
    await retain(metering)
    charged = {one: await platform.posted(one) for one in ids}

    dropping, calls = asyncio.create_task(drop(metering)), 0
    while not dropping.done():
        outcomes = await metering.record_batch([usage(free_id) for _ in range(50)])
        assert all(outcome.HasField("recorded") for outcome in outcomes)
        calls += 1
    done = await dropping
    assert calls > 2

    assert (done.state, done.dropped_count) == (pb.USAGE_DROP_STATE_DROPPED, 24), done
    assert await platform.value(PARTITIONS, f"usage_records_{MONTH:%Y_%m}") == 0
    assert (await months(metering))[NAME].dropped_count == 24
    await platform.settled()
    assert await metering.findings() == []
    assert await platform.verify() == []
    assert {one: await platform.posted(one) for one in ids} == charged
    assert (await refused(metering.record(old_usage(ids[0], "call-0"))))[1] == "USAGE_DROPPED"


async def test_organization_with_a_longer_retention_keeps_its_month(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    (kept_id, _), (gone_id, _) = await identity.create_organization(), await identity.create_organization()
    for organization_id in (kept_id, gone_id):
        await recorded(platform, organization_id)
    await retain(metering)
    await retain(metering, kept_id, 24)

    assert (await drop(metering)).dropped_count == 6

    assert (await metering.get(kept_id, "call-0")).operation_id == "call-0"
    assert (await refused(metering.get(gone_id, "call-0")))[1] == "USAGE_DROPPED"
    await amend(metering, kept_id, "call-0", tokens=tokens(5))
    await metering.record(old_usage(kept_id))
    await platform.settled()
    assert await platform.verify() == []
    assert (await refused(send(metering, await ask(metering, kept_id))))[1] == "USAGE_RETAINED"
    await retain(metering, kept_id, 2)
    assert (await drop(metering, kept_id)).dropped_count == 7
    assert await platform.verify() == []
    assert await platform.value(PARTITIONS, f"usage_records_{MONTH:%Y_%m}") == 0


async def test_month_with_a_refused_charge_is_dropped_once_a_correction_gave_it_up(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    await platform.fund(organization_id)
    eur = Amount(currency_code="EUR", value="1.5")
    for name in ("voided", "amended"):
        await metering.record(old_usage(organization_id, name, stated_amount=eur))
    await retain(metering, organization_id)
    request = await ask(metering, organization_id)
    assert (await refused(send(metering, request)))[1] == "USAGE_MONTH_OPEN"
    await void(metering, organization_id, "voided")
    await amend(metering, organization_id, "amended", stated_amount=usd("2"))
    sent = "SELECT count(*) FROM metering.outbox WHERE next_attempt_time < 'infinity'"
    await eventually(lambda: platform.value(sent), lambda count: count == 0)
    assert await platform.verify() == []

    assert (await drop(metering, organization_id)).state == pb.USAGE_DROP_STATE_DROPPED

    assert await platform.posted(organization_id) == 998
    assert await platform.verify() == []


async def test_export_that_differs_drops_nothing(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    await recorded(platform, organization_id)
    await retain(metering, organization_id)
    request = await ask(metering, organization_id)
    for field, value in (("usage_count", 5), ("digest", request.digest ^ 1)):
        wrong = pb.DropUsageMonthRequest()
        wrong.CopyFrom(request)
        setattr(wrong, field, value)
        await send(metering, wrong)
        refusal = await ended(metering, organization_id)
        assert (refusal.state, refusal.refusal_reason) == (pb.USAGE_DROP_STATE_REFUSED, "USAGE_EXPORT_DIFFERS")
        assert refusal.refusal_message
    wrong = pb.DropUsageMonthRequest()
    wrong.CopyFrom(request)
    wrong.totals[0].value = str(Decimal(wrong.totals[0].value) + 1)
    await send(metering, wrong)
    assert (await ended(metering, organization_id)).refusal_reason == "USAGE_EXPORT_DIFFERS"
    await metering.record(old_usage(organization_id, "late"))
    await platform.settled()
    assert (await metering.get(organization_id, "call-0")).operation_id == "call-0"
    await send(metering, request)
    assert "6 usages, and 7" in (await ended(metering, organization_id)).refusal_message
    assert await metering.findings() == []


async def test_month_that_may_change_is_not_dropped(platform: Platform, metering: Metering) -> None:
    identity = await platform.start_identity()
    organization_id, _ = await identity.create_organization()
    await metering.record(old_usage(organization_id))
    await platform.settled()
    request = await ask(metering, organization_id)
    assert (await refused(send(metering, request)))[1] == "USAGE_RETAINED"
    await retain(metering, organization_id, 2)
    last = f"{months_ago(2):%Y-%m}"
    assert (await refused(send(metering, pb.DropUsageMonthRequest(month=last))))[1] == "USAGE_RETAINED"
    await metering.record(old_usage(organization_id, "unpriced", model="unknown"))
    assert (await refused(send(metering, request)))[1] == "USAGE_MONTH_OPEN"
    await void(metering, organization_id, "unpriced")
    await platform.stop_billing()
    await metering.record(old_usage(organization_id, "unpaid"))
    request = await ask(metering, organization_id, validate_only=True)
    assert (await refused(send(metering, request)))[1] == "USAGE_MONTH_OPEN"
    await platform.start_billing()
    await platform.settled()
    assert (await send(metering, request)).state == pb.USAGE_DROP_STATE_UNSPECIFIED
    request.validate_only = False
    assert (await send(metering, request)).state == pb.USAGE_DROP_STATE_SEALED
    assert (await ended(metering, organization_id)).state == pb.USAGE_DROP_STATE_DROPPED
    assert (await send(metering, request)).state == pb.USAGE_DROP_STATE_DROPPED
    request.usage_count += 1
    assert (await refused(send(metering, request)))[1] == "USAGE_MONTH_DROPPED"
    assert await metering.findings() == []
