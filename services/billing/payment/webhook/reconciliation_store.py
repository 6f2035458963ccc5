"""Statements on when providers are asked for what changed. All are by primary key, in billing's own schema."""

from datetime import datetime
from typing import Final, NamedTuple

from libs.common.database import RawConnection

# The row appears with the first turn. Of several processes one has it until it ends, or its time is over.
_TAKE: Final = """
    INSERT INTO billing.payment_reconciliations AS r (provider, span, next_time, turn_end_time, failure)
    VALUES ($1, $2, $3, $4, '')
    ON CONFLICT (provider, span) DO UPDATE SET turn_end_time = excluded.turn_end_time
    WHERE r.next_time <= $3 AND r.turn_end_time <= $3
    RETURNING last_end_time
"""
_END: Final = """
    UPDATE billing.payment_reconciliations
    SET next_time = $4, turn_end_time = $3, failure = $5,
        last_end_time = CASE WHEN $5 = '' THEN $3 ELSE last_end_time END
    WHERE provider = $1 AND span = $2
"""


class Turn(NamedTuple):
    """The turn to ask a provider."""

    last_end_time: datetime | None
    """When it was asked without a failure last; None where it never was."""


async def take_turn(connection: RawConnection, provider: str, span: str, now: datetime, until: datetime) -> Turn | None:
    """Take the turn to ask, if it is time and nobody else has it; return it if it was taken."""
    row = await connection.fetchrow(_TAKE, provider, span, now, until)
    return None if row is None else Turn(row[0])


async def end_turn(
    connection: RawConnection, provider: str, span: str, now: datetime, again: datetime, failure: str
) -> None:
    """Give the turn back, and say when to ask again."""
    await connection.execute(_END, provider, span, now, again, failure)
