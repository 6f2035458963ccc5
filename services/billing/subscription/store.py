"""The statements on subscriptions, and on what payment providers call them. Each touches one shard.

Whoever changes a subscription locks its row first, and then writes all of it. Statements of the driver are used, since
the ledger's are, and the run of periods makes both in one go.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from libs.common.database import RawConnection
from services.billing.plan.domain import Money, ProviderReference
from services.billing.plan.terms_json import entitlement_json, entitlement_of_json
from services.billing.subscription.domain import AgreedPlan, Minimum, Subject, Subscription, WaitsFor, Way
from services.billing.subscription.states import State

_TYPES: Final[Mapping[str, str]] = {
    "organization_id": "uuid",
    "subscription_id": "uuid",
    "subject": "text",
    "user_id": "uuid",
    "model": "text",
    "plan_id": "uuid",
    "plan_code": "text",
    "plan_version": "integer",
    "limits": "jsonb",
    "state": "text",
    "state_reason": "text",
    "state_time": "timestamptz",
    "waits_for": "text",
    "start_time": "timestamptz",
    "trial_end_time": "timestamptz",
    "expire_time": "timestamptz",
    "anchor_time": "timestamptz",
    "time_zone": "text",
    "period_number": "bigint",
    "period_start_time": "timestamptz",
    "period_end_time": "timestamptz",
    "period_paid": "boolean",
    "cancel_at_period_end": "boolean",
    "next_plan_id": "uuid",
    "next_plan_code": "text",
    "next_plan_version": "integer",
    "payment_attempts": "integer",
    "next_payment_time": "timestamptz",
    "owed_currency_code": "text",
    "owed_amount": "numeric",
    "due_time": "timestamptz",
    "set_aside_time": "timestamptz",
    "set_aside_reason": "text",
    "last_sequence": "bigint",
    "customer_reference": "text",
    "metadata": "jsonb",
    "actor": "text",
    "revision": "bigint",
    "create_time": "timestamptz",
    "update_time": "timestamptz",
    "collection": "text",
    "collection_provider": "text",
    "minimum_currency_code": "text",
    "minimum_amount": "numeric",
    "minimum_since_time": "timestamptz",
    "usage_since_time": "timestamptz",
}
"""The columns with their types, in the order of `values_of`. The first two are the key."""
COLUMN_TYPES: Final = tuple(_TYPES.items())
SUBSCRIPTION_COLUMNS: Final = ", ".join(
    f"s.{name}::text" if kind in ("uuid", "jsonb") else f"s.{name}" for name, kind in COLUMN_TYPES
)
"""What `subscription_of` reads, of `subscriptions AS s`."""
# By the index of references on their subscriptions.
REFERENCES_COLUMN: Final = """(
    SELECT jsonb_agg(jsonb_build_array(r.provider, r.kind, r.external_id) ORDER BY r.provider, r.kind, r.external_id)
    FROM subscription_references AS r
    WHERE r.organization_id = s.organization_id AND r.subscription_id = s.subscription_id
)::text AS "references\""""
"""What `subscription_of` reads of the references; without it they read as none."""
SELECT: Final = f"SELECT {SUBSCRIPTION_COLUMNS}, {REFERENCES_COLUMN} FROM subscriptions AS s"  # noqa: S608 -- constants of ours alone.

# One probe of the primary key.
_FIND: Final = f"{SELECT} WHERE s.organization_id = $1::uuid AND s.subscription_id = $2::uuid"

# The same, locked until the end of the transaction against all other changes of the subscription.
_LOCK: Final = f"{_FIND} FOR UPDATE OF s"

# The partial unique indexes on live subscriptions.
_LIVE_ORGANIZATION: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.subject = 'ORGANIZATION'
        AND s.state NOT IN ('CANCELLED', 'EXPIRED')
"""
_LIVE_USER: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.user_id = $2::uuid AND s.subject = 'USER'
        AND s.state NOT IN ('CANCELLED', 'EXPIRED')
"""
_LIVE_MODEL: Final = f"""
    {SELECT} WHERE s.organization_id = $1::uuid AND s.user_id = $2::uuid AND s.model = $3 AND s.subject = 'MODEL'
        AND s.state NOT IN ('CANCELLED', 'EXPIRED')
"""

