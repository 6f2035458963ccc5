"""A trace becomes usage and charges exactly once, however often it is replayed."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from libs.cli.installation.environment import repository
from libs.cli.traces.funding import costs, list_prices
from libs.cli.traces.population import make_population
from libs.cli.traces.synthetic import CALLS, write_synthetic_trace
from libs.cli.traces.trace import Trace, read_trace
from tests.system.installation import Installation

REAL_TRACE = repository().parent / "shared" / "data" / "azure_llm_2023_conv.csv"
REAL_TOTALS = (19_366, 22_361_870, 4_088_665)


def read(path: Path) -> Trace:
    return read_trace(path, skip_bad_rows=False)


async def expected_cost(installation: Installation, trace: Trace) -> Decimal:
    """The sum of the priced rows, computed from the price list only."""
    async with installation.connection().open() as channels:
        population = await make_population(channels)
        return sum(costs(trace.rows, population, await list_prices(channels)).values(), Decimal(0))


def demo(installation: Installation, tmp_path: Path, *arguments: str) -> dict[str, object]:
    out = tmp_path / "bill.json"
    done = installation.command("demo", "--data-dir", str(tmp_path / "demo"), "--out", str(out), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Everything adds up" in done.stdout
    # It stops everything that it started.
    assert list((tmp_path / "demo").iterdir()) == []
    totals: dict[str, object] = json.loads(out.read_text())
    return totals


async def test_demo_of_a_small_trace_prints_a_bill_that_adds_up(
    installation: Installation, small_trace: Path, tmp_path: Path
) -> None:
    totals = demo(installation, tmp_path, "--trace", str(small_trace))
    trace = read(small_trace)
    charged = totals.pop("charged")
    assert totals == {
        "requests": len(trace.rows),
        "input_tokens": trace.input_tokens,
        "output_tokens": trace.output_tokens,
        "violations": 0,
    }
    assert isinstance(charged, str)
    assert Decimal(charged) > 0


@pytest.mark.timeout(300)
async def test_replay_of_real_usage_accounts_for_every_token(installation: Installation, tmp_path: Path) -> None:
    """The test uses the published trace if it is available, otherwise a synthetic one of the same size."""
    path, wanted = REAL_TRACE, REAL_TOTALS
    if not path.exists():
        path = tmp_path / "synthetic.csv"
        write_synthetic_trace(path)
        trace = read(path)
        wanted = (CALLS, trace.input_tokens, trace.output_tokens)
    totals = demo(installation, tmp_path, "--trace", str(path))
    assert (totals["requests"], totals["input_tokens"], totals["output_tokens"]) == wanted
    assert totals["violations"] == 0


async def test_replaying_again_charges_nothing_more(installation: Installation, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    write_synthetic_trace(path, calls=600, seed=7)
    first = installation.command("replay", str(path), "--operation-prefix", "twice")
    assert first.returncode == 0, first.stderr
    assert "600 calls" in first.stderr
    assert "of them 0 metered before" in first.stderr
    once = await installation.bill(read(path), "twice")
    second = installation.command("replay", str(path), "--operation-prefix", "twice")
    assert second.returncode == 0, second.stderr
    assert "of them 600 metered before" in second.stderr
    assert await installation.bill(read(path), "twice") == once
    assert installation.verify()["violations"] == 0


async def test_prefix_of_another_trace_is_refused(
    installation: Installation, small_trace: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    write_synthetic_trace(path, calls=3, seed=8)
    assert installation.command("replay", str(small_trace), "--operation-prefix", "taken").returncode == 0
    done = installation.command("replay", str(path), "--operation-prefix", "taken")
    assert done.returncode == 2
    assert "The prefix taken was used for another trace" in done.stderr
    kept = installation.command("replay", str(small_trace), "--operation-prefix", "taken", "--keep-times")
    assert kept.returncode == 2
    assert "was used without --keep-times" in kept.stderr


async def test_replay_with_kept_times_loads_history(installation: Installation, small_trace: Path) -> None:
    done = installation.command("replay", str(small_trace), "--operation-prefix", "history", "--keep-times")
    assert done.returncode == 0, done.stderr
    assert "12 calls" in done.stderr
    assert "wait for a price" not in done.stderr
    again = installation.command("replay", str(small_trace), "--operation-prefix", "history", "--keep-times")
    assert again.returncode == 0, again.stderr
    assert "of them 12 metered before" in again.stderr
    assert installation.verify()["violations"] == 0


async def test_replay_at_a_requested_rate_replays_every_call(installation: Installation, small_trace: Path) -> None:
    """Replays five seconds of calls at twice their original speed."""
    done = installation.command("replay", str(small_trace), "--operation-prefix", "slow", "--rate", "2")
    assert done.returncode == 0, done.stderr
    assert "12 calls" in done.stderr


@pytest.mark.parametrize("keep_times", [False, True])
async def test_replay_gives_up_when_nothing_answers(
    keep_times: bool, installation: Installation, small_trace: Path
) -> None:
    nobody = ("--identity", "127.0.0.1:9", "--billing", "127.0.0.1:9", "--metering", "127.0.0.1:9", "--token", "none")
    more = ("--keep-times",) if keep_times else ()
    done = installation.command("replay", str(small_trace), "--patience", "1", *nobody, *more)
    assert done.returncode == 1
    assert "have not answered for 1 s" in done.stderr
    assert "nothing is charged twice" in done.stderr
