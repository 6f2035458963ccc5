"""Printing the table, and writing the figures as JSON."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure


def print_versions(console: Console, postgres: str, settings: Mapping[str, str]) -> None:
    """Prints the versions and settings, without which figures cannot be compared."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("grpcio", "protobuf", "asyncpg", "sqlalchemy", "uvloop")
    )
    durability = ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    console.print(f"{platform.python_implementation()} {sys.version.split()[0]}, {packages}")
    console.print(f"{postgres}; {durability}")
    console.print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors")


def print_figure(console: Console, name: str, figure: Figure) -> None:
    """Prints one figure with the CPU time by process."""
    spent, peer_spent = _spent(figure.cpu_us), _spent(figure.peer_cpu_us)
    target = "no target" if figure.target is None else f"target {figure.target:g}"
    line = f"{name}  ratio {figure.ratio:.2f}, {target}; CPU µs per unit: {spent}"
    console.print(f"{line}; of the peer: {peer_spent}", highlight=False)


def print_table(console: Console, figures: Mapping[str, Figure]) -> None:
    """Prints all figures."""
    table = Table(box=box.SIMPLE_HEAD, title="Ratios within one run")
    for heading in ("", "measured", "against"):
        table.add_column(heading)
    for heading in (
        "per s",
        "peer per s",
        "ratio",
        "spread",
        "target",
        "p50 ms at 1",
        "p99 ms at 64",
        "peer's p99",
        "",
    ):
        table.add_column(heading, justify="right")
    for name, figure in figures.items():
        table.add_row(
            name,
            figure.measured,
            figure.against,
            f"{figure.rate_per_s:,.0f}",
            f"{figure.peer_rate_per_s:,.0f}",
            f"{figure.ratio:.2f}",
            f"{figure.ratio_low:.2f} to {figure.ratio_high:.2f}",
            "none" if figure.target is None else f"≥ {figure.target:g}",
            f"{figure.p50_ms_at_1:.2f}",
            f"{figure.p99_ms_at_64:.1f}",
            "" if figure.peer_p99_ms is None else f"{figure.peer_p99_ms:.1f}",
            _verdict(figure),
        )
    console.print(table)


def _verdict(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return "met" if figure.met else f"missed by {1 - figure.ratio / figure.target:.0%}"


def _spent(cpu_us: Mapping[str, float]) -> str:
    return ", ".join(f"{who} {us:.0f}" for who, us in cpu_us.items() if us >= 1)


def write_figures(path: Path, figures: Mapping[str, Figure]) -> None:
    """Writes the figures as JSON, keyed by measure."""
    content = {name: _plain(figure) for name, figure in figures.items()}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _plain(figure: Figure) -> dict[str, object]:
    return {
        "ratio": round(figure.ratio, 3),
        "target": figure.target,
        "met": figure.met,
        "ratio_low": round(figure.ratio_low, 3),
        "ratio_high": round(figure.ratio_high, 3),
        "rate_per_s": round(figure.rate_per_s, 1),
        "peer_rate_per_s": round(figure.peer_rate_per_s, 1),
        "p50_ms_at_1": round(figure.p50_ms_at_1, 3),
        "p99_ms_at_64": round(figure.p99_ms_at_64, 3),
        "peer_p99_ms": None if figure.peer_p99_ms is None else round(figure.peer_p99_ms, 3),
        "measured": figure.measured,
        "against": figure.against,
        "unit": figure.unit,
        "cpu_us": {who: round(us, 1) for who, us in figure.cpu_us.items()},
        "peer_cpu_us": {who: round(us, 1) for who, us in figure.peer_cpu_us.items()},
    }
