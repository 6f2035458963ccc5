"""The charges that other services compare theirs with."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from services.billing.ledger.domain import Kind


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
