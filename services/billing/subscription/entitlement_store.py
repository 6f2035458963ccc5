"""The statements on entitlements: who may use what beside their plans, and the order in which that changes.

All are on a connection of one shard, unless they say otherwise.
"""

import json
from collections.abc import Collection
from datetime import datetime
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import RawConnection, Transaction
from libs.common.ids import NIL
from services.billing.plan.terms_json import entitlement_json, entitlement_of_json
from services.billing.subscription.domain import AgreedPlan
from services.billing.subscription.entitlement_domain import Override
from services.billing.tables import ENTITLEMENTS_CHANNEL

DEFAULT_PLAN: Final = "default"
"""The code of the plan whose published version says what everybody may use."""

OverrideKey = tuple[str, str, str]
"""The user, the model and the code of an override, as they are stored."""

# Delivered when the transaction commits. It is a statement of its own, without a table, so that the server that the
# service is connected to makes it, wherever the shard is.
_ANNOUNCE: Final = "SELECT pg_notify($1, current_schema())"

# Locks the counter's row until the end of the transaction, so revisions become visible in their order. Each
# organization gets one of its own; those of one statement follow one another. The rest is by primary key.
_TOUCH: Final = """
    WITH counted AS (
        UPDATE entitlement_counter SET revision = revision + cardinality($1::uuid[]) WHERE counter_id = 1
        RETURNING revision - cardinality($1::uuid[]) AS before
    )
    INSERT INTO entitlement_revisions AS e (organization_id, revision)
    SELECT touched.organization_id, counted.before + touched.place
    FROM counted, unnest($1::uuid[]) WITH ORDINALITY AS touched (organization_id, place)
    ON CONFLICT (organization_id) DO UPDATE SET revision = excluded.revision
"""

# The single row of the counter.
_REVISION: Final = "SELECT revision FROM entitlement_counter WHERE counter_id = 1"

# A range of the index on revisions. The counter is of the same moment. Without changes there is one row with it.
_CHANGED: Final = """
    SELECT c.revision AS newest, e.organization_id::text, e.revision
    FROM entitlement_counter AS c
    LEFT JOIN LATERAL (
        SELECT organization_id, revision FROM entitlement_revisions WHERE revision > $1 ORDER BY revision LIMIT $2
    ) AS e ON true
    WHERE c.counter_id = 1
    ORDER BY e.revision
"""

# By the unique key on codes and the index on the versions in force, in billing's own schema.
_DEFAULT_VERSION: Final = """
    SELECT v.plan_id::text, v.version FROM plans AS p JOIN plan_versions AS v USING (plan_id)
    WHERE p.plan_code = $1 AND p.archive_time IS NULL AND v.archive_time IS NULL
"""

_COLUMNS: Final = """
    organization_id::text, user_id::text, model, entitlement::text, expire_time, reason, actor, create_time
"""

# Ranges of the primary key: the overrides of the user and of all users.
_OVERRIDES: Final = f"""
    SELECT {_COLUMNS} FROM entitlement_overrides
    WHERE organization_id = $1::uuid AND user_id = ANY($2::uuid[]) AND model = ANY($3::text[])
        AND (expire_time > $4) IS NOT FALSE
"""  # noqa: S608 -- constants of ours alone.

# One probe of the primary key.
_OVERRIDE: Final = f"""
    SELECT {_COLUMNS} FROM entitlement_overrides
    WHERE organization_id = $1::uuid AND user_id = $2::uuid AND model = $3 AND entitlement_code = $4
"""  # noqa: S608 -- constants of ours alone.

# A range of the primary key.
_OVERRIDES_AFTER: Final = f"""
    SELECT {_COLUMNS} FROM entitlement_overrides
    WHERE organization_id = $1::uuid AND ($2::uuid IS NULL OR user_id = $2)
        AND (user_id, model, entitlement_code) > ($3::uuid, $4::text, $5::text) AND (expire_time > $6) IS NOT FALSE
    ORDER BY user_id, model, entitlement_code LIMIT $7
"""  # noqa: S608 -- constants of ours alone.

# Makes changes of an organization's overrides wait for one another, until the end of the transaction.
_LOCK_OVERRIDES: Final = "SELECT pg_advisory_xact_lock(hashtextextended('billing.entitlement_overrides/' || $1, 0))"

# The organization's part of the primary key, of a thousand rows at most.
_DROP_EXPIRED: Final = "DELETE FROM entitlement_overrides WHERE organization_id = $1::uuid AND expire_time <= $2"
_COUNT_OVERRIDES: Final = "SELECT count(*) FROM entitlement_overrides WHERE organization_id = $1::uuid"

# By primary key.
_PUT_OVERRIDE: Final = """
    INSERT INTO entitlement_overrides (
        organization_id, user_id, model, entitlement_code, entitlement, expire_time, reason, actor, create_time
    ) VALUES ($1::uuid, $2::uuid, $3, $4, $5::jsonb, $6, $7, $8, $9)
    ON CONFLICT (organization_id, user_id, model, entitlement_code) DO UPDATE SET
        entitlement = excluded.entitlement, expire_time = excluded.expire_time, reason = excluded.reason,
        actor = excluded.actor, create_time = excluded.create_time
"""
_DROP_OVERRIDE: Final = """
    DELETE FROM entitlement_overrides
    WHERE organization_id = $1::uuid AND user_id = $2::uuid AND model = $3 AND entitlement_code = $4
"""


