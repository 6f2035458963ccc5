# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The statements on messages, by primary key where they say nothing else."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import asyncpg

from libs.common.amount import format_amount
from libs.common.database import RawConnection
from libs.common.ids import NIL
from libs.common.pages import PAGE_BYTES_MAX
from services.metering.conversation.domain import Content, Message, Role, TextState, Used, month_of
from services.metering.usage.store import quantities_text, read_quantities

_ABOUT: Final = """conversation_id, position, operation_id, role, fingerprint, key_version, content_state, model,
    create_time, usage_id::text, quantities::text, cost, currency_code"""

# By the unique key of the operation.
_FIND: Final = f"""
SELECT organization_id::text, {_ABOUT}, content FROM conversation_messages
WHERE organization_id = $1::uuid AND operation_id = $2
"""

_ADD: Final = """
INSERT INTO conversation_messages (organization_id, conversation_id, position, operation_id, role, fingerprint, content,
    key_version, content_state, model, create_time, usage_id, quantities, cost, currency_code)
VALUES ($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::uuid, $13::text::jsonb, $14, $15)
"""

_COUNT: Final = """
INSERT INTO conversation_months AS m (organization_id, user_id, month, messages, user_messages, assistant_messages)
VALUES ($1::uuid, $2::uuid, $3, 1, $4, $5)
ON CONFLICT (organization_id, user_id, month) DO UPDATE SET messages = m.messages + 1,
    user_messages = m.user_messages + excluded.user_messages,
    assistant_messages = m.assistant_messages + excluded.assistant_messages
"""


def _page(after: str, order: str) -> str:
    """Return the statement of a page, which ends where its contents are too large: their sizes are known unread."""
    return f"""
SELECT $1::text AS organization_id, {_ABOUT}, CASE WHEN $5 THEN content END AS content FROM (
    SELECT *, sum(CASE WHEN $5::boolean THEN coalesce(octet_length(content), 0) ELSE 0 END) OVER sent AS size,
        row_number() OVER sent AS place
    FROM (
        SELECT * FROM conversation_messages
        WHERE organization_id = $1::text::uuid AND conversation_id = $2 AND position {after} $3
        ORDER BY position {order} LIMIT $4
    ) AS page WINDOW sent AS (ORDER BY position {order})
) AS sized WHERE size <= {PAGE_BYTES_MAX} OR place = 1 ORDER BY place
"""


_OLDEST_FIRST: Final = _page(">", "")
_NEWEST_FIRST: Final = _page("<", "DESC")

_MONTHS: Final = """
SELECT month, messages, user_messages, assistant_messages FROM conversation_months
WHERE organization_id = $1::uuid AND user_id = $2::uuid AND month >= $3
"""

# Along the index of the contents that are kept of a conversation.
_EMPTY: Final = """
UPDATE conversation_messages AS m SET content = NULL, key_version = NULL, content_state = 'DELETED'
FROM (
    SELECT position FROM conversation_messages
    WHERE organization_id = $1::uuid AND conversation_id = $2 AND content IS NOT NULL
    ORDER BY position LIMIT $3 FOR UPDATE
) AS kept
WHERE m.organization_id = $1::uuid AND m.conversation_id = $2 AND m.position = kept.position
RETURNING true
"""

# Along the index of the contents that are kept of an organization. What another process deletes is left to it.
_EXPIRE: Final = """
UPDATE conversation_messages AS m SET content = NULL, key_version = NULL, content_state = 'EXPIRED'
FROM (
    SELECT conversation_id, position FROM conversation_messages
    WHERE organization_id = $1::uuid AND create_time < $2::timestamptz AND content IS NOT NULL
    ORDER BY create_time LIMIT $3 FOR UPDATE SKIP LOCKED
) AS old
WHERE m.organization_id = $1::uuid AND m.conversation_id = old.conversation_id AND m.position = old.position
RETURNING true
"""
_NEXT_KEPT: Final = """
SELECT organization_id::text FROM conversation_messages WHERE organization_id > $1::uuid AND content IS NOT NULL
ORDER BY organization_id LIMIT 1
"""


class Counts(NamedTuple):
    """How many messages a user's conversations got in a month."""

    messages: int = 0
    user_messages: int = 0
    assistant_messages: int = 0


async def find(connection: RawConnection, organization_id: str, operation_id: str) -> Message | None:
    row = await connection.fetchrow(_FIND, organization_id, operation_id)
    return None if row is None else _message(row)


async def add(connection: RawConnection, message: Message, user_id: str | None) -> None:
    """Add a message and count it. Raises ConstraintViolation if its operation id has one."""
    used = message.used
    await connection.execute(
        _ADD,
        message.organization_id,
        message.conversation_id,
        message.position,
        message.operation_id,
        message.role.value,
        message.fingerprint,
        *message.content[:2],
        message.content.state.value,
        message.model,
        message.create_time,
        None if used is None else used.usage_id,
        None if used is None else quantities_text(used.quantities),
        None if used is None or used.cost is None else Decimal(used.cost),
        None if used is None else used.currency_code,
    )
    month = month_of(message.create_time)
    by_role = (int(message.role is Role.USER), int(message.role is Role.ASSISTANT))
    await connection.execute(_COUNT, message.organization_id, user_id or NIL, month, *by_role)


async def page(
    connection: RawConnection,
    organization_id: str,
    conversation_id: str,
    after: int,
    *,
    newest_first: bool,
    with_content: bool,
    limit: int,
) -> list[Message]:
    """Return messages that follow a position, as many as fit into a page."""
    statement = _NEWEST_FIRST if newest_first else _OLDEST_FIRST
    rows = await connection.fetch(statement, organization_id, conversation_id, after, limit, with_content)
    return [_message(row) for row in rows]


async def months(
    connection: RawConnection, organization_id: str, user_id: str, first: datetime
) -> dict[datetime, Counts]:
    """Return the counts of a user's months from one on."""
    rows = await connection.fetch(_MONTHS, organization_id, user_id, first)
    return {row[0]: Counts(*row[1:]) for row in rows}


async def empty(connection: RawConnection, organization_id: str, conversation_id: str, limit: int) -> int:
    """Delete contents of a conversation; return how many those were."""
    return len(await connection.fetch(_EMPTY, organization_id, conversation_id, limit))


async def expire(connection: RawConnection, organization_id: str, before: datetime, limit: int) -> int:
    """Delete contents of an organization that are older than a moment; return how many those were."""
    return len(await connection.fetch(_EXPIRE, organization_id, before, limit))


async def next_kept(connection: RawConnection, after: str) -> str | None:
    """Return the next organization that has contents."""
    found: str | None = await connection.fetchval(_NEXT_KEPT, after)
    return found


def _message(row: asyncpg.Record) -> Message:
    used = None
    if row["usage_id"] is not None:
        cost = None if row["cost"] is None else format_amount(row["cost"])
        used = Used(row["usage_id"], read_quantities(row["quantities"]), cost, row["currency_code"])
    return Message(
        row["organization_id"],
        row["conversation_id"],
        row["position"],
        row["operation_id"],
        Role(row["role"]),
        row["fingerprint"],
        Content(row["content"], row["key_version"], TextState(row["content_state"])),
        row["model"],
        row["create_time"],
        used,
    )
