"""A process of metering that works on a job, and is killed at a named point of it."""

import os
from datetime import timedelta
from typing import Final

from services.metering.__main__ import main
from services.metering.usage.charging import Charging
from services.metering.usage.correction import counter_changes
from services.metering.usage.rerate import change_store, job_store, worker
from services.metering.usage.rerate.worker import RerateWorker
from tests.support.forked import dying

_OWNERS: Final = {
    "after a slice was stored, before its commit": (job_store, "give", False),
    "after a slice was given out": (RerateWorker, "_rerate", True),
    "after the usages were read": (change_store, "find_sources", False),
    "after the corrections were written": (change_store, "write", False),
    "after a part of the slice was done": (job_store, "advance", False),
    "after the counters were changed": (counter_changes, "change_counters", False),
    "after the slice was taken away": (job_store, "finish", False),
    "after the sums of the job were written": (job_store, "set_sums", False),
    "after the commit, before billing is asked": (Charging, "charge", True),
    "after billing was asked": (Charging, "charge", False),
    "before the job is done": (job_store, "update", True),
}
"""By point: whose function the process dies at, and whether before it does anything."""
POINTS: Final = tuple(_OWNERS)


def run(environment: dict[str, str], point: str, at: int) -> None:
    """Serve metering, and die when the point is reached for the `at`-th time."""
    os.environ.update(environment)
    owner, name, before = _OWNERS[point]
    wrapped = dying(getattr(owner, name), at, before=before)
    static = isinstance(owner, type) and isinstance(vars(owner)[name], staticmethod)
    setattr(owner, name, staticmethod(wrapped) if static else wrapped)
    worker.SLICE_MAX = 2  # type: ignore[misc]  # So that a job has several.
    worker.PART_MAX = 1  # type: ignore[misc]  # And a slice two parts.
    worker.LEASE = timedelta(seconds=0.5)  # type: ignore[misc]  # Another process goes on soon.
    main()
