"""Charges that billing refused and that are given up, since corrections take back what they were for.

A charge that is given up stays in the outbox as REFUSED, with the movements that would give it back. None of them was
made, and none is sent any more: the time of their next attempt is GIVEN_UP_TIME. So whoever compares charges with
billing's sees that billing has none of them.

A charge is given up only while it is REFUSED, under the lock of its row. Nobody is sending it then: who sends a charge
makes it PENDING first (see `store.take_due`), and only who took it last makes it REFUSED again (see `store.put_back`).

But a process that took it before, and then stood still past its lease, may send it all the same. Billing may make the
charge then. The process deletes it from the outbox, as it does with each that is made, and `send_reversals` finds what
would have given it back. Where the process dies instead, verification finds the charge, and somebody has it sent again
by name: billing confirms it then.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from libs.common.database import RawConnection
from services.metering.tables import GIVEN_UP_TIME
from services.metering.usage.store import Key

# By the primary key.
_STATES: Final = f"""
SELECT x.organization_id::text, x.operation_id,
    CASE WHEN x.next_attempt_time = {GIVEN_UP_TIME} THEN 'GIVEN_UP' ELSE replace(x.state, 'DEAD', 'REFUSED') END
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
JOIN outbox x ON x.organization_id = ANY (ARRAY[wanted.organization_id]) AND x.operation_id = wanted.operation_id
"""  # noqa: S608 -- made of constants of ours alone.

# By the primary key. What another process has locked may be sent by it, so it is not waited for.
_LOCK: Final = f"""
SELECT x.operation_id
FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
CROSS JOIN LATERAL (
    SELECT operation_id FROM outbox
    WHERE organization_id = wanted.organization_id AND operation_id = wanted.operation_id
        AND state IN ('REFUSED', 'DEAD') AND next_attempt_time < {GIVEN_UP_TIME}
    FOR UPDATE SKIP LOCKED
) AS x
"""  # noqa: S608 -- made of constants of ours alone.

# Charges with all that gives them back, by primary and unique keys.
_NEVER_SENT: Final = f"""
UPDATE outbox o SET state = 'REFUSED', next_attempt_time = {GIVEN_UP_TIME}
FROM (
    SELECT organization_id, operation_id FROM charge
    UNION ALL
    SELECT c.organization_id, c.operation_id
    FROM charge JOIN usage_correction_charges c
        ON c.organization_id = ANY (ARRAY[charge.organization_id]) AND c.usage_id = charge.usage_id
        AND c.reverses_operation_id = charge.operation_id
) AS unmade
WHERE o.organization_id = ANY (ARRAY[unmade.organization_id]) AND o.operation_id = unmade.operation_id
"""  # noqa: S608 -- made of constants of ours alone.

_GIVE_UP: Final = f"""
WITH charge AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS t(organization_id, usage_id, operation_id)
)
{_NEVER_SENT}
"""  # noqa: S608 -- made of constants of ours alone.

# The refused charges of which everything is given back by movements that wait for them. Those that are given up already
# are among them: a movement of theirs may have been sent by `send_reversals`, while they were given up once more.
_GIVE_UP_REVERSED: Final = f"""
WITH reversed AS MATERIALIZED (
    SELECT DISTINCT c.organization_id, c.usage_id, c.reverses_operation_id AS operation_id
    FROM unnest($1::uuid[], $2::text[]) AS wanted(organization_id, operation_id)
    JOIN usage_correction_charges c
        ON c.organization_id = ANY (ARRAY[wanted.organization_id]) AND c.operation_id = wanted.operation_id
), charge AS MATERIALIZED (
    SELECT reversed.* FROM reversed CROSS JOIN LATERAL (
        SELECT amount FROM outbox
        WHERE organization_id = reversed.organization_id AND operation_id = reversed.operation_id
            AND state IN ('REFUSED', 'DEAD')
        FOR UPDATE SKIP LOCKED
    ) AS x
    WHERE x.amount = (
        SELECT sum(c.amount) FROM usage_correction_charges c
        WHERE c.organization_id = reversed.organization_id AND c.usage_id = reversed.usage_id
            AND c.reverses_operation_id = reversed.operation_id)
)
{_NEVER_SENT}
"""  # noqa: S608 -- made of constants of ours alone.

# Reversals that are given up while what they reverse is not: it was made after all, or is sent again. A range of the
# primary key, and what each reverses by the key.
_SEND_REVERSALS: Final = f"""
UPDATE outbox x SET state = 'PENDING', next_attempt_time = $5::timestamptz
WHERE (x.organization_id, x.operation_id) > ($1::uuid, $2::text)
    AND (x.organization_id, x.operation_id) <= ($3::uuid, $4::text)
    AND x.kind = 'REVERSAL' AND x.next_attempt_time = {GIVEN_UP_TIME}
    AND (
        SELECT reversed.next_attempt_time FROM outbox reversed
        WHERE reversed.organization_id = x.organization_id AND reversed.operation_id = x.reverses_operation_id
    ) IS DISTINCT FROM {GIVEN_UP_TIME}
"""  # noqa: S608 -- made of constants of ours alone.


async def states_of(connection: RawConnection, keys: Collection[Key]) -> dict[Key, str]:
    """Return the states of charges that are in the outbox; those that billing has confirmed are left out."""
    rows = await connection.fetch(_STATES, [key[0] for key in keys], [key[1] for key in keys])
    return {(row[0], row[1]): row[2] for row in rows}


async def lock_refused(connection: RawConnection, keys: Collection[Key]) -> bool:
    """Lock charges until the transaction ends; tell whether all of them are refused, and locked."""
    listed = sorted(keys)
    rows = await connection.fetch(_LOCK, [key[0] for key in listed], [key[1] for key in listed])
    return len(rows) == len(listed)


async def give_up(connection: RawConnection, charges: Sequence[tuple[str, str, str]]) -> None:
    """Give up charges, which `lock_refused` has locked, with what gives them back.

    Each is given with its organization and the id of its usage.
    """
    await connection.execute(_GIVE_UP, *map(list, zip(*charges, strict=True)))


async def give_up_reversed(connection: RawConnection, reversals: Sequence[Key]) -> None:
    """Give up the refused charges that some movements give back, where nothing is left of them after all movements.

    A correction that was made while the charge was being sent gives it back as if it were made.
    """
    await connection.execute(_GIVE_UP_REVERSED, [key[0] for key in reversals], [key[1] for key in reversals])


async def send_reversals(connection: RawConnection, *, after: Key, until: Key, now: datetime) -> None:
    """Make the reversals of a window due that were given up with a charge which is not given up any more."""
    await connection.execute(_SEND_REVERSALS, *after, *until, now)
