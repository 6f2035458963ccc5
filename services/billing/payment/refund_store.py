"""The statements on refunds that were asked for. Each finds its rows by the primary key, or by the key it names."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from libs.common.database import RawConnection
from services.billing.payment.domain import Refund, RefundState

_REFUND_COLUMNS: Final = """
    refund_id::text, request_id, requested_amount, amount, state, reason, actor, create_time, refunded_before,
    complete_time, failure
"""
# A range of the primary key.
_REFUNDS: Final = f"""
    SELECT {_REFUND_COLUMNS} FROM payment_refunds
    WHERE organization_id = $1::uuid AND payment_id = $2::uuid ORDER BY refund_id
"""  # noqa: S608
# By the unique request.
_REFUND_OF_REQUEST: Final = f"""
    SELECT payment_id::text, {_REFUND_COLUMNS} FROM payment_refunds
    WHERE organization_id = $1::uuid AND request_id = $2
"""  # noqa: S608
_ADD_REFUND: Final = """
    INSERT INTO payment_refunds (
        organization_id, payment_id, refund_id, request_id, requested_amount, amount, state, reason, actor, failure,
        create_time, complete_time, refunded_before, attempt_count
    ) VALUES ($1::uuid, $2::uuid, $3::uuid, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0)
"""
_BEGIN_ATTEMPT: Final = """
    UPDATE payment_refunds SET attempt_count = attempt_count + 1, attempt_until = $5
    WHERE organization_id = $1::uuid AND payment_id = $2::uuid AND refund_id = $3::uuid AND state = 'REQUESTED'
        AND (attempt_until IS NULL OR attempt_until <= $4)
    RETURNING attempt_count
"""
_END_ATTEMPT: Final = """
    UPDATE payment_refunds SET attempt_until = NULL
    WHERE organization_id = $1::uuid AND payment_id = $2::uuid AND refund_id = $3::uuid AND attempt_count = $4
"""
_END_REFUND: Final = """
    UPDATE payment_refunds SET state = $4, failure = $5, complete_time = $6
    WHERE organization_id = $1::uuid AND payment_id = $2::uuid AND refund_id = $3::uuid AND state = ANY ($7::text[])
"""


async def find_refunds(connection: RawConnection, organization_id: str, payment_id: str) -> tuple[Refund, ...]:
    """Return the refunds of a payment that were asked for, in their order."""
    rows = await connection.fetch(_REFUNDS, organization_id, payment_id)
    return tuple(_refund(tuple(row)) for row in rows)


async def find_refund(connection: RawConnection, organization_id: str, request_id: str) -> tuple[str, Refund] | None:
    """Return the refund of a request, and the id of its payment."""
    row = await connection.fetchrow(_REFUND_OF_REQUEST, organization_id, request_id)
    return None if row is None else (str(row[0]), _refund(tuple(row)[1:]))


async def add_refund(connection: RawConnection, organization_id: str, payment_id: str, refund: Refund) -> None:
    """Add a refund. The payment's row must be locked, or be changed in the same transaction."""
    await connection.execute(
        _ADD_REFUND,
        organization_id,
        payment_id,
        refund.refund_id,
        refund.request_id,
        refund.requested_amount,
        refund.amount,
        refund.state,
        refund.reason,
        refund.actor,
        refund.failure,
        refund.create_time,
        refund.complete_time,
        refund.refunded_before,
    )


async def begin_attempt(
    connection: RawConnection, organization_id: str, payment_id: str, refund_id: str, now: datetime, until: datetime
) -> int | None:
    """Take the turn to ask a provider for a refund; return how often it has been taken.

    None if somebody else has the turn, or the refund has ended. By primary key; the row is locked until the commit.
    """
    number: int | None = await connection.fetchval(_BEGIN_ATTEMPT, organization_id, payment_id, refund_id, now, until)
    return number


async def end_attempt(
    connection: RawConnection, organization_id: str, payment_id: str, refund_id: str, number: int
) -> None:
    """Give back the turn to ask a provider for a refund."""
    await connection.execute(_END_ATTEMPT, organization_id, payment_id, refund_id, number)


async def end_refund(
    connection: RawConnection,
    organization_id: str,
    payment_id: str,
    refund_id: str,
    state: RefundState,
    failure: str,
    now: datetime,
    *before: RefundState,
) -> None:
    """Note what became of a refund that is requested, or as `before` says; unless that is noted already."""
    states = [one.value for one in (RefundState.REQUESTED, *before)]
    await connection.execute(_END_REFUND, organization_id, payment_id, refund_id, state, failure, now, states)


def _refund(row: Sequence[Any]) -> Refund:
    refund_id, request_id, requested, amount, state, reason, actor, create_time, before, complete_time, failure = row
    requested_amount: Decimal | None = requested
    return Refund(
        refund_id,
        request_id,
        requested_amount,
        amount,
        RefundState(state),
        reason,
        actor,
        create_time,
        before,
        complete_time,
        failure,
    )
