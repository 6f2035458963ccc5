"""Usage in any unit: what is recorded, refused, summed, filtered and left out."""

import asyncio
from decimal import Decimal

import grpc
import pytest

from libs.common.ids import new_id
from libs.common.status import field_violations
from tests.billing.subscription_calls import Subscriptions
from tests.metering.support import Metering, Platform, settlement, stamp, usage
from tests.metering.test_admission import ask
from tollhouse.common.v1 import amount_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, unit_pb2, unit_pb2_grpc
from tollhouse.metering.v1 import usage_pb2 as pb


def of(**quantities: str) -> list[unit_pb2.Quantity]:
    return [unit_pb2.Quantity(unit=unit, value=value) for unit, value in quantities.items()]


def usd(value: str) -> amount_pb2.Amount:
    return amount_pb2.Amount(currency_code="USD", value=value)


def query(organization_id: str, **fields: object) -> pb.QueryUsageRequest:
    return pb.QueryUsageRequest(
        organization_id=organization_id,
        start_time=stamp(hours=-30),
        end_time=stamp(hours=2),
        **fields,  # type: ignore[arg-type]
    )


async def summaries(metering: Metering, request: pb.QueryUsageRequest) -> list[pb.UsageSummary]:
    """All pages of a query, each of one row."""
    request.page_size = 1
    found: list[pb.UsageSummary] = []
    while True:
        page = await metering.usage.QueryUsage(request, metadata=metering.operator)
        found += page.summaries
        request.page_token = page.next_page_token
        if not page.next_page_token:
            return found