async def touch_entitlements(connection: Transaction | RawConnection, organization_ids: Collection[str]) -> None:
    """Say that what these organizations or their users may use changes with this transaction, so that caches drop it.

    All are of the connection's shard. It must be the last statement of the transaction, since every other change of
    entitlements in the shard waits for it to end. Without organizations nothing is done.
    """
    touched = sorted({organization_id.lower() for organization_id in organization_ids})
    if not touched:
        return
    if isinstance(connection, AsyncConnection):
        await connection.exec_driver_sql(_ANNOUNCE, (ENTITLEMENTS_CHANNEL,))
        await connection.exec_driver_sql(_TOUCH, (touched,))
    else:
        await connection.execute(_ANNOUNCE, ENTITLEMENTS_CHANNEL)
        await connection.execute(_TOUCH, touched)


async def current_revision(connection: RawConnection) -> int:
    """Return the newest revision of the shard."""
    return int(await connection.fetchval(_REVISION))


async def read_changed(connection: RawConnection, after: int, limit: int) -> tuple[int, list[tuple[str, int]]]:
    """Return the newest revision of the shard, and the organizations that changed after a revision, with theirs.

    They are in the order of their revisions, at most `limit` of them.
    """
    rows = await connection.fetch(_CHANGED, after, limit)
    changed = [(row["organization_id"], row["revision"]) for row in rows if row["revision"] is not None]
    return rows[0]["newest"], changed


async def find_default(connection: RawConnection) -> AgreedPlan | None:
    """Return the version of the platform's default plan that is in force. A connection to billing's schema will do."""
    row = await connection.fetchrow(_DEFAULT_VERSION, DEFAULT_PLAN)
    return None if row is None else AgreedPlan(row["plan_id"], DEFAULT_PLAN, row["version"])


async def find_overrides(
    connection: RawConnection, organization_id: str, user_id: str | None, model: str | None, now: datetime
) -> list[Override]:
    """Return the overrides that concern a user with a model, or without, and have not expired."""
    users, models = sorted({NIL, user_id or NIL}), sorted({"", model or ""})
    return [_override_of(row) for row in await connection.fetch(_OVERRIDES, organization_id, users, models, now)]


async def find_override(
    connection: RawConnection, organization_id: str, user_id: str | None, model: str | None, entitlement_code: str
) -> Override | None:
    """Return the override of one subject and code, also an expired one."""
    row = await connection.fetchrow(_OVERRIDE, organization_id, user_id or NIL, model or "", entitlement_code)
    return None if row is None else _override_of(row)


async def overrides_after(
    connection: RawConnection,
    organization_id: str,
    user_id: str | None,
    after: OverrideKey,
    now: datetime,
    limit: int,
) -> list[Override]:
    """Return the overrides of an organization after a key that have not expired, all or those of one user."""
    rows = await connection.fetch(_OVERRIDES_AFTER, organization_id, user_id, *after, now, limit)
    return [_override_of(row) for row in rows]


async def lock_overrides(connection: RawConnection, organization_id: str) -> None:
    """Lock the overrides of an organization against other changes until the transaction ends."""
    await connection.execute(_LOCK_OVERRIDES, organization_id)


async def drop_expired_overrides(connection: RawConnection, organization_id: str, now: datetime) -> None:
    """Delete the overrides of an organization that have expired."""
    await connection.execute(_DROP_EXPIRED, organization_id, now)


async def count_overrides(connection: RawConnection, organization_id: str) -> int:
    """Return how many overrides an organization has."""
    return int(await connection.fetchval(_COUNT_OVERRIDES, organization_id))


async def put_override(connection: RawConnection, override: Override) -> None:
    """Add an override, or put it in place of the one of the same subject and code."""
    await connection.execute(
        _PUT_OVERRIDE,
        override.organization_id,
        *key_of(override),
        json.dumps(entitlement_json(override.entitlement)),
        override.expire_time,
        override.reason,
        override.actor,
        override.create_time,
    )


async def drop_override(connection: RawConnection, override: Override) -> None:
    """Delete an override."""
    await connection.execute(_DROP_OVERRIDE, override.organization_id, *key_of(override))


def key_of(override: Override) -> OverrideKey:
    """Return the place of an override in the list of its organization's."""
    return override.user_id or NIL, override.model or "", override.entitlement.entitlement_code


def _override_of(row: asyncpg.Record) -> Override:
    return Override(
        organization_id=row["organization_id"],
        user_id=None if row["user_id"] == NIL else row["user_id"],
        model=row["model"] or None,
        entitlement=entitlement_of_json(json.loads(row["entitlement"])),
        expire_time=row["expire_time"],
        reason=row["reason"],
        actor=row["actor"],
        create_time=row["create_time"],
    )
