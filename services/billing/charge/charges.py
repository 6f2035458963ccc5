"""Lists charges and the organizations that have movements, for other services to compare with their own."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from libs.common.charge_filter import ChargeFilter
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.digests import Digests
from libs.common.ids import NIL
from libs.common.pages import page_size
from libs.common.shard_pages import by_shard, place_in_token, token_after
from libs.common.shards import Shards
from services.billing.charge import store
from services.billing.charge.domain import Charge, Movements, Search, portions

_CHARGES_DEFAULT: Final = 1_000
_CHARGES_MAX: Final = 10_000
_ORGANIZATIONS: Final = "organizations"
_ORGANIZATIONS_MAX: Final = 1_000
_SCANNED_MAX: Final = 100_000
"""How many operations a page of charges in buckets looks at."""
_ACCOUNTS_MAX: Final = 10_000
_MOVEMENTS_MAX: Final = 100_000
"""About how many movements one statement for digests reads, of up to `_ACCOUNTS_MAX` accounts."""


class Charges:
    """What was charged, by organization and operation."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def page(self, wanted: ChargeFilter, size: int, page_token: str) -> tuple[list[Charge], str]:
        """Return a page of charges, and the token of the next.

        They come shard by shard, in each by (organization_id, operation_id). A page ends with its shard.
        """
        fingerprint, first = f"charges/{wanted.fingerprint}", (wanted.organization_id or NIL, "")
        shards = self._shards if wanted.organization_id is None else Shards([self._shards.of(wanted.organization_id)])
        number, after = place_in_token(page_token, fingerprint, first, len(shards))
        page, last = await _page(shards[number], wanted, after, page_size(size, _CHARGES_DEFAULT, _CHARGES_MAX))
        return page, token_after(number, last, fingerprint, first, len(shards))

    async def organizations(self, size: int, page_token: str) -> tuple[list[tuple[str, int]], str, datetime]:
        """Return a page of organizations, each with the number of its movements, the next token, and the time.

        They come shard by shard, in each by id. A page ends with its shard.
        """
        size = page_size(size, _ORGANIZATIONS_MAX, _ORGANIZATIONS_MAX)
        number, after = place_in_token(page_token, _ORGANIZATIONS, (NIL,), len(self._shards))
        async with self._shards[number].raw_connection() as connection:
            page = await store.organizations_after(connection, after[0], size)
        last = (page[-1][0],) if len(page) == size else None
        return page, token_after(number, last, _ORGANIZATIONS, (NIL,), len(self._shards)), self._clock.now()

    async def these_organizations(self, organization_ids: Sequence[str]) -> tuple[list[tuple[str, int]], datetime]:
        """Return those of the organizations that have movements, each with their number, and the time."""
        found: list[tuple[str, int]] = []
        for shard, ids in by_shard(self._shards, organization_ids):
            async with shard.raw_connection() as connection:
                found += await store.these_organizations(connection, ids)
        return found, self._clock.now()

    async def digest(
        self,
        organization_ids: Sequence[str],
        bucket_count: int,
        since_time: datetime | None,
        until_time: datetime | None,
    ) -> AsyncIterator[Digests | int]:
        """Yield how many movements each statement has read, and after each shard the digests of its organizations."""
        for shard, ids in by_shard(self._shards, organization_ids):
            digests = Digests()
            async for accounts in _accounts(shard, ids, since_time):
                for portion in portions(accounts, _MOVEMENTS_MAX):
                    async with shard.raw_transaction() as connection:
                        await connection.execute(store.PLAN_PARTS)
                        digests.add(await store.digests(connection, portion, bucket_count, since_time, until_time))
                    yield sum(movements.length for movements in portion)
            yield digests


async def _page(
    shard: Database, wanted: ChargeFilter, after: tuple[str, ...], size: int
) -> tuple[list[Charge], tuple[str, str] | None]:
    """Return a page of a shard's charges, and where the next begins; None at the end of the shard."""
    async with shard.raw_transaction() as connection:
        if wanted.buckets and wanted.organization_id is not None:
            await connection.execute(store.PLAN_PARTS)
            operation_ids, end = await store.operations_in_buckets(connection, wanted, after[1], _SCANNED_MAX, size)
            page = await store.charges_of(connection, wanted, operation_ids, after[1], size)
            return page, None if end is None else (wanted.organization_id, end)
        if wanted.operation_ids:
            page = await store.charges_of(connection, wanted, wanted.operation_ids, after[1], size)
        else:
            page = await store.charges_after(connection, wanted, (after[0], after[1]), size)
    return page, (page[-1].organization_id, page[-1].operation_id) if len(page) == size else None


async def _accounts(
    shard: Database, organization_ids: Sequence[str], since_time: datetime | None
) -> AsyncIterator[list[Movements]]:
    """Yield the accounts of the organizations, some at a time, each with its movements from `since_time` on."""
    after = (NIL, NIL)
    while True:
        async with shard.raw_transaction() as connection:
            await connection.execute(store.PLAN_PARTS)
            accounts = await store.accounts_after(connection, organization_ids, after, since_time, _ACCOUNTS_MAX)
        if accounts:
            yield await _since(shard, accounts, since_time)
        if len(accounts) < _ACCOUNTS_MAX:
            return
        after = (accounts[-1].organization_id, accounts[-1].account_id)


async def _since(shard: Database, accounts: list[Movements], since_time: datetime | None) -> list[Movements]:
    """Leave the movements before a time out, by halving: times never decrease along an account."""
    if since_time is None:
        return accounts
    searches = [Search(account) for account in accounts]
    while going := [search for search in searches if not search.done]:
        async with shard.raw_transaction() as connection:
            await connection.execute(store.PLAN_PARTS)
            answers = await store.movements_at(
                connection, [search.account for search in going], [search.middle for search in going], since_time
            )
        for search, answer in zip(going, answers, strict=True):
            search.learn(answer)
    return [search.found for search in searches]
