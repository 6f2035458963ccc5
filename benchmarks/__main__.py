"""`python -m benchmarks [--only P1,P3] [--out FILE] [--charges N] [--subscriptions N] [--limits N] [--grants N]
[--usages N] [--invoices N] [--rerated N] [--exported N]`.

It measures and prints.

The exit status is 0 when everything could be measured and verified, whether or not the targets were met.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.deployment import Deployment
from benchmarks.load import LoadError
from benchmarks.measure import Figure
from benchmarks.measures import Bench
from benchmarks.report import print_figure, print_table, print_versions, write_figures

NAMES = (
    "P1",
    "P2",
    "P3",
    "P4",
    "P4C",
    "P4S",
    "P5",
    "P6",
    "P7",
    "P7B",
    "P8",
    "P8Z",
    "P9",
    "P10",
    "P11",
    "P12",
    "P12A",
    "P13",
    "P14",
    "P15",
    "P16",
    "P17",
    "P18",
    "P18S",
    "P19",
    "P20",
    "PL",
)


def main() -> int:
    """Runs the chosen measures; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed, side by side with peers.")
    parser.add_argument("--only", type=_names, default=NAMES, help="measures to run, as in P1,P3")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each side; the median ratio counts")
    parser.add_argument("--charges", type=int, default=1_000_000, help="how many charges P9 verifies")
    parser.add_argument("--usages", type=int, default=1_000_000, help="how many usages P8 and P8Z sum up")
    parser.add_argument("--subscriptions", type=int, default=10_000, help="how many subscriptions P10 renews")
    parser.add_argument("--invoices", type=int, default=10_000, help="how many invoices P17 issues")
    parser.add_argument("--rerated", type=int, default=40_000, help="how many usages P19 re-rates")
    parser.add_argument("--exported", type=int, default=300_000, help="how many usages P20 exports")
    parser.add_argument("--limits", type=int, default=10, choices=range(11), help="limits in force in P5 to P7B")
    parser.add_argument("--grants", type=int, default=0, choices=range(11), help="grants on each account of P1 to P3")
    parser.add_argument("--shards", type=int, default=1, help="organization shards of billing and metering")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 180)
    figures: dict[str, Figure] = {}
    # On SIGTERM, too, the run stops everything it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with Deployment(arguments.shards) as deployment:
        print_versions(console, str(deployment.postgres), deployment.server_settings())
        bench = Bench(
            deployment,
            arguments.rounds,
            arguments.charges,
            arguments.subscriptions,
            arguments.limits,
            arguments.grants,
            arguments.invoices,
            arguments.rerated,
            arguments.exported,
            arguments.usages,
        )
        for name in arguments.only:
            try:
                figures[name] = bench.measures[name]()
            except LoadError as error:
                console.print(f"{name}  could not be measured: {error}", highlight=False, markup=False)
            else:
                print_figure(console, name, figures[name])
    print_table(console, figures)
    if arguments.out is not None:
        write_figures(arguments.out, figures)
    return 0 if len(figures) == len(arguments.only) else 1


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.upper().split(","))
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
