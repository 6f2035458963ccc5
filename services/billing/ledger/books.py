"""The books that one batch is decided over: what is stored of its accounts and operations, and what the batch adds."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from libs.common.errors import Conflict
from services.billing.ledger.domain import Account, Decline, Hold, Movement, OperationKey, Slot
from services.billing.ledger.grants import ZERO, Grant, Reserved, Standing, after_use
from services.billing.ledger.itemized import Itemized


@dataclass(slots=True)
class AccountGrants:
    """The grants of one account while a batch is decided."""

    funded: Decimal
    """What the account was given altogether, other than by use that was reversed."""
    standing: Standing
    """As of the last event; what was used since follows from `funded` and what is posted."""
    scheduled: list[Grant]
    held_before: dict[datetime, Decimal]
    """What open holds still reserve that were placed before a moment, by `holds_before` of grants that have ended."""
    sequence: int
    """The number of the account's last movement at the event of the standing."""
    itemized: Itemized | None = None
    """The active grants as they are now, where charges are entered grant by grant."""
    open_holds: list[Hold] = field(default_factory=list)
    """Those of an account that will be entered grant by grant because of a command of the batch."""

    def present(self, posted: Decimal) -> Standing:
        """Return what is left of the grants while so much is posted on the account."""
        if self.itemized is not None:
            return Standing(self.funded - posted, ZERO, tuple(self.itemized.grants.values()))
        return after_use(self.standing, self.funded - posted)

    def reserved(self, held: Decimal) -> Reserved:
        """Return what open holds reserve of the grants while they hold so much of the account."""
        return Reserved(held, self.held_before, None if self.itemized is None else self.itemized.reserved)


@dataclass(frozen=True, slots=True)
class GrantUse:
    """What one movement of an account used of a grant, or gave back to it: a row of `grant_uses`."""

    grant: Grant
    """As it is after it."""
    sequence: int
    """The number of the movement in its account."""
    place: int
    """The grants of a movement in the order of use."""
    amount: Decimal
    """Negative for what was given back."""
    user_id: str | None
    """The user of the charge."""
    model: str | None
    """The model of the charge."""


@dataclass(slots=True)
class Books:
    """Everything a batch uses: its locked accounts, what is stored of its operations, and what the batch adds."""

    owned: dict[tuple[str, str], list[Account]] = field(default_factory=dict)
    """Accounts by (organization_id, owner_id)."""
    accounts: dict[str, Account] = field(default_factory=dict)
    movements: dict[OperationKey, Movement] = field(default_factory=dict)
    holds: dict[OperationKey, Hold] = field(default_factory=dict)
    declines: dict[tuple[str, str, Slot], Decline] = field(default_factory=dict)
    originals: dict[tuple[str, str], Movement] = field(default_factory=dict)
    """Movements to be reversed, by (organization_id, transaction_id)."""
    reversed: dict[tuple[str, str], Decimal] = field(default_factory=dict)

    new_movements: list[Movement] = field(default_factory=list)
    new_holds: list[Hold] = field(default_factory=list)
    changed_holds: dict[OperationKey, Hold] = field(default_factory=dict)
    """Those of which the state or the expiry has changed."""
    resized_holds: dict[OperationKey, Hold] = field(default_factory=dict)
    """Those of which the amount has changed, or what was captured in parts."""
    reserving_holds: dict[OperationKey, Hold] = field(default_factory=dict)
    """Those of which it has changed what they reserve of grants."""
    new_declines: list[Decline] = field(default_factory=list)
    changed_accounts: dict[str, Account] = field(default_factory=dict)
    expired_hold_count: int = 0
    """How many holds expired before the batch and are ended by it."""

    account_grants: dict[str, AccountGrants] = field(default_factory=dict)
    """By account id: of accounts with grants that are due, or that commands grant to or void of."""
    known_grants: dict[OperationKey, Grant] = field(default_factory=dict)
    """What the operations of the batch have granted before."""
    new_grants: dict[str, Grant] = field(default_factory=dict)
    changed_grants: dict[str, Grant] = field(default_factory=dict)
    new_uses: list[GrantUse] = field(default_factory=list)
    known_uses: dict[tuple[str, str], list[tuple[Grant, Decimal]]] = field(default_factory=dict)
    """What movements to be reversed have used of grants, in the order of use, by (organization_id, transaction_id)."""
    new_standings: list[tuple[Account, int, Decimal, Standing]] = field(default_factory=list)
    """Account, number of its last movement, what it was funded with, and its grants then."""
    due_changed: dict[str, Account] = field(default_factory=dict)
    """Accounts whose next beginning or end of a grant has changed, or that are entered grant by grant from now on."""
    freed: dict[str, Account] = field(default_factory=dict)
    """Accounts on which a hold has ended that may have reserved some of an expired grant."""

    def locked_account(self, account_id: str) -> Account:
        """Return the account of something that is stored already.

        Raises:
            Conflict: another process has stored it since this batch locked its accounts; the batch is run again.
        """
        account = self.accounts.get(account_id)
        if account is None:
            raise Conflict
        return account

    def add_account(self, account: Account) -> None:
        self.accounts[account.account_id] = account
        self.owned.setdefault((account.organization_id, account.owner_id), []).append(account)
