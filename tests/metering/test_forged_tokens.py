"""The fingerprint in a token is no secret: a caller can compute it and put any key after it, and is refused by name."""

import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.metering.usage.streaming.position import position_of
from tests.metering.conversations.calls import append, begin, message, stub
from tests.metering.corrections.calls import amend, tokens
from tests.metering.support import Metering, Platform, usage
from tollhouse.metering.v1 import charge_pb2, conversation_pb2, model_pb2, retention_pb2, usage_pb2

_ODD = ("²", "9" * 19, "--1")
_ID = "01a21ee9-9f2e-0000-0000-000000000000"


def lists(metering: Metering, organization_id: str) -> Iterator[tuple[Callable[..., Awaitable[Any]], Any]]:
    one: dict[str, Any] = {"organization_id": organization_id, "page_size": 1}
    yield metering.usage.ListUsage, usage_pb2.ListUsageRequest(**one)
    yield metering.usage.ListUsage, usage_pb2.ListUsageRequest(page_size=1)
    yield metering.usage.ListUsageCorrections, usage_pb2.ListUsageCorrectionsRequest(**one)
    yield metering.usage.ListUsageCorrections, usage_pb2.ListUsageCorrectionsRequest(**one, usage_operation_id="0")
    yield metering.models.ListPrices, model_pb2.ListPricesRequest(**one, model_id="gpt-4o")
    yield stub(metering).ListConversations, conversation_pb2.ListConversationsRequest(**one)
    yield stub(metering).ListMessages, conversation_pb2.ListMessagesRequest(**one, conversation_id="0")
    yield metering.charge.ListPendingCharges, charge_pb2.ListPendingChargesRequest(page_size=1)
    yield metering.retention.ListUsageMonths, retention_pb2.ListUsageMonthsRequest(page_size=1)


@pytest.mark.own_database
async def test_page_tokens_with_odd_keys_are_refused_by_name(
    platform: Platform, metering: Metering, organization_id: str
) -> None:
    for name in ("0", "1"):
        await metering.record(usage(organization_id, name))
        await amend(metering, organization_id, "0", tokens=tokens(int(name)))
        effective_time = Timestamp(seconds=2_000_000_000 + int(name))
        await metering.set_price(organization_id=organization_id, effective_time=effective_time)
        await begin(metering, organization_id, name)
        await append(metering, message(organization_id, "0"))
    await platform.execute(
        "INSERT INTO metering.outbox (organization_id, operation_id, kind, state, amount, currency_code, description,"
        " attempt_count, next_attempt_time, create_time) SELECT organization_id, operation_id || 'x', 'DEBIT',"
        " 'PENDING', 1, 'USD', '', 0, now() + interval '1 day', now() FROM metering.usage_records"
    )
    for call, request in lists(metering, organization_id):
        key = json.loads(base64.urlsafe_b64decode((await call(request, metadata=metering.operator)).next_page_token))
        place = next(place for place in range(1, len(key)) if key[place].isdigit())
        for forged in (*([*key[:place], odd, *key[place + 1 :]] for odd in _ODD), key[:-1], [*key, "1"]):
            request.page_token = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode()
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call(request, metadata=metering.operator)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (request, forged)
            assert "page_token: is not a token of this list" in str(refusal.value.details())


@pytest.mark.parametrize(
    "parts",
    [
        *((since, _ID, "", _ID, _ID, "", "") for since in ("5:3:", "0:0:", "1:1:7", "3:9:5,4", "3:9:2", "1:2:3")),
        *(("", lowest, "", _ID, _ID, "", "") for lowest in ("f" * 8 + _ID[8:], "F" * 8 + _ID[8:])),
        *(("", _ID, "", _ID, _ID, time, "call") for time in ("", "²", "9" * 18)),
    ],
    ids=str,
)
def test_position_of_a_watcher_that_postgres_would_refuse_is_none(parts: tuple[str, ...]) -> None:
    assert position_of(parts) is None
    assert position_of(("3:9:4,5", _ID, "9:9:", _ID, _ID, "1", "call")) is not None
