"""The ledger's commands and records, and what becomes of a command.

Tens of thousands of commands, movements and accounts are made each second, so they are plain classes with slots.
Commands and movements are not changed once they are made.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, TypeAlias

from libs.common.database import RawConnection
from services.billing.ledger.balances import Account as Account
from services.billing.ledger.balances import Balance as Balance
from services.billing.ledger.grants import Grant, GrantKind
from services.billing.ledger.kinds import Direction as Direction
from services.billing.ledger.kinds import HoldState as HoldState
from services.billing.ledger.kinds import Kind as Kind
from services.billing.ledger.kinds import Mode as Mode
from services.billing.ledger.kinds import Slot as Slot
from services.billing.ledger.kinds import SystemAccount as SystemAccount

ZERO: Final = Decimal(0)

Metadata: TypeAlias = dict[str, str]
OperationKey: TypeAlias = tuple[str, str]
"""(organization_id, operation_id)"""
Also: TypeAlias = Callable[[RawConnection, "Outcome"], Awaitable[None]]
"""Writes more in the transaction in which a command is posted, once it is posted anew: never for a repeat, nor for a
decline. It may run again after a failure, in another transaction. If it raises, nothing of the command is posted, and
the command fails with what it raised; other commands of the batch do not. It must be a plain function."""


@dataclass(slots=True)
class Debit:
    """Charge an account."""

    organization_id: str
    operation_id: str
    project_id: str | None
    currency_code: str
    amount: Decimal
    mode: Mode
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False
    user_id: str | None = None
    model: str | None = None
    opens_account: bool = False
    """Whether an account in this unit is opened for an organization that has accounts in others only."""


@dataclass(slots=True)
class Credit:
    """Add money to exactly the owner's account."""

    organization_id: str
    operation_id: str
    project_id: str | None
    currency_code: str
    amount: Decimal
    source: SystemAccount
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False
    opens_account: bool = False
    """Whether an account in this unit is opened for an owner that has accounts in others only."""
    also: Also | None = None


@dataclass(slots=True)
class Transfer:
    """Move money between two accounts of an organization; None stands for the organization's own."""

    organization_id: str
    operation_id: str
    source_project_id: str | None
    destination_project_id: str | None
    currency_code: str
    amount: Decimal
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False


@dataclass(slots=True)
class Place:
    """Hold an amount."""

    organization_id: str
    operation_id: str
    project_id: str | None
    currency_code: str
    amount: Decimal
    ttl_ms: int
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False
    user_id: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Capture:
    """Charge the work that a hold was placed for, or a part of it."""

    organization_id: str
    operation_id: str
    """What the charge is posted under: the operation id of the hold, or an id of the part's own."""
    hold_operation_id: str | None
    """For a part: the operation id of the hold."""
    currency_code: str
    amount: Decimal
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False
    user_id: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Release:
    """Release a hold."""

    organization_id: str
    operation_id: str
    validate_only: bool = False


@dataclass(slots=True)
class Extend:
    """Extend the life of a hold, and enlarge it where an amount is given."""

    organization_id: str
    operation_id: str
    ttl_ms: int
    validate_only: bool = False
    currency_code: str | None = None
    amount: Decimal | None = None
    """The whole amount that the hold is to have at least."""


@dataclass(slots=True)
class Reverse:
    """Undo a transaction, or `amount` of it."""

    organization_id: str
    operation_id: str
    transaction_id: str
    currency_code: str | None
    amount: Decimal | None
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False


@dataclass(slots=True)
class GrantCredits:
    """Grant credits with terms to exactly the owner's account."""

    organization_id: str
    operation_id: str
    project_id: str | None
    currency_code: str
    amount: Decimal
    kind: GrantKind
    priority: int
    effective_time: datetime | None
    """None where the credits are there at once."""
    expire_time: datetime | None
    source_reference: str
    description: str
    metadata: Metadata | None
    actor: str
    validate_only: bool = False
    opens_account: bool = False
    """Whether an account in this unit is opened for an owner that has accounts in others only."""
    user_id: str | None = None
    model: str | None = None
    """Where given, only charges of this user, or for this model, may use it."""
    rollover_max: Decimal | None = None
    """Where given: when it begins, so much of the refills before it expires that they and it are at most this."""
    may_be_over: bool = False
    """Whether its end may have passed: it begins and expires then. Otherwise it is refused."""
    also: Also | None = None


@dataclass(slots=True)
class VoidGrant:
    """Take back what is left of a grant."""

    organization_id: str
    operation_id: str
    """The grant's id."""
    project_id: str | None
    currency_code: str
    reason: str
    actor: str
    validate_only: bool = False


