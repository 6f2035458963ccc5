"""Writes the diagram of states in docs/billing.md from the table of transitions.

Without arguments it writes the page; with `--check` it changes nothing and fails when the committed page says something
else. What stands outside of the marks is written by hand and kept.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.written_page import write_or_check
from services.billing.subscription.states import TRANSITIONS, EventKind, State

PAGE = Path(__file__).resolve().parent.parent / "docs" / "billing.md"
BEGIN = "<!-- The diagram is written by `make protos` from services/billing/subscription/states.py. -->"
END = "<!-- The end of the diagram. -->"


def main() -> int:
    """Write or check the page; return the exit status."""
    return write_or_check(PAGE, render, source="the table of transitions")


def render() -> str:
    """Return the page with the diagram as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, "", "```mermaid", *diagram(), "```", "", END + after])


def diagram() -> Iterator[str]:
    """Yield the lines of the diagram: of each pair of different states, the events that lead from one to the other."""
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.PENDING}: {_name(EventKind.CREATED)}"
    for before in State:
        for after in State:
            kinds = [kind for kind in EventKind if after in TRANSITIONS.get(kind, {}).get(before, ())]
            if kinds and before is not after:
                yield f"    {before} --> {after}: {', '.join(map(_name, kinds))}"
    for state in State:
        if state.is_final:
            yield f"    {state} --> [*]"


def _name(kind: EventKind) -> str:
    return kind.value.lower().replace("_", " ")


if __name__ == "__main__":
    sys.exit(main())
