"""`tollhouse verify` over many charges, run as users run it, and whether it names every difference."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Final

import psutil

from benchmarks.charges import load_charges, plant_differences
from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure

_SMALL: Final = 100_000
_DIFFERENCES: Final = 100
_TARGET: Final = 1 / 1.2
_LIMIT_S: Final = 3_600.0
_LOOK_EVERY_S: Final = 0.05
_CONTEXTS: Final = ("identity", "billing", "metering")
# Loading writes gigabytes within minutes; without room for them Postgres would write pages again and again.
_SERVER: Final = {"max_wal_size": "8GB"}


@dataclass(slots=True)
class Run:
    """One run of `tollhouse verify`."""

    duration_s: float = 0.0
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """The most memory that each process had in use: the command itself, and the services."""
    violations: int = 0
    differences: set[tuple[str, str]] = field(default_factory=set)
    """The charges it named, by organization and operation."""

    @property
    def peaks(self) -> str:
        return ", ".join(f"{name} {size / 1e6:.0f}" for name, size in self.peak_bytes.items())


def measure_verification(charges: int, shards: int) -> Figure:
    """Compares the time per charge with that of few charges, and plants differences that all must be found.

    Raises:
        LoadError: a violation was found that is none, or a difference was not named.
    """
    small, _ = _verify(min(_SMALL, charges), shards, differences=0)
    large, damaged = _verify(charges, shards, differences=_DIFFERENCES)
    rate, small_rate = charges / large.duration_s, min(_SMALL, charges) / small.duration_s
    return Figure(
        measured=f"verify, {charges:,} charges: {large.duration_s:.1f} s, {_DIFFERENCES} differences named in "
        f"{damaged.duration_s:.1f} s; peak MB: {damaged.peaks}",
        against=f"the same with {min(_SMALL, charges):,} charges: {small.duration_s:.1f} s",
        unit="charges",
        target=_TARGET,
        ratio=rate / small_rate,
        ratio_low=rate / small_rate,
        ratio_high=rate / small_rate,
        rate_per_s=rate,
        peer_rate_per_s=small_rate,
        p50_ms_at_1=large.duration_s * 1000,
        p99_ms_at_64=damaged.duration_s * 1000,
        cpu_us={},
        peer_cpu_us={},
    )


def _verify(charges: int, shards: int, differences: int) -> tuple[Run, Run]:
    """Verifies so many charges in a database of their own; returns the run, and that with differences."""
    with Deployment(shards, _SERVER) as deployment:
        loaded = load_charges(deployment.database_url, charges)
        for context in _CONTEXTS:
            deployment.service(context)
        whole = _run(deployment)
        if whole.violations:
            raise LoadError(f"{whole.violations} violations in {charges} charges that are all right")
        if not differences:
            return whole, whole
        planted = plant_differences(deployment.database_url, loaded, differences)
        damaged = _run(deployment)
        if damaged.differences != planted:
            raise LoadError(f"{len(planted - damaged.differences)} of {len(planted)} differences were not named")
        return whole, damaged


def _run(deployment: Deployment) -> Run:
    """Runs the command to its end, and looks at the memory of all processes meanwhile."""
    targets = [part for context in _CONTEXTS for part in (f"--{context}", deployment.service(context))]
    command = [sys.executable, "-m", "libs.cli", "verify", "--json", "--token", deployment.token, *targets]
    run, began_s = Run(), time.monotonic()
    output = (deployment.folder / "verdict.json").open("w+b")
    errors = (deployment.folder / "verdict.err").open("w+b")
    with output, errors, subprocess.Popen(command, stdout=output, stderr=errors, env=os.environ) as process:
        own = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                sizes = {"verify": int(own.memory_info().rss)}
            except psutil.NoSuchProcess:
                break
            sizes |= {context: deployment.resident_bytes(context) for context in _CONTEXTS}
            run.peak_bytes = {name: max(size, run.peak_bytes.get(name, 0)) for name, size in sizes.items()}
            if time.monotonic() - began_s > _LIMIT_S:
                process.kill()
            time.sleep(_LOOK_EVERY_S)
        process.wait()
        run.duration_s = time.monotonic() - began_s
        output.seek(0)
        errors.seek(0)
        if process.returncode not in (0, 1):
            raise LoadError(f"verify ended with {process.returncode}: {errors.read().decode(errors='replace')[-2000:]}")
        verdict = json.load(output)
    run.violations = int(verdict["violations"])
    compared = [finding for finding in verdict["findings"] if finding["service"] == "metering, billing"]
    run.differences = {(finding["organization_id"], finding["subject"]) for finding in compared}
    return run
