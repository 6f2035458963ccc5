"""Reads transactions and holds as they are now."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeVar

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.pages import encode_page_token, id_in_token, page_size, text_in_token
from libs.common.shards import Shards
from services.billing import errors
from services.billing.ledger import history_store, store
from services.billing.ledger.domain import Hold, HoldState, Kind, Movement

_SCAN_MIN: Final = 500
"""A filtered page reads at least this many rows."""

_T = TypeVar("_T")


class History:
    """Reads of the ledger. Another organization's records look like missing ones."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def hold(self, organization_id: str, operation_id: str) -> Hold:
        async with self._shards.of(organization_id).raw_connection() as connection:
            holds = await store.find_holds(connection, [(organization_id, operation_id)])
        if not holds:
            raise errors.HoldNotFound(operation_id=operation_id)
        return self._as_of_now(holds[0])

    async def holds(
        self, organization_id: str, *, account_id: str | None, state: HoldState | None, page_size: int, page_token: str
    ) -> tuple[list[Hold], str]:
        """A page of holds by operation id, and the token of the next."""
        fingerprint = f"holds/{organization_id}/{account_id}/{state}"
        size, scan = _sizes(page_size, filtered=account_id is not None or state is not None)
        after = text_in_token(page_token, fingerprint)
        async with self._shards.of(organization_id).raw_connection() as connection:
            rows = await history_store.holds_after(connection, organization_id, after, scan)
        wanted, last = _pick(
            [self._as_of_now(hold) for hold in rows],
            lambda h: account_id in (None, h.account_id) and state in (None, h.state),
            size,
            scan,
        )
        return wanted, encode_page_token(last.operation_id, fingerprint=fingerprint) if last else ""

    async def transaction(
        self, organization_id: str, *, transaction_id: str | None, operation_id: str | None
    ) -> tuple[Movement, Decimal]:
        """The transaction, and how much of it has been reversed."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            if transaction_id is None and operation_id is not None:
                movements = await store.find_movements(connection, [(organization_id, operation_id)])
                transaction_id = movements[0].transaction_id if movements else None
            found = (
                await store.find_originals(connection, [(organization_id, transaction_id)]) if transaction_id else []
            )
        if not found:
            raise errors.TransactionNotFound
        return found[0]

    async def transaction_ids(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The ids of the transactions of operations, by organization and operation id, of those that there are."""
        by_shard: dict[Database, list[tuple[str, str]]] = {}
        for key in keys:
            by_shard.setdefault(self._shards.of(key[0]), []).append(key)
        found: dict[tuple[str, str], str] = {}
        for database, some in by_shard.items():
            async with database.raw_connection() as connection:
                found |= await history_store.transaction_ids(connection, some)
        return found

    async def transactions(
        self,
        organization_id: str,
        *,
        account_id: str | None,
        kind: Kind | None,
        start_time: datetime | None,
        end_time: datetime | None,
        hold_operation_id: str | None,
        page_size: int,
        page_token: str,
    ) -> tuple[list[Movement], str]:
        """A page of transactions, newest first, and the token of the next; of one hold, its parts."""
        fingerprint = f"transactions/{organization_id}/{account_id}/{kind}/{start_time}/{end_time}/{hold_operation_id}"
        filtered = any(part is not None for part in (account_id, kind, start_time, end_time))
        size, scan = _sizes(page_size, filtered=filtered)
        before = id_in_token(page_token, fingerprint)
        async with self._shards.of(organization_id).raw_connection() as connection:
            if hold_operation_id is None:
                rows = await history_store.movements_before(connection, organization_id, before, scan)
            else:
                rows = await history_store.parts_before(connection, organization_id, hold_operation_id, before, scan)

        def wanted(m: Movement) -> bool:
            return (
                account_id in (None, m.account_id, m.counter_account_id)
                and kind in (None, m.kind)
                and (start_time is None or m.create_time >= start_time)
                and (end_time is None or m.create_time < end_time)
            )

        page, last = _pick(rows, wanted, size, scan)
        return page, encode_page_token(last.transaction_id, fingerprint=fingerprint) if last else ""

    def _as_of_now(self, hold: Hold) -> Hold:
        """Show an open hold past its expiry as expired, even if it is still stored as open."""
        if hold.state is HoldState.OPEN and hold.expire_time <= self._clock.now():
            hold.state, hold.end_time = HoldState.EXPIRED, hold.expire_time
        return hold


def _sizes(requested: int, *, filtered: bool) -> tuple[int, int]:
    size = page_size(requested)
    return size, max(size, _SCAN_MIN) if filtered else size


def _pick(rows: Sequence[_T], wanted: Callable[[_T], bool], size: int, scan: int) -> tuple[list[_T], _T | None]:
    """Return the rows wanted, at most `size`, and the last row read, after which the next page begins, if any."""
    page: list[_T] = []
    for row in rows:
        if wanted(row):
            page.append(row)
            if len(page) == size:
                return page, row if row is not rows[-1] or len(rows) == scan else None
    return page, rows[-1] if len(rows) == scan else None
