"""`tollhouse usage export` over many usages, run as users run it: rows a second, and the memory of both sides."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil

from benchmarks.charges import load_charges
from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure

_TARGET_PER_S: Final = 50_000
_ORGANIZATIONS: Final = 20
_LOOK_EVERY_S: Final = 0.02
_LIMIT_S: Final = 600.0
_SERVER: Final = {"max_wal_size": "8GB"}
_FORMS: Final = ("csv", "jsonl", "focus", "parquet")


class _Run:
    """One run of the command."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self.peaks: dict[str, int] = {}
        self.cpu_s: dict[str, float] = {}
        self.rows = 0

    @property
    def busy(self) -> float:
        """How many processors were busy for it on average."""
        return sum(self.cpu_s.values()) / self.duration_s


def measure_exports(usages: int, shards: int) -> Figure:
    """Exports all usage in each form; the rate of CSV counts, that of FOCUS counts its lines.

    Raises:
        LoadError: a file is not whole.
    """
    runs: dict[str, _Run] = {}
    with Deployment(shards, _SERVER) as deployment:
        load_charges(deployment.database_url, usages, _ORGANIZATIONS)
        deployment.service("metering")
        for form in _FORMS:
            runs[form] = _run(deployment, form)
            if form != "focus" and runs[form].rows != usages:
                raise LoadError(f"{runs[form].rows} rows of {usages} are in the file")
    csv = runs["csv"]
    rate = csv.rows / csv.duration_s
    told = [
        f"{form} {run.rows / run.duration_s:,.0f} a second, {run.busy:.1f} processors busy, peak MB "
        + ", ".join(f"{name} {size / 1e6:.0f}" for name, size in run.peaks.items())
        for form, run in runs.items()
    ]
    return Figure(
        measured=f"usage export, {usages:,} usages: {'; '.join(told)}",
        against=f"{_TARGET_PER_S:,} rows a second",
        unit="rows",
        target=1.0,
        ratio=rate / _TARGET_PER_S,
        ratio_low=rate / _TARGET_PER_S,
        ratio_high=rate / _TARGET_PER_S,
        rate_per_s=rate,
        peer_rate_per_s=_TARGET_PER_S,
        p50_ms_at_1=csv.duration_s * 1000,
        p99_ms_at_64=csv.duration_s * 1000,
        cpu_us={name: seconds / csv.rows * 1e6 for name, seconds in csv.cpu_s.items()},
        peer_cpu_us={},
    )


def _run(deployment: Deployment, form: str) -> _Run:
    """Runs the command to its end, and looks at the memory of both sides meanwhile."""
    out = deployment.folder / f"usage.{form}"
    words = ("usage", "export", "--since", "35d", "--format", form, "--out", str(out), "--json")
    targets = ("--token", deployment.token, "--metering", deployment.service("metering"))
    run, began_s, before = _Run(), time.monotonic(), deployment.cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-m", "libs.cli", *words, *targets], stdout=subprocess.DEVNULL, env=os.environ
    ) as process:
        own = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                times = own.cpu_times()
                sizes = {"export": int(own.memory_info().rss)}
            except psutil.NoSuchProcess:
                break
            run.cpu_s["export"] = times.user + times.system
            sizes["metering"] = deployment.resident_bytes("metering")
            run.peaks = {name: max(size, run.peaks.get(name, 0)) for name, size in sizes.items()}
            if time.monotonic() - began_s > _LIMIT_S:
                process.kill()
            time.sleep(_LOOK_EVERY_S)
        process.wait()
    run.duration_s = time.monotonic() - began_s
    run.cpu_s |= {name: seconds - before.get(name, 0) for name, seconds in deployment.cpu_seconds().items()}
    if process.returncode != 0:
        raise LoadError(f"the export ended with {process.returncode}")
    run.rows = int(json.loads(Path(f"{out}.manifest.json").read_text(encoding="utf-8"))["row_count"])
    return run
