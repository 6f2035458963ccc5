"""One usage: what was done, what it costs, and the state of its charge."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from services.metering.clients.billing import CAPTURE, DEBIT, AccountBalance
from services.metering.model.domain import Tokens

PENDING: Final = "PENDING"
SETTLED: Final = "SETTLED"
PENDING_PRICE: Final = "PENDING_PRICE"
REFUSED: Final = "REFUSED"

LATE_MAX: Final = timedelta(days=35)
EARLY_MAX: Final = timedelta(minutes=5)
NIL: Final = "00000000-0000-0000-0000-000000000000"


class Work(NamedTuple):
    """What a caller reports as used. A tuple, because hundreds of thousands are created and turned into columns."""

    organization_id: str
    operation_id: str
    fingerprint: bytes
    occur_time: datetime
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    subscription_id: str | None
    model: str
    tokens: Tokens
    latency_ms: int | None
    status_code: int | None
    error_message: str | None
    endpoint: str | None
    conversation_id: str | None
    labels: str | None
    """The labels as JSON with sorted keys."""
    partial: bool
    settles: bool
    """Whether an authorization of the same operation id is looked for."""
    adjusted: tuple[str, ...]
    """The fields of the request that are not recorded as they were sent. Not stored."""


class Cost(NamedTuple):
    """What work costs, and how billing is asked for it."""

    amount: str
    currency_code: str
    price_version_id: str
    charge_kind: str | None
    """None where there is nothing to charge and nothing to release."""


class Recorded(NamedTuple):
    """Usage that is durable."""

    work: Work
    usage_id: str
    cost: Cost | None
    """None while no price is known."""
    create_time: datetime
    settlement: str
    refusal_reason: str = ""
    """Why billing refuses the charge; empty unless the settlement is REFUSED."""


class Accepted(NamedTuple):
    """The usage is recorded, now or before."""

    recorded: Recorded
    replayed: bool
    balance: AccountBalance | None = None
    released: str | None = None
    overrun: str | None = None


Outcome = Accepted | Exception
"""The result of recording a work: accepted, refused, or failed by an error of this service."""


class Authorization(NamedTuple):
    """What Authorize decided before the work. Settle charges by it."""

    organization_id: str
    operation_id: str
    project_id: str | None
    user_id: str | None
    api_key_id: str | None
    model: str
    endpoint: str | None
    price_version_id: str
    currency_code: str
    amount: Decimal


def charge_kind(amount: str, authorization: Authorization | None) -> str | None:
    """Return how to charge an amount. A hold is captured even for zero, which releases it."""
    if authorization is not None and authorization.amount > 0:
        return CAPTURE
    return None if amount == "0" else DEBIT


def completed(work: Work, authorization: Authorization) -> Work:
    """Return the work with what the caller left out taken from its authorization."""
    return work._replace(
        project_id=work.project_id or authorization.project_id,
        user_id=work.user_id or authorization.user_id,
        api_key_id=work.api_key_id or authorization.api_key_id,
        endpoint=work.endpoint or authorization.endpoint,
    )


def differing_field(before: Work, now: Work) -> str:
    """Name the first field in which two usages of one operation id differ."""
    for field in Work._fields:
        if field in ("fingerprint", "settles", "occur_time", "adjusted"):
            continue
        if getattr(before, field) != getattr(now, field):
            return field
    if before.occur_time == now.occur_time and now.adjusted:
        return now.adjusted[0]  # They differ in what was not stored of it.
    return "occur_time"


def month_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
