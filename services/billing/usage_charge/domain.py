"""A time whose usage is charged, and the movements that bring what was charged to what it comes to. Pure."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.amount import AMOUNT_MAX, format_amount
from libs.common.text import storable
from libs.common.timestamps import micros_of
from services.billing.ledger.domain import Credit, Debit, Mode, SystemAccount
from services.billing.plan.usage_charge_domain import UsageCharge

_ZERO: Final = Decimal(0)
_DESCRIPTION_MAX: Final = 256
_ACTOR: Final = "system"


@dataclass(frozen=True, slots=True)
class Movement:
    """What was charged, or given back, because the quantity or the amount of a time had changed."""

    sequence: int
    operation_id: str
    quantity: Decimal
    amount: Decimal
    """What the time comes to with it."""
    change: Decimal


@dataclass(frozen=True, slots=True)
class Stored:
    """A time that is over, as it is stored; see `subscription.usage_periods.UsagePeriod`."""

    organization_id: str
    subscription_id: str
    start: datetime
    code: str
    end: datetime
    plan_code: str
    currency_code: str
    with_unsubscribed: bool
    charge: UsageCharge | None
    base: Decimal
    quantity: Decimal
    amount: Decimal
    sequence: int
    due_time: datetime
    """Until when this process has it."""
    attempts: int
    is_new: bool
    """Whether nobody has looked at it before."""

    @property
    def key(self) -> tuple[str, str, datetime, str]:
        return self.organization_id, self.subscription_id, self.start, self.code

    def movement_to(self, quantity: Decimal, amount: Decimal) -> Movement | None:
        """Return the movement after which an amount was charged; None where it was already.

        Raises:
            ValueError: it is more than the ledger can hold.
        """
        if amount >= AMOUNT_MAX:
            raise ValueError(f"{format_amount(amount)} is more than the ledger can move")
        if amount == self.amount:
            return None
        sequence = self.sequence + 1
        return Movement(sequence, self._operation_id(sequence), quantity, amount, amount - self.amount)

    def _operation_id(self, sequence: int) -> str:
        kind = f"charge/{self.code}" if self.code else "minimum"
        return f"usage-{kind}/{self.subscription_id}/{micros_of(self.start)}/{sequence}"

    def command(self, movement: Movement) -> Debit | Credit:
        """Return what moves the money. What the account does not have is a debt, as with usage itself."""
        if movement.change < 0:
            return Credit(
                organization_id=self.organization_id,
                operation_id=movement.operation_id,
                project_id=None,
                currency_code=self.currency_code,
                amount=-movement.change,
                source=SystemAccount.ADJUSTMENTS,
                description=self._description(movement),
                metadata=None,
                actor=_ACTOR,
            )
        return Debit(
            organization_id=self.organization_id,
            operation_id=movement.operation_id,
            project_id=None,
            currency_code=self.currency_code,
            amount=movement.change,
            mode=Mode.MUST_POST,
            description=self._description(movement),
            metadata=None,
            actor=_ACTOR,
            opens_account=True,
        )

    def _description(self, movement: Movement) -> str:
        if self.charge is None:
            what = "what is short of the minimum spend"
        else:
            what = f"{self.charge.name or self.code}, {format_amount(movement.quantity)} {self.charge.unit}"
        text = f"plan {self.plan_code}: {what}, {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"
        return storable(text, _DESCRIPTION_MAX)


def minimum_amount(short: Decimal, charged: Decimal) -> Decimal:
    """Return what is due for a minimum that is short of an amount before its usage charges."""
    return max(short - charged, _ZERO)