@dataclass(slots=True)
class SettleGrants:
    """Let grants of exactly the owner's account begin and expire that are due, and do nothing else."""

    organization_id: str
    operation_id: str
    """Of no meaning; empty."""
    project_id: str | None
    currency_code: str
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A movement with which a payment has brought something."""

    transaction_id: str
    grant_id: str | None
    """The grant that it began; None for a credit of money."""
    grant_operation_id: str | None


@dataclass(slots=True)
class TakeBack:
    """Take back what a payment has brought to the organization's account, or a part of it.

    What is not used comes first: of grants, what is left of them, and of money, what is available. What open holds
    reserve counts as used. The rest becomes a debt if it may; what has expired never does.
    """

    organization_id: str
    operation_id: str
    currency_code: str
    amount: Decimal
    sources: tuple[Source, ...]
    """In the order in which they are taken back."""
    into_debt: bool
    description: str
    actor: str
    validate_only: bool = False
    also: Also | None = None


@dataclass(slots=True)
class GiveBack:
    """Give back what was taken back of a payment: money, and credits as a grant with the terms of the first one."""

    organization_id: str
    operation_id: str
    currency_code: str
    money: Decimal
    money_from: SystemAccount
    grant: GrantCredits | None
    description: str
    actor: str
    validate_only: bool = False
    also: Also | None = None


Command: TypeAlias = (
    Debit
    | Credit
    | Transfer
    | Place
    | Capture
    | Release
    | Extend
    | Reverse
    | GrantCredits
    | VoidGrant
    | SettleGrants
    | TakeBack
    | GiveBack
)


@dataclass(slots=True)
class Movement:
    """One immutable movement of money: a row of `transactions`."""

    organization_id: str
    operation_id: str
    transaction_id: str
    kind: Kind
    project_id: str | None
    account_id: str
    sequence: int
    direction: Direction
    currency_code: str
    amount: Decimal
    balance_after: Decimal
    requested_amount: Decimal | None
    mode: Mode | None
    overdrawn: bool
    system_account: SystemAccount | None
    description: str
    metadata: Metadata | None
    create_time: datetime
    counter_account_id: str | None = None
    counter_project_id: str | None = None
    counter_sequence: int | None = None
    counter_balance_after: Decimal | None = None
    reverses_transaction_id: str | None = None
    held_amount: Decimal | None = None
    actor: str | None = None
    """Who moved the money; None for rows from before this was recorded."""
    hold_operation_id: str | None = None
    """For a part of a hold's work: the operation id of the hold."""


@dataclass(slots=True)
class Hold:
    """A held amount. It ends once; until then it can be extended, and what was captured in parts grows."""

    organization_id: str
    operation_id: str
    hold_id: str
    project_id: str | None
    account_id: str
    currency_code: str
    amount: Decimal
    ttl_ms: int
    state: HoldState
    description: str
    metadata: Metadata | None
    create_time: datetime
    expire_time: datetime
    end_time: datetime | None = None
    actor: str | None = None
    """Who placed it; None for rows from before this was recorded."""
    captured_amount: Decimal = ZERO
    """What was captured in parts, also after the hold had ended. It may be more than the amount."""
    requested_amount: Decimal | None = None
    """What was asked for at first, if the hold was enlarged since."""
    user_id: str | None = None
    model: str | None = None
    reserves: dict[str, Decimal] | None = None
    """What it reserves of grants, by their ids, while it is open; the rest of the account covers what is not in it.
    None on accounts whose charges are not entered grant by grant."""

    @property
    def reserved(self) -> Decimal:
        """What it keeps back: nothing once it has ended, before that what of its amount was not captured in parts."""
        if self.state is not HoldState.OPEN:
            return ZERO
        return max(self.amount - self.captured_amount, ZERO) if self.captured_amount else self.amount


Request: TypeAlias = dict[str, str | int | Metadata | None]
"""What identifies a request: its fields in the order they are compared."""


@dataclass(slots=True)
class Decline:
    """A final refusal: the request, and the balance that was too small."""

    organization_id: str
    operation_id: str
    slot: Slot
    request: Request
    account_id: str
    needed: Decimal
    balance: Balance
    create_time: datetime
    actor: str | None
    """Who asked; None for rows from before this was recorded."""
    earliest_release_time: datetime | None = None
    is_new: bool = True


@dataclass(slots=True)
class Posted:
    """A posted movement, and its account's balance after it (for a transfer, those of both accounts)."""

    movement: Movement
    balance: Balance
    counter_balance: Balance | None = None
    replayed: bool = False
    remaining: Decimal | None = None
    """For a new reversal: what can still be undone."""


@dataclass(slots=True)
class Placed:
    """A hold, and its account's balance."""

    hold: Hold
    balance: Balance
    replayed: bool = False
    released: Decimal | None = None


@dataclass(slots=True)
class Granted:
    """A grant as it is now, and its account's balance."""

    grant: Grant
    balance: Balance
    replayed: bool = False
    voided: Decimal | None = None
    """For a void: what it has taken back."""


@dataclass(slots=True)
class Settled:
    """The account has no grant that is due."""

    balance: Balance


@dataclass(slots=True)
class Returned:
    """What was taken back of what a payment has brought, or given back of that."""

    balance: Balance
    movements: tuple[Movement, ...]
    grant: Grant | None = None
    """For what was given back as credits."""
    replayed: bool = False


Outcome: TypeAlias = Posted | Placed | Decline | Granted | Settled | Returned
