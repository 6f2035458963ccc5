"""Odd contents in any field of any request are answered or refused, and never fail the call or another caller's."""

from collections.abc import Iterator
from typing import Final

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.ids import new_id
from tests.metering.limits.support_rpc import set_limit
from tests.metering.rerates.calls import begun, rerate
from tests.metering.support import Metering, Platform, stamp, usage
from tests.support.hostile_calls import HostileCalls
from tests.support.odd_requests import TEXTS, as_sent, filled, methods_of, variants
from tollhouse.common.v1 import audit_pb2, integrity_pb2
from tollhouse.metering.v1 import (
    admission_pb2,
    charge_pb2,
    conversation_pb2,
    ingest_pb2,
    lease_pb2,
    model_pb2,
    quota_pb2,
    retention_pb2,
    unit_pb2,
    usage_pb2,
)

pytestmark = pytest.mark.shards

_METHODS: Final = methods_of(
    (
        *(model_pb2, unit_pb2, usage_pb2, ingest_pb2, admission_pb2, quota_pb2, lease_pb2, charge_pb2),
        *(conversation_pb2, retention_pb2, integrity_pb2, audit_pb2),
    )
)
_BATCH_TEXTS: Final = tuple(text for text in TEXTS if len(text) < 50)

_OF_LIMITS: Final[dict[str, object]] = {
    "name": "odd",
    "metric": "requests",
    "currency_code": "",
    "value": "1",
    "update_mask": FieldMask(paths=["max"]),
}

_RETENTION: Final[dict[str, object]] = {"month": "2001-01", "months": 2, "totals": []}
_MAPPING: Final = ingest_pb2.EventMapping(
    event_type="odd",
    model="odd",
    quantities=[ingest_pb2.EventQuantity(unit="input_tokens", path="$.tokens")],
    subject=ingest_pb2.EVENT_SUBJECT_ORGANIZATION,
    field_paths={"user_id": "$.user"},
    label_paths={"route": "$.route"},
)

_CORRECTION: Final[dict[str, object]] = {
    "usage_operation_id": "odd",
    "update_mask": FieldMask(paths=["labels"]),
    "labels": {"odd": "amended"},
}

_CONVERSATION: Final[dict[str, object]] = {
    "conversation_id": "odd",
    "operation_id": "odd-message",
    "role": conversation_pb2.MESSAGE_ROLE_USER,
    "usage": conversation_pb2.MessageUsage(tokens=model_pb2.TokenCounts(input=1)),
    "begin": None,
    "user_id": new_id(),
    "update_mask": FieldMask(paths=["title", "model"]),
}


def _known(organization_id: str) -> dict[str, object]:
    return {
        "organization_id": organization_id,
        "operation_id": "odd",
        "lease_id": "odd-lease",
        "principal": admission_pb2.Principal(organization_id=organization_id),
        "model": "gpt-4o",
        "model_id": "gpt-4o",
        "unit_id": "odd_unit",
        "currency_code": "USD",
        "tokens": model_pb2.TokenCounts(input=10, output=5),
        "quantities": [],
        "total_tokens": 15,
        "prices": model_pb2.TokenPrices(input="1", output="2"),
        "yaml": b"models: []",
        "start_time": stamp(days=-2),
        "end_time": stamp(days=1),
        "update_mask": FieldMask(paths=["provider", "display_name", "description", "capabilities", "metadata"]),
        "effective_time": Timestamp(seconds=1),
    }


