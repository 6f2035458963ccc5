"""What `tollhouse` prints about migrations: how far they are, and which of them each shard has."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from libs.common.sharding import SHARDS_MAX, shard_schema

if TYPE_CHECKING:
    from libs.common.migrate import MigrationStatus, Progress

_FEW_SHARDS: Final = 4


def tell_progress(progress: "Progress") -> None:
    """Print on standard error which shard is being migrated, where there are more than a few."""
    if progress.shard is not None and progress.shard_count > _FEW_SHARDS:
        print(f"{progress.context}: shard {progress.shard + 1} of {progress.shard_count}", file=sys.stderr)


def status_lines(contexts: Sequence[str], statuses: "Mapping[str, MigrationStatus]") -> Iterator[str]:
    """Say which migrations are applied and pending, with a line for all shards that are at the same version."""
    for context in contexts:
        for state, names in _states(statuses[context]):
            for name in names:
                yield f"{context:<10} {state:<8} {name}"
        numbers = [number for number in range(SHARDS_MAX) if shard_schema(context, number) in statuses]
        alike: dict[tuple[tuple[str, tuple[str, ...]], ...], list[int]] = {}
        for number in numbers:
            alike.setdefault(_states(statuses[shard_schema(context, number)]), []).append(number)
        for states, of_them in alike.items():
            shards = f"{context} {'shard' if len(of_them) == 1 else 'shards'} {ranges(of_them)}"
            for state, names in states:
                if names:
                    yield f"{shards} {state} {', '.join(names)}"


def _states(status: "MigrationStatus") -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (
        ("applied", tuple(status.applied)),
        ("pending", tuple(status.pending)),
        ("unknown", tuple(status.unknown)),
    )


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short: `0-5, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
