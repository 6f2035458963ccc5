"""Checking invariants, all over one snapshot."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.integrity import store
from libs.common.integrity.domain import Check, Finding, Invariant, Summary

FINDINGS_MAX: Final = 1_000


class Verification:
    """Checks the invariants of one service."""

    def __init__(self, reports: Database, clock: Clock, invariants: Sequence[Invariant]) -> None:
        self._reports = reports
        self._clock = clock
        self._invariants = invariants

    async def verify(self, organization_id: str | None) -> AsyncIterator[Finding | Summary]:
        """Yield every violation, at most `FINDINGS_MAX` per invariant, then the summary."""
        checks: list[Check] = []
        found: list[Finding] = []
        async with self._reports.snapshot() as tx:
            now = self._clock.now()
            for invariant in self._invariants:
                rows = await store.find_violations(tx, invariant, organization_id, now, FINDINGS_MAX)
                examined = await store.count_examined(tx, invariant, organization_id, now)
                checks.append(Check(invariant.name, invariant.description, examined, len(rows)))
                found.extend(Finding(invariant.name, *row) for row in rows)
        # The snapshot is closed before anything is sent, so that a slow reader cannot keep it open.
        for finding in found:
            yield finding
        yield Summary(tuple(checks), now)
