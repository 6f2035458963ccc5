"""Opens, changes and closes accounts, and reads their balances and statements."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from libs.common.access import Scope
from libs.common.audit.recording import record_event
from libs.common.call import require_scope
from libs.common.clock import Clock
from libs.common.database import ConstraintViolation, RawConnection
from libs.common.errors import Conflict, FieldViolation, InvalidArgument, RequestIdReused, StaleEtag
from libs.common.ids import new_id
from libs.common.pages import encode_page_token, foreign_token, id_in_token, page_size, text_in_token
from libs.common.shards import Shards
from services.billing import errors
from services.billing.account import store
from services.billing.account.domain import AccountTerms, LowBalance, Statement, account_changes
from services.billing.ledger.domain import Metadata, SettleGrants
from services.billing.ledger.engine import Engine

_SEQUENCE_DIGITS_MAX = 18
"""What a page token may name; far more movements than an account ever has."""
# Another request opened the account, or took the request id, first.
_LOST_RACES = frozenset({"accounts_owner_currency_once", "accounts_request_once"})


class Accounts:
    """The accounts of one organization at a time. Another organization's accounts look like missing ones."""

    def __init__(self, shards: Shards, clock: Clock, engine: Engine) -> None:
        self._shards = shards
        self._clock = clock
        self._engine = engine

    async def open(
        self,
        organization_id: str,
        *,
        project_id: str | None,
        currency_code: str,
        overdraft_limit: Decimal,
        metadata: Metadata | None,
        request_id: str | None,
    ) -> tuple[AccountTerms, bool]:
        """Open an account, or a closed one again; return it and whether this repeats an earlier request."""
        owner_id = project_id or organization_id
        request: dict[str, object] = {
            "project_id": project_id,
            "currency_code": currency_code,
            "overdraft_limit": format(overdraft_limit.normalize(), "f"),
            "metadata": metadata or None,
        }
        now = self._clock.now()
        try:
            async with self._shards.of(organization_id).raw_transaction() as connection:
                known = await store.find_request(connection, organization_id, request_id) if request_id else None
                if known is not None and request_id is not None:
                    _require_same(known[1], request, request_id)
                    return await self._get(connection, organization_id, known[0]), True
                owned = await store.find_owned(connection, organization_id, owner_id, now)
                existing = next((a for a in owned if a.balance.currency_code == currency_code), None)
                if existing is None:
                    account_id = new_id()
                    await store.insert(
                        connection,
                        organization_id=organization_id,
                        account_id=account_id,
                        owner_id=owner_id,
                        currency_code=currency_code,
                        overdraft_limit=overdraft_limit,
                        request_id=request_id,
                        request=request,
                        metadata=metadata,
                        now=now,
                    )
                elif existing.closed:
                    account_id = existing.account_id
                    await store.reopen(
                        connection,
                        existing,
                        overdraft_limit=overdraft_limit,
                        request_id=request_id,
                        request=request,
                        metadata=metadata,
                        now=now,
                    )
                else:
                    raise errors.AccountExists(account_id=existing.account_id, currency_code=currency_code)
                return await self._changed(connection, organization_id, account_id, existing, now), False
        except ConstraintViolation as error:
            if error.constraint not in _LOST_RACES:
                raise
            raise Conflict from None

    async def get(self, organization_id: str, account_id: str) -> AccountTerms:
        async with self._shards.of(organization_id).raw_connection() as connection:
            account = _visible(await self._get(connection, organization_id, account_id))
        if not await self._settle([account]):
            return account
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await self._get(connection, organization_id, account_id)

    async def page(
        self, organization_id: str, *, project_id: str | None, size: int, page_token: str
    ) -> tuple[list[AccountTerms], str]:
        fingerprint = f"accounts/{organization_id}/{project_id}"
        after = id_in_token(page_token, fingerprint)
        size = page_size(size)
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find_page(connection, organization_id, project_id, after, size + 1, self._clock.now())
        if await self._settle(found):
            async with self._shards.of(organization_id).raw_connection() as connection:
                now = self._clock.now()
                found = await store.find_page(connection, organization_id, project_id, after, size + 1, now)
        page = found[:size]
        more = len(found) > size
        return page, encode_page_token(page[-1].account_id, fingerprint=fingerprint) if more else ""

    async def update(
        self,
        organization_id: str,
        account_id: str,
        *,
        etag: str = "",
        overdraft_limit: Decimal | None = None,
        currency_code: str | None = None,
        metadata: Metadata | None = None,
        low_balance: LowBalance | None = None,
    ) -> AccountTerms:
        """Change what is not None; an empty mapping removes the metadata."""
        now = self._clock.now()
        async with self._shards.of(organization_id).raw_transaction() as connection:
            account = await store.lock(connection, organization_id, account_id, now)
            if account is None:
                raise errors.AccountNotFound
            if etag and etag != account.etag:
                raise StaleEtag(resource_type="account")
            held_in = account.balance.currency_code
            for code in (currency_code, low_balance.currency_code if low_balance else None):
                if code not in (None, held_in):
                    raise errors.CurrencyMismatch(currency_code=code, account_currency_code=held_in)
            if (
                low_balance
                and low_balance.threshold == account.low_balance_threshold
                and not (overdraft_limit or metadata)
            ):
                return account
            await store.update(
                connection,
                account,
                overdraft_limit=account.balance.overdraft_limit if overdraft_limit is None else overdraft_limit,
                metadata=account.metadata if metadata is None else metadata,
                low_balance_threshold=low_balance.threshold if low_balance else account.low_balance_threshold,
                now=now,
            )
            return await self._changed(connection, organization_id, account_id, account, now)

    async def close(self, organization_id: str, account_id: str) -> AccountTerms:
        now = self._clock.now()
        async with self._shards.of(organization_id).raw_transaction() as connection:
            account = await store.lock(connection, organization_id, account_id, now)
            if account is None:
                raise errors.AccountNotFound
            if account.closed:
                return account
            if account.grant_due_from is not None:
                raise errors.AccountHasGrants
            balance = account.balance
            if balance.posted or balance.held:
                raise errors.AccountNotEmpty(
                    posted=balance.posted, held=balance.held, currency_code=balance.currency_code
                )
            await store.close(connection, account, now)
            return await self._changed(connection, organization_id, account_id, account, now)

    async def balance(
        self,
        organization_id: str,
        *,
        project_id: str | None,
        currency_code: str | None,
        account_id: str | None,
        as_of_time: datetime | None,
    ) -> tuple[AccountTerms, datetime]:
        """Return the account with its balance at a moment, and that moment."""
        now = self._clock.now()
        if as_of_time is not None and as_of_time > now:
            raise InvalidArgument([FieldViolation("as_of_time", "must not be in the future")])
        async with self._shards.of(organization_id).raw_connection() as connection:
            if account_id is not None:
                account = await self._get(connection, organization_id, account_id)
            else:
                account = await self._charged(connection, organization_id, project_id, currency_code, now)
            _visible(account)
        if await self._settle([account]):
            async with self._shards.of(organization_id).raw_connection() as connection:
                account = await self._get(connection, organization_id, account.account_id)
        if as_of_time is None:
            return account, now
        async with self._shards.of(organization_id).raw_connection() as connection:
            sequence, posted = await _last_before(connection, account, as_of_time, inclusive=True)
            held = await store.held_at(connection, account, as_of_time)
        then = replace(account.balance, posted=posted, sequence=sequence, held=held, scoped=Decimal(0))
        return replace(account, balance=then), as_of_time

    async def statement(
        self,
        organization_id: str,
        account_id: str,
        *,
        start_time: datetime | None,
        end_time: datetime | None,
        size: int,
        page_token: str,
    ) -> Statement:
        """Return a page of the movements in [start_time, end_time)."""
        fingerprint = f"statement/{organization_id}/{account_id}/{start_time}/{end_time}"
        token = text_in_token(page_token, fingerprint)
        if token is not None and not (token.isascii() and token.isdigit() and len(token) <= _SEQUENCE_DIGITS_MAX):
            raise foreign_token()
        size = page_size(size)
        async with self._shards.of(organization_id).raw_connection() as connection:
            account = _visible(await self._get(connection, organization_id, account_id))
        if await self._settle([account]):
            async with self._shards.of(organization_id).raw_connection() as connection:
                account = await self._get(connection, organization_id, account_id)
        async with self._shards.of(organization_id).raw_connection() as connection:
            first, opening = 0, Decimal(0)
            if start_time is not None:
                first, opening = await _last_before(connection, account, start_time)
            last, closing = account.balance.sequence, account.balance.posted
            if end_time is not None:
                last, closing = await _last_before(connection, account, end_time)
            after = first if token is None else int(token)
            up_to = min(after + size, last)
            entries = await store.entries(connection, account, after=after, up_to=up_to)
        next_page_token = encode_page_token(str(up_to), fingerprint=fingerprint) if up_to < last else ""
        return Statement(account.balance.currency_code, opening, closing, entries, next_page_token)

    async def _settle(self, accounts: Sequence[AccountTerms]) -> bool:
        """Let credit grants of these accounts begin and expire that are due; return whether there were any."""
        now = self._clock.now()
        due = [a for a in accounts if a.grant_due_from is not None and a.grant_due_from <= now]
        if due:
            await self._engine.settle_grants(
                [SettleGrants(a.organization_id, "", a.project_id, a.balance.currency_code) for a in due]
            )
        return bool(due)

    async def _get(self, connection: RawConnection, organization_id: str, account_id: str) -> AccountTerms:
        account = await store.find(connection, organization_id, account_id, self._clock.now())
        if account is None:
            raise errors.AccountNotFound
        return account

    async def _changed(
        self,
        connection: RawConnection,
        organization_id: str,
        account_id: str,
        before: AccountTerms | None,
        now: datetime,
    ) -> AccountTerms:
        """Record the change in the audit trail, and return the account as it is now."""
        account = await self._get(connection, organization_id, account_id)
        await record_event(
            connection,
            now=now,
            organization_id=organization_id,
            resource_type="account",
            resource_id=account_id,
            changed=account_changes(before, account),
        )
        return account

    async def _charged(
        self,
        connection: RawConnection,
        organization_id: str,
        project_id: str | None,
        currency_code: str | None,
        now: datetime,
    ) -> AccountTerms:
        """Return the account that would be charged: the project's if it has an open one, else the organization's."""
        owned: list[AccountTerms] = []
        if project_id is not None:
            owned = [a for a in await store.find_owned(connection, organization_id, project_id, now) if not a.closed]
        owned = owned or await store.find_owned(connection, organization_id, organization_id, now)
        if currency_code is not None:
            owned = [account for account in owned if account.balance.currency_code == currency_code]
        if not owned:
            raise errors.AccountNotFound
        if len(owned) > 1:
            codes = ", ".join(sorted(account.balance.currency_code for account in owned))
            raise errors.CurrencyRequired(account_currency_codes=codes)
        return owned[0]


def _visible(account: AccountTerms) -> AccountTerms:
    """Return the account, or refuse a caller who may only see accounts of other projects."""
    require_scope(Scope.SCOPE_ACCOUNTS_READ, project_id=account.project_id or "")
    return account


async def _last_before(
    connection: RawConnection, account: AccountTerms, moment: datetime, *, inclusive: bool = False
) -> tuple[int, Decimal]:
    """Return the number of the account's last movement before a moment, and the balance after it.

    Times never decrease along the sequence, so a binary search finds it in a few probes of the index.
    """
    low, high, balance = 0, account.balance.sequence, Decimal(0)
    while low < high:
        middle = (low + high + 1) // 2
        time, after = await store.entry_at(connection, account, middle)
        if time < moment or (inclusive and time == moment):
            low, balance = middle, after
        else:
            high = middle - 1
    return low, balance


def _require_same(known: dict[str, object], request: dict[str, object], request_id: str) -> None:
    for field, value in request.items():
        if known.get(field) != value:
            raise RequestIdReused(request_id=request_id, field=field)
