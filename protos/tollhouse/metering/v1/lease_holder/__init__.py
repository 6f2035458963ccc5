"""The holder's side of leases: decides calls within them without asking, and settles what was used.

`LocalLease` is one lease, spent in memory; it imports the standard library alone. `LeaseHolder` keeps leases for a kind
of call: it acquires the next one before the present one is spent or over, and settles in batches. docs/limits.md has an
example.
"""

from tollhouse.metering.v1.lease_holder.holder import LeaseHolder, Taken
from tollhouse.metering.v1.lease_holder.local import LocalLease

__all__ = ["LeaseHolder", "LocalLease", "Taken"]
