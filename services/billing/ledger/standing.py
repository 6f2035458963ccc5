"""A cache of open accounts as this process last wrote them, for batches that skip reading and locking them.

A cached account may be stale: another process may have changed it. So a batch that is decided over cached accounts is
only written if each of them still has the revision known here. An account is taken out of the cache while a batch uses
it, and put back when that batch is durable. After any failure it stays out until a batch has locked and read it again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from services.billing.ledger.domain import Account, Books, Command, Debit

_ACCOUNTS_MAX: Final = 50_000

_Key: TypeAlias = tuple[str, str, str]


class StandingAccounts:
    """A bounded cache. The account that was unused longest is evicted first."""

    def __init__(self) -> None:
        self._accounts: dict[_Key, Account] = {}

    def keep(self, accounts: Iterable[Account]) -> None:
        """Cache accounts as a durable batch left them."""
        for account in accounts:
            key = (account.organization_id, account.owner_id, account.currency_code)
            self._accounts.pop(key, None)
            if not account.closed:
                self._accounts[key] = account
        while len(self._accounts) > _ACCOUNTS_MAX:
            del self._accounts[next(iter(self._accounts))]

    def take(self, commands: Sequence[Command], now: datetime) -> Books | None:
        """Return books with exactly the accounts that these commands charge, or None if they must be read and locked.

        Only debits are decided over cached accounts, and only if the account of the project or organization itself is
        cached: a project without a cached account may have one that this process has not read.
        """
        found: dict[_Key, Account] = {}
        for command in commands:
            if not isinstance(command, Debit) or command.validate_only:
                return None
            organization_id = command.organization_id
            key = (organization_id, command.project_id or organization_id, command.currency_code)
            if key in found:
                continue
            account = self._accounts.get(key)
            if account is None or _is_due(account, now):
                return None
            found[key] = account
        books = Books()
        for key, account in found.items():
            del self._accounts[key]
            books.add_account(account)
        return books


def _is_due(account: Account, now: datetime) -> bool:
    """Return whether a hold has expired, or a grant begins or expires, so that the account is not as it was."""
    return (account.hold_expiry_from is not None and account.hold_expiry_from <= now) or (
        account.grant_due_from is not None and account.grant_due_from <= now
    )