@pytest.mark.own_database
async def test_usage_keeps_every_quantity_and_dimension(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    account = new_id()
    await platform.fund(organization_id)
    subscription = (await Subscriptions(platform.ledger).create(organization_id)).subscription_id
    request = usage(
        organization_id,
        quantities=of(images="2", input_seconds="12.5", image_output_tokens="30", pages="0"),
        total_tokens=1_000 + 100 + 30,
        tokens=model_pb2.TokenCounts(input=1_000, output=100),
        service_tier="batch",
        service_account_id=account.upper(),
        subscription_id=subscription,
        items=3,
        stated_amount=usd("1.25"),
        labels={"batch_id": "b-7", "usage_type": "chat", "team": "blue"},
    )
    recorded = await metering.record(request)
    await platform.settled()
    stored = await metering.get(organization_id, request.operation_id)

    assert {one.unit: one.value for one in stored.quantities} == {
        "images": "2",
        "input_seconds": "12.5",
        "image_output_tokens": "30",
    }
    assert (stored.total_tokens, stored.service_tier, stored.items) == (1_130, "batch", 3)
    assert (stored.service_account_id, stored.subscription_id) == (account, subscription)
    assert (stored.environment, stored.stated, stored.price_version_id) == (pb.ENVIRONMENT_LIVE, True, "")
    assert stored.cost == usd("1.25")
    recorded.usage.settlement = stored.settlement
    assert recorded.usage == stored
    assert await metering.charges() == {(organization_id, request.operation_id): Decimal("1.25")}
    assert (await metering.record(request)).replayed
    assert await metering.findings() == []


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"quantities": of(unicorns="1")}, "quantities[0].unit", "is not a unit"),
        ({"quantities": [*of(images="1"), *of(images="2")]}, "quantities[1].unit", "is listed twice"),
        ({"quantities": of(images="0.5")}, "quantities[0].value", "must be a multiple of 1"),
        ({"quantities": of(input_seconds="0.0005")}, "quantities[0].value", "must be a multiple of 0.001"),
        ({"quantities": of(images="1000000001")}, "quantities[0].value", "must be from 0 to"),
        ({"quantities": of(images="-1")}, "quantities[0].value", ""),
        ({"quantities": of(input_tokens="5")}, "quantities[0].unit", "input_tokens is counted in tokens.input already"),
        ({"total_tokens": 1_101}, "total_tokens", "is 1,101, but the units of tokens add up to 1,100"),
        ({"service_tier": "Batch"}, "service_tier", ""),
        ({"stated_amount": amount_pb2.Amount(currency_code="usd", value="1")}, "stated_amount.currency_code", ""),
        ({"stated_amount": usd("-1")}, "stated_amount.value", ""),
        ({"items": -1}, "items", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_quantities_are_refused_naming_the_field(
    metering: Metering, organization_id: str, fields: dict[str, object], field: str, problem: str
) -> None:
    request = usage(organization_id, tokens=model_pb2.TokenCounts(input=1_000, output=100), **fields)  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.record(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in field_violations(refused.value)[field]
    outcomes = await metering.record_batch([request, usage(organization_id, "good")])
    assert [one.WhichOneof("outcome") for one in outcomes] == ["refused", "recorded"]


async def test_quantity_without_a_rate_waits_for_a_price_and_is_summed_apart(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    recorded = await metering.record(usage(organization_id, quantities=of(images="2")))
    assert recorded.usage.settlement == pb.SETTLEMENT_PENDING_PRICE
    batch = await metering.record(usage(organization_id, "batch", service_tier="batch"))
    assert batch.usage.settlement == pb.SETTLEMENT_PENDING_PRICE
    await metering.record(usage(organization_id, "plain"))
    await platform.settled()

    unpriced, priced = await summaries(metering, query(organization_id))
    assert (unpriced.request_count, unpriced.HasField("cost")) == (2, False)
    assert [(one.unit, one.value) for one in unpriced.quantities] == [("images", "2")]
    assert (priced.request_count, list(priced.quantities)) == (1, [])
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_usage_of_test_keys_is_priced_not_charged_and_left_out_of_sums_unless_asked(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    live = await metering.record(usage(organization_id, "live"))
    test = await metering.record(usage(organization_id, "test", environment=pb.ENVIRONMENT_TEST))
    await platform.settled()
    assert test.usage.cost == live.usage.cost
    assert test.usage.settlement == pb.SETTLEMENT_SETTLED
    assert not test.HasField("balance")
    assert set(await metering.charges()) == {(organization_id, "live")}

    (alone,) = await summaries(metering, query(organization_id))
    assert alone.request_count == 1
    (both,) = await summaries(metering, query(organization_id, include_test=True))
    assert both.request_count == 2
    by_environment = await summaries(metering, query(organization_id, group_by=[pb.USAGE_DIMENSION_ENVIRONMENT]))
    assert [(one.dimensions["environment"], one.request_count) for one in by_environment] == [("LIVE", 1), ("TEST", 1)]
    only = pb.UsageFilter(dimension=pb.USAGE_DIMENSION_ENVIRONMENT, values=["TEST"])
    (tests,) = await summaries(metering, query(organization_id, filters=[only]))
    assert tests.request_count == 1
    assert await metering.findings() == []


async def test_sums_group_and_filter_by_further_dimensions_and_units(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    accounts = sorted([new_id(), new_id()])
    for number in range(6):
        await metering.record(
            usage(
                organization_id,
                f"call-{number}",
                service_account_id=accounts[number % 2],
                quantities=of(images="1", input_seconds=f"0.{number + 1}"),
                stated_amount=usd("1"),
                labels={"category": f"c{number % 3}"},
                endpoint="/v1/images",
                occur_time=stamp(hours=-(number % 3)),
            )
        )
    await metering.record(usage(organization_id, "plain"))
    await platform.settled()

    by_account = await summaries(metering, query(organization_id, group_by=[pb.USAGE_DIMENSION_SERVICE_ACCOUNT]))
    assert [(one.dimensions["service_account_id"], one.request_count) for one in by_account] == [
        ("", 1),
        (accounts[0], 3),
        (accounts[1], 3),
    ]
    assert [{q.unit: q.value for q in one.quantities} for one in by_account] == [
        {},
        {"images": "3", "input_seconds": "0.9"},
        {"images": "3", "input_seconds": "1.2"},
    ]
    only = pb.UsageFilter(dimension=pb.USAGE_DIMENSION_CATEGORY, values=["c1", "c2"])
    (both,) = await summaries(metering, query(organization_id, filters=[only]))
    assert (both.request_count, both.cost) == (4, usd("4"))
    assert {one.unit: one.value for one in both.quantities} == {"images": "4", "input_seconds": "1.6"}

    by_unit = await summaries(
        metering, query(organization_id, group_by=[pb.USAGE_DIMENSION_UNIT, pb.USAGE_DIMENSION_ENDPOINT])
    )
    assert {(one.dimensions["unit"], one.dimensions["endpoint"]): one.quantities[0].value for one in by_unit} == {
        ("images", "/v1/images"): "6",
        ("input_seconds", "/v1/images"): "2.1",
        ("input_tokens", ""): "1000",
        ("input_tokens", "/v1/images"): "6000",
        ("output_tokens", ""): "100",
        ("output_tokens", "/v1/images"): "600",
    }
    seconds = pb.UsageFilter(dimension=pb.USAGE_DIMENSION_UNIT, values=["input_seconds"])
    request = query(organization_id, group_by=[pb.USAGE_DIMENSION_UNIT], filters=[seconds])
    request.window = pb.USAGE_WINDOW_HOUR
    assert [one.quantities[0].value for one in await summaries(metering, request)] == ["0.9", "0.7", "0.5"]
    assert await metering.findings() == []


async def test_filters_that_make_no_sense_are_refused(metering: Metering, organization_id: str) -> None:
    for filters in (
        [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_UNIT, values=["images"])],
        [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_ENVIRONMENT, values=["live"])],
        [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_PROJECT, values=["no id"])],
        2 * [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_PROVIDER, values=["openai"])],
        [pb.UsageFilter(dimension=pb.USAGE_DIMENSION_PROVIDER)],
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await metering.usage.QueryUsage(query(organization_id, filters=filters), metadata=metering.operator)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert next(iter(field_violations(refused.value))).startswith("filters[")


async def test_list_is_filtered_by_dimensions_labels_and_units(metering: Metering, organization_id: str) -> None:
    account = new_id()
    await metering.record(usage(organization_id, "plain"))
    await metering.record(usage(organization_id, "batch", service_tier="batch", labels={"batch_id": "b-1"}))
    await metering.record(usage(organization_id, "images", quantities=of(images="1"), stated_amount=usd("1")))
    await metering.record(usage(organization_id, "account", service_account_id=account, endpoint="/v1/x"))
    await metering.record(usage(organization_id, "test", environment=pb.ENVIRONMENT_TEST))

    async def listed(**filters: object) -> set[str]:
        request = pb.ListUsageRequest(organization_id=organization_id, page_size=2, **filters)  # type: ignore[arg-type]
        found: set[str] = set()
        while True:
            page = await metering.usage.ListUsage(request, metadata=metering.operator)
            found |= {one.operation_id for one in page.usages}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found

    assert await listed(service_tier="batch") == {"batch"}
    assert await listed(service_tier="standard") == {"plain", "images", "account", "test"}
    assert await listed(labels={"batch_id": "b-1"}) == {"batch"}
    assert await listed(unit="images") == {"images"}
    assert await listed(unit="input_tokens") == {"plain", "batch", "images", "account", "test"}
    assert await listed(service_account_id=account.upper()) == {"account"}
    assert await listed(endpoint="/v1/x", service_tier="standard") == {"account"}
    assert await listed(environment=pb.ENVIRONMENT_TEST) == {"test"}
    assert await listed(provider="nobody") == set()


@pytest.mark.own_database
async def test_damaged_sums_of_units_and_lost_dimensions_are_found(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    fields = {"quantities": of(images="1"), "stated_amount": usd("1"), "service_tier": "batch"}
    await metering.record(usage(organization_id, **fields))  # type: ignore[arg-type]
    await platform.settled()
    assert await metering.findings() == []
    await platform.execute("UPDATE metering.usage_hour_units SET quantity = quantity + 0.001")
    (found,) = await metering.findings()
    assert found.startswith("summaries_equal_usage hours/")
    assert found.endswith("/gpt-4o/images: summary has 1.001, usage has 1")
    await platform.execute("UPDATE metering.usage_hour_units SET quantity = quantity - 0.001")
    await platform.execute("DELETE FROM metering.usage_dimensions")
    assert [one.partition(" ")[0] for one in await metering.findings()] == ["dimensions_are_known"]


async def test_archived_unit_is_refused_in_new_usage_and_answered_in_repeats_and_settlements(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    unit_id = "widgets"
    units = unit_pb2_grpc.UnitServiceStub(metering.channel)
    created = unit_pb2.CreateUnitRequest(unit_id=unit_id, kind=unit_pb2.UNIT_KIND_COUNT)
    await units.CreateUnit(created, metadata=metering.operator)
    await platform.fund(organization_id, "10")
    recorded = usage(organization_id, "before", quantities=of(widgets="2"), stated_amount=usd("1"))
    await metering.record(recorded)
    assert (await metering.authorize(ask(organization_id, "authorized"))).decision == admission_pb2.DECISION_ALLOWED
    await units.ArchiveUnit(unit_pb2.ArchiveUnitRequest(unit_id=unit_id), metadata=metering.operator)

    assert (await metering.record(recorded)).replayed
    settled = await metering.settle(
        settlement(organization_id, "authorized", quantities=of(widgets="1"), stated_amount=usd("0.5"))
    )
    assert settled.usage.cost == usd("0.5")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.record(usage(organization_id, "after", quantities=of(widgets="1")))
    assert field_violations(refused.value) == {"quantities": "widgets is an archived unit"}
    await platform.settled()
    assert await metering.findings() == []


@pytest.mark.own_database
async def test_unit_that_another_process_added_is_known_at_once(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    """The row is written as another process would, after this one has read its catalogue."""
    await metering.record(usage(organization_id, "first"))
    await asyncio.sleep(0.3)
    await platform.execute(
        "WITH next AS (UPDATE metering.catalogue_state SET revision = revision + 1 RETURNING revision)"
        " INSERT INTO metering.units SELECT 'gadgets', 'Gadgets', '', 'count', false, 1000, false, revision, now(),"
        " now() FROM next"
    )
    answer = await metering.record(usage(organization_id, quantities=of(gadgets="3"), stated_amount=usd("1")))
    assert answer.usage.quantities == of(gadgets="3")
