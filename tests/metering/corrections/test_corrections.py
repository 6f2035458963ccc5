"""What was recorded can be amended, voided and restored, and money, sums and limits follow."""

from decimal import Decimal

from tests.metering.corrections.calls import amend, charged, found, moved, restore, tokens, void
from tests.metering.support import Metering, Platform, stamp, usage
from tollhouse.metering.v1 import usage_pb2 as pb


async def summed(metering: Metering, organization_id: str) -> tuple[int, int, Decimal]:
    """Return the requests, the input tokens and the cost of the last days, of all currencies."""
    request = pb.QueryUsageRequest(organization_id=organization_id, start_time=stamp(days=-40), end_time=stamp(days=1))
    response = await metering.usage.QueryUsage(request, metadata=metering.operator)
    return (
        sum(one.request_count for one in response.summaries),
        sum(one.tokens.input for one in response.summaries),
        sum((Decimal(one.cost.value or 0) for one in response.summaries), Decimal(0)),
    )


async def test_amended_usage_costs_what_it_would_have_and_the_original_stays(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    original = (await metering.record(usage(organization_id, "call"))).usage

    answer = await amend(metering, organization_id, "call", tokens=tokens(3000, 100), reason="counted wrong")

    assert moved(answer.correction) == [("0.005", False)]
    assert answer.balance.posted.value == "9.9915"
    assert answer.correction.charges[0].settlement == pb.SETTLEMENT_SETTLED
    assert (answer.correction.before.cost.value, answer.correction.after.cost.value) == ("0.0035", "0.0085")
    stored = await found(metering, organization_id, "call")
    assert (stored.usage.tokens, stored.usage.cost, stored.usage.correction_count) == (
        original.tokens,
        original.cost,
        1,
    )
    assert [one.operation_id for one in stored.corrections] == [answer.correction.operation_id]
    assert stored.corrections[0] == answer.correction
    assert await summed(metering, organization_id) == (1, 3000, Decimal("0.0085"))
    assert await charged(platform, organization_id) == Decimal("0.0085")
    assert await metering.findings() == []


async def test_voided_usage_costs_nothing_and_restored_usage_what_it_did(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    await metering.record(usage(organization_id, "call"))
    await amend(metering, organization_id, "call", tokens=tokens(3000, 100))

    voided = await void(metering, organization_id, "call")

    assert moved(voided.correction) == [("0.005", True), ("0.0035", True)]
    assert voided.balance.posted.value == "10"
    assert await summed(metering, organization_id) == (0, 0, Decimal(0))
    assert (await found(metering, organization_id, "call")).usage.voided
    restored = await restore(metering, organization_id, "call")
    assert moved(restored.correction) == [("0.0085", False)]
    assert restored.correction.after == voided.correction.before
    assert await summed(metering, organization_id) == (1, 3000, Decimal("0.0085"))
    assert await charged(platform, organization_id) == Decimal("0.0085")
    assert await metering.findings() == []
    assert await platform.ledger.findings() == []
