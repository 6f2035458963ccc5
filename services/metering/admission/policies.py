"""Admission policies: read, changed, and known to this process for the calls that need them.

An answer is used for five seconds at most, so a change holds in every process soon after. Where a policy cannot be
read, the calls that need it fail: nothing is ever held by a guess.
"""

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Final

import structlog

from libs.common.audit.recording import record_event
from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.deadline import leave_deadline
from libs.common.errors import Conflict, InvalidArgument, StaleEtag, Unavailable
from libs.common.shards import Shards
from services.metering.admission import policy_store
from services.metering.admission.domain import HOLD_TTL_MAX
from services.metering.admission.policy import DEFAULT, Entry, LapseCharge, Policy, changes, flaws, merged
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound

_log = structlog.get_logger("policies")

FRESH_FOR_S: Final = 5.0
_KNOWN_MAX: Final = 20_000

Known = Policy | Unavailable
"""A policy, or why it is not known."""


class Policies:
    """Reads, caches and changes the policies of organizations."""

    def __init__(
        self, shards: Shards, organizations: Organizations, clock: Clock, *, known_max: int = _KNOWN_MAX
    ) -> None:
        self._shards = shards
        self._organizations = organizations
        self._clock = clock
        self._known_max = known_max
        self._known: dict[str, tuple[Policy, float]] = {}
        """Each with the moment until which it is used. The first one was read first."""
        self._reading: dict[str, asyncio.Task[dict[str, Known]]] = {}
        """The reads that have not ended, by the organizations they are for: calls that come meanwhile share them."""

    async def of(self, organization_ids: Collection[str]) -> dict[str, Known]:
        """Return the policies in force, or why one cannot be read. Those that are not cached take a query per shard."""
        now_s = time.monotonic()
        found: dict[str, Known] = {}
        reads: dict[str, asyncio.Task[dict[str, Known]]] = {}
        missing: dict[Database, list[str]] = {}
        for organization_id in organization_ids:
            policy, until_s = self._known.get(organization_id, (DEFAULT, 0.0))
            if now_s < until_s:
                found[organization_id] = policy
            elif organization_id in self._reading:
                reads[organization_id] = self._reading[organization_id]
            else:
                missing.setdefault(self._shards.of(organization_id), []).append(organization_id)
        for database, absent in missing.items():
            task = asyncio.create_task(self._read(database, absent), name="policies")
            for organization_id in absent:
                reads[organization_id] = self._reading[organization_id] = task
        for organization_id, read in reads.items():
            found[organization_id] = (await asyncio.shield(read))[organization_id]
        return found

    async def get(self, organization_id: str) -> Entry | None:
        """Return the policy that an organization was given; None where it has the default."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return (await policy_store.find(connection, [organization_id])).get(organization_id)

    async def update(self, organization_id: str, new: Policy, fields: Collection[str], etag: str) -> Entry | None:
        """Change some fields of a policy, and return it as `get` does.

        Raises:
            InvalidArgument: the policy would not be consistent.
            OrganizationNotFound: identity does not know the organization.
            StaleEtag: the policy has changed since it had this etag.
            Conflict: another call gave the organization its first policy at the same time.
        """
        if await self._organizations.find_unknown([organization_id]):
            raise OrganizationNotFound(organization_id=organization_id)
        async with self._shards.of(organization_id).raw_transaction() as connection:
            before = await policy_store.lock(connection, organization_id)
            if etag and (before is None or etag != before.etag):
                raise StaleEtag(resource_type="admission policy")
            after = self._changed(before, new, fields)
            if after is None:
                return before
            if before is not None:
                await policy_store.change(connection, organization_id, after)
            elif not await policy_store.add(connection, organization_id, after):
                raise Conflict
            await _set_walk(connection, organization_id, before, after)
            await record_event(
                connection,
                now=after.update_time,
                organization_id=organization_id,
                resource_type="admission_policy",
                resource_id=organization_id,
                changed=changes(DEFAULT if before is None else before.policy, after.policy),
            )
        self._known.pop(organization_id, None)
        return after

    def _changed(self, before: Entry | None, new: Policy, fields: Collection[str]) -> Entry | None:
        """Return the changed policy; None where nothing changes."""
        policy = DEFAULT if before is None else before.policy
        after = merged(policy, new, fields)
        violations = flaws(after)
        if violations:
            raise InvalidArgument(violations)
        if after == policy:
            return None
        now = self._clock.now()
        if before is None:
            return Entry(after, 1, now, now)
        same = after.lapse_charge is policy.lapse_charge
        return Entry(after, before.revision + 1, now, before.lapse_charge_time if same else now)

    async def _read(self, database: Database, organization_ids: Collection[str]) -> dict[str, Known]:
        leave_deadline()
        until_s = time.monotonic() + FRESH_FOR_S
        try:
            async with database.raw_connection() as connection:
                entries = await policy_store.find(connection, organization_ids)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the outcome of the calls that need a policy.
            _log.warning("policies not read", schema=database.schema, exc_info=error)
            return dict.fromkeys(organization_ids, _why(error))
        finally:
            for organization_id in organization_ids:
                self._reading.pop(organization_id, None)
        read = {one: entries[one].policy if one in entries else DEFAULT for one in organization_ids}
        for organization_id, policy in read.items():
            self._known.pop(organization_id, None)
            self._known[organization_id] = policy, until_s
        while len(self._known) > self._known_max:
            del self._known[next(iter(self._known))]
        return dict(read)


def _why(error: Exception) -> Unavailable:
    return error if isinstance(error, Unavailable) else Unavailable(dependency="database")


async def _set_walk(connection: RawConnection, organization_id: str, before: Entry | None, after: Entry) -> None:
    """Begin or end the search for authorizations that lapse, where that has changed."""
    was = LapseCharge.RELEASE if before is None else before.policy.lapse_charge
    if after.policy.lapse_charge is was:
        return
    if after.policy.lapse_charge is LapseCharge.INPUT:
        # What lapses from now on was authorized at most so long ago. What was extended is looked at by itself.
        longest: timedelta = HOLD_TTL_MAX + after.policy.lapse_after
        await policy_store.begin_walk(connection, organization_id, after.update_time - longest)
    else:
        await policy_store.end_walk(connection, organization_id)
