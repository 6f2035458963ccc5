"""What a check finds, and the charges that other services compare theirs with."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.billing.ledger.model import Kind


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of one invariant."""

    invariant: str
    organization_id: str
    resource: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """What one invariant's check covered."""

    invariant: str
    description: str
    rows_examined: int
    findings: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a complete verification."""

    checks: tuple[Check, ...]
    snapshot_time: datetime


@dataclass(frozen=True, slots=True)
class Charge:
    """What was charged for one operation, before reversals."""

    organization_id: str
    operation_id: str
    transaction_id: str
    kind: Kind
    currency_code: str
    amount: Decimal
    create_time: datetime