_INSERT: Final = (
    f"INSERT INTO subscriptions ({', '.join(_TYPES)})"  # noqa: S608 -- constants of ours alone.
    f" VALUES ({', '.join(f'${number}::{kind}' for number, (_, kind) in enumerate(COLUMN_TYPES, start=1))})"
)

# By primary key; the row is locked already.
_UPDATE: Final = (
    "UPDATE subscriptions SET "  # noqa: S608 -- constants of ours alone.
    + ", ".join(f"{name} = ${number}::{kind}" for number, (name, kind) in enumerate(COLUMN_TYPES[2:], start=3))
    + " WHERE organization_id = $1::uuid AND subscription_id = $2::uuid"
)

# One probe of the primary key for each.
_TAKEN: Final = """
    SELECT r.provider, r.kind, r.external_id
    FROM unnest($3::text[], $4::text[], $5::text[]) AS wanted (provider, kind, external_id)
    JOIN subscription_references AS r ON r.organization_id = $1::uuid AND r.provider = wanted.provider
        AND r.kind = wanted.kind AND r.external_id = wanted.external_id
    WHERE r.subscription_id <> $2::uuid
    ORDER BY r.provider, r.kind, r.external_id LIMIT 1
"""

# By the index of references on their subscriptions.
_DROP_REFERENCES: Final = """
    DELETE FROM subscription_references WHERE organization_id = $1::uuid AND subscription_id = $2::uuid
"""

_ADD_REFERENCES: Final = """
    INSERT INTO subscription_references (organization_id, subscription_id, provider, kind, external_id)
    SELECT $1::uuid, $2::uuid, * FROM unnest($3::text[], $4::text[], $5::text[])
"""


async def find(connection: RawConnection, organization_id: str, subscription_id: str) -> Subscription | None:
    """Return a subscription of an organization; None if it has no such one."""
    row = await connection.fetchrow(_FIND, organization_id, subscription_id)
    return None if row is None else subscription_of(row)


async def lock(connection: RawConnection, organization_id: str, subscription_id: str) -> Subscription | None:
    """Return a subscription, whose row stays locked until the end of the transaction."""
    row = await connection.fetchrow(_LOCK, organization_id, subscription_id)
    return None if row is None else subscription_of(row)


async def find_live(
    connection: RawConnection, organization_id: str, user_id: str | None, model: str | None
) -> Subscription | None:
    """Return the live subscription of the organization, of a user, or of a user to a model."""
    if user_id is None:
        row = await connection.fetchrow(_LIVE_ORGANIZATION, organization_id)
    elif model is None:
        row = await connection.fetchrow(_LIVE_USER, organization_id, user_id)
    else:
        row = await connection.fetchrow(_LIVE_MODEL, organization_id, user_id, model)
    return None if row is None else subscription_of(row)


async def insert(connection: RawConnection, subscription: Subscription) -> None:
    """Add a subscription with its references.

    Raises ConstraintViolation where its subject has a live one (`subscriptions_live_…_once`), or where a reference is
    another's (`subscription_references_pkey`).
    """
    await connection.execute(_INSERT, *values_of(subscription))
    await _add_references(connection, subscription)


async def update(connection: RawConnection, before: Subscription, after: Subscription) -> None:
    """Change a subscription that is locked, and its references where they differ; raises as `insert` does."""
    status = await connection.execute(_UPDATE, *values_of(after))
    assert status == "UPDATE 1", status
    if after.references != before.references:
        await connection.execute(_DROP_REFERENCES, after.organization_id, after.subscription_id)
        await _add_references(connection, after)


async def find_taken(
    connection: RawConnection, organization_id: str, subscription_id: str, references: Sequence[ProviderReference]
) -> ProviderReference | None:
    """Return the first of the references that another subscription of the organization has."""
    if not references:
        return None
    row = await connection.fetchrow(_TAKEN, organization_id, subscription_id, *_columns_of(references))
    return None if row is None else ProviderReference(*row)


async def _add_references(connection: RawConnection, subscription: Subscription) -> None:
    if subscription.references:
        key = subscription.organization_id, subscription.subscription_id
        await connection.execute(_ADD_REFERENCES, *key, *_columns_of(subscription.references))


def _columns_of(references: Sequence[ProviderReference]) -> tuple[list[str], list[str], list[str]]:
    return (
        [one.provider for one in references],
        [one.kind for one in references],
        [one.external_id for one in references],
    )


