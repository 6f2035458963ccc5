"""The tail latency of one kind of call with and without another kind of call beside it.

Both kinds are started at a fixed rate (open loop), like independent callers. A closed loop would slow down with the
server and hide the effect.
"""

from dataclasses import dataclass
from statistics import median

from benchmarks.deployment import Deployment
from benchmarks.load import Round, Script, Timing
from benchmarks.measure import Figure

_ROUND_S = 3.0


@dataclass(frozen=True, slots=True)
class Paced:
    """Calls of a script at a fixed rate."""

    script: Script
    rate_per_s: int

    def round(self, deployment: Deployment, target: str) -> Round:
        count = int(self.rate_per_s * _ROUND_S)
        return Round(target, deployment.token, self.script, 0, 0, count, 1, float(self.rate_per_s))


def compare_tails(deployment: Deployment, target: str, calls: Paced, beside: Paced, rounds: int) -> Figure:
    """Runs the calls alone and with the others beside them, in turn, and compares their p99 latencies."""
    alone: list[Timing] = []
    together: list[Timing] = []
    for number in range(rounds * 2):
        if number % 4 in (0, 3):
            alone.append(deployment.run(calls.round(deployment, target)))
        else:
            others = deployment.run_beside(beside.round(deployment, target))
            together.append(deployment.run(calls.round(deployment, target)))
            others.result()
    ratios = [a.percentile_ms(99) / b.percentile_ms(99) for a, b in zip(alone, together, strict=True)]
    return Figure(
        measured=f"p99 of VerifyApiKey at {calls.rate_per_s} per s, {beside.rate_per_s} sign-ins per s beside",
        against="the same without sign-ins",
        unit="checks",
        target=None,
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        rate_per_s=median(timing.rate_per_s for timing in together),
        peer_rate_per_s=median(timing.rate_per_s for timing in alone),
        p50_ms_at_1=median(timing.percentile_ms(50) for timing in together),
        p99_ms_at_64=median(timing.percentile_ms(99) for timing in together),
        cpu_us={},
        peer_cpu_us={},
    )
