"""A job gives way to usage that is recorded: more, where recording takes longer beside its parts than in its pauses."""

from services.metering.usage.rerate.pace import BESIDE_S, PART_LEAST, PART_MOST, PAUSE_MAX_S, Pace

EVERY_S = 0.02


def told(beside_s: float, between_s: float, seconds: int = 60) -> Pace:
    """Return a pace after calls beside parts and calls in the pauses, which took so long."""
    pace, now_s = Pace(), 0.0
    while now_s < seconds:
        pace.begin(now_s)
        pace.end(now_s + EVERY_S / 2)
        pace.note(now_s, now_s + beside_s)
        now_s += EVERY_S
        pace.note(now_s, now_s + between_s)
        now_s += EVERY_S
    return pace


def test_parts_are_as_large_as_may_be_where_recording_is_as_quick_beside_them() -> None:
    pace = told(0.005, 0.005)
    assert (pace.part, pace.pause_s(0.01)) == (PART_MOST, 0.01)


def test_parts_get_smaller_and_pauses_longer_where_recording_is_slower_beside_them() -> None:
    pace = told(0.008, 0.005)
    assert (pace.part, pace.pause_s(0.01)) == (PART_LEAST, 0.06)


def test_what_slows_down_all_calls_alike_changes_nothing() -> None:
    slow, quick = told(0.012, 0.01), told(0.0012, 0.001)
    assert (slow.part, slow.pause_s(0.01)) == (quick.part, quick.pause_s(0.01)) == (Pace().part, 0.03)


def test_a_job_gives_way_where_no_call_fits_into_its_pauses() -> None:
    pace = Pace()
    pace.begin(0)
    for number in range(300):
        pace.note(number * EVERY_S, number * EVERY_S + 0.3)
    assert pace.part < Pace().part


def test_a_long_call_that_began_in_a_pause_counts_as_one_of_the_pause_whatever_it_meets() -> None:
    pace = Pace()
    for number in range(60):
        now_s = number * EVERY_S
        pace.begin(now_s)
        pace.note(now_s, now_s + 0.001)
        pace.end(now_s + 0.002)
        pace.note(now_s + 0.003, now_s + 0.003 + 10 * EVERY_S)
    assert pace.part > Pace().part


def test_a_pause_is_bounded_so_that_a_job_ends() -> None:
    assert Pace().pause_s(1000) == PAUSE_MAX_S


def test_a_job_works_as_if_alone_a_moment_after_the_last_usage() -> None:
    pace = Pace()
    assert not pace.is_beside(0)
    pace.note(0, 1)
    assert pace.is_beside(1)
    assert not pace.is_beside(1 + BESIDE_S)
