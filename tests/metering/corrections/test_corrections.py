"""What was recorded can be amended, voided and restored, and money, sums and limits follow."""

import asyncio
from decimal import Decimal

import grpc

from libs.common.ids import new_id
from tests.metering.corrections.calls import amend, charged, found, moved, restore, tokens, void
from tests.metering.parts.support import Call
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage, usd
from tollhouse.metering.v1 import usage_pb2 as pb
from tollhouse.metering.v1.admission_pb2 import SettleRequest
from tollhouse.metering.v1.unit_pb2 import Quantity


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
    await platform.settled()
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


async def test_final_count_after_a_partial_one_is_charged_once_and_can_be_given_back(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """Acceptance case 12: a call that broke off was settled with what was seen; the final count comes later."""
    await metering.set_price(price_in="3", price_out="15", organization_id=organization_id)
    await platform.fund(organization_id, "10")
    await Call(metering, organization_id, "call").authorize(model="gpt-4o", input_tokens=1000, max_output_tokens=1000)
    settled = await metering.settle(
        SettleRequest(
            organization_id=organization_id,
            operation_id="call",
            model="gpt-4o",
            tokens=tokens(1000, 17),
            partial=True,
        )
    )
    assert (settled.usage.cost.value, settled.usage.partial) == ("0.003255", True)

    answer = await amend(metering, organization_id, "call", "final", tokens=tokens(1000, 900))

    assert moved(answer.correction) == [("0.013245", False)]
    assert answer.correction.after.cost.value == "0.0165"
    again = await amend(metering, organization_id, "call", "final", tokens=tokens(1000, 900))
    assert (again.replayed, moved(again.correction)) == (True, [("0.013245", False)])
    stored = await found(metering, organization_id, "call")
    assert (stored.usage.cost.value, len(stored.corrections)) == ("0.003255", 1)
    assert await charged(platform, organization_id) == Decimal("0.0165")
    assert await summed(metering, organization_id) == (1, 1000, Decimal("0.0165"))
    lower = await amend(metering, organization_id, "call", tokens=tokens(1000, 100))
    assert moved(lower.correction) == [("0.012", True)]
    assert await summed(metering, organization_id) == (1, 1000, Decimal("0.0045"))
    assert await charged(platform, organization_id) == Decimal("0.0045")
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


async def test_labels_and_quantities_move_to_the_sums_of_their_own(metering: Metering, organization_id: str) -> None:
    pages = [Quantity(unit="pages", value="3")]
    await metering.record(
        usage(organization_id, "call", labels={"category": "old"}, quantities=pages, model="free-form")
    )
    await amend(
        metering,
        organization_id,
        "call",
        labels={"category": "new"},
        quantities=[Quantity(unit="pages", value="5"), Quantity(unit="images", value="1")],
    )
    request = pb.QueryUsageRequest(
        organization_id=organization_id,
        start_time=stamp(days=-1),
        end_time=stamp(days=1),
        group_by=[pb.USAGE_DIMENSION_CATEGORY],
    )
    (summary,) = (await metering.usage.QueryUsage(request, metadata=metering.operator)).summaries
    assert dict(summary.dimensions) == {"category": "new"}
    assert [(one.unit, one.value) for one in summary.quantities] == [("images", "1"), ("pages", "5")]
    assert await metering.findings() == []


async def test_nothing_is_written_by_a_trial(platform: Platform, metering: Metering, organization_id: str) -> None:
    await metering.record(usage(organization_id, "call"))
    trial = await void(metering, organization_id, "call", "void", validate_only=True)
    assert moved(trial.correction) == [("0.0035", True)]
    assert (trial.correction.charges[0].operation_id, trial.correction.HasField("create_time")) == ("", False)
    assert not (await found(metering, organization_id, "call")).corrections
    assert not (await void(metering, organization_id, "call", "void")).replayed


async def test_repeat_is_answered_and_changed_repeats_are_refused(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call"))
    first = await amend(metering, organization_id, "call", "fix", tokens=tokens(2000, 100))
    second = await amend(metering, organization_id, "call", "fix", tokens=tokens(2000, 100))
    assert second.replayed
    assert second.correction.number == first.correction.number == 1
    reused = (grpc.StatusCode.ALREADY_EXISTS, "OPERATION_ID_REUSED")
    assert await refused(amend(metering, organization_id, "call", "fix", tokens=tokens(3000, 100))) == reused
    assert await refused(void(metering, organization_id, "call", "fix")) == reused
    assert await charged(platform, organization_id) == Decimal("0.006")


async def test_bad_corrections_are_refused_and_change_nothing(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call"))
    await metering.record(usage(organization_id, "gone"))
    await void(metering, organization_id, "gone")
    state = grpc.StatusCode.FAILED_PRECONDITION
    assert await refused(amend(metering, organization_id, "gone", tokens=tokens(1))) == (state, "USAGE_VOIDED")
    assert await refused(void(metering, organization_id, "gone")) == (state, "USAGE_VOIDED")
    assert await refused(restore(metering, organization_id, "call")) == (state, "USAGE_NOT_VOIDED")
    same = amend(metering, organization_id, "call", tokens=tokens(1000, 100))
    assert await refused(same) == (state, "NOTHING_TO_AMEND")
    stated = amend(metering, organization_id, "call", stated_amount=usd("1"))
    assert await refused(stated) == (state, "AMOUNT_NOT_STATED")
    unpriced = amend(metering, organization_id, "call", quantities=[Quantity(unit="pages", value="1")])
    assert await refused(unpriced) == (state, "PRICE_UNKNOWN")
    missing = await refused(void(metering, organization_id, "nothing"))
    assert missing[0] is grpc.StatusCode.NOT_FOUND
    assert await refused(void(metering, new_id(), "call")) == missing
    for fields in (
        {},
        {"occur_time": stamp(days=-36)},
        {"occur_time": stamp(minutes=7)},
        {"quantities": [Quantity(unit="input_tokens", value="1")]},
        {"quantities": [Quantity(unit="no_such_unit", value="1")]},
        {"tokens": tokens(-1)},
        {"tokens": tokens(1), "reason": "\x00"},
    ):
        code, _ = await refused(amend(metering, organization_id, "call", **fields))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert not (await found(metering, organization_id, "call")).corrections
    assert await charged(platform, organization_id) == Decimal("0.0035")


async def test_corrections_at_once_come_one_after_another(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call"))
    await asyncio.gather(
        *(amend(metering, organization_id, "call", tokens=tokens(1000 * count, 100)) for count in range(2, 6)),
        *(amend(metering, organization_id, "call", "same", tokens=tokens(500, 100)) for _ in range(3)),
    )
    stored = await found(metering, organization_id, "call")
    assert [one.number for one in stored.corrections] == [5, 4, 3, 2, 1]
    for later, earlier in zip(stored.corrections, stored.corrections[1:], strict=False):
        assert later.before == earlier.after
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal(stored.corrections[0].after.cost.value)
    assert await metering.findings() == []


async def test_one_correction_sent_twice_at_once_is_one_for_both(metering: Metering, organization_id: str) -> None:
    calls = [f"call-{number}" for number in range(60)]
    for call in calls:
        await metering.record(usage(organization_id, call))
    answers = await asyncio.gather(
        *(
            amend(metering, organization_id, call, f"amend-{call}", tokens=tokens(500, 100))
            for call in calls
            for _ in range(2)
        )
    )
    assert sum(answer.replayed for answer in answers) == len(calls)


async def test_usage_has_at_most_a_hundred_corrections_and_the_last_is_a_void(
    metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "call", model="free-form"))
    for number in range(99):
        await amend(metering, organization_id, "call", items=number + 1)
    too_many = grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_CORRECTIONS"
    assert await refused(amend(metering, organization_id, "call", items=1000)) == too_many
    await void(metering, organization_id, "call")
    assert await refused(restore(metering, organization_id, "call")) == too_many
    assert len((await found(metering, organization_id, "call")).corrections) == 100


async def test_usage_without_a_price_is_corrected_and_charged_once_when_one_comes(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    model = f"new-{new_id()}"
    for name in ("plain", "amended", "voided", "restored"):
        await metering.record(usage(organization_id, name, model=model))
    answer = await amend(metering, organization_id, "amended", tokens=tokens(2000, 100))
    assert not answer.correction.charges
    await void(metering, organization_id, "voided")
    await void(metering, organization_id, "restored")
    await restore(metering, organization_id, "restored")
    assert await metering.findings() == []
    await metering.add_model(model)
    await metering.set_price(model)
    await eventually(
        lambda: metering.get(organization_id, "plain"), lambda one: one.settlement == pb.SETTLEMENT_SETTLED
    )

    async def kinds(name: str) -> list[int]:
        return [one.kind for one in (await found(metering, organization_id, name)).corrections]

    await eventually(lambda: kinds("restored"), lambda one: one[0] == pb.USAGE_CORRECTION_KIND_PRICE)
    await eventually(lambda: kinds("amended"), lambda one: one[0] == pb.USAGE_CORRECTION_KIND_PRICE)
    await platform.settled()
    assert await charged(platform, organization_id) == Decimal("0.0035") * 2 + Decimal("0.006")
    assert await summed(metering, organization_id) == (3, 4000, Decimal("0.013"))
    assert await metering.findings() == []


async def test_usage_of_tests_and_stated_amounts_are_corrected(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "test", environment=pb.ENVIRONMENT_TEST))
    await metering.record(usage(organization_id, "stated", stated_amount=usd("2")))
    assert not (await amend(metering, organization_id, "test", tokens=tokens(9000))).correction.charges
    assert not (await void(metering, organization_id, "test")).correction.charges
    dearer = await amend(metering, organization_id, "stated", stated_amount=usd("2.5"))
    assert moved(dearer.correction) == [("0.5", False)]
    cheaper = await amend(metering, organization_id, "stated", stated_amount=usd("1"))
    assert moved(cheaper.correction) == [("0.5", True), ("1", True)]
    assert await metering.findings() == []


async def test_call_that_was_held_for_and_settled_in_parts_is_given_back_part_by_part(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    call = Call(metering, organization_id)
    await call.authorize()
    await call.part(500)
    await call.last(4000)
    await platform.settled()
    before = await platform.posted(organization_id)
    voided = await void(metering, organization_id, call.operation_id)
    assert len(voided.correction.charges) == 2
    assert all(reverses for _, reverses in moved(voided.correction))
    assert await platform.posted(organization_id) == 10 != before
    assert await metering.findings() == []


async def test_corrections_are_listed_the_latest_first(metering: Metering, organization_id: str) -> None:
    for name in ("one", "two"):
        await metering.record(usage(organization_id, name))
        await void(metering, organization_id, name, f"void-{name}")
        await restore(metering, organization_id, name, f"restore-{name}")

    async def listed(name: str) -> list[str]:
        request = pb.ListUsageCorrectionsRequest(organization_id=organization_id, usage_operation_id=name, page_size=1)
        operations: list[str] = []
        while True:
            page = await metering.usage.ListUsageCorrections(request, metadata=metering.operator)
            operations += [one.operation_id for one in page.corrections]
            request.page_token = page.next_page_token
            if not request.page_token:
                return operations

    assert await listed("") == ["restore-two", "void-two", "restore-one", "void-one"]
    assert await listed("one") == ["restore-one", "void-one"]
    request = pb.ListUsageRequest(organization_id=organization_id)
    usages = (await metering.usage.ListUsage(request, metadata=metering.operator)).usages
    assert [(one.operation_id, one.correction_count, one.voided) for one in usages] == [
        ("two", 2, False),
        ("one", 2, False),
    ]


async def test_usage_that_was_corrected_before_its_price_came_is_shown_as_it_is(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    async def shown() -> list[tuple[str, str, int]]:
        request = pb.ListUsageRequest(organization_id=organization_id)
        listed = (await metering.usage.ListUsage(request, metadata=metering.operator)).usages
        return sorted((one.operation_id, one.cost.value, one.settlement) for one in listed)

    model = f"new-{new_id()}"
    await metering.add_model(model)
    for name in ("amended", "priced", "voided"):
        await metering.record(usage(organization_id, name, model=model))
    await amend(metering, organization_id, "amended", tokens=tokens(2000, 100))
    await void(metering, organization_id, "voided")
    assert await shown() == [
        ("amended", "", pb.SETTLEMENT_PENDING_PRICE),
        ("priced", "", pb.SETTLEMENT_PENDING_PRICE),
        ("voided", "", pb.SETTLEMENT_SETTLED),
    ]
    await metering.set_price(model_id=model)
    priced = ("amended", "0.006", pb.SETTLEMENT_SETTLED)
    await eventually(shown, lambda listed: priced in listed)
    amended = (await found(metering, organization_id, "amended")).usage
    assert (amended.cost.value, amended.price_version_id != "", amended.correction_count) == ("0.006", True, 2)
    await void(metering, organization_id, "amended")
    assert ("amended", "", pb.SETTLEMENT_SETTLED) in await shown()
    await platform.settled()
    assert await metering.findings() == []


async def test_what_waits_for_a_price_is_counted_and_valued_before_the_price_holds(
    metering: Metering, organization_id: str
) -> None:
    model = f"new-{new_id()}"
    await metering.add_model(model)
    for name in ("one", "two", "voided"):
        await metering.record(usage(organization_id, name, model=model))
    await amend(metering, organization_id, "two", tokens=tokens(2000, 100))
    await void(metering, organization_id, "voided")
    tomorrow = await metering.set_price(model, effective_time=stamp(days=1))

    async def pending(price_version_id: str = "", model: str = "") -> list[pb.PendingPrice]:
        request = pb.ListPendingPricesRequest(
            organization_id=organization_id, price_version_id=price_version_id, model=model
        )
        return list((await metering.usage.ListPendingPrices(request, metadata=metering.operator)).pending_prices)

    (now,) = await pending()
    assert (now.model, now.usage_count, now.HasField("cost")) == (model, 2, False)
    (valued,) = await pending(price_version_id=tomorrow.price_version_id)
    assert (valued.usage_count, valued.cost.value) == (2, "0.0095")
    other = grpc.StatusCode.FAILED_PRECONDITION, "PRICE_OF_ANOTHER_MODEL"
    assert await refused(pending(price_version_id=tomorrow.price_version_id, model="gpt-4o")) == other
    assert (await refused(pending(price_version_id=new_id())))[0] is grpc.StatusCode.NOT_FOUND
    assert not (await found(metering, organization_id, "one")).corrections
