"""What was said of a payment: the newest of each field, and of each dispute, whatever the order it is told in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

from services.billing.payment.provider import FactStatus, PaymentFact, ReferenceKind, Version

_NOTHING: Final = Decimal(0)


class Field(StrEnum):
    """What can be said of a payment."""

    STATUS = "status"
    CHARGED = "charged"
    """That it was paid while its account was closed, which takes nothing. It is completed when the account is open."""
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
YES: Final = "true"
NO: Final = "false"
"""Of a dispute that is won. One over all of a payment has `YES`, any other one its amount and currency."""
_DISPUTE: Final = f"{Field.DISPUTED}/"
FAILED_REFUND: Final = "failed_refund/"
"""And the provider's id of a refund. Its saying has the amount, and when it was made."""


def of_dispute(external_id: str | None) -> str:
    """Return by what is kept what is said of a dispute; None is one that the provider does not name."""
    return Field.DISPUTED if external_id is None else f"{_DISPUTE}{external_id}"


def is_of_dispute(name: str) -> bool:
    """Return whether that is what a saying on a dispute is kept by."""
    return name == Field.DISPUTED or name.startswith(_DISPUTE)


def of_failed_refund(external_id: str) -> str:
    """Return by what is kept what is said of a refund that failed."""
    return f"{FAILED_REFUND}{external_id}"


def is_of_object(name: str) -> bool:
    """Return whether a saying is kept by the id of a dispute or of a refund, not by a field alone."""
    return name.startswith((_DISPUTE, FAILED_REFUND))


def _key(field: str, saying: Saying) -> Key:
    """Return by what two sayings of a field are compared: the greater one counts.

    That is the newer one, and of two of one version the one that says more has happened. A completed payment stays so.
    """
    rank = _NOTHING
    final = False
    if field == Field.STATUS:
        rank = Decimal(_STATUS_RANK[FactStatus(saying.value)])
        final = saying.value == FactStatus.COMPLETED
    elif field == Field.REFUNDED:
        rank = Decimal(saying.value)
    elif is_of_dispute(field):
        rank = Decimal({YES: 0, NO: 2}.get(saying.value, 1))
    return final, saying.version, rank, saying.value


def _is_greater(field: str, saying: Saying, before: Saying) -> bool:
    if field.startswith(FAILED_REFUND):
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
    value = None if fact.disputed is None else YES if fact.disputed else NO
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
