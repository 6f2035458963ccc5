"""Checking all invariants of billing over one snapshot, and listing charges for others to check theirs."""

from collections.abc import AsyncIterator
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.pages import decode_page_token, encode_page_token, page_size
from services.billing.integrity import store
from services.billing.integrity.invariants import INVARIANTS
from services.billing.integrity.model import Charge, Check, Finding, Summary

FINDINGS_MAX: Final = 1_000
_CHARGES_DEFAULT: Final = 1_000
_CHARGES_MAX: Final = 10_000
_NIL: Final = "00000000-0000-0000-0000-000000000000"


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
            now = self._clock.now()
            for invariant in INVARIANTS:
                findings = await store.find_violations(tx, invariant, organization_id, now, FINDINGS_MAX)
                examined = await store.count_examined(tx, invariant, organization_id)
                checks.append(Check(invariant.name, invariant.description, examined, len(findings)))
                found.extend(findings)
        # The snapshot is let go before anything is sent: a slow reader must not hold it open.
        for finding in found:
            yield finding
        yield Summary(tuple(checks), now)

    async def charges(self, organization_id: str | None, size: int, page_token: str) -> tuple[list[Charge], str]:
        """A page of charges by (organization_id, operation_id), and the token of the next."""
        fingerprint = f"charges/{organization_id}"
        after = (organization_id or _NIL, "")
        if page_token:
            key = decode_page_token(page_token, fingerprint)
            after = (key[0], key[1])
        size = page_size(size, _CHARGES_DEFAULT, _CHARGES_MAX)
        async with self._database.raw_connection() as connection:
            page = await store.charges_after(connection, after, organization_id, size)
        if len(page) < size:
            return page, ""
        last = page[-1]
        return page, encode_page_token(last.organization_id, last.operation_id, fingerprint=fingerprint)
