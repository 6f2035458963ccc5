"""Lists charges, for other services to compare with their own, and charges that billing has not confirmed."""

from collections.abc import Sequence
from datetime import datetime

from libs.common.audit.recording import Changed, record_event
from libs.common.clock import Clock
from libs.common.database import Database
from services.metering.charge import store
from services.metering.charge.store import Charge, PendingCharge


class Charges:
    """The charges that metering asks billing for."""

    def __init__(self, reports: Database, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock

    async def list_charges(
        self, *, organization_id: str | None, after: tuple[str, str], limit: int
    ) -> tuple[Sequence[Charge], tuple[str, str] | None]:
        async with self._reports.transaction() as connection:
            return await store.list_charges(connection, organization_id=organization_id, after=after, limit=limit)

    async def list_pending(
        self, *, refused_only: bool, after: tuple[datetime, str, str], limit: int
    ) -> Sequence[PendingCharge]:
        async with self._reports.transaction() as connection:
            return await store.list_pending(connection, refused_only=refused_only, after=after, limit=limit)

    async def retry(self, organization_id: str, operation_ids: Sequence[str]) -> int:
        """Make an organization's charges due: those of the operations named, or all that billing refuses."""
        now = self._clock.now()
        async with self._reports.transaction() as connection:
            count = await store.retry(connection, organization_id=organization_id, operation_ids=operation_ids, now=now)
            if count:
                # One event for all of them; the operations are named as far as an event has room.
                await record_event(
                    connection,
                    now=now,
                    organization_id=organization_id,
                    resource_type="charge",
                    resource_id=operation_ids[0] if len(operation_ids) == 1 else "",
                    changed=(
                        Changed("charge_count", after=str(count)),
                        *(Changed("operation_id", after=operation_id) for operation_id in operation_ids[:50]),
                    ),
                )
            return count