def _own_fields(service: str, rpc: str, organization_id: str) -> dict[str, object]:
    """Return the fields that an RPC needs besides those that many have: those of its service, and its own."""
    body = HttpBody(content_type="application/json", data=b"[{}]")
    of_service: dict[str, dict[str, object]] = {
        "QuotaService": _OF_LIMITS,
        "LeaseService": _OF_LIMITS,
        "RetentionService": _RETENTION | {"user_id": organization_id},
        "IngestService": {"event_type": "odd", "mapping": _MAPPING, "body": body},
        "ConversationService": _CONVERSATION,
    }
    of_rpc: dict[str, dict[str, object]] = {
        "DigestCharges": {"organization_ids": [organization_id]},
        "GetUsedQuantity": {"unit": "pages", "start_time": Timestamp(seconds=1), "end_time": Timestamp(seconds=2)},
        "UpdateUnit": {"name": "Odd", "update_mask": FieldMask(paths=["name", "description"])},
        "UpdateAdmissionPolicy": {"update_mask": FieldMask(paths=["output_hold", "lapse_charge", "lapse_after"])},
        "GetUsageTrends": {
            "measure": usage_pb2.USAGE_MEASURE_COST,
            "window": usage_pb2.USAGE_WINDOW_DAY,
            "filters": [],
        },
        "UpdateConversationPolicy": {"update_mask": FieldMask(paths=["retention_days"])},
        **{name: _CORRECTION | {"operation_id": name} for name in ("AmendUsage", "VoidUsage", "RestoreUsage")},
    }
    return of_service.get(service, {}) | of_rpc.get(rpc, {})


@pytest.mark.own_database
async def test_odd_requests_are_answered_or_refused_and_fail_no_neighbours_call(
    platform: Platform, metering: Metering
) -> None:
    identity = await platform.start_identity()
    neighbour, _ = await identity.create_organization()
    organization_id, _ = await identity.create_organization()
    known = _known(organization_id) | {"job_id": (await begun(metering, rerate(organization_id))).job_id}
    hostile = HostileCalls(metering.channel, metering.operator)
    await set_limit(metering, organization_id, "odd")

    async def send_all() -> None:
        for method in _METHODS:
            own = _own_fields(method.containing_service.name, method.name, organization_id)
            request = filled(method.input_type, known | own | {"bucket_count": len(own)})
            texts = _BATCH_TEXTS if method.name.startswith("Batch") else TEXTS
            await hostile.send(method, [request, *variants(request, texts)])

    made = await hostile.beside(lambda number: metering.record(usage(neighbour, f"call-{number}")), send_all())

    assert "\n".join(hostile.failures) == ""
    # What is settled can neither be cancelled nor extended. Whether the job has ended by then is not known.
    of_job = {"PauseRerateJob", "ResumeRerateJob", "CancelRerateJob"}
    expected = {method.name for method in _METHODS} - {"Cancel", "ExtendAuthorization"}
    assert hostile.answered | of_job == expected
    await platform.settled()
    assert sum(organization_id == neighbour for organization_id, _ in await metering.charges()) == made
    assert await metering.findings() == []


async def test_stream_stays_open_whatever_is_sent_on_it(platform: Platform, metering: Metering) -> None:
    organization_id = new_id()
    request = usage_pb2.StreamUsageRequest(usage=usage(organization_id, "odd"))
    sent = [as_sent(variant) for variant in variants(request, _BATCH_TEXTS)]

    def messages() -> Iterator[bytes]:
        yield from sent
        yield as_sent(usage_pb2.StreamUsageRequest(usage=usage(organization_id, "last")))

    call: grpc.aio.StreamStreamMultiCallable[bytes, usage_pb2.StreamUsageResponse] = metering.channel.stream_stream(
        "/tollhouse.metering.v1.UsageService/StreamUsage", None, usage_pb2.StreamUsageResponse.FromString
    )
    answers = [answer async for answer in call(messages(), metadata=metering.operator)]
    outcomes = [answer.outcome for answer in answers if answer.HasField("outcome")]
    together = [outcome for answer in answers for outcome in answer.outcomes]

    assert len(outcomes) == len(sent) + 1
    assert together
    outcomes += together
    assert next(outcome for outcome in outcomes if outcome.operation_id == "last").HasField("recorded")
    assert not [outcome for outcome in outcomes if outcome.refused.code == grpc.StatusCode.INTERNAL.value[0]]
