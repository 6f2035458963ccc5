"""What the sessions of all services are set to, also on the nodes of a cluster."""

from collections.abc import Mapping
from typing import Final

LOCK_TIMEOUT_MS: Final = 500
"""How long a statement waits for a lock, where nothing else is said."""

CLUSTER_SETTINGS: Final[Mapping[str, str]] = {"citus.override_table_visibility": "off"}
"""What a connection to the coordinator of a Citus cluster needs. By default Citus asks of every relation that a query
of the catalogue meets whether it is a shard, and the driver's look-up of types takes half a second. Any other server
takes the name for one of an extension that it does not have."""
