"""What the counters count in which a lease has reserved something."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from libs.common.database import Database
from services.metering.quota import counter_store
from services.metering.quota.decisions import place_of
from services.metering.quota.domain import Applied


class Leased(NamedTuple):
    """Where a lease has reserved something, and when."""

    organization_id: str
    acquire_time: datetime
    counters: Sequence[str]


class LeaseCounters(NamedTuple):
    """What the counters of a lease count."""

    lease: Leased
    metrics: Mapping[str, tuple[str, str]]
    """The metric and currency of each that exists."""
    limits: Collection[tuple[str, str]]
    """The limits of these, and whom they limit."""

    def has(self, applied: Applied) -> bool:
        """Tell whether the lease has reserved something in a limit. Its counter may be gone by now."""
        limit, subject = applied
        if (limit.limit_id, subject) in self.limits:
            return True
        return place_of(limit, subject, self.lease.acquire_time).counter.counter_id in self.lease.counters


async def counters_of_lease(database: Database, lease: Leased) -> LeaseCounters:
    """Return what the counters of a lease count; those that are gone are left out."""
    keys = [(lease.organization_id, one) for one in lease.counters]
    if not keys:
        return LeaseCounters(lease, {}, frozenset())
    async with database.raw_connection() as connection:
        metrics = await counter_store.metrics(connection, keys)
        identities = await counter_store.identities(connection, keys)
    limits = frozenset((one.limit_id, one.subject) for one in identities.values())
    return LeaseCounters(lease, {key[1]: metrics[key] for key in keys if key in metrics}, limits)
