"""Limits of plans hold at Authorize, are counted by Settle and RecordUsage, and are told with the others."""

import asyncio
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from tests.metering.limits.support_rpc import LIFETIME, SOFT, USER, change_limit, set_limit, usage_of
from tests.metering.support import Metering, Platform, eventually, settlement, usage
from tests.metering.test_batch_admission import ALLOWED, DENIED, ask
from tollhouse.billing.v1 import plan_pb2, subscription_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, quota_pb2


async def entitle(
    platform: Platform,
    organization_id: str,
    code: str,
    limit: plan_pb2.EntitledLimit | None,
    *,
    user_id: str = "",
    model: str = "",
) -> None:
    """Override an entitlement of an organization or user, or take the override back."""
    request = subscription_pb2.SetEntitlementOverrideRequest(
        organization_id=organization_id,
        user_id=user_id,
        model=model,
        entitlement_code=code,
        clear=limit is None,
        reason="a test",
        entitlement=None if limit is None else plan_pb2.Entitlement(entitlement_code=code, limit=limit),
    )
    await platform.ledger.subscriptions.SetEntitlementOverride(request, metadata=platform.ledger.metadata)


def requests(value: str) -> plan_pb2.EntitledLimit:
    return plan_pb2.EntitledLimit(metric="requests", window=plan_pb2.LIMIT_WINDOW_LIFETIME, value=value)


def tokens(count: int) -> model_pb2.TokenCounts:
    """Return so many tokens in all, more than the 100 of the output that requests have."""
    return model_pb2.TokenCounts(input=count - 100)


async def decisions(metering: Metering, organization_id: str, count: int, **fields: object) -> list[int]:
    calls = (metering.authorize(ask(organization_id, f"op-{new_id()}", **fields)) for _ in range(count))
    return [answer.decision for answer in await asyncio.gather(*calls)]


async def test_call_beyond_what_the_organization_is_entitled_to_is_refused(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await entitle(platform, organization_id, "calls", requests("3"))

    told = await decisions(metering, organization_id, 8)

    assert sorted(told) == [ALLOWED] * 3 + [DENIED] * 5
    refused = await metering.authorize(ask(organization_id, "one-more"))
    assert refused.denial.reason == admission_pb2.DENIAL_REASON_LIMIT_EXCEEDED
    assert (refused.limits[0].name, refused.limits[0].max, refused.limits[0].entitled) == ("calls", "3", True)
    assert not refused.limits[0].HasField("retry_after"), "it never comes back by waiting"


async def test_change_of_an_entitlement_holds_within_a_second_and_keeps_what_was_used(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await entitle(platform, organization_id, "calls", requests("2"))
    assert await decisions(metering, organization_id, 2) == [ALLOWED] * 2

    await entitle(platform, organization_id, "calls", requests("3"))

    third = ask(organization_id, "third")
    await eventually(lambda: metering.authorize(third), lambda answer: answer.decision == ALLOWED)
    assert await decisions(metering, organization_id, 1) == [DENIED]
    await entitle(platform, organization_id, "calls", None)

    await eventually(
        lambda: metering.authorize(ask(organization_id, f"op-{new_id()}")), lambda answer: not answer.limits
    )


async def test_limit_of_one_user_leaves_the_others_alone(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    ada, bob = new_id(), new_id()
    await entitle(platform, organization_id, "calls", requests("1"), user_id=ada)

    async def of(user_id: str) -> int:
        asked = ask(organization_id, f"op-{new_id()}")
        asked.principal.user_id = user_id
        return (await metering.authorize(asked)).decision

    assert [await of(ada), await of(ada), await of(bob), await of(bob)] == [ALLOWED, DENIED, ALLOWED, ALLOWED]
    (status,) = await usage_of(metering, organization_id, scope=USER, scope_value=ada)
    assert (status.name, status.scope_value, status.reserved, status.entitled) == ("calls", ada, "1", True)
    assert await usage_of(metering, organization_id) == []


async def test_settled_and_recorded_usage_counts_against_a_plan_that_never_refuses_it(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    limit = plan_pb2.EntitledLimit(metric="total_tokens", window=plan_pb2.LIMIT_WINDOW_MONTH, value="3000")
    await entitle(platform, organization_id, "tokens", limit)
    await metering.authorize(ask(organization_id, "settled"))

    settled = await metering.settle(settlement(organization_id, "settled", tokens=tokens(500)))
    recorded = await metering.record(usage(organization_id, "recorded", tokens=tokens(9_000)))

    assert [(one.name, one.used, one.reserved) for one in settled.limits] == [("tokens", "500", "0")]
    assert [(one.name, one.used, one.exceeded) for one in recorded.limits] == [("tokens", "9500", True)]
    assert await decisions(metering, organization_id, 1) == [DENIED]


async def test_call_is_refused_while_billing_cannot_say_what_its_caller_is_entitled_to(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.stop_billing()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await metering.authorize(ask(organization_id, "call-1"))
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    recorded = await metering.record(usage(organization_id, "work-done"))
    assert recorded.usage.usage_id, "work that is done is recorded"


async def alerts_of(metering: Metering, organization_id: str, page_size: int = 2) -> list[quota_pb2.LimitAlert]:
    request = quota_pb2.ListLimitAlertsRequest(organization_id=organization_id, page_size=page_size)
    found: list[quota_pb2.LimitAlert] = []
    while True:
        page = await metering.quota.ListLimitAlerts(request, metadata=metering.operator)
        found += page.alerts
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


@pytest.mark.own_database
async def test_each_threshold_is_alerted_once_when_use_reaches_it(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id)
    await set_limit(
        *(metering, organization_id, "tokens"),
        metric="total_tokens",
        window=LIFETIME,
        value="10000",
        enforcement=SOFT,
        thresholds=[50, 80, 100, 150],
    )
    await metering.authorize(ask(organization_id, "held"))
    assert await alerts_of(metering, organization_id) == [], "what is reserved is no use"

    for number, count in enumerate((4_800, 199, 200, 6_000)):
        await metering.record(usage(organization_id, f"work-{number}", tokens=tokens(count)))

    alerts = await alerts_of(metering, organization_id)
    assert sorted((one.threshold, one.used, one.max) for one in alerts) == [
        (50, "5199", "10000"),
        (80, "11199", "10000"),
        (100, "11199", "10000"),
    ]
    assert {(one.name, one.metric, one.scope_value) for one in alerts} == {("tokens", "total_tokens", "")}
    await change_limit(metering, organization_id, "tokens", value="7000")
    await metering.record(usage(organization_id, "again", tokens=tokens(101)))
    assert sorted(one.threshold for one in await alerts_of(metering, organization_id)) == [50, 80, 100, 150]


@pytest.mark.own_database
async def test_many_at_once_raise_each_alert_once(platform: Platform, metering: Metering, organization_id: str) -> None:
    await platform.fund(organization_id)
    await set_limit(metering, organization_id, window=LIFETIME, value="40", thresholds=[50, 100])
    works = [usage(organization_id, f"work-{number}") for number in range(60)]
    await asyncio.gather(*(metering.record(work) for work in works), *(metering.record(work) for work in works))
    found = await alerts_of(metering, organization_id)
    assert sorted(one.threshold for one in found) == [50, 100]
    assert all(Decimal(one.used) * 100 >= Decimal(one.max) * one.threshold for one in found)
    other = new_id()
    assert await alerts_of(metering, other) == []
