"""The format of a trace file, and the error messages for files that do not follow it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from libs.cli.failures import WrongUse
from libs.cli.traces.synthetic import write_synthetic_trace
from libs.cli.traces.trace import read_trace
from tests.system.installation import Installation

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = "2023-11-16 18:15:46.6805900,374,44\n"

BAD_FILES = {
    "empty": ("", "has no column TIMESTAMP, ContextTokens, GeneratedTokens"),
    "column_missing": ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,1\n", "has no column GeneratedTokens"),
    "column_misspelt": ("timestamp,ContextTokens,GeneratedTokens\n" + GOOD, "has no column TIMESTAMP"),
    "column_twice": ("TIMESTAMP,ContextTokens,GeneratedTokens,TIMESTAMP\n", "has the column TIMESTAMP twice"),
    "no_rows": (HEADER, "has no rows"),
}

BAD_ROWS = {
    "too_few_columns": ("2023-11-16 18:15:46,374", "has 2 columns instead of 3"),
    "too_many_columns": ("2023-11-16 18:15:46,374,44,1", "has 4 columns instead of 3"),
    "no_number": ("2023-11-16 18:15:46,many,44", "ContextTokens is not a whole number"),
    "negative": ("2023-11-16 18:15:46,-1,44", "ContextTokens is not a whole number"),
    "fraction": ("2023-11-16 18:15:46,374,44.5", "GeneratedTokens is not a whole number"),
    "small_fraction": ("2023-11-16 18:15:46,374.0000000000000000000000001,44", "ContextTokens is not a whole number"),
    "fraction_left_open": ("2023-11-16 18:15:46,374.,44", "ContextTokens is not a whole number"),
    "fraction_alone": ("2023-11-16 18:15:46,374,.0", "GeneratedTokens is not a whole number"),
    "exponent": ("2023-11-16 18:15:46,1e3,44", "ContextTokens is not a whole number"),
    "nothing": ("2023-11-16 18:15:46,374,", "GeneratedTokens is not a whole number"),
    "beyond_the_bound": ("2023-11-16 18:15:46,1000000001,44", "ContextTokens is not a whole number"),
    "other_digits": ("2023-11-16 18:15:46,٣٧٤,44", "ContextTokens is not a whole number"),
    "no_time": ("yesterday,374,44", "TIMESTAMP is not a time"),
    "no_such_day": ("2023-02-30 18:15:46,374,44", "TIMESTAMP is not a time"),
    "no_such_offset": ("2023-11-16 18:15:46+99:00,374,44", "TIMESTAMP is not a time"),
    "no_such_minutes": ("2023-11-16 18:15:46+01:99,374,44", "TIMESTAMP is not a time"),
    "short_offset": ("2023-11-16 18:15:46+1,374,44", "TIMESTAMP is not a time"),
    "three_digits_of_offset": ("2023-11-16 18:15:46+010,374,44", "TIMESTAMP is not a time"),
    "no_text": ("\ud800,374,44", "TIMESTAMP is not a time"),
    "quote_left_open": ('"2023-11-16 18:15:46,374,44"x', "GeneratedTokens is not a whole number"),
}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("name", BAD_FILES)
def test_file_without_the_columns_of_a_trace_is_refused_naming_them(name: str, tmp_path: Path) -> None:
    text, problem = BAD_FILES[name]
    with pytest.raises(WrongUse, match=problem):
        read_trace(write(tmp_path / "trace.csv", text), skip_bad_rows=True)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row_is_named_by_its_line_and_stops_the_file(name: str, tmp_path: Path) -> None:
    row, problem = BAD_ROWS[name]
    path = write(tmp_path / "trace.csv", HEADER + GOOD + row + "\n" + GOOD)
    with pytest.raises(WrongUse, match=rf"line 3: {problem}"):
        read_trace(path, skip_bad_rows=False)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_skipped_bad_row_changes_no_other_row(name: str, tmp_path: Path) -> None:
    row, problem = BAD_ROWS[name]
    trace = read_trace(write(tmp_path / "trace.csv", HEADER + GOOD + row + "\n" + GOOD), skip_bad_rows=True)
    assert [one.number for one in trace.rows] == [1, 3]
    assert (trace.input_tokens, trace.output_tokens) == (748, 88)
    assert [(bad.line, problem in bad.problem) for bad in trace.bad_rows] == [(3, True)]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2023-11-16 18:15:46.6805900", datetime(2023, 11, 16, 18, 15, 46, 680590, tzinfo=UTC)),
        ("2023-11-16T18:15:46Z", datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)),
        ("2024-05-10 02:00:00.009930+02:00", datetime(2024, 5, 10, 0, 0, 0, 9930, tzinfo=UTC)),
        ("2024-05-10 00:00:00.009930+00", datetime(2024, 5, 10, 0, 0, 0, 9930, tzinfo=UTC)),
        ("2024-05-10 00:00:00+0000", datetime(2024, 5, 10, tzinfo=UTC)),
        ("2024-05-09T18:30:00-0530", datetime(2024, 5, 10, tzinfo=UTC)),
        ("2024-05-09 19:00:00-05", datetime(2024, 5, 10, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_every_form_the_published_traces_use(text: str, time: datetime, tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "trace.csv", f"{HEADER}{text},1,2"), skip_bad_rows=False)
    assert trace.start == time


def test_columns_are_found_by_name_and_others_ignored(tmp_path: Path) -> None:
    text = "\ufeffModel,GeneratedTokens,TIMESTAMP,ContextTokens\r\nx,44,2023-11-16 18:15:46,374\r\n\r\n"
    trace = read_trace(write(tmp_path / "trace.csv", text), skip_bad_rows=False)
    assert (trace.input_tokens, trace.output_tokens) == (374, 44)


def test_token_counts_may_be_written_with_a_fraction_of_zeros(tmp_path: Path) -> None:
    text = HEADER + "2023-11-16 18:15:46,374.0,44.000\n2023-11-16 18:15:47,0.0,1000000000.0\n"
    trace = read_trace(write(tmp_path / "trace.csv", text), skip_bad_rows=False)
    assert [(row.input_tokens, row.output_tokens) for row in trace.rows] == [(374, 44), (0, 1_000_000_000)]


def test_synthetic_trace_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_synthetic_trace(tmp_path / name, calls=200)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_replay_of_a_bad_file_names_the_line_and_meters_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    path = write(tmp_path / "bad.csv", HEADER + GOOD + "2023-11-16 18:15:47,x,1\n" + GOOD)
    done = installation.command("replay", str(path), "--operation-prefix", "bad")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "line 3: ContextTokens is not a whole number from 0 to 1000000000: 'x'" in done.stderr
    skipped = installation.command("replay", str(path), "--operation-prefix", "bad", "--on-bad-row", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "skipped line 3" in skipped.stderr
    # The first attempt metered nothing: both good rows are new to the second.
    assert "2 calls" in skipped.stderr
    assert "of them 0 metered before" in skipped.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("replay", "/nowhere.csv"), "/nowhere.csv cannot be read"),
        (("replay", "x.csv", "--operation-prefix", "a b"), "--operation-prefix takes"),
        (("verify", "--ready-file", "/nowhere.json"), "/nowhere.json cannot be read"),
        (("serve", "treasury"), "no service 'treasury'"),
        (("migrate", "treasury"), "no service 'treasury'"),
        (("token", "--audience", "treasury"), "no audience 'treasury'"),
        (("demo", "--out", "/nowhere/bill.json"), "folder /nowhere"),
    ],
)
def test_wrong_use_prints_one_line_and_exits_with_status_2(
    arguments: tuple[str, ...], message: str, installation: Installation
) -> None:
    done = installation.command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("tollhouse: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
