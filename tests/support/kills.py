"""How often tests kill a process at each point."""

import os
from typing import Final

from tests.support.sharded import SHARDS

KILLS_AT_EACH_POINT: Final = int(os.environ.get("TOLLHOUSE_TEST_KILLS_AT_EACH_POINT", "20" if SHARDS == 1 else "2"))
