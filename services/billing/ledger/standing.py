"""Open accounts as this process last left them, for batches that need not read and lock them first.

What is kept here is only ever a guess: another process may have moved the account on. So a batch decided over it is
written under the condition that every account it changes is still at the revision known here. An account is taken out
while a batch uses it and comes back when that batch is durable; after a failure of any kind it stays out until a batch
has locked and read it again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from services.billing.ledger.domain import Account, Books, Command, Debit

_ACCOUNTS_MAX: Final = 50_000

_Key: TypeAlias = tuple[str, str, str]


class StandingAccounts:
    """A bounded number of accounts, those unused longest going first."""

    def __init__(self) -> None:
        self._accounts: dict[_Key, Account] = {}

    def keep(self, accounts: Iterable[Account]) -> None:
        """Takes in accounts as they stand after a batch that is durable."""
        for account in accounts:
            key = (account.organization_id, account.owner_id, account.currency_code)
            self._accounts.pop(key, None)
            if not account.closed:
                self._accounts[key] = account
        while len(self._accounts) > _ACCOUNTS_MAX:
            del self._accounts[next(iter(self._accounts))]

    def take(self, commands: Sequence[Command], now: datetime) -> Books | None:
        """Books with exactly the accounts these commands charge, or None where they must be read and locked.

        Only debits are decided over a guess, and only where the account that pays is known for certain by its owner: a
        project of which no account is known here may have been given one.
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
            if account is None or _has_due_holds(account, now):
                return None
            found[key] = account
        books = Books()
        for key, account in found.items():
            del self._accounts[key]
            books.add_account(account)
        return books


def _has_due_holds(account: Account, now: datetime) -> bool:
    return account.hold_expiry_from is not None and account.hold_expiry_from <= now
