"""The statements on what happened to subscriptions, and on the requests that made it happen."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg

from libs.common.audit.recording import record_event
from libs.common.database import RawConnection
from services.billing.plan.domain import Money
from services.billing.subscription.changes import audit_changes
from services.billing.subscription.domain import AgreedPlan, Event, Subscription
from services.billing.subscription.event_json import details_json, details_of_json
from services.billing.subscription.states import EventKind, State

COLUMN_TYPES: Final = (
    ("organization_id", "uuid"),
    ("subscription_id", "uuid"),
    ("sequence", "bigint"),
    ("kind", "text"),
    ("planned", "boolean"),
    ("from_state", "text"),
    ("to_state", "text"),
    ("reason", "text"),
    ("actor", "text"),
    ("request_id", "text"),
    ("plan_code", "text"),
    ("plan_version", "integer"),
    ("period_start_time", "timestamptz"),
    ("period_end_time", "timestamptz"),
    ("effective_time", "timestamptz"),
    ("charge_operation_id", "text"),
    ("charge_currency_code", "text"),
    ("charge_amount", "numeric"),
    ("grant_operation_ids", "text[]"),
    ("details", "jsonb"),
    ("create_time", "timestamptz"),
)
"""The columns with their types, in the order of `values_of`. The first three are the key."""
EVENT_COLUMNS: Final = ", ".join(
    f"e.{name}::text" if kind in ("uuid", "jsonb") else f"e.{name}" for name, kind in COLUMN_TYPES
)
"""What `event_of` reads, of `subscription_events AS e`."""

_INSERT: Final = (
    f"INSERT INTO subscription_events ({', '.join(name for name, _ in COLUMN_TYPES)})"  # noqa: S608 -- constants of ours alone.
    f" VALUES ({', '.join(f'${number}::{kind}' for number, (_, kind) in enumerate(COLUMN_TYPES, start=1))})"
)

# One probe of the partial unique index on planned events.
_PLANNED: Final = f"""
    SELECT {EVENT_COLUMNS} FROM subscription_events AS e
    WHERE e.organization_id = $1::uuid AND e.subscription_id = $2::uuid AND e.planned
"""  # noqa: S608 -- constants of ours alone.

# A range of the primary key.
_AFTER: Final = f"""
    SELECT {EVENT_COLUMNS} FROM subscription_events AS e
    WHERE e.organization_id = $1::uuid AND e.subscription_id = $2::uuid AND e.sequence > $3 AND NOT e.planned
    ORDER BY e.sequence LIMIT $4
"""  # noqa: S608 -- constants of ours alone.

# A range of the primary key: the events of one subscription.
_OF_REQUEST: Final = f"""
    SELECT {EVENT_COLUMNS} FROM subscription_events AS e
    WHERE e.organization_id = $1::uuid AND e.subscription_id = $2::uuid AND e.request_id = $3 AND NOT e.planned
        AND e.kind <> 'PAYMENT_REFUSED'
    ORDER BY e.sequence LIMIT 1
"""  # noqa: S608 -- constants of ours alone.
_OF_KIND: Final = """
    SELECT EXISTS (
        SELECT FROM subscription_events
        WHERE organization_id = $1::uuid AND subscription_id = $2::uuid AND kind = $3 AND NOT planned
    )
"""

# Held until the end of the transaction, so that repeats of a request wait for each other.
_LOCK_REQUEST: Final = """
    SELECT pg_advisory_xact_lock(hashtextextended('billing.subscription_request.' || $1 || '.' || $2, 0))
"""

# One probe of the primary key.
_FIND_REQUEST: Final = """
    SELECT rpc, request, response FROM subscription_requests WHERE organization_id = $1::uuid AND request_id = $2
"""

_KEEP_REQUEST: Final = """
    INSERT INTO subscription_requests (organization_id, request_id, rpc, request, response, create_time)
    VALUES ($1::uuid, $2, $3, $4, $5, $6)
"""


async def add(connection: RawConnection, event: Event) -> None:
    """Add an event, planned or complete; its subscription's row is locked, and names its sequence as the last one."""
    await connection.execute(_INSERT, *values_of(event))


