"""Comparing two sides: short rounds of each in turn, and the median of the ratios.

The speed of a shared machine changes from minute to minute. Two consecutive rounds run under about the same conditions,
so their ratio is more stable than their rates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from benchmarks.deployment import Deployment
from benchmarks.load import Round, Script, Timing
from benchmarks.pgbench import Pgbench
from benchmarks.traffic import Echo
from benchmarks.ways import STUBS

_ROUND_S = 0.8
_FIRST_ROUND_CALLS = 400
_LATENCY_CALLS = 200
_WARM_UP_CALLS = 64
_CALLS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure, a line of the table."""

    measured: str
    against: str
    unit: str
    target: float | None
    """The smallest ratio that meets the target; None for a figure without a target."""
    ratio: float
    ratio_low: float
    ratio_high: float
    rate_per_s: float
    peer_rate_per_s: float
    p50_ms_at_1: float
    p99_ms_at_64: float
    cpu_us: dict[str, float]
    """CPU time per unit by process while the measured side ran, in µs."""
    peer_cpu_us: dict[str, float]
    """CPU time per unit by process while the peer ran, in µs."""
    peer_p99_ms: float | None = None
    """The p99 of the peer's calls, where it makes single ones."""

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one round of a peer."""

    made: int
    rate_per_s: float
    client_cpu_s: float
    latencies_s: tuple[float, ...] = ()


class Peer(Protocol):
    """The system a service is compared to."""

    def outcome(self) -> Outcome:
        """Runs one round."""


class Side:
    """A server under load by one script. It assigns the numbers of the calls, so that none is used twice."""

    def __init__(
        self, deployment: Deployment, target: str, script: Script, in_flight: int = 64, way: str = STUBS
    ) -> None:
        self._way = way
        self._deployment = deployment
        self._target = target
        self._script = script
        self._in_flight = in_flight
        self._round_calls = _FIRST_ROUND_CALLS
        self.calls = 0
        """The number of answered calls."""

    def calibrate(self) -> None:
        """Warms up the server and finds the number of calls for a round of about the wanted duration."""
        for _ in range(2):
            rate_per_s = self.run(self._round_calls, self._in_flight).rate_per_s
            self._round_calls = max(self._in_flight * 2, min(_CALLS_MAX, int(rate_per_s * _ROUND_S)))

    def round(self) -> Timing:
        """Runs one round of the usual duration."""
        return self.run(self._round_calls, self._in_flight)

    def run(self, count: int, in_flight: int) -> Timing:
        """Runs `calls` calls after a short warm-up of the channel."""
        warm_up = min(_WARM_UP_CALLS, count)
        round_ = Round(
            *(self._target, self._deployment.token, self._script, self.calls, warm_up, count, in_flight), way=self._way
        )
        timing = self._deployment.run(round_)
        self.calls += warm_up + count
        return timing

    def run_all(self, count: int) -> None:
        """Makes the calls 0 to `count` once each, untimed."""
        round_ = Round(self._target, self._deployment.token, self._script, 0, 0, count, self._in_flight)
        self._deployment.run(round_)

    def outcome(self) -> Outcome:
        """Runs one round, as a peer."""
        timing = self.round()
        return Outcome(timing.calls + _WARM_UP_CALLS, timing.rate_per_s, timing.client_cpu_s, timing.latencies_s)


class PgbenchPeer:
    """A design in plain SQL, run with the number of clients at which it is fastest; that number is found first."""

    def __init__(self, pgbench: Pgbench) -> None:
        self._pgbench = pgbench
        self.clients = pgbench.best_clients()

    def outcome(self) -> Outcome:
        """Runs for two seconds."""
        run = self._pgbench.run(self.clients, seconds=2)
        return Outcome(run.transactions, run.rate_per_s, 0.0)


def echo_of(deployment: Deployment, script: Script) -> Side:
    """Starts and warms up an echo server for the script's first RPC, under the same load."""
    echo = Echo(script)
    side = Side(deployment, deployment.echo((echo.method(),)), echo)
    side.calibrate()
    return side


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a measure compares, and its units."""

    measured: str
    against: str
    unit: str
    target: float | None
    units_per_call: int = 1


def compare(deployment: Deployment, comparison: Comparison, side: Side, peer: Peer, rounds: int) -> Figure:
    """Runs the rounds of both sides in turn and returns the figure."""
    units = comparison.units_per_call
    side.calibrate()
    alone = side.run(_LATENCY_CALLS, 1)
    timings: list[Timing] = []
    outcomes: list[Outcome] = []
    cpu, peer_cpu = _CpuMeter(deployment.cpu_seconds), _CpuMeter(deployment.cpu_seconds)
    for number in range(rounds * 2):
        # The order alternates (A B, B A, A B …), so that neither side always runs second.
        if number % 4 in (0, 3):
            with peer_cpu:
                outcomes.append(peer.outcome())
        else:
            with cpu:
                timings.append(side.round())
    ratios = [timing.rate_per_s * units / outcome.rate_per_s for timing, outcome in zip(timings, outcomes, strict=True)]
    together = _joined(timings)
    crowded = side.run(_LATENCY_CALLS * 2, 64) if units > 1 else together
    made = (together.calls + rounds * _WARM_UP_CALLS) * units
    peer_client_s = sum(outcome.client_cpu_s for outcome in outcomes)
    peer_rate_per_s = median(outcome.rate_per_s for outcome in outcomes)
    return Figure(
        measured=comparison.measured,
        against=comparison.against,
        unit=comparison.unit,
        target=comparison.target,
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        rate_per_s=median(timing.rate_per_s * units for timing in timings),
        peer_rate_per_s=peer_rate_per_s,
        p50_ms_at_1=alone.percentile_ms(50),
        p99_ms_at_64=crowded.percentile_ms(99),
        peer_p99_ms=_p99_ms([latency for outcome in outcomes for latency in outcome.latencies_s]),
        cpu_us=cpu.per_unit_us(made, together.client_cpu_s),
        peer_cpu_us=peer_cpu.per_unit_us(sum(outcome.made for outcome in outcomes), peer_client_s),
    )


class _CpuMeter:
    """Adds up the CPU time of each process while the context is active."""

    def __init__(self, read: Callable[[], dict[str, float]]) -> None:
        self._read = read
        self._used_s: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def __enter__(self) -> None:
        self._before = self._read()

    def __exit__(self, *_: object) -> None:
        for name, now_s in self._read().items():
            used_s = now_s - self._before.get(name, now_s)
            self._used_s[name] = self._used_s.get(name, 0.0) + used_s

    def per_unit_us(self, made: int, client_s: float) -> dict[str, float]:
        """Returns the CPU time in µs per unit. The client's is that of the timed part only."""
        used_s = self._used_s | {"client": client_s}
        return {name: seconds * 1_000_000 / made for name, seconds in used_s.items() if seconds > 0}


def _p99_ms(latencies_s: list[float]) -> float | None:
    return sorted(latencies_s)[int(len(latencies_s) * 0.99)] * 1000 if latencies_s else None


def _joined(timings: list[Timing]) -> Timing:
    latencies_s = tuple(latency for timing in timings for latency in timing.latencies_s)
    elapsed_s = sum(timing.elapsed_s for timing in timings)
    client_cpu_s = sum(timing.client_cpu_s for timing in timings)
    return Timing(len(latencies_s), elapsed_s, client_cpu_s, latencies_s)
