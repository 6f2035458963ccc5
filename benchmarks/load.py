"""The client: one process that calls a server as fast as it gets responses, the same for both sides of a measure.

A round creates its requests before the timed part and checks the responses after it, so that the timed part is the same
for both sides: serialize, call, parse.
"""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from benchmarks.ways import STUBS, WAYS, Call, Step
from tollhouse_client.errors import TollhouseError

__all__ = ["Exchange", "LoadError", "Round", "Script", "Step", "Timing", "run_round"]

ROUND_LIMIT_S = 60.0

Exchange: TypeAlias = tuple[Message, ...]
"""The requests or the responses of one call of a script: one message per step."""


class LoadError(Exception):
    """A server did not answer as expected, so the round has no result."""


class Script(Protocol):
    """The calls of a measure. It is pickled for the client process, so it holds plain values only."""

    def steps(self) -> tuple[Step, ...]:
        """Returns the RPCs of one call, which are made one after another."""

    def requests(self, first: int, count: int) -> list[Exchange]:
        """Returns the requests of `count` calls, numbered from `first`. A server never gets a number twice."""

    def check(self, requests: Sequence[Exchange], replies: Sequence[Exchange]) -> None:
        """Raises LoadError if a response is not as expected."""


@dataclass(frozen=True, slots=True)
class Round:
    """A number of calls, with a fixed concurrency (closed loop) or at a fixed rate (open loop)."""

    target: str
    token: str
    script: Script
    first: int
    warm_up: int
    count: int
    in_flight: int
    rate_per_s: float = 0.0
    """The calls started per second, evenly spaced; 0 means a closed loop."""
    way: str = STUBS
    """How the calls are made: a name in `WAYS`."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The duration of a round and of each of its calls, in the order of their ends."""

    calls: int
    elapsed_s: float
    client_cpu_s: float
    """The CPU time of the client in the timed part."""
    latencies_s: tuple[float, ...]

    @property
    def rate_per_s(self) -> float:
        return self.calls / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000


def run_round(round_: Round) -> Timing:
    """Runs one round on a new channel; called in the client process."""
    return asyncio.run(_run(round_))


async def _run(round_: Round) -> Timing:
    script = round_.script
    requests = script.requests(round_.first, round_.warm_up + round_.count)
    async with WAYS[round_.way](round_.target, round_.token, script.steps()) as calls:
        warm_up = _Loop(round_, calls, requests[: round_.warm_up])
        await warm_up.run()
        gc.collect()
        timed = _Loop(round_, calls, requests[round_.warm_up :])
        cpu_s = time.process_time()
        elapsed_s = await timed.run()
        cpu_s = time.process_time() - cpu_s
    script.check(requests, warm_up.replies + timed.replies)
    return Timing(round_.count, elapsed_s, cpu_s, tuple(timed.latencies_s))


class _Loop:
    """Closed loop: each worker makes its next call when the last one is answered."""

    def __init__(self, round_: Round, calls: Sequence[Call], requests: Sequence[Exchange]) -> None:
        self.replies: list[Exchange] = [()] * len(requests)
        self.latencies_s: list[float] = []
        self._in_flight = min(round_.in_flight, len(requests))
        self._rate_per_s = round_.rate_per_s
        self._calls = calls
        self._queue = iter(enumerate(requests))

    async def run(self) -> float:
        """Returns the duration of all calls together, in seconds."""
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(ROUND_LIMIT_S), asyncio.TaskGroup() as workers:
                if self._rate_per_s:
                    await self._follow_schedule(workers, began_s)
                else:
                    for _ in range(self._in_flight):
                        workers.create_task(self._work(self._queue))
        except* (grpc.aio.AioRpcError, TollhouseError) as errors:
            first = errors.exceptions[0]
            raise LoadError(f"a call failed: {first}") from None
        return time.perf_counter() - began_s

    async def _follow_schedule(self, workers: asyncio.TaskGroup, began_s: float) -> None:
        """Open loop: starts each call at its time. Latency counts from the planned time, if a call starts late."""
        for number, requests in self._queue:
            due_s = began_s + number / self._rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            workers.create_task(self._call(number, requests, due_s))

    async def _work(self, queue: Iterator[tuple[int, Exchange]]) -> None:
        for number, requests in queue:
            await self._call(number, requests, time.perf_counter())

    async def _call(self, number: int, requests: Exchange, began_s: float) -> None:
        replies = []
        for call, request in zip(self._calls, requests, strict=True):
            replies.append(await call(request))
        self.latencies_s.append(time.perf_counter() - began_s)
        self.replies[number] = tuple(replies)
