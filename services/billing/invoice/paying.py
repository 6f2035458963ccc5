"""By which payment or movement an invoice may be said to be paid."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.errors import NotFound
from services.billing import errors, invoice_errors
from services.billing.invoice import store
from services.billing.invoice.domain import ZERO, Document
from services.billing.ledger import store as ledger_store
from services.billing.ledger.domain import Direction, Movement

_COMPLETED: Final = frozenset({"COMPLETED", "PARTIALLY_REFUNDED"})
"""The statuses of payments that have brought money which was not all given back."""
_NOTHING: Final = "NOTHING"
"""What such a payment brought is on the account already."""


@dataclass(frozen=True, slots=True)
class Money:
    """What an invoice is said to be paid by."""

    units: frozenset[str]
    """Its currency, and the unit of what it brings."""
    brought: Decimal
    """What it has brought in the unit of the invoice, less what was given back."""
    used: Decimal
    """What other invoices that are paid by it have left to pay."""


def flaw(money: Money, currency_code: str, needed: Decimal) -> str:
    """Return why money does not pay an invoice that needs so much; empty where it does."""
    if currency_code not in money.units:
        return f"is in {' and '.join(sorted(money.units))}"
    if needed <= 0:
        return ""
    if money.brought <= 0:
        return f"has brought no {currency_code} to the account"
    left = money.brought - money.used
    return "" if left >= needed else f"has {format_amount(max(left, ZERO))} {currency_code} left"


def brought_by_payment(payment: store.PaidBy, currency_code: str, *, is_of_project: bool) -> Decimal:
    """Return what a payment has brought in a unit to the account of an invoice, which may be a project's.

    One that brings nothing was paid to what the account has already. All else is on the organization's own account.
    """
    if payment.brings == _NOTHING:
        return payment.amount if payment.currency_code == currency_code else ZERO
    if payment.brought is None or payment.brought_unit != currency_code or is_of_project:
        return ZERO
    return payment.brought if payment.currency_code != currency_code else min(payment.brought, payment.amount)


def brought_by_movement(movement: Movement, account_id: str, reversed_amount: Decimal) -> Decimal:
    """Return what a movement has brought to an account, less what of it was reversed."""
    into, out = (
        (movement.account_id, movement.counter_account_id)
        if movement.direction is Direction.CREDIT
        else (movement.counter_account_id, movement.account_id)
    )
    return movement.amount - reversed_amount if into == account_id != out else ZERO


async def require_paid(
    connection: RawConnection, invoice: Document, payment_id: str | None, operation_id: str | None
) -> None:
    """Raise unless a payment or an operation pays an invoice, whose row is locked; see `Corrections.set_paid`."""
    if operation_id is not None:
        await _require_movement(connection, invoice, operation_id)
        if invoice.amounts.left > 0:
            # A movement of a payment is the same money, which may be refunded, or pay another invoice.
            payment_id = await store.payment_of(connection, invoice.organization_id, operation_id)
    if payment_id is not None:
        await _require_payment(connection, invoice, payment_id)


async def _require_payment(connection: RawConnection, invoice: Document, payment_id: str) -> None:
    """Raise unless the organization has the payment, completed, and enough is left of it."""
    used = await store.paid_with(connection, invoice.organization_id, payment_id, None)
    payment = await store.find_payment(connection, invoice.organization_id, payment_id)
    if payment is None:
        raise NotFound(resource_type="payment", resource_name=payment_id)
    if payment.status not in _COMPLETED:
        raise _does_not_pay(invoice, "payment", f"is {payment.status}")
    units = frozenset(unit for unit in (payment.currency_code, payment.brought_unit) if unit is not None)
    brought = brought_by_payment(payment, invoice.currency_code, is_of_project=invoice.project_id is not None)
    money = Money(units, brought, used)
    _require_enough(invoice, "payment", money)


async def _require_movement(connection: RawConnection, invoice: Document, operation_id: str) -> None:
    """Raise unless the operation has brought enough to the account of the invoice."""
    used = await store.paid_with(connection, invoice.organization_id, None, operation_id)
    moved = await ledger_store.find_movements(connection, [(invoice.organization_id, operation_id)])
    if not moved:
        raise errors.TransactionNotFound
    keys = [(one.organization_id, one.transaction_id) for one in moved]
    originals = await ledger_store.find_originals(connection, keys)
    money = Money(
        frozenset(one.currency_code for one in moved),
        sum((brought_by_movement(one, invoice.account_id, undone) for one, undone in originals), ZERO),
        used,
    )
    _require_enough(invoice, "movement", money)


def _require_enough(invoice: Document, paid_by: str, money: Money) -> None:
    found = flaw(money, invoice.currency_code, invoice.amounts.left)
    if found:
        raise _does_not_pay(invoice, paid_by, found)


def _does_not_pay(invoice: Document, paid_by: str, found: str) -> invoice_errors.DoesNotPayInvoice:
    return invoice_errors.DoesNotPayInvoice(
        paid_by=paid_by,
        found=found,
        number=invoice.number,
        amount_due=invoice.amounts.left,
        currency_code=invoice.currency_code,
    )
