"""Windows cover their span once, and are as large as one statement should read, whatever lies where."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.windows import Span, Windows

ROWS_MAX = 120


@given(
    st.lists(st.integers(0, 10_000_000), max_size=60),
    st.integers(1, 10_000_000),
    st.sampled_from([1, 1_000]),
    st.sampled_from([1, 7, 60_000]),
)
def test_windows_cover_the_span_once_and_only_the_shortest_are_large(
    at: list[int], length: int, shortest: int, unit: int
) -> None:
    start = 50 * unit
    windows = Windows(Span(start, start + length), rows_wanted=80, rows_max=ROWS_MAX, shortest=shortest, unit=unit)
    reached = start
    while not windows.done:
        window = windows.next
        # Each place in the list stands for many rows.
        rows = 30 * sum(window.start <= start + place < window.end for place in at)
        if windows.take(rows):
            assert window.start == reached
            reached = window.end
            assert window.start % unit == 0
            assert rows <= ROWS_MAX or window.end - window.start <= max(shortest, unit)
    assert reached == start + length


def test_windows_without_rows_grow() -> None:
    windows = Windows(Span(0, 10**15), rows_wanted=80, rows_max=ROWS_MAX)
    assert not windows.take(1_000_000)
    count = 0
    while not windows.done:
        windows.take(0)
        count += 1
    assert count < 10
