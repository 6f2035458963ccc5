"""Statements on the trail's tables, found in whatever schema the connection works in."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import MetaData, Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.audit.chain import Changed, Event, Head, Link
from libs.common.audit.tables import declare_audit_tables
from libs.common.database import RawConnection, Transaction

_events, _heads = declare_audit_tables(MetaData())
_CHANGE_KEYS: Final = {"field", "before", "after"}

AnyTransaction = Transaction | RawConnection
"""A transaction of SQLAlchemy or of the driver."""

# Locks the organization's head until commit, one row by primary key. Others wait for it, so the chain has no gap and
# no fork. Event times never decrease along the chain, even if a clock is set back: a range of times is a range of
# numbers.
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


@dataclass(frozen=True, slots=True)
class Filters:
    """Which events of an organization to list; what is empty or None leaves nothing out."""

    organization_id: str
    actor: str = ""
    action: str = ""
    resource_type: str = ""
    resource_id: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None


async def find_page(tx: Transaction, filters: Filters, before: int | None, limit: int) -> list[Link]:
    """Return events numbered below `before`, the newest first: a range of the index of a filter, or the primary key."""
    query = select(_events).where(_events.c.organization_id == filters.organization_id, _events.c.sequence > 0)
    for name in ("actor", "action", "resource_type", "resource_id"):
        value: str = getattr(filters, name)
        if value:
            query = query.where(_events.c[name] == value)
    if before is not None:
        query = query.where(_events.c.sequence < before)
    if filters.end_time is not None:
        first_too_late = await _first_at(tx, filters.organization_id, filters.end_time)
        if first_too_late is not None:
            query = query.where(_events.c.sequence < first_too_late)
    if filters.start_time is not None:
        first = await _first_at(tx, filters.organization_id, filters.start_time)
        if first is None:
            return []
        query = query.where(_events.c.sequence >= first)
    return [_link_of(row) for row in await tx.execute(query.order_by(_events.c.sequence.desc()).limit(limit))]


async def _first_at(tx: Transaction, organization_id: str, moment: datetime) -> int | None:
    """Return the number of the first event at or after a moment: one probe of the index by time."""
    found = await tx.execute(
        select(_events.c.sequence)
        .where(_events.c.organization_id == organization_id, _events.c.event_time >= moment)
        .order_by(_events.c.event_time, _events.c.sequence)
        .limit(1)
    )
    return found.scalar_one_or_none()


async def find_first(tx: Transaction, organization_id: str) -> int | None:
    """Return the lowest number that any event has: one probe of the primary key."""
    query = select(_events.c.sequence).where(_events.c.organization_id == organization_id)
    return (await tx.execute(query.order_by(_events.c.sequence).limit(1))).scalar_one_or_none()


async def find_run(tx: Transaction, organization_id: str, after: int, limit: int) -> list[Link]:
    """Return events in the order of the chain: a range of the primary key."""
    query = select(_events).where(_events.c.organization_id == organization_id, _events.c.sequence > after)
    return [_link_of(row) for row in await tx.execute(query.order_by(_events.c.sequence).limit(limit))]


async def find_hash(tx: Transaction, organization_id: str, sequence: int) -> bytes | None:
    """Return the hash an event has: one row by primary key."""
    found = await tx.execute(
        select(_events.c.hash).where(_events.c.organization_id == organization_id, _events.c.sequence == sequence)
    )
    return found.scalar_one_or_none()


async def find_head(tx: Transaction, organization_id: str) -> Head | None:
    """Return the head of an organization's chain: one row by primary key, without a lock."""
    found = await tx.execute(
        select(_heads.c.sequence, _heads.c.hash).where(_heads.c.organization_id == organization_id)
    )
    row = found.first()
    return None if row is None else Head(row.sequence, row.hash)


def _link_of(row: Row[tuple[object, ...]]) -> Link:
    event = Event(
        organization_id=row.organization_id,
        sequence=row.sequence,
        event_id=row.event_id,
        event_time=row.event_time,
        action=row.action,
        actor=row.actor,
        api_key_id=row.api_key_id,
        resource_type=row.resource_type,
        resource_id=row.resource_id,
        changes=_changes_of(row.changes),
        peer_address=row.peer_address,
        user_agent=row.user_agent,
        request_id=row.request_id,
    )
    return Link(event, row.previous_hash, row.hash)


def _changes_of(stored: object) -> tuple[Changed, ...]:
    """Return the stored changes. Anything else stored is returned as one change, whose hash cannot match."""
    if isinstance(stored, list) and all(map(_is_change, stored)):
        return tuple(Changed(**change) for change in stored)
    return (Changed("changes", after=json.dumps(stored)),)


def _is_change(stored: object) -> bool:
    if not isinstance(stored, dict) or stored.keys() != _CHANGE_KEYS or not isinstance(stored["field"], str):
        return False
    return all(stored[side] is None or isinstance(stored[side], str) for side in ("before", "after"))
