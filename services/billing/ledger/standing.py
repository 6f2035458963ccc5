"""A cache of open accounts and open holds as this process last wrote them, for batches that skip reading and locking.

A cached account may be stale: another process may have changed it. So a batch that is decided over cached accounts is
only written if each of them still has the revision known here, and each hold it captures is still open. An account or
a hold is taken out of the cache while a batch uses it, and put back when that batch is durable. After any failure it
stays out: an account until a batch has locked and read it again, a hold for good.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeAlias

from services.billing.ledger.books import Books
from services.billing.ledger.domain import Account, Capture, Command, Debit, Hold, HoldState, OperationKey, Place

_ACCOUNTS_MAX: Final = 50_000
_HOLDS_MAX: Final = 20_000

_Key: TypeAlias = tuple[str, str, str]
"""An account by organization, owner and currency."""


class StandingAccounts:
    """Two bounded caches. The account that was unused longest is evicted first, and so is the oldest hold."""

    def __init__(self) -> None:
        self._accounts: dict[_Key, Account] = {}
        self._holds: dict[OperationKey, tuple[Hold, _Key]] = {}
        """Open holds, each with the account that it holds an amount of."""

    def keep(self, books: Books) -> None:
        """Cache the accounts and holds of a batch that is durable."""
        for account in books.accounts.values():
            key = _key_of(account)
            self._accounts.pop(key, None)
            if not account.closed:
                self._accounts[key] = account
        while len(self._accounts) > _ACCOUNTS_MAX:
            del self._accounts[next(iter(self._accounts))]
        for operation in (*books.changed_holds, *books.resized_holds):
            self._holds.pop(operation, None)
        for hold in books.new_holds:
            if hold.state is HoldState.OPEN:
                self._holds[hold.organization_id, hold.operation_id] = hold, _key_of(books.accounts[hold.account_id])
        while len(self._holds) > _HOLDS_MAX:
            del self._holds[next(iter(self._holds))]

    def take(self, commands: Sequence[Command], now: datetime) -> Books | None:
        """Return books with exactly the accounts and holds that these commands use, or None if they must be read.

        Only debits, new holds and captures are decided over cached accounts, and only where charges are not entered
        grant by grant. A debit or a hold needs the account of the
        project or organization itself in the cache: a project without a cached account may have one that this process
        has not read. A capture needs its hold in the cache; a part of a hold's work is not decided here.
        """
        accounts: dict[_Key, Account] = {}
        holds: dict[OperationKey, Hold] = {}
        for command in commands:
            if command.validate_only:
                return None
            if isinstance(command, Debit | Place):
                organization_id = command.organization_id
                key = (organization_id, command.project_id or organization_id, command.currency_code)
            elif isinstance(command, Capture) and command.hold_operation_id is None:
                held = self._holds.get((command.organization_id, command.operation_id))
                if held is None:
                    return None
                holds[command.organization_id, command.operation_id], key = held
            else:
                return None
            if key in accounts:
                continue
            account = self._accounts.get(key)
            if account is None or account.itemized_from is not None or _is_due(account, now):
                return None
            accounts[key] = account
        return self._take(accounts, holds)

    def apart(self, commands: Sequence[Command]) -> set[int]:
        """Return the places of commands on cached accounts whose charges are entered grant by grant.

        They are decided apart from the others, which so need not be read and locked because of them.
        """
        return {place for place, command in enumerate(commands) if self._is_itemized(command)}

    def _is_itemized(self, command: Command) -> bool:
        key: _Key | None = None
        if isinstance(command, Debit | Place):
            organization_id = command.organization_id
            key = (organization_id, command.project_id or organization_id, command.currency_code)
        elif isinstance(command, Capture):
            held = self._holds.get((command.organization_id, command.hold_operation_id or command.operation_id))
            key = None if held is None else held[1]
        account = None if key is None else self._accounts.get(key)
        return account is not None and account.itemized_from is not None

    def _take(self, accounts: dict[_Key, Account], holds: dict[OperationKey, Hold]) -> Books:
        books = Books()
        for key, account in accounts.items():
            del self._accounts[key]
            books.add_account(account)
        for operation, hold in holds.items():
            del self._holds[operation]
            books.holds[operation] = replace(hold)  # An answer that is not sent yet may have the hold as it was placed.
        return books


def _key_of(account: Account) -> _Key:
    return account.organization_id, account.owner_id, account.currency_code


def _is_due(account: Account, now: datetime) -> bool:
    """Return whether a hold has expired, or a grant begins or expires, so that the account is not as it was."""
    return (account.hold_expiry_from is not None and account.hold_expiry_from <= now) or (
        account.grant_due_from is not None and account.grant_due_from <= now
    )
