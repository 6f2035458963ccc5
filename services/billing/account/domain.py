"""An account as its owner sees it, and the lines of its statement."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from libs.common.audit.chain import Changed, differences
from services.billing.ledger.domain import Balance, Kind, Metadata


@dataclass(frozen=True, slots=True)
class LowBalance:
    """What a change says about when the balance is low."""

    threshold: Decimal | None
    currency_code: str | None


@dataclass(frozen=True, slots=True)
class AccountTerms:
    """An account with its terms and what it holds."""

    organization_id: str
    account_id: str
    project_id: str | None
    closed: bool
    version: int
    metadata: Metadata | None
    create_time: datetime
    update_time: datetime
    balance: Balance
    grant_due_from: datetime | None = None
    """No credit grant begins or expires before this moment; None where none will."""
    low_balance_threshold: Decimal | None = None
    """Below which posted balance the balance is low; None where it never is."""

    @property
    def etag(self) -> str:
        return str(self.version)


def account_changes(before: AccountTerms | None, after: AccountTerms) -> tuple[Changed, ...]:
    """Return how an account's terms changed, for the audit trail. Of metadata it only says that it changed."""
    changes = differences({} if before is None else _terms(before), _terms(after))
    if (before.metadata if before else None) != after.metadata:
        changes += (Changed("metadata"),)
    return changes


def _terms(account: AccountTerms) -> dict[str, str | None]:
    threshold = account.low_balance_threshold
    return {
        "state": "CLOSED" if account.closed else "OPEN",
        "project_id": account.project_id,
        "currency_code": account.balance.currency_code,
        "overdraft_limit": format(account.balance.overdraft_limit.normalize(), "f"),
    } | ({} if threshold is None else {"low_balance_threshold": format(threshold.normalize(), "f")})


@dataclass(frozen=True, slots=True)
class StatementEntry:
    """One movement, seen from one account: the amount is negative where the account gave."""

    sequence: int
    transaction_id: str
    operation_id: str
    kind: Kind
    amount: Decimal
    balance_after: Decimal
    description: str
    create_time: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of an account's movements, and the balance before and after the whole range."""

    currency_code: str
    opening_balance: Decimal
    closing_balance: Decimal
    entries: list[StatementEntry]
    next_page_token: str
