"""Payments, and the rules for what becomes of them. A payment follows from what was said of it, in whatever order."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

from services.billing.payment.provider import FactStatus, Method, PaymentFact, ReferenceKind, Version
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


class Field(StrEnum):
    """What can be said of a payment."""

    STATUS = "status"
    GROSS = "gross_amount"
    """What was paid with the taxes that the provider added, and to what is rounded without them. It is said only where
    some were added; what is said of refunds and disputes is with them then."""
    REFUNDED = "refunded_amount"
    DISPUTED = "disputed"
    """Where the provider tells no disputes apart, and in rows of versions that did not; else see `of_dispute`."""
    METHOD = "method"
    RECEIPT = "receipt_url"
    PROCESSED = "processed_time"
    FAILURE = "failure"
    ORDER = "order"
    """The provider and its order that completed the payment: the first one that did, whatever others say later."""


@dataclass(frozen=True, slots=True)
class Saying:
    """The newest that was said of one field."""

    version: Version
    value: str


Said: TypeAlias = Mapping[str, Saying]
"""By field; what is said of a dispute by `of_dispute`, and of a refund that failed by `of_failed_refund`."""
Key: TypeAlias = tuple[bool, Version, Decimal, str]

_STATUS_RANK: Final = {FactStatus.PENDING: 0, FactStatus.FAILED: 1, FactStatus.COMPLETED: 2}
_YES: Final = "true"
_NO: Final = "false"
"""Of a dispute that is won. One over all of a payment has `_YES`, any other one its amount and currency."""
_DISPUTE: Final = f"{Field.DISPUTED}/"
_FAILED_REFUND: Final = "failed_refund/"
"""And the provider's id of a refund. Its saying has the amount, and when it was made."""


def of_dispute(external_id: str | None) -> str:
    """Return by what is kept what is said of a dispute; None is one that the provider does not name."""
    return Field.DISPUTED if external_id is None else f"{_DISPUTE}{external_id}"


def is_of_dispute(name: str) -> bool:
    """Return whether that is what a saying on a dispute is kept by."""
    return name == Field.DISPUTED or name.startswith(_DISPUTE)


def of_failed_refund(external_id: str) -> str:
    """Return by what is kept what is said of a refund that failed."""
    return f"{_FAILED_REFUND}{external_id}"


def is_of_object(name: str) -> bool:
    """Return whether a saying is kept by the id of a dispute or of a refund, not by a field alone."""
    return name.startswith((_DISPUTE, _FAILED_REFUND))


def _key(field: str, saying: Saying) -> Key:
    """Return by what two sayings of a field are compared: the greater one counts.

    That is the newer one, and of two of one version the one that says more has happened. A completed payment stays so.
    """
    rank = ZERO
    final = False
    if field == Field.STATUS:
        rank = Decimal(_STATUS_RANK[FactStatus(saying.value)])
        final = saying.value == FactStatus.COMPLETED
    elif field == Field.REFUNDED:
        rank = Decimal(saying.value)
    elif is_of_dispute(field):
        rank = Decimal({_YES: 0, _NO: 2}.get(saying.value, 1))
    return final, saying.version, rank, saying.value


def _is_greater(field: str, saying: Saying, before: Saying) -> bool:
    if field.startswith(_FAILED_REFUND):
        # Told several times, with the moments of the telling: it had failed at the first one.
        return (saying.version, saying.value) < (before.version, before.value)
    return _key(field, saying) > _key(field, before)


def merge(known: Said, told: Said) -> dict[str, Saying]:
    """Return the greater saying of each field: the same for any order and repetition of what was told."""
    merged = dict(known)
    for field, saying in told.items():
        before = merged.get(field)
        if before is None or _is_greater(field, saying, before):
            merged[field] = saying
    return merged


def told_apart(said: Said, dispute_ids: Collection[str]) -> Said:
    """Return what was said with what was kept for all disputes together as said of each of those that were known."""
    together = said.get(Field.DISPUTED)
    if together is None or not dispute_ids:
        return said
    rest = {name: saying for name, saying in said.items() if name != Field.DISPUTED}
    return merge(rest, dict.fromkeys(map(of_dispute, dispute_ids), together))


def _dispute_told_by(fact: PaymentFact) -> tuple[str, str | None]:
    named = (one.external_id for one in fact.references if one.kind is ReferenceKind.DISPUTE)
    value = None if fact.disputed is None else _YES if fact.disputed else _NO
    if fact.disputed and fact.disputed_amount is not None:
        value = f"{fact.disputed_amount.normalize():f} {fact.disputed_currency_code}"
    return of_dispute(min(named, default=None)), value


def _gross_told_by(fact: PaymentFact) -> str | None:
    if fact.amount is None or fact.gross_unit is None:
        return None
    return f"{fact.amount.normalize():f} {fact.gross_unit}"


def _failure_told_by(fact: PaymentFact) -> dict[str, str | None]:
    named = (one.external_id for one in fact.references if one.kind is ReferenceKind.REFUND)
    failed = fact.failed_refund
    if failed is None:
        return {}
    return {of_failed_refund(min(named)): f"{failed.amount.normalize():f} {failed.make_time.isoformat()}"}


def told_by(fact: PaymentFact) -> dict[str, Saying]:
    """Return what a fact says."""
    disputed, value_of_disputed = _dispute_told_by(fact)
    values: dict[str, str | None] = {
        Field.STATUS: fact.status,
        Field.GROSS: _gross_told_by(fact),
        Field.REFUNDED: None if fact.refunded_amount is None else format(fact.refunded_amount.normalize(), "f"),
        disputed: value_of_disputed,
        Field.METHOD: fact.method,
        Field.RECEIPT: fact.receipt_url,
        Field.PROCESSED: None if fact.processed_time is None else fact.processed_time.isoformat(),
        Field.FAILURE: fact.failure,
        **_failure_told_by(fact),
    }
    return {field: Saying(fact.version, str(value)) for field, value in values.items() if value}


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
        return FactStatus.PENDING if saying is None else FactStatus(saying.value)

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
        failed = [one for name, one in self.said.items() if name.startswith(_FAILED_REFUND) and one.version > version]
        parts = (one.value.partition(" ") for one in failed)
        return sum((Decimal(part) for part, _, made in parts if datetime.fromisoformat(made) <= version.time), ZERO)

    @property
    def _disputes(self) -> list[str]:
        """What the disputes that are not won are over."""
        told = (saying.value for name, saying in self.said.items() if is_of_dispute(name))
        return [value for value in told if value != _NO]

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
    return next_step(payment) is None


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
    """Return how much of a payment can still be refunded: not what was, nor what the provider is being asked for."""
    asked = sum((one.amount for one in refunds if one.state is RefundState.REQUESTED), ZERO)
    return payment.amount - payment.refunded_amount - asked
