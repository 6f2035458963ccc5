"""Payments, and the rules for what becomes of them. A payment follows from what was said of it: see `said`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

from services.billing.payment.provider import FactStatus, Method, Version
from services.billing.payment.said import FAILED_REFUND, NO, YES, Field, Said, Saying, is_of_dispute, merge
from services.billing.payment.taxes import in_proportion

ZERO: Final = Decimal(0)
CENT: Final = Decimal("0.01")
"""What payments are rounded to where the provider is not set up any more, and cannot say it."""
_SMALLEST: Final = Decimal("0.000000001")
TEXT_MAX: Final = 500
"""How long a provider's own words may be; longer ones are cut."""
URL_MAX: Final = 2_048


class PaymentType(StrEnum):
    """What a payment is for."""

    SUBSCRIPTION = "SUBSCRIPTION"
    CREDIT_PACK = "CREDIT_PACK"
    TOP_UP = "TOP_UP"
    ADJUSTMENT = "ADJUSTMENT"


_DIGEST: Final = "sha256:"


def without_address(request: Mapping[str, object]) -> Mapping[str, object]:
    """Return a request as it is kept to be compared with a repeat: with the digest of the payer's address for it."""
    email = str(request.get("email", ""))
    if not email or email.startswith(_DIGEST):
        return request
    return {**request, "email": _DIGEST + hashlib.sha256(email.encode()).hexdigest()}


class PaymentStatus(StrEnum):
    """Where a payment is in its life."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"
    DISPUTED = "DISPUTED"


class Brings(StrEnum):
    """What a payment brings to the account once it is completed."""

    MONEY = "MONEY"
    CREDITS = "CREDITS"
    NOTHING = "NOTHING"


@dataclass(frozen=True, slots=True)
class Credits:
    """What a payment brings, and the terms of it where that is credits."""

    currency_code: str
    amount: Decimal
    priority: int = 0
    expire_after_days: int = 0
    """Counted from the moment at which they are awarded; 0 for never."""
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment."""

    organization_id: str
    payment_id: str
    type: PaymentType
    provider: str
    amount: Decimal
    currency_code: str
    brings: Brings
    credits: Credits | None
    """None where it brings nothing."""
    is_test: bool
    actor: str
    create_time: datetime
    update_time: datetime
    said: Said
    user_id: str | None = None
    product_code: str | None = None
    plan_code: str | None = None
    subscription_id: str | None = None
    first_payment_id: str | None = None
    plan_id: str | None = None
    plan_version: int | None = None
    """The version of the plan whose price a checkout showed."""
    subscriber_user_id: str | None = None
    """For whom a plan is bought; None for the organization."""
    external_subscription_id: str | None = None
    """The provider, a slash and its id."""
    external_customer_id: str | None = None
    external_product_id: str | None = None
    operation_id: str | None = None
    request: Mapping[str, object] | None = None
    checkout_url: str | None = None
    checkout_expire_time: datetime | None = None
    description: str = ""
    metadata: Mapping[str, str] | None = None
    reason: str = ""
    awarded: bool = False
    grant_id: str | None = None
    taken_credits: Decimal = ZERO
    taken_money: Decimal = ZERO
    written_off: Decimal = ZERO
    steps: int = 0
    revision: int = 0
    """0 until it is stored."""
    stored_status: PaymentStatus | None = None
    """Its status when it was read or stored last; None until it is stored."""
    stored_refunded: Decimal = ZERO
    """What was refunded of it then."""

    @property
    def base(self) -> FactStatus:
        """What became of it, without refunds and disputes."""
        saying = self.said.get(Field.STATUS)
        status = FactStatus.PENDING if saying is None else FactStatus(saying.value)
        is_paid = status is FactStatus.COMPLETED or Field.CHARGED not in self.said
        return status if is_paid else FactStatus.PENDING

    @property
    def is_paid(self) -> bool:
        """Whether the money was taken, also where it waits for its account."""
        return self.base is FactStatus.COMPLETED or self.waits_for_account

    @property
    def waits_for_account(self) -> bool:
        """Whether it was paid, and what it brings is brought when its account is open again."""
        return Field.CHARGED in self.said and self.base is FactStatus.PENDING

    @property
    def _gross(self) -> tuple[Decimal, Decimal] | None:
        """What was paid with the taxes that were added, and to what is rounded without; None where none were."""
        saying = self.said.get(Field.GROSS)
        if saying is None:
            return None
        total, _, unit = saying.value.partition(" ")
        return Decimal(total), Decimal(unit)

    def _without_taxes(self, part: Decimal) -> Decimal:
        if self._gross is None:
            return part
        total, unit = self._gross
        return in_proportion(part, total, self.amount, unit)

    @property
    def _refunded(self) -> Decimal:
        """What was refunded, with the taxes that were added."""
        saying = self.said.get(Field.REFUNDED)
        return ZERO if saying is None else max(Decimal(saying.value) - self._failed_since(saying.version), ZERO)

    @property
    def refunded_amount(self) -> Decimal:
        return self._without_taxes(self._refunded)

    def _failed_since(self, version: Version) -> Decimal:
        """Return the sum of the refunds that were made when the sum of refunds was said, and have failed since."""
        failed = [one for name, one in self.said.items() if name.startswith(FAILED_REFUND) and one.version > version]
        parts = (one.value.partition(" ") for one in failed)
        return sum((Decimal(part) for part, _, made in parts if datetime.fromisoformat(made) <= version.time), ZERO)

    @property
    def _disputes(self) -> list[str]:
        """What the disputes that are not won are over."""
        told = (saying.value for name, saying in self.said.items() if is_of_dispute(name))
        return [value for value in told if value != NO]

    @property
    def disputed(self) -> bool:
        """Whether there is a dispute that is not won."""
        return bool(self._disputes)

    @property
    def lost_amount(self) -> Decimal:
        """What of it was refunded, or is disputed and not won; all of it where a dispute is in another currency."""
        total = self.amount if self._gross is None else self._gross[0]
        parts = (value.partition(" ") for value in self._disputes)
        amounts = (Decimal(part) if code == self.currency_code else total for part, _, code in parts)
        return min(self._without_taxes(self._refunded + sum(amounts, ZERO)), self.amount)

    @property
    def method(self) -> Method | None:
        saying = self.said.get(Field.METHOD)
        return None if saying is None else Method(saying.value)

    @property
    def processed_time(self) -> datetime | None:
        saying = self.said.get(Field.PROCESSED)
        return None if saying is None else datetime.fromisoformat(saying.value)

    @property
    def receipt_url(self) -> str:
        saying = self.said.get(Field.RECEIPT)
        return "" if saying is None else saying.value

    @property
    def order(self) -> str | None:
        """The provider, a slash and its order that completed it."""
        saying = self.said.get(Field.ORDER)
        return None if saying is None else saying.value

    @property
    def failure(self) -> str:
        saying = self.said.get(Field.FAILURE)
        return saying.value if saying is not None and self.base is FactStatus.FAILED else ""

    @property
    def status(self) -> PaymentStatus:
        if self.base is not FactStatus.COMPLETED:
            return PaymentStatus(self.base.value)
        if self.disputed:
            return PaymentStatus.DISPUTED
        if self.refunded_amount == self.amount:
            return PaymentStatus.REFUNDED
        return PaymentStatus.PARTIALLY_REFUNDED if self.refunded_amount else PaymentStatus.COMPLETED

    @property
    def returned(self) -> Decimal:
        """What was taken back of what it brought, or written off, and not given back since."""
        return self.taken_credits + self.taken_money + self.written_off


