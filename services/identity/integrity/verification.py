"""Checking all invariants of identity over one snapshot."""

from collections.abc import AsyncIterator
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from services.identity.integrity.model import Check, Finding, Summary
from services.identity.integrity.store import INVARIANTS, count_examined, find_violations

FINDINGS_MAX: Final = 1_000


class Integrity:
    """Finds what should be impossible."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def verify(self, organization_id: str | None) -> AsyncIterator[Finding | Summary]:
        """Yield every violation, at most `FINDINGS_MAX` per invariant, then the summary."""
        checks: list[Check] = []
        found: list[Finding] = []
        async with self._database.snapshot() as tx:
            snapshot_time = self._clock.now()
            for invariant in INVARIANTS:
                findings = await find_violations(tx, invariant, organization_id, FINDINGS_MAX)
                examined = await count_examined(tx, invariant, organization_id)
                checks.append(Check(invariant.name, invariant.description, examined, len(findings)))
                found.extend(findings)
        # The snapshot is let go before anything is sent: a slow reader must not hold it open.
        for finding in found:
            yield finding
        yield Summary(tuple(checks), snapshot_time)