async def find_planned(connection: RawConnection, organization_id: str, subscription_id: str) -> Event | None:
    """Return the event of a subscription whose movements may not be made yet; there is one at most."""
    row = await connection.fetchrow(_PLANNED, organization_id, subscription_id)
    return None if row is None else event_of(row)


async def find_of_request(
    connection: RawConnection, organization_id: str, subscription_id: str, request_id: str
) -> Event | None:
    """Return the complete event of a subscription that a request made happen; a refused payment is none."""
    row = await connection.fetchrow(_OF_REQUEST, organization_id, subscription_id, request_id)
    return None if row is None else event_of(row)


async def has_happened(connection: RawConnection, organization_id: str, subscription_id: str, kind: EventKind) -> bool:
    """Return whether a subscription has a complete event of a kind."""
    return bool(await connection.fetchval(_OF_KIND, organization_id, subscription_id, kind.value))


async def events_after(
    connection: RawConnection, organization_id: str, subscription_id: str, after: int, limit: int
) -> list[Event]:
    """Return the complete events of a subscription after a sequence, in order."""
    return [event_of(row) for row in await connection.fetch(_AFTER, organization_id, subscription_id, after, limit)]


async def find_request(
    connection: RawConnection, organization_id: str, request_id: str
) -> tuple[str, bytes, bytes] | None:
    """Return the RPC, the request and the response stored under a request id, which stays locked until the end."""
    await connection.fetchval(_LOCK_REQUEST, organization_id, request_id)
    row = await connection.fetchrow(_FIND_REQUEST, organization_id, request_id)
    return None if row is None else (row[0], row[1], row[2])


async def keep_request(
    connection: RawConnection,
    organization_id: str,
    *,
    request_id: str,
    rpc: str,
    request: bytes,
    response: bytes,
    now: datetime,
) -> None:
    """Store a request with its response; `find_request` has locked its id."""
    await connection.execute(_KEEP_REQUEST, organization_id, request_id, rpc, request, response, now)


async def record_change(connection: RawConnection, before: Subscription | None, after: Subscription) -> None:
    """Tell the audit trail how a subscription was made or changed."""
    await record_event(
        connection,
        now=after.update_time,
        organization_id=after.organization_id,
        resource_type="subscription",
        resource_id=after.subscription_id,
        changed=audit_changes(before, after),
    )


def values_of(event: Event) -> tuple[object, ...]:
    """Return the values of the columns, in the order of COLUMN_TYPES."""
    charge, plan = event.charge, event.plan
    grants: Sequence[str] = [refill.operation_id for refill in event.refills]
    return (
        event.organization_id,
        event.subscription_id,
        event.sequence,
        event.kind.value,
        event.planned,
        None if event.from_state is None else event.from_state.value,
        event.to_state.value,
        event.reason,
        event.actor,
        event.request_id,
        None if plan is None else plan.plan_code,
        None if plan is None else plan.version,
        event.period_start_time,
        event.period_end_time,
        event.effective_time,
        event.charge_operation_id,
        None if charge is None else charge.currency_code,
        None if charge is None else charge.value,
        grants,
        details_json(event),
        event.create_time,
    )


def event_of(row: asyncpg.Record) -> Event:
    """Return the event in a row of EVENT_COLUMNS."""
    details = details_of_json(row["details"])
    plan_id = details.plan_id
    return Event(
        organization_id=row["organization_id"],
        subscription_id=row["subscription_id"],
        sequence=row["sequence"],
        kind=EventKind(row["kind"]),
        planned=row["planned"],
        from_state=State(row["from_state"]) if row["from_state"] else None,
        to_state=State(row["to_state"]),
        reason=row["reason"],
        actor=row["actor"],
        effective_time=row["effective_time"],
        create_time=row["create_time"],
        plan=None if plan_id is None else AgreedPlan(plan_id, row["plan_code"], row["plan_version"]),
        period_start_time=row["period_start_time"],
        period_end_time=row["period_end_time"],
        lines=details.lines,
        charge_operation_id=row["charge_operation_id"],
        charge=Money(row["charge_currency_code"], row["charge_amount"]) if row["charge_currency_code"] else None,
        refills=details.refills,
        voided_grant_operation_ids=details.voided_grant_operation_ids,
        request_id=row["request_id"],
    )
