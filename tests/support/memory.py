"""Where tests keep their files: in memory, where the machine has enough of it to spare.

Tests make more than a thousand databases, and most of the time that takes is spent on waiting for a disk.
"""

import os
import shutil
import tempfile
from pathlib import Path

_IN_MEMORY = Path("/dev/shm")  # noqa: S108  # Only folders that nobody else may enter are made there.
_FREE_MIN_BYTES = 6_000_000_000


def keep_files_in_memory() -> None:
    """Makes temporary files of this process and those it starts in memory; TMPDIR, where it is set, goes first."""
    if "TMPDIR" not in os.environ and _has_room(_IN_MEMORY):
        os.environ["TMPDIR"] = str(_IN_MEMORY)
        tempfile.tempdir = None  # Forgets the folder that was chosen before.


def _has_room(folder: Path) -> bool:
    try:
        return os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= _FREE_MIN_BYTES
    except OSError:
        return False
