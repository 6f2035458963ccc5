"""An account and its balance while a batch is decided; see `domain`."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.billing.ledger.grants import ZERO


@dataclass(slots=True)
class Account:
    """An account while a batch is decided. The rules change it."""

    organization_id: str
    account_id: str
    owner_id: str
    currency_code: str
    posted: Decimal
    held: Decimal
    sequence: int
    overdraft_limit: Decimal
    closed: bool
    hold_expiry_from: datetime | None
    last_movement_time: datetime | None
    grant_due_from: datetime | None = None
    """No grant begins or expires before this moment; None where none will."""
    revision: int = 0
    """How often the row has been changed, by any process."""
    itemized_from: int | None = None
    """The number of the last movement before charges are entered grant by grant; None while no grant is scoped."""
    is_new: bool = False
    scoped: Decimal = ZERO
    """What is left of scoped grants, without what holds reserve. Known where the account's grants were read."""

    @property
    def available(self) -> Decimal:
        """What is available to every charge."""
        return self.posted - self.held + self.overdraft_limit - self.scoped

    def balance(self) -> "Balance":
        return Balance(self.currency_code, self.posted, self.held, self.overdraft_limit, self.sequence, self.scoped)


@dataclass(slots=True)
class Balance:
    """What an account held at one moment."""

    currency_code: str
    posted: Decimal
    held: Decimal
    overdraft_limit: Decimal
    sequence: int
    scoped: Decimal = ZERO
    """What of the account only charges of certain users or models can use: not available to all."""

    @property
    def available(self) -> Decimal:
        return self.posted - self.held + self.overdraft_limit - self.scoped
