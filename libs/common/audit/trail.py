"""Reads the audit trail, and verifies that nobody has changed it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from libs.common.audit import store
from libs.common.audit.chain import NO_HASH, START, Finding, Flaw, Head, Link, flaws, missing
from libs.common.audit.store import Filters as Filters
from libs.common.database import Database, Transaction

EVENTS_MAX: Final = 100_000
FINDINGS_MAX: Final = 100
_RUN: Final = 500
"""How many events are read and hashed before other calls get their turn."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was verified, and where the chain is broken."""

    verified_events: int
    head: Head
    continue_after: Head | None
    findings: tuple[Finding, ...]


class Trail:
    """The events of one organization at a time."""

    def __init__(self, database_of: Callable[[str], Database], reports_of: Callable[[str], Database]) -> None:
        """Both return the database in which an organization's trail is.

        Lists are read from that of `database_of`; whole chains, which takes longer, from that of `reports_of`.
        """
        self._database_of = database_of
        self._reports_of = reports_of

    async def page(self, filters: Filters, before: int | None, limit: int) -> list[Link]:
        """Return events numbered below `before`, the newest first."""
        async with self._database_of(filters.organization_id).transaction() as tx:
            return await store.find_page(tx, filters, before, limit)

    async def verify(
        self, organization_id: str, *, after: Head, expected_head: Head | None, events_max: int
    ) -> Verification:
        """Recompute the hashes of the events that follow `after`, in one snapshot.

        An empty hash in `after` stands for the stored hash of that event.
        """
        async with self._reports_of(organization_id).snapshot() as tx:
            head = await store.find_head(tx, organization_id) or START
            findings: list[Finding] = []
            if expected_head is not None:
                findings.extend(await _check_expected(tx, organization_id, expected_head))
            if not after.sequence:
                findings.extend(_check_start(await store.find_first(tx, organization_id)))
            if not after.hash:
                known = await store.find_hash(tx, organization_id, after.sequence) if after.sequence else NO_HASH
                if known is None:
                    findings.append(missing(after.sequence, after.sequence, seen_at=after.sequence))
                after = Head(after.sequence, known or NO_HASH)
            verified, last, at_end = 0, after, False
            while verified < events_max and not at_end and len(findings) < FINDINGS_MAX:
                size = min(_RUN, events_max - verified)
                run = await store.find_run(tx, organization_id, last.sequence, size)
                findings.extend(flaws(run, last))
                verified, at_end = verified + len(run), len(run) < size
                if run:
                    last = Head(run[-1].event.sequence, run[-1].hash)
            if at_end:
                findings.extend(_check_end(last, head))
        return Verification(verified, head, None if at_end else last, tuple(findings[:FINDINGS_MAX]))


async def _check_expected(tx: Transaction, organization_id: str, expected: Head) -> list[Finding]:
    if await store.find_hash(tx, organization_id, expected.sequence) == expected.hash:
        return []
    description = f"the event expected at {expected.sequence} is not there"
    return [Finding(expected.sequence, Flaw.EXPECTED_HEAD_MISSING, description)]


def _check_start(first: int | None) -> Iterator[Finding]:
    if first is not None and first <= START.sequence:
        yield Finding(first, Flaw.CHAIN_BROKEN, f"there is no place {first} in a chain")


def _check_end(last: Head, head: Head) -> Iterator[Finding]:
    if last.sequence < head.sequence:
        yield missing(last.sequence + 1, head.sequence, seen_at=head.sequence)
    elif last != head:
        description = f"the chain ends with event {last.sequence}, and not with the event kept as its head"
        yield Finding(last.sequence, Flaw.HEAD_MOVED, description)