def values_of(subscription: Subscription) -> tuple[object, ...]:
    """Return the values of the columns, in the order of COLUMN_TYPES."""
    s = subscription
    limits = None if s.limits is None else json.dumps([entitlement_json(one) for one in s.limits])
    return (
        s.organization_id,
        s.subscription_id,
        s.subject.value,
        s.user_id,
        s.model,
        *_plan_values(s.plan),
        limits,
        s.state.value,
        s.state_reason,
        s.state_time,
        None if s.waits_for is None else s.waits_for.value,
        s.start_time,
        s.trial_end_time,
        s.expire_time,
        s.anchor_time,
        s.time_zone,
        s.period_number,
        s.period_start_time,
        s.period_end_time,
        s.period_paid,
        s.cancel_at_period_end,
        *_plan_values(s.next_plan),
        s.payment_attempts,
        s.next_payment_time,
        None if s.owed is None else s.owed.currency_code,
        None if s.owed is None else s.owed.value,
        s.due_time,
        s.set_aside_time,
        None if s.set_aside_time is None else s.set_aside_reason,
        s.last_sequence,
        s.customer_reference,
        json.dumps(dict(s.metadata)) if s.metadata else None,
        s.actor,
        s.revision,
        s.create_time,
        s.update_time,
        s.collection.value,
        s.collection_provider,
        *((None, None, None) if s.minimum is None else _minimum_values(s.minimum)),
        s.usage_since,
    )


def _minimum_values(minimum: Minimum) -> tuple[str, Decimal, datetime]:
    return minimum.amount.currency_code, minimum.amount.value, minimum.since


def _plan_values(plan: AgreedPlan | None) -> tuple[str | None, str | None, int | None]:
    return (None, None, None) if plan is None else (plan.plan_id, plan.plan_code, plan.version)


def subscription_of(row: asyncpg.Record) -> Subscription:
    """Return the subscription in a row of SUBSCRIPTION_COLUMNS, and REFERENCES_COLUMN if it is there."""
    limits, metadata, references = row["limits"], row["metadata"], row.get("references")
    return Subscription(
        organization_id=row["organization_id"],
        subscription_id=row["subscription_id"],
        subject=Subject(row["subject"]),
        user_id=row["user_id"],
        model=row["model"],
        plan=_plan_of(row, ""),
        limits=None if limits is None else tuple(map(entitlement_of_json, json.loads(limits))),
        state=State(row["state"]),
        state_reason=row["state_reason"],
        state_time=row["state_time"],
        waits_for=WaitsFor(row["waits_for"]) if row["waits_for"] else None,
        start_time=row["start_time"],
        trial_end_time=row["trial_end_time"],
        expire_time=row["expire_time"],
        anchor_time=row["anchor_time"],
        time_zone=row["time_zone"],
        period_number=row["period_number"],
        period_start_time=row["period_start_time"],
        period_end_time=row["period_end_time"],
        period_paid=row["period_paid"],
        cancel_at_period_end=row["cancel_at_period_end"],
        next_plan=_plan_of(row, "next_"),
        payment_attempts=row["payment_attempts"],
        next_payment_time=row["next_payment_time"],
        owed=Money(row["owed_currency_code"], row["owed_amount"]) if row["owed_currency_code"] else None,
        due_time=row["due_time"],
        set_aside_time=row["set_aside_time"],
        set_aside_reason=row["set_aside_reason"] or "",
        last_sequence=row["last_sequence"],
        customer_reference=row["customer_reference"],
        metadata=json.loads(metadata) if metadata else {},
        actor=row["actor"],
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        references=tuple(ProviderReference(*one) for one in json.loads(references)) if references else (),
        collection=Way(row["collection"]),
        collection_provider=row["collection_provider"],
        minimum=_minimum_of(row),
        usage_since=row["usage_since_time"],
    )


def _minimum_of(row: asyncpg.Record) -> Minimum | None:
    currency_code = row["minimum_currency_code"]
    if currency_code is None:
        return None
    return Minimum(Money(currency_code, row["minimum_amount"]), row["minimum_since_time"])


def _plan_of(row: asyncpg.Record, prefix: str) -> AgreedPlan | None:
    plan_id = row[f"{prefix}plan_id"]
    return None if plan_id is None else AgreedPlan(plan_id, row[f"{prefix}plan_code"], row[f"{prefix}plan_version"])
