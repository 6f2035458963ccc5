"""Operation ids and names of models are taken as other systems make them, wherever they travel."""

from decimal import Decimal
from typing import Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.metering.support import Metering, Platform, settlement, stamp, usage
from tollhouse.billing.v1 import ledger_pb2
from tollhouse.common.v1 import audit_pb2
from tollhouse.metering.v1 import admission_pb2, model_pb2, usage_pb2

pytestmark = pytest.mark.shards

OPERATION_IDS: Final = (
    *(
        "_x",
        "-x",
        "abc+/==",
        "Root=1-67891233-abcdef012345678912345678",
        "{uuid}",
        "..",
        "/",
        "?a=b&c#d%00",
        "'\"\\",
        "~",
    ),
    "!" * 255,
)
MODELS: Final = (
    "@cf/meta/llama-3.1-8b-instruct",
    "~anthropic/claude-x",
    "accounts/a/models/m#accounts/a/deployments/d",
    "models/gemini=1",
    '"\\' * 128,
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model[:20])
async def test_model_of_any_name_is_priced_authorized_charged_found_and_summed(
    platform: Platform, metering: Metering, organization_id: str, model: str
) -> None:
    await platform.fund(organization_id, "10")
    await metering.add_model(model)
    await metering.set_price(model)
    asked = admission_pb2.AuthorizeRequest(
        operation_id="held",
        principal=admission_pb2.Principal(organization_id=organization_id),
        model=model,
        input_tokens=1000,
        max_output_tokens=1000,
    )

    allowed = await metering.authorize(asked)
    await metering.settle(settlement(organization_id, "held", model=model))
    await metering.record(usage(organization_id, "recorded", model=model))
    await metering.record(usage(organization_id, "other"))

    assert allowed.decision == admission_pb2.DECISION_ALLOWED
    found = await metering.models.GetModel(model_pb2.GetModelRequest(model_id=model), metadata=metering.operator)
    assert found.model.model_id == model
    listed = await _list_all(metering, organization_id, model)
    assert sorted(listed) == ["held", "recorded"]
    assert await _sum_all(metering, organization_id) == {model: 2, "gpt-4o": 1}
    assert await platform.posted(organization_id) == Decimal(10) - 3 * Decimal("0.0035")
    assert await metering.findings() == []
    audited = await metering.audit.ListAuditEvents(
        audit_pb2.ListAuditEventsRequest(resource_type="model", resource_id=model), metadata=metering.operator
    )
    assert [event.resource_id for event in audited.events][-1:] == [model]


@pytest.mark.own_database
async def test_operation_of_any_id_is_held_charged_and_found_in_all_services(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.fund(organization_id, "10")
    for operation_id in OPERATION_IDS:
        asked = admission_pb2.AuthorizeRequest(
            operation_id=operation_id,
            principal=admission_pb2.Principal(organization_id=organization_id),
            model="gpt-4o",
            input_tokens=1000,
            max_output_tokens=1000,
        )
        assert (await metering.authorize(asked)).decision == admission_pb2.DECISION_ALLOWED
        await metering.settle(settlement(organization_id, operation_id))

        assert (await metering.get(organization_id, operation_id)).operation_id == operation_id
        held = ledger_pb2.GetHoldRequest(organization_id=organization_id, operation_id=operation_id)
        found = await platform.ledger.ledger.GetHold(held, metadata=platform.ledger.metadata)
        assert found.hold.operation_id == operation_id

    assert {operation_id for _, operation_id in await metering.charges()} == set(OPERATION_IDS)
    assert await metering.charges() == await platform.billing_charges()
    assert await metering.findings() == []


async def _list_all(metering: Metering, organization_id: str, model: str) -> list[str]:
    found, token = [], ""
    for _ in range(10):
        request = usage_pb2.ListUsageRequest(
            organization_id=organization_id, model=model, page_size=1, page_token=token, end_time=stamp(hours=1)
        )
        page = await metering.usage.ListUsage(request, metadata=metering.operator)
        found += [record.operation_id for record in page.usages]
        token = page.next_page_token
        if not token:
            return found
    raise AssertionError("The list has no end.")


async def _sum_all(metering: Metering, organization_id: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    token = ""
    # A token is good for the request it came with, so that all pages need the same times.
    start, end = Timestamp(seconds=stamp(hours=-2).seconds), Timestamp(seconds=stamp(hours=2).seconds)
    for _ in range(10):
        request = usage_pb2.QueryUsageRequest(
            organization_id=organization_id,
            start_time=start,
            end_time=end,
            group_by=[usage_pb2.USAGE_DIMENSION_MODEL],
            page_size=1,
            page_token=token,
        )
        page = await metering.usage.QueryUsage(request, metadata=metering.operator)
        sums |= {summary.model: summary.request_count for summary in page.summaries}
        token = page.next_page_token
        if not token:
            return sums
    raise AssertionError("The sums have no end.")
