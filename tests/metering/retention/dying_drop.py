"""A process of metering that drops a month, and is killed at a named point of it."""

import os
from datetime import timedelta
from typing import Final

from services.metering.__main__ import main
from services.metering.retention import drops, store
from tests.support.forked import dying

_POINTS: Final = {
    "after it was taken": ("take_drop", False),
    "after a part was counted": ("read_part", False),
    "after the sums of a day were counted": ("sums_of_day", False),
    "after an organization was counted": ("add_month", False),
    "before it is compared": ("move_on", True),
    "after it was compared": ("move_on", False),
    "after an organization was begun": ("begin", False),
    "after a part was kept": ("keep_part", False),
    "after an organization was done": ("finish", False),
    "before the partition goes": ("drop_partition", True),
    "after the partition has gone": ("drop_partition", False),
}
"""By point: the statement that the process dies at, and whether before it."""
POINTS: Final = tuple(_POINTS)


def run(environment: dict[str, str], point: str, at: int) -> None:
    """Serve metering, and die when the point is reached for the `at`-th time."""
    os.environ.update(environment)
    name, before = _POINTS[point]
    setattr(store, name, dying(getattr(store, name), at, before=before))
    drops.LEASE = timedelta(seconds=0.3)  # type: ignore[misc]  # Another process goes on soon.
    main()
