"""After any process is killed during a replay, the totals are exact and every invariant holds."""

import asyncio
import os
import random
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import grpc
import pytest

from libs.cli.traces.funding import costs, list_prices
from libs.cli.traces.population import make_population
from libs.cli.traces.synthetic import write_synthetic_trace
from libs.cli.traces.trace import Trace, read_trace
from tests.system.installation import Installation, end, running, until

SEED = int(os.environ.get("TOLLHOUSE_TEST_SEED", "20231116"))
KILLS = int(os.environ.get("TOLLHOUSE_TEST_KILLS", "16"))
TARGETS = ("identity", "billing", "metering", "postgres", "replay")
CALLS = 6_000
# Slow enough that the kills happen during the replay, not after it.
LASTS_S = 45
PAUSE_S = (0.8, 2.6)
BACK_WITHIN_S = 20
UNDER_WAY_WITHIN_S = 40


async def kill(installation: Installation, target: str) -> None:
    """Kill a process with SIGKILL and wait until it has been replaced."""
    killed = installation.pids()[target]
    os.kill(killed, signal.SIGKILL)

    async def is_replaced() -> bool:
        return installation.pids().get(target) not in (None, killed)

    await until(is_replaced, BACK_WITHIN_S, f"{target} is started again")


def start_replay(installation: Installation, path: Path, rate: float) -> subprocess.Popen[str]:
    return installation.start_command("replay", str(path), "--operation-prefix", "crash", "--rate", f"{rate:g}")


async def assert_exact(installation: Installation, trace: Trace, prefix: str) -> None:
    """Every token is accounted for, and the ledger holds the sum of the priced rows to the last decimal."""
    async with installation.connection().open() as channels:
        population = await make_population(channels)
        wanted = sum(costs(trace.rows, population, await list_prices(channels)).values(), Decimal(0))
    bill = await installation.bill(trace, prefix)
    assert (bill.requests, bill.input_tokens, bill.output_tokens) == (
        len(trace.rows),
        trace.input_tokens,
        trace.output_tokens,
    )
    assert bill.cost == bill.charged == wanted
    assert bill.balance == bill.paid_in - bill.charged
    verdict = installation.verify()
    assert verdict["violations"] == 0, verdict["findings"]


@pytest.mark.shards
@pytest.mark.timeout(300)
async def test_killing_anything_at_any_moment_charges_every_call_exactly_once(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    path = tmp_path / "trace.csv"
    write_synthetic_trace(path, calls=CALLS, seed=SEED)
    trace = read_trace(path, skip_bad_rows=False)
    rate = (trace.end - trace.start).total_seconds() / LASTS_S
    # Every target is killed. The seed determines the order and the times.
    targets = [TARGETS[number % len(TARGETS)] for number in range(KILLS)]
    chance.shuffle(targets)
    async with running(Installation(tmp_path)) as installation:
        replay = start_replay(installation, path, rate)
        kills = 0
        try:
            for target in targets:
                await asyncio.sleep(chance.uniform(*PAUSE_S))
                if target == "replay":
                    end(replay)
                    replay = start_replay(installation, path, rate)
                else:
                    await kill(installation, target)
                kills += 1
                assert replay.poll() in (None, 0), (await asyncio.to_thread(replay.communicate))[1]
        finally:
            end(replay)
        assert kills == KILLS
        # The rest is replayed without a speed limit.
        last = await asyncio.to_thread(installation.command, "replay", str(path), "--operation-prefix", "crash")
        assert last.returncode == 0, last.stderr
        assert f"{CALLS:,} calls" in last.stderr
        await assert_exact(installation, trace, "crash")


@pytest.mark.timeout(200)
async def test_replay_continues_after_the_whole_installation_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    write_synthetic_trace(path, calls=2_000, seed=SEED + 1)
    trace = read_trace(path, skip_bad_rows=False)
    installation = Installation(tmp_path)
    installation.start()
    replay = start_replay(installation, path, (trace.end - trace.start).total_seconds() / 6)

    async def is_under_way() -> bool:
        """Whether a large part of the trace is metered already."""
        try:
            return (await installation.bill(trace, "crash")).requests >= 300
        except grpc.aio.AioRpcError:
            return False

    await until(is_under_way, UNDER_WAY_WITHIN_S, "some of the trace is metered")
    postmaster = installation.pids()["postgres"]
    installation.kill()
    os.kill(postmaster, signal.SIGKILL)
    end(replay)
    started_s = time.monotonic()
    async with running(installation):
        assert time.monotonic() - started_s < BACK_WITHIN_S
        done = await asyncio.to_thread(installation.command, "replay", str(path), "--operation-prefix", "crash")
        assert done.returncode == 0, done.stderr
        assert "of them 0 metered before" not in done.stderr
        await assert_exact(installation, trace, "crash")
