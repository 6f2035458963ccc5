"""A field that only describes a call never causes a refusal: it is cut or left out, and the answer names it."""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Final, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from tests.billing.support import until_answered
from tests.metering.support import Metering, Platform, settlement, stamp, usage
from tests.support.odd_requests import SURROGATE, as_sent
from tollhouse.metering.v1 import admission_pb2, usage_pb2

_R = TypeVar("_R", bound=Message)
_COST: Final = Decimal("-0.0035")
_MANY: Final = {f"k{number:02}": "v" for number in range(17)}

_CASES: Final[dict[str, tuple[dict[str, object], dict[str, object], list[str]]]] = {
    "longest error": ({"error_message": "é" * 1024}, {"error_message": "é" * 1024}, []),
    "long error": (
        {"error_message": "é" * 1025},
        {"error_message": "é" * 1005 + "… (1025 characters)"},
        ["error_message"],
    ),
    "error of 1 MB": (
        {"error_message": "x" * 1_000_000},
        {"error_message": "x" * 1002 + "… (1000000 characters)"},
        ["error_message"],
    ),
    "NUL": ({"error_message": "a\x00b"}, {"error_message": "a\ufffdb"}, ["error_message"]),
    "endpoint": ({"endpoint": "/" * 300}, {"endpoint": "/" * 255 + "…"}, ["endpoint"]),
    "conversation": (
        {"conversation_id": "\x00" + "c" * 300},
        {"conversation_id": "\ufffd" + "c" * 254 + "…"},
        ["conversation_id"],
    ),
    "slow": ({"latency_ms": 25 * 3_600_000}, {"latency_ms": 86_400_000}, ["latency_ms"]),
    "latency of a day": ({"latency_ms": 86_400_000}, {"latency_ms": 86_400_000}, []),
    "negative latency": ({"latency_ms": -1}, {"latency_ms": 0}, ["latency_ms"]),
    "status 1000": ({"status_code": 1000}, {"status_code": 0}, ["status_code"]),
    "negative status": ({"status_code": -1}, {"status_code": 0}, ["status_code"]),
    "17 labels": ({"labels": _MANY}, {"labels": dict(list(_MANY.items())[:16])}, ["labels[k16]"]),
    "long value": ({"labels": {"a": "x" * 257}}, {"labels": {"a": "x" * 255 + "…"}}, ["labels[a]"]),
    "NUL in value": ({"labels": {"a": "\x00", "b": "c"}}, {"labels": {"a": "\ufffd", "b": "c"}}, ["labels[a]"]),
    "bad keys": (
        {"labels": {"": "x", "n\x00": "x", "k" * 65: "x", "ok": "x"}},
        {"labels": {"ok": "x"}},
        ["labels[]", f"labels[{'k' * 63}…]", "labels[n\ufffd]"],
    ),
    "several": (
        {"endpoint": "\x00", "latency_ms": -5, "error_message": "\x00", "status_code": 7000, "labels": {"": ""}},
        {"endpoint": "\ufffd", "latency_ms": 0, "error_message": "\ufffd", "status_code": 0, "labels": {}},
        ["latency_ms", "status_code", "error_message", "endpoint", "labels[]"],
    ),
}


@pytest.mark.parametrize("case", _CASES)
async def test_odd_description_is_recorded_as_far_as_it_can_be_and_named(
    platform: Platform, metering: Metering, organization_id: str, case: str
) -> None:
    sent, stored, adjusted = _CASES[case]

    recorded = await metering.record(usage(organization_id, "call", **sent))
    repeated = await metering.record(usage(organization_id, "call", **sent))
    (outcome,) = await metering.record_batch([usage(organization_id, "batch", **sent)])
    settled = await metering.settle(settlement(organization_id, "settled", **sent))

    for answer in (recorded, repeated, outcome.recorded, settled):
        assert list(answer.adjusted_fields) == adjusted
        read = await metering.get(organization_id, answer.usage.operation_id)
        for record in (answer.usage, read):
            assert {name: _plain(getattr(record, name)) for name in stored} == stored
    assert (recorded.replayed, repeated.replayed) == (False, True)
    assert await platform.posted(organization_id) == 3 * _COST
    assert await metering.findings() == []


