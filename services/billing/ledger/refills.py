"""Refills: the credits that a plan includes, granted anew each period, and what of the periods before is kept."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from services.billing.ledger.domain import GrantCredits, Metadata
from services.billing.ledger.grants import GrantKind


class Rollover(StrEnum):
    """What becomes of the credits of a period that are left when the next one begins."""

    NONE = "NONE"
    ALL = "ALL"
    UP_TO = "UP_TO"


def refill(
    *,
    organization_id: str,
    operation_id: str,
    project_id: str | None = None,
    currency_code: str,
    amount: Decimal,
    priority: int,
    period_start: datetime,
    period_end: datetime,
    rollover: Rollover,
    rollover_max: Decimal | None = None,
    source_reference: str,
    user_id: str | None = None,
    model: str | None = None,
    description: str = "",
    metadata: Metadata | None = None,
    actor: str,
) -> GrantCredits:
    """Return the command that grants the credits of a period; `Engine.grant` carries it out.

    The grant begins at `period_start`, which may have passed or be to come. What is left of it expires at `period_end`
    with NONE, and never with ALL. With UP_TO it does not expire by itself, but when it begins so much of what is left
    of the refills before it is taken out that they and it are at most `rollover_max`, the oldest first. Refills are
    INCLUDED grants to the same account with the same `source_reference`, user and model; other grants are left alone.
    What open holds reserve at that moment stays. An account in this unit is opened where there is none.

    Raises:
        ValueError: `rollover_max` is given without UP_TO, is missing with it, or is less than the amount; or the period
            has no length.
    """
    if (rollover is Rollover.UP_TO) != (rollover_max is not None):
        raise ValueError("rollover_max belongs to UP_TO")
    if rollover_max is not None and rollover_max < amount:
        raise ValueError("rollover_max is less than what a period includes")
    if period_end <= period_start:
        raise ValueError("the period has no length")
    return GrantCredits(
        organization_id=organization_id,
        operation_id=operation_id,
        project_id=project_id,
        currency_code=currency_code,
        amount=amount,
        kind=GrantKind.INCLUDED,
        priority=priority,
        effective_time=period_start,
        expire_time=period_end if rollover is Rollover.NONE else None,
        source_reference=source_reference,
        description=description,
        metadata=metadata,
        actor=actor,
        user_id=user_id,
        model=model,
        rollover_max=rollover_max,
        may_be_over=True,
        opens_account=True,
    )
