"""Statements on the trail's tables, found in whatever schema the connection works in."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.audit.chain import Link
from libs.common.database import RawConnection, Transaction

AnyTransaction = Transaction | RawConnection
"""A transaction by either of the database's two ways."""

# Locks the organization's head until commit, one row by primary key: whoever comes meanwhile waits, so the chain has
# no gap and no fork. Time does not run back along it, whatever a clock does: a range of times is a range of numbers.
_TAKE: Final = """
    INSERT INTO audit_heads AS head (organization_id, sequence, hash, event_time)
    VALUES ($1, 1, decode(repeat('00', 32), 'hex'), $2)
    ON CONFLICT (organization_id) DO UPDATE
    SET sequence = head.sequence + 1, event_time = greatest(head.event_time, excluded.event_time)
    RETURNING sequence, hash, event_time
"""

# The event and the head that names it, under the lock taken before.
_APPEND: Final = """
    WITH appended AS (
        INSERT INTO audit_events (
            organization_id, sequence, event_id, event_time, action, actor, api_key_id, resource_type, resource_id,
            changes, peer_address, user_agent, request_id, previous_hash, hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13, $14, $15)
        RETURNING organization_id, hash
    )
    UPDATE audit_heads SET hash = appended.hash FROM appended
    WHERE audit_heads.organization_id = appended.organization_id
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The place the next event of an organization takes."""

    sequence: int
    previous_hash: bytes
    event_time: datetime


async def take_place(tx: AnyTransaction, organization_id: str, now: datetime) -> Place:
    """Number the organization's next event; nobody else gets a number until the transaction ends."""
    if isinstance(tx, AsyncConnection):
        row = (await tx.exec_driver_sql(_TAKE, (organization_id, now))).one()
        return Place(row.sequence, row.hash, row.event_time)
    ((sequence, previous_hash, event_time),) = await tx.fetch(_TAKE, organization_id, now)
    return Place(sequence, previous_hash, event_time)


async def append(tx: AnyTransaction, link: Link) -> None:
    """Write the event in the place taken for it."""
    event = link.event
    values = (
        event.organization_id,
        event.sequence,
        event.event_id,
        event.event_time,
        event.action,
        event.actor,
        event.api_key_id,
        event.resource_type,
        event.resource_id,
        json.dumps([{"field": c.field, "before": c.before, "after": c.after} for c in event.changes]),
        event.peer_address,
        event.user_agent,
        event.request_id,
        link.previous_hash,
        link.hash,
    )
    if isinstance(tx, AsyncConnection):
        await tx.exec_driver_sql(_APPEND, values)
    else:
        await tx.execute(_APPEND, *values)
