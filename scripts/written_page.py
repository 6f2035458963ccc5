"""Pages of docs/ that are written from the code, in whole or in part."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_or_check(page: Path, render: Callable[[], str], *, source: str) -> int:
    """Write a page, or with `--check` only compare it; return the exit status. `source` is what it is written from."""
    parser = argparse.ArgumentParser(description=f"Writes docs/{page.name}.")
    parser.add_argument("--check", action="store_true", help="fail if the page says something else")
    check = parser.parse_args().check
    text = render()
    if not check:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.read_text(encoding="utf-8") == text:
        return 0
    print(f"docs/{page.name} differs from {source}; run `make protos`", file=sys.stderr)
    return 1
