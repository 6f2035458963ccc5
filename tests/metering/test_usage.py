from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import error_info, field_violations
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage
from tests.support.sharded import in_shard_of, value_in_shard_of
from tollhouse.metering.v1 import model_pb2, usage_pb2


@pytest.mark.own_database
async def test_recorded_usage_is_charged_once_and_answered_with_the_balance(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")

    answer = await metering.record(usage(organization_id, "call-1"))

    assert answer.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert (answer.usage.cost.currency_code, answer.usage.cost.value) == ("USD", "0.0035")
    assert answer.balance.posted.value == "9.9965"
    assert not answer.replayed
    assert await platform.posted(organization_id) == Decimal("9.9965")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def test_repeat_gives_the_stored_answer_and_charges_nothing_more(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    request = usage(organization_id, "call-1", labels={"b": "2", "a": "1"}, latency_ms=12, status_code=200)
    first = await metering.record(request)

    second = await metering.record(request)

    assert second.replayed
    assert second.usage.usage_id == first.usage.usage_id
    assert second.usage.labels == first.usage.labels
    assert await platform.posted(organization_id) == Decimal("-0.0035")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "other"}, "model"),
        ({"user_id": new_id()}, "user_id"),
        ({"partial": True}, "partial"),
        ({"labels": {"a": "1"}}, "labels"),
        ({"status_code": 500}, "status_code"),
        ({"tokens": model_pb2.TokenCounts(reasoning=1)}, "tokens"),
    ],
)
async def test_operation_id_with_another_body_is_refused_naming_the_field(
    metering: Metering, organization_id: str, change: dict[str, object], field: str
) -> None:
    await metering.record(usage(organization_id, "call-1"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.record(usage(organization_id, "call-1", **change))

    info = error_info(caught.value)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert info is not None
    assert (info.reason, info.metadata["field"]) == ("OPERATION_ID_REUSED", field)


BAD = {
    "operation_id": ["operation_id", usage(new_id(), "has space")],
    "long operation_id": ["operation_id", usage(new_id(), "x" * 256)],
    "no ASCII": ["operation_id", usage(new_id(), "ünïcode")],
    "organization_id": ["organization_id", usage("nobody")],
    "project_id": ["project_id", usage(new_id(), project_id="x")],
    "user_id": ["user_id", usage(new_id(), user_id="x")],
    "api_key_id": ["api_key_id", usage(new_id(), api_key_id="x")],
    "model": ["model", usage(new_id(), model="a b")],
    "long model": ["model", usage(new_id(), model="x" * 257)],
    "negative tokens": ["tokens.input", usage(new_id(), tokens=model_pb2.TokenCounts(input=-1))],
    "too many tokens": ["tokens.output", usage(new_id(), tokens=model_pb2.TokenCounts(output=10**9 + 1))],
    "past": ["occur_time", usage(new_id(), occur_time=stamp(days=-36))],
    "future": ["occur_time", usage(new_id(), occur_time=stamp(days=30))],
}


@pytest.mark.own_database
@pytest.mark.parametrize("case", BAD, ids=str)
async def test_bad_input_is_refused_naming_the_field_and_changes_nothing(
    platform: Platform, metering: Metering, case: str
) -> None:
    field, request = BAD[case]
    assert isinstance(request, usage_pb2.RecordUsageRequest)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering.record(request)
    (outcome,) = await metering.record_batch([request])

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert list(field_violations(caught.value)) == [field]
    assert outcome.refused.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert await platform.value("SELECT count(*) FROM metering.usage_operations") == 0


async def test_batch_answers_each_item_and_good_ones_are_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await metering.record(usage(organization_id, "before"))

    outcomes = await metering.record_batch(
        [
            usage(organization_id, "new"),
            usage(organization_id, "has space"),
            usage(organization_id, "before"),
            usage(organization_id, "new"),
            usage(organization_id, "new", model="other"),
            usage(organization_id, "before", partial=True),
        ]
    )

    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == [
        "recorded",
        "refused",
        "recorded",
        "recorded",
        "refused",
        "refused",
    ]
    assert [outcome.recorded.replayed for outcome in outcomes] == [False, False, True, True, False, False]
    assert await platform.posted(organization_id) == Decimal("-0.007")


async def test_batch_over_its_limit_is_refused(metering: Metering, organization_id: str) -> None:
    code, _ = await refused(metering.record_batch([usage(organization_id)] * 501))

    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_stream_acknowledges_every_message(platform: Platform, metering: Metering, organization_id: str) -> None:
    requests = [usage(organization_id, f"call-{n}") for n in range(300)]
    requests += [usage(organization_id, "has space"), requests[0]]
    stream = metering.usage.StreamUsage(
        iter(usage_pb2.StreamUsageRequest(usage=request) for request in requests), metadata=metering.gateway
    )

    outcomes = [response.outcome async for response in stream]

    assert len(outcomes) == 302
    assert sum(outcome.HasField("recorded") for outcome in outcomes) == 301
    assert await platform.posted(organization_id) == Decimal("-0.0035") * 300


@pytest.mark.shards
@pytest.mark.own_database
async def test_backfill_is_for_operators_and_makes_its_month(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    old = usage(organization_id, "old", occur_time=stamp(days=-400), backfill=True)
    code, reason = await refused(metering.usage.RecordUsage(old, metadata=metering.gateway))

    answer = await metering.record(old)

    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "BACKFILL_FOR_OPERATORS_ONLY")
    assert answer.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert await platform.value("SELECT count(*) FROM metering.usage_records_default") == 0
    assert await metering.findings() == []


@pytest.mark.shards
@pytest.mark.own_database
async def test_usage_at_the_edges_of_a_month_falls_into_its_own_partition(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=365)
    month = month.replace(day=1)
    for name, moment in {"last": month - timedelta(microseconds=1), "first": month}.items():
        request = usage(organization_id, name, backfill=True)
        request.occur_time.FromDatetime(moment)
        await metering.record(request)

    query = "SELECT array_agg(tableoid::regclass::text ORDER BY occur_time) FROM metering.usage_records"
    partitions = await value_in_shard_of(organization_id, platform.admin_url, query)

    before = month - timedelta(days=1)
    shard = in_shard_of(organization_id, "metering.usage_records")
    assert partitions == [f"{shard}_{m:%Y_%m}" for m in (before, month)]


@pytest.mark.shards
@pytest.mark.own_database
async def test_missing_month_goes_to_the_default_partition_and_moves_when_it_is_made(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.execute("ALTER TABLE metering.usage_records DETACH PARTITION " + await _month_of_now(platform))
    await platform.execute("ALTER TABLE " + await _month_of_now(platform) + " RENAME TO set_aside")
    await metering.record(usage(organization_id, "call-1"))
    assert any(finding.startswith("months_are_ready") for finding in await metering.findings())

    await platform.execute("SELECT metering.ensure_usage_month(now())")

    assert await platform.value("SELECT count(*) FROM metering.usage_records_default") == 0
    assert (await metering.get(organization_id, "call-1")).cost.value == "0.0035"
    assert await metering.findings() == []


async def _month_of_now(platform: Platform) -> str:
    return f"metering.usage_records_{datetime.now(UTC):%Y_%m}"


async def test_usage_of_a_project_is_charged_to_its_account(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    project_id = new_id()
    await platform.fund(organization_id, "5")
    await platform.fund(organization_id, "7", project_id=project_id)

    await metering.record(usage(organization_id, project_id=project_id))

    assert await platform.posted(organization_id, project_id) == Decimal("6.9965")
    assert await platform.posted(organization_id) == Decimal(5)


@pytest.mark.own_database
async def test_free_usage_is_settled_without_a_charge(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    answer = await metering.record(
        usage_pb2.RecordUsageRequest(organization_id=organization_id, operation_id="free", model="gpt-4o")
    )

    assert answer.usage.settlement == usage_pb2.SETTLEMENT_SETTLED
    assert answer.usage.cost.value == "0"
    assert await platform.billing_charges() == {}
    assert await metering.findings() == []


@pytest.mark.shards
@pytest.mark.own_database
async def test_usage_without_a_price_waits_and_is_charged_once_when_it_comes(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    request = usage(organization_id, "call-1", model="mystery")
    first = await metering.record(request)
    assert first.usage.settlement == usage_pb2.SETTLEMENT_PENDING_PRICE
    assert not first.usage.HasField("cost")
    assert await metering.findings() == []

    await metering.add_model("mystery")
    await metering.set_price("mystery", price_in="1", price_out="1", effective_time=stamp(hours=1))
    assert (await metering.record(request)).usage.settlement == usage_pb2.SETTLEMENT_PENDING_PRICE
    await metering.set_price("mystery", price_in="1", price_out="1")
    priced = await eventually(
        lambda: metering.get(organization_id, "call-1"), lambda u: u.settlement == usage_pb2.SETTLEMENT_SETTLED
    )

    assert priced.cost.value == "0.0011"
    assert await platform.posted(organization_id) == Decimal("-0.0011")
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


@pytest.mark.shards
async def test_lists_are_paged_and_filtered_and_closed_to_others(metering: Metering, organization_id: str) -> None:
    user_id = new_id()
    for number in range(7):
        owner = {"user_id": user_id} if number % 2 else {}
        await metering.record(usage(organization_id, f"call-{number}", occur_time=stamp(minutes=-number), **owner))

    async def pages(user: str = "") -> list[str]:
        names, token = [], ""
        while True:
            request = usage_pb2.ListUsageRequest(
                organization_id=organization_id, page_size=2, page_token=token, user_id=user
            )
            page = await metering.usage.ListUsage(request, metadata=metering.operator)
            names += [record.operation_id for record in page.usages]
            token = page.next_page_token
            if not token:
                return names

    assert await pages() == [f"call-{number}" for number in range(7)]
    assert await pages(user_id) == ["call-1", "call-3", "call-5"]
    code, _ = await refused(metering.get(new_id(), "call-1"))
    assert code == grpc.StatusCode.NOT_FOUND