@dataclass(frozen=True, slots=True)
class Award:
    """Bring what a completed payment brings."""


@dataclass(frozen=True, slots=True)
class Take:
    """Take back some of what a payment brought."""

    amount: Decimal


@dataclass(frozen=True, slots=True)
class Give:
    """Give back what was taken: first what was written off, then money, then credits."""

    reinstated: Decimal
    money: Decimal
    credits: Decimal


Step: TypeAlias = Award | Take | Give


def due_back(payment: Payment) -> Decimal:
    """Return how much of what a payment brought is to be taken back in all, in the unit of what it brought.

    It is as large a part as that of the payment that was refunded, or that is disputed, and never more than all.
    """
    if payment.credits is None or payment.base is not FactStatus.COMPLETED:
        return ZERO
    return in_proportion(payment.lost_amount, payment.amount, payment.credits.amount, _SMALLEST)


def next_step(payment: Payment) -> Step | None:
    """Return what is to be done next, so that what a payment moved is what was said of it; None where it is."""
    if payment.credits is None or payment.base is not FactStatus.COMPLETED:
        return None
    if not payment.awarded:
        return Award()
    due = due_back(payment) - payment.returned
    if due > ZERO:
        return Take(due)
    if due < ZERO:
        return _give(payment, -due)
    return None


def _give(payment: Payment, amount: Decimal) -> Give:
    reinstated = min(amount, payment.written_off)
    money = min(amount - reinstated, payment.taken_money)
    return Give(reinstated, money, amount - reinstated - money)


def is_settled(payment: Payment) -> bool:
    """Return whether all that follows from what was said is done."""
    return next_step(payment) is None and not payment.waits_for_account


def as_charged(before: Payment, told: Payment) -> Payment:
    """Return a payment that was told to be completed, as it is kept while its account is closed."""
    said = dict(told.said)
    status = said.pop(Field.STATUS)
    if Field.STATUS in before.said:
        said[Field.STATUS] = before.said[Field.STATUS]
    return replace(told, said=merge(said, {Field.CHARGED: Saying(status.version, YES)}))


def as_taken(payment: Payment) -> Payment:
    """Return a payment that may wait for its account as it is when the account is open again."""
    if not payment.waits_for_account:
        return payment
    completed = Saying(payment.said[Field.CHARGED].version, FactStatus.COMPLETED.value)
    return replace(payment, said=merge(payment.said, {Field.STATUS: completed}))


def undelivered(payment: Payment) -> Decimal:
    """Return what the account is still to have by a payment, which it does not take while it is closed."""
    if payment.waits_for_account and payment.credits is not None:
        return payment.credits.amount - due_back(as_taken(payment))
    step = next_step(payment)
    return step.money + step.credits if isinstance(step, Give) else ZERO


class RefundState(StrEnum):
    """Where a refund is in its life."""

    REQUESTED = "REQUESTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund that was asked for here."""

    refund_id: str
    request_id: str
    requested_amount: Decimal | None
    """None where all that was left was asked for."""
    amount: Decimal
    state: RefundState
    reason: str
    actor: str
    create_time: datetime
    refunded_before: Decimal
    """What of the payment was refunded when this was asked for."""
    complete_time: datetime | None = None
    failure: str = ""


def refundable(payment: Payment, refunds: tuple[Refund, ...]) -> Decimal:
    """Return how much of a payment can still be refunded: not what was, nor what the provider is being asked for.

    The provider may have told the sum with what it is asked for already.
    """
    asked = (one.refunded_before + one.amount for one in refunds if one.state is RefundState.REQUESTED)
    return payment.amount - max(payment.refunded_amount, *asked, ZERO)
