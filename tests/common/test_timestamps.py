"""Times pass through protobuf and page tokens unchanged, and invalid times are reported by field."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import FieldViolation
from libs.common.timestamps import EPOCH, parse_time, render_optional_time, render_time, time_of_text, time_text

MOMENTS = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 -- Hypothesis takes naive bounds.


@given(MOMENTS)
def test_time_passes_through_protobuf_and_page_token_unchanged(moment: datetime) -> None:
    violations: list[FieldViolation] = []

    assert parse_time("t", Timestamp.FromString(render_time(moment).SerializeToString()), violations) == moment
    assert time_of_text(time_text(moment)) == moment
    assert violations == []


def test_time_of_another_zone_is_rendered_in_utc() -> None:
    kolkata = timezone(timedelta(hours=5, minutes=30))

    assert render_time(datetime(1970, 1, 1, 5, 30, tzinfo=kolkata)) == Timestamp()


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (2**62, 0), (0, -1), (0, 10**9), (253_370_764_800, 0)])
def test_time_outside_the_calendar_is_reported_by_field(seconds: int, nanos: int) -> None:
    violations: list[FieldViolation] = []

    assert parse_time("occur_time", Timestamp(seconds=seconds, nanos=nanos), violations) == EPOCH
    assert [violation.field for violation in violations] == ["occur_time"]


def test_absent_time_stays_absent() -> None:
    assert render_optional_time(None) is None


@pytest.mark.parametrize("text", ["", "x", "9" * 40, "1.5"])
def test_text_that_is_no_time_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        time_of_text(text)
