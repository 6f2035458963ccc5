"""Metering's audit trail: one event for each change of the catalogue and each charge made due, and none for usage."""

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.audit.recording import PLATFORM
from libs.common.ids import new_id
from tests.metering.support import Metering, Platform, eventually, refused, stamp, usage
from tests.metering.test_rating import LITELLM
from tollhouse.common.v1 import audit_pb2
from tollhouse.metering.v1 import charge_pb2
from tollhouse.metering.v1 import model_pb2 as pb

pytestmark = pytest.mark.shards


async def events(metering: Metering, organization_id: str = "", **filters: str) -> list[audit_pb2.AuditEvent]:
    """An organization's events, or those of the platform, the oldest first."""
    request = audit_pb2.ListAuditEventsRequest(organization_id=organization_id, page_size=1000, **filters)  # type: ignore[arg-type]
    page = await metering.audit.ListAuditEvents(request, metadata=metering.operator)
    assert not page.next_page_token
    verify = audit_pb2.VerifyAuditChainRequest(organization_id=organization_id)
    assert (await metering.audit.VerifyAuditChain(verify, metadata=metering.operator)).intact
    return list(page.events)[::-1]


def after(event: audit_pb2.AuditEvent) -> dict[str, str]:
    return {change.field: change.after for change in event.changes}


async def test_each_change_of_a_model_has_one_event(metering: Metering) -> None:
    create = pb.CreateModelRequest(
        request_id="r-1", model_id="m/1", provider="openai", capabilities=["b", "a"], metadata={"owner": "Jane"}
    )
    update = pb.UpdateModelRequest(
        request_id="r-2", model_id="m/1", update_mask=FieldMask(paths=["active", "provider", "description"])
    )
    update.description = "Told by Jane."
    for _ in range(2):
        await metering.models.CreateModel(create, metadata=metering.operator)
        await metering.models.UpdateModel(update, metadata=metering.operator)
    unknown = pb.UpdateModelRequest(request_id="r-3", model_id="m/2", update_mask=update.update_mask)
    taken = pb.CreateModelRequest(request_id="r-4", model_id="m/1")
    await refused(metering.models.UpdateModel(unknown, metadata=metering.operator))
    await refused(metering.models.CreateModel(taken, metadata=metering.operator))

    created, updated = await events(metering, resource_type="model", resource_id="m/1")
    assert (created.action, created.request_id) == ("CreateModel", "r-1")
    assert (updated.action, updated.request_id) == ("UpdateModel", "r-2")
    assert after(created) == {
        "provider": "openai",
        "display_name": "",
        "capabilities": "a,b",
        "context_length": "0",
        "max_output_tokens": "0",
        "active": "true",
        "price_set_by_hand": "false",
        "metadata": "",
    }
    changes = {change.field: (change.before, change.after) for change in updated.changes}
    assert changes == {"provider": ("openai", ""), "active": ("true", "false"), "description": ("", "")}
    for event in (created, updated):
        assert (event.actor, event.organization_id, event.peer_address) == ("operator:alice", PLATFORM, "127.0.0.1")
        assert "Jane" not in str(event)


async def test_event_of_a_price_belongs_to_the_organization_it_is_for(metering: Metering, organization_id: str) -> None:
    before = len(await events(metering, action="SetPrice"))
    await metering.set_price(organization_id=organization_id, price_in="1.5", effective_time=stamp(hours=1))
    preview = pb.SetPriceRequest(
        model_id="gpt-4o", currency_code="USD", prices=pb.TokenPrices(input="1", output="1"), validate_only=True
    )
    await metering.models.SetPrice(preview, metadata=metering.operator)
    (event,) = await events(metering, organization_id)
    told = after(event)
    assert (event.action, event.resource_type) == ("SetPrice", "price_version")
    assert told.pop("effective_time") > "2026"
    fallbacks = {name: told.pop(name) for name in list(told) if name.startswith("fallbacks.")}
    assert told == {
        "model_id": "gpt-4o",
        "currency_code": "USD",
        "rates.input_tokens": "1.5/1000000",
        "rates.output_tokens": "10/1000000",
    }
    assert fallbacks["fallbacks.cache_read_tokens"] == "input_tokens"
    assert len(await events(metering, action="SetPrice")) == before


async def test_price_set_again_with_its_request_id_has_one_event(metering: Metering) -> None:
    request = pb.SetPriceRequest(
        request_id="p-1",
        model_id="gpt-4o",
        currency_code="USD",
        prices=pb.TokenPrices(input="1", output="2", cache_read="0.5", per_request="0.01"),
        effective_time=stamp(hours=2),
    )
    versions = [(await metering.models.SetPrice(request, metadata=metering.operator)).price_version for _ in range(3)]
    told = await events(metering, resource_type="price_version", resource_id=versions[0].price_version_id)
    assert [event.request_id for event in told] == ["p-1"]
    assert {"rates.cache_read_tokens": "0.5/1000000", "rates.requests/any": "0.01"}.items() <= after(told[0]).items()


async def test_import_has_one_event_and_none_if_it_changes_nothing(metering: Metering) -> None:
    request = pb.ImportModelsRequest(litellm_json=LITELLM)
    preview = pb.ImportModelsRequest(litellm_json=LITELLM, validate_only=True)
    await metering.models.ImportModels(preview, metadata=metering.operator)
    assert await events(metering, action="ImportModels") == []
    first = await metering.models.ImportModels(request, metadata=metering.operator)
    await metering.models.ImportModels(request, metadata=metering.operator)
    (event,) = await events(metering, action="ImportModels")
    assert first.imported_count > 0
    assert (event.resource_type, event.resource_id) == ("price_list", "litellm")
    assert after(event)["imported_count"] == str(first.imported_count)


@pytest.mark.own_database
async def test_charges_made_due_have_an_event_and_usage_has_none(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    await platform.stop_billing()
    await metering.record(usage(organization_id, "waiting"))
    assert await events(metering, organization_id) == []
    await eventually(
        lambda: platform.value("SELECT count(*) FROM metering.outbox WHERE operation_id = 'waiting'"),
        lambda count: count == 1,
    )
    retry = charge_pb2.RetryChargesRequest(organization_id=organization_id, operation_ids=["waiting"])
    assert (await metering.charge.RetryCharges(retry, metadata=metering.operator)).charge_count == 1
    nothing = charge_pb2.RetryChargesRequest(organization_id=new_id(), operation_ids=["waiting"])
    assert (await metering.charge.RetryCharges(nothing, metadata=metering.operator)).charge_count == 0
    (event,) = await events(metering, organization_id)
    assert (event.action, event.resource_type, event.resource_id) == ("RetryCharges", "charge", "waiting")
    assert after(event) == {"charge_count": "1", "operation_id": "waiting"}
    assert await events(metering, nothing.organization_id) == []
    await platform.start_billing()
    await platform.settled()
