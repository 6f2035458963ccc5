"""The charges that other services compare theirs with, and in which portions they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from services.billing.ledger.domain import Kind


@dataclass(frozen=True, slots=True)
class Charge:
    """What was charged for one operation, before reversals; or what metering gave back, below zero."""

    organization_id: str
    operation_id: str
    transaction_id: str
    kind: Kind
    currency_code: str
    amount: Decimal
    create_time: datetime
    source: str
    """Who asked for it, as its metadata names it; empty where it names nobody."""


class Movements(NamedTuple):
    """The movements of an account from the `first` to the `last` sequence, both included."""

    organization_id: str
    account_id: str
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many they are at most: some may be the other sides of transfers."""
        return self.last - self.first + 1


def portions(accounts: Sequence[Movements], movements_max: int) -> Iterator[list[Movements]]:
    """Divide the movements of accounts into portions of about `movements_max`, each to be read by one statement.

    A portion has the same share of each account. Accounts that are used side by side over time have these movements
    close to each other in the table, so that few pages are read, and each in one portion.
    """
    total = sum(account.length for account in accounts)
    count = -(-total // movements_max)
    for number in range(count):
        shares = (_share(account, number, count) for account in accounts)
        yield [share for share in shares if share.length > 0]


def _share(account: Movements, number: int, count: int) -> Movements:
    """Return the share of an account's movements in portion `number` of `count`."""
    first = account.first + account.length * number // count
    return account._replace(first=first, last=account.first + account.length * (number + 1) // count - 1)


class Search:
    """Finds the first of an account's movements that is as late as some time, by halving."""

    def __init__(self, account: Movements) -> None:
        self.account = account
        self._low, self._high = account.first, account.last + 1

    @property
    def done(self) -> bool:
        return self._low >= self._high

    @property
    def middle(self) -> int:
        """The sequence to ask about next."""
        return (self._low + self._high) // 2

    def learn(self, answer: tuple[int, bool] | None) -> None:
        """Take the answer: the first movement at or after `middle` and whether it is late enough, or that none is."""
        if answer is None or answer[1]:
            self._high = self.middle
        else:
            self._low = answer[0] + 1

    @property
    def found(self) -> Movements:
        """The movements that are late enough; none where `first` is after `last`."""
        return self.account._replace(first=self._low)
