"""Text from callers is cleaned so that it can be stored, instead of failing the message."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from libs.common.text import Malformed, lengths_of, storable, with_valid_text
from tests.support.odd_requests import SURROGATE, as_sent
from tollhouse.metering.v1 import model_pb2, usage_pb2


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("abcd", "abcd"),
        ("abcde", "abc…"),
        ("\x00", "\ufffd"),
        ("abc\x00e", "abc…"),
        ("\x00" * 9, "\ufffd" * 3 + "…"),
    ],
)
def test_long_text_is_cut_and_marked_and_nul_is_replaced(text: str, stored: str) -> None:
    assert storable(text, 4) == stored


def test_clean_text_is_unchanged() -> None:
    text = "a fine text"
    assert storable(text, 1024) is text


def test_maximum_lengths_match_the_contract() -> None:
    assert lengths_of(usage_pb2.RecordUsageRequest.DESCRIPTOR) == {
        "error_message": 1024,
        "endpoint": 256,
        "conversation_id": 256,
        "labels": 256,
    }


def test_invalid_utf8_at_any_depth_becomes_nul_and_the_rest_is_unchanged() -> None:
    usage = usage_pb2.RecordUsageRequest(
        operation_id=f"a{SURROGATE}",
        tokens=model_pb2.TokenCounts(input=7, output=2**29),
        error_message="é",
        labels={SURROGATE: "v", "k": f"{SURROGATE}\U0001f600"},
        latency_ms=-1,
        partial=True,
    )
    sent = as_sent(usage_pb2.BatchRecordUsageRequest(usages=[usage, usage]))
    with pytest.raises(DecodeError):
        usage_pb2.BatchRecordUsageRequest.FromString(sent)

    read = usage_pb2.BatchRecordUsageRequest.FromString(
        with_valid_text(sent, usage_pb2.BatchRecordUsageRequest.DESCRIPTOR)
    )

    for item in read.usages:
        assert item.operation_id == "a\x00\x00\x00"
        assert dict(item.labels) == {"\x00\x00\x00": "v", "k": "\x00\x00\x00\U0001f600"}
        for field in ("tokens", "error_message", "latency_ms", "partial"):
            assert getattr(item, field) == getattr(usage, field)


def test_message_with_too_many_fields_is_malformed() -> None:
    many = usage_pb2.BatchRecordUsageRequest(usages=[usage_pb2.RecordUsageRequest()] * 50_001)
    with pytest.raises(Malformed):
        with_valid_text(many.SerializeToString(), usage_pb2.BatchRecordUsageRequest.DESCRIPTOR)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_keep_their_length_or_are_malformed(data: bytes) -> None:
    try:
        read = with_valid_text(data, usage_pb2.BatchRecordUsageRequest.DESCRIPTOR)
    except Malformed:
        return
    assert len(read) == len(data)
