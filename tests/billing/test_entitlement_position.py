"""The text that resumes a stream of changes of entitlements."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.subscription.entitlement_position import Position, read_position

_REVISIONS = st.lists(st.none() | st.integers(0, 2**62), min_size=1, max_size=256)


@given(st.integers(0, 10_000), _REVISIONS)
def test_a_position_reads_back_as_it_was(default_version: int, revisions: list[int | None]) -> None:
    position = Position(default_version, tuple(revisions))
    assert read_position(str(position)) == position


def test_the_position_of_256_shards_with_the_highest_revisions_fits_into_a_request() -> None:
    assert len(str(Position(1_000, (2**62,) * 256))) <= 4_096


@given(st.binary(max_size=64))
def test_other_bytes_read_as_no_position_or_as_one_that_is_written_like_that(packed: bytes) -> None:
    text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    position = read_position(text)
    assert position is None or str(position) == text


@pytest.mark.parametrize("text", ["", "!", "AQ", "AQAB", "AQABAQ==", "\u00e9", "A" * 4_096, "AQABgICAgICAgICAgAE"])
def test_a_text_that_is_no_position_is_read_as_none(text: str) -> None:
    assert read_position(text) is None
