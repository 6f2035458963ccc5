"""Issues the invoices of a month by itself, and tells which are overdue.

When a month of UTC and the days of grace are over, the accounts of each shard are looked at, a page at a time, and an
invoice is noted as due for each that has something to invoice. Then these are issued. What is due is in the table, so
nothing is lost when the process ends: each page, and each invoice with the note that it is not due any more, is one
transaction. Several processes share the work: one of them looks at the accounts of a shard, and what one issues is kept
from the others for a time.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Final, NoReturn

import structlog
from opentelemetry import metrics

from libs.common.clock import Clock
from libs.common.database import Database, RawConnection
from libs.common.errors import Refusal
from libs.common.shards import Shards
from libs.common.text import storable
from services.billing import invoice_errors
from services.billing.invoice import party_store, schedule_store, store
from services.billing.invoice.announcing import announce_document
from services.billing.invoice.collection import Wanted
from services.billing.invoice.domain import Issuer, automatic_end
from services.billing.invoice.invoices import Invoices
from services.billing.invoice.schedule_store import Due

_log = structlog.get_logger("invoices")
_meter = metrics.get_meter("tollhouse")
_issued = _meter.create_counter("tollhouse.invoices_issued", description="Invoices that were issued by themselves.")
_failed = _meter.create_counter("tollhouse.invoices_failed", description="Attempts to issue invoices that failed.")

_ACCOUNTS_AT_ONCE: Final = 500
_DUE_AT_ONCE: Final = 40
_ISSUED_AT_ONCE: Final = 4
_OVERDUE_AT_ONCE: Final = 100
_KEPT: Final = timedelta(minutes=10)
"""How long an invoice is kept from others by whoever issues it. After a crash it is issued so much later."""
_AGAIN_AFTER: Final = timedelta(seconds=30)
_DOUBLINGS_MAX: Final = 7
"""An invoice that fails is tried again after 30 seconds, then after twice as long each time, up to about an hour."""
_ERROR_CHARS_MAX: Final = 256
_PASSING: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


class AutomaticInvoices:
    """Visits the shards. Several processes may do so at once."""

    def __init__(self, shards: Shards, invoices: Invoices, clock: Clock, every_s: float) -> None:
        self._shards = shards
        self._invoices = invoices
        self._clock = clock
        self._every_s = every_s

    async def run(self) -> NoReturn:
        await self._shards.visit(self.sweep, every_s=self._every_s)

    async def sweep(self, database: Database) -> None:
        """Issue what is due in a shard, and tell what is overdue. While metering is away, it is due still."""
        while await self._tell_overdue(database) == _OVERDUE_AT_ONCE:
            pass
        async with database.raw_connection() as connection:
            issuer = await party_store.find_issuer(connection)
        if issuer is None or issuer.automatic_since is None:
            return
        while await self._enrol(database, issuer, issuer.automatic_since):
            pass
        while await self._issue_some(database):
            pass

    async def _enrol(self, database: Database, issuer: Issuer, since: datetime) -> bool:
        """Look at the next accounts of the shard; return whether there may be more to look at now."""
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            if not await schedule_store.try_lock(connection):
                return False
            last = await schedule_store.last(connection)
            if last is None or last.complete:
                end_time = automatic_end(since, None if last is None else last.end_time)
                if end_time + timedelta(days=issuer.grace_days) > now:
                    return False
                await schedule_store.begin(connection, end_time)
                last = await schedule_store.last(connection)
                assert last is not None
            await schedule_store.enrol(connection, last, now, _ACCOUNTS_AT_ONCE)
        return True

    async def _issue_some(self, database: Database) -> bool:
        """Issue some invoices that are due; return whether there were any."""
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            found = await schedule_store.take(connection, now, now + _KEPT, _DUE_AT_ONCE)
        turns, away = asyncio.Semaphore(_ISSUED_AT_ONCE), asyncio.Event()

        async def issue(due: Due) -> None:
            async with turns:
                error = None if away.is_set() else await self._issue(database, due)
                if away.is_set() or _is_passing(error):
                    away.set()
                    await self._postpone(database, due, _AGAIN_AFTER, due.attempts, "")
                elif error is not None:
                    await self._note_failure(database, due, error)

        async with asyncio.TaskGroup() as group:
            for due in found:
                group.create_task(issue(due))
        if away.is_set():
            _log.warning("invoices wait for what they need", schema=database.schema)
            return False
        return bool(found)

    async def _issue(self, database: Database, due: Due) -> Exception | None:
        """Issue an invoice; return why it could not be done."""
        try:
            async with database.raw_connection() as connection:
                recipient = await party_store.find_recipient(connection, due.organization_id)
                waits = await schedule_store.has_periods_due(connection, due.organization_id, due.end_time)
            if recipient.by_hand:
                async with database.raw_transaction() as connection:
                    await schedule_store.done(connection, due)
                return None
            if waits:
                await self._postpone(database, due, _AGAIN_AFTER, due.attempts, "")
                return None
            wanted = Wanted(due.organization_id, due.project_id, due.currency_code, due.end_time)

            async def claim(connection: RawConnection, has_more: bool) -> bool:
                if has_more:
                    return await schedule_store.postpone(connection, due, self._clock.now(), 0, "")
                return await schedule_store.done(connection, due)

            if await self._invoices.issue_due(wanted, claim):
                _issued.add(1)
        except (invoice_errors.NothingToInvoice, invoice_errors.InvoiceEndsTooEarly):
            async with database.raw_transaction() as connection:
                await schedule_store.done(connection, due)
        except Exception as error:  # noqa: BLE001 -- the others must have their turn, whatever the cause.
            return error
        return None

    async def _note_failure(self, database: Database, due: Due, error: Exception) -> None:
        text = f"{error.reason}: {error.message}" if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        _failed.add(1)
        _log.warning(
            "invoice could not be issued",
            organization_id=due.organization_id,
            account_id=due.account_id,
            end_time=due.end_time.isoformat(),
            exc_info=error,
        )
        after = _AGAIN_AFTER * 2 ** min(due.attempts, _DOUBLINGS_MAX)
        await self._postpone(database, due, after, due.attempts + 1, storable(text, _ERROR_CHARS_MAX))

    async def _postpone(self, database: Database, due: Due, after: timedelta, attempts: int, error: str) -> None:
        async with database.raw_transaction() as connection:
            await schedule_store.postpone(connection, due, self._clock.now() + after, attempts, error)

    async def _tell_overdue(self, database: Database) -> int:
        now = self._clock.now()
        async with database.raw_transaction() as connection:
            found = await schedule_store.take_overdue(connection, now, _OVERDUE_AT_ONCE)
            for organization_id, invoice_id, is_owed in sorted(found):
                document = await store.find(connection, organization_id, invoice_id) if is_owed else None
                if document is not None:
                    await announce_document(connection, "overdue", document, now)
        return len(found)


def _is_passing(error: Exception | None) -> bool:
    """Return whether something that every invoice needs is away."""
    return isinstance(error, Refusal) and error.kind.value in _PASSING