async def test_numbers_out_of_range_are_left_out_rather_than_recorded_as_zero(
    metering: Metering, organization_id: str
) -> None:
    answer = await metering.record(usage(organization_id, latency_ms=-1, status_code=1000))

    assert not answer.usage.HasField("latency_ms")
    assert not answer.usage.HasField("status_code")


async def test_text_that_is_no_utf8_is_recorded_and_charged(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    request = usage(organization_id, "call", error_message=f"a{SURROGATE}b", labels={"a": SURROGATE, SURROGATE: "b"})
    send = _sender(metering, "UsageService/RecordUsage", usage_pb2.RecordUsageResponse.FromString)

    first, second = await send(request), await send(request)

    assert first.usage.error_message == "a\ufffd\ufffd\ufffdb"
    assert dict(first.usage.labels) == {"a": "\ufffd\ufffd\ufffd"}
    assert list(first.adjusted_fields) == ["error_message", "labels[\ufffd\ufffd\ufffd]", "labels[a]"]
    assert second.replayed
    assert second.adjusted_fields == first.adjusted_fields
    assert await platform.posted(organization_id) == _COST


async def test_text_that_is_no_utf8_in_an_id_is_named_and_refuses_its_own_item_alone(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    batch = usage_pb2.BatchRecordUsageRequest(
        usages=[usage(organization_id, "good"), usage(organization_id, f"bad{SURROGATE}")]
    )
    send = _sender(metering, "UsageService/BatchRecordUsage", usage_pb2.BatchRecordUsageResponse.FromString)

    good, bad = (await send(batch)).outcomes

    assert good.HasField("recorded")
    assert "operation_id" in bad.refused.message
    assert await platform.posted(organization_id) == _COST


async def test_repeat_that_differs_beyond_the_cut_is_another_request(metering: Metering, organization_id: str) -> None:
    moment = stamp()
    await metering.record(usage(organization_id, "call", error_message="x" * 2000, occur_time=moment))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.record(usage(organization_id, "call", error_message="x" * 2001, occur_time=moment))

    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert refused.value.details() == (
        "The operation id call was used before by a request that differs in error_message."
    )


async def test_every_outcome_says_whose_it_is(metering: Metering, organization_id: str) -> None:
    others = usage("0198F0AA-0000-7000-8000-00000000000A", "same")
    malformed = [usage(organization_id, "has space"), usage("x" * 5000, "y" * 5000)]
    requests = [usage(organization_id, "same"), others, *malformed]

    batched = await metering.record_batch(requests)
    stream = metering.usage.StreamUsage(
        iter(usage_pb2.StreamUsageRequest(usage=request) for request in requests), metadata=metering.operator
    )
    streamed = [response.outcome async for response in stream]

    whose = [
        (organization_id, "same"),
        ("0198f0aa-0000-7000-8000-00000000000a", "same"),
        (organization_id, "has space"),
        ("x" * 36, "y" * 255),
    ]
    assert [(outcome.organization_id, outcome.operation_id) for outcome in batched] == whose
    assert sorted((outcome.organization_id, outcome.operation_id) for outcome in streamed) == sorted(whose)


@pytest.mark.own_database
@pytest.mark.parametrize("key", ["", "x" * 513, "x" * 10_000, "a\x00b", SURROGATE, "th_live_\N{SNOWMAN}"], ids=ascii)
async def test_text_that_no_key_can_be_is_denied_as_an_unknown_key(
    platform: Platform, metering: Metering, key: str
) -> None:
    await platform.start_identity()
    request = admission_pb2.AuthorizeRequest(operation_id="call", api_key=key, model="gpt-4o")
    send = _sender(metering, "AdmissionService/Authorize", admission_pb2.AuthorizeResponse.FromString)

    answer = await until_answered(lambda: send(request))

    assert answer.decision == admission_pb2.DECISION_DENIED
    assert answer.denial.reason == admission_pb2.DENIAL_REASON_KEY_NOT_FOUND


def _sender(metering: Metering, rpc: str, deserialize: Callable[[bytes], _R]) -> Callable[[Message], Awaitable[_R]]:
    """Return what sends requests as bytes, text that is no UTF-8 included."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, _R] = metering.channel.unary_unary(
        f"/tollhouse.metering.v1.{rpc}", None, deserialize
    )
    return lambda request: call(as_sent(request), metadata=metering.operator)


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
