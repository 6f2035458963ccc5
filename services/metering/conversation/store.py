# ruff: noqa: S608 -- the statements are put together from names of columns, once; values are bound.
"""The statements on conversations, by primary key where they say nothing else."""

import json
from datetime import datetime
from typing import Final, NamedTuple

import asyncpg

from libs.common.database import RawConnection
from libs.common.jumps import jumps
from services.metering.conversation.domain import NO_COSTS, Beginning, Conversation, TextState, Title

SCAN_MAX: Final = 5_000
"""The most conversations that one page of a list looks through."""

_COLUMNS: Final = """organization_id::text, conversation_id, project_id::text, user_id::text, title, title_folded,
    title_state, model, archived, message_count, costs::text, fingerprint, revision, create_time, update_time,
    delete_time, contents_due"""

_FIND: Final = f"SELECT {_COLUMNS} FROM conversations WHERE organization_id = $1::uuid AND conversation_id = $2"
_LOCK: Final = f"{_FIND} FOR UPDATE"

_ADD: Final = """
INSERT INTO conversations (organization_id, conversation_id, project_id, user_id, title, title_folded, title_state,
    model, archived, message_count, costs, fingerprint, revision, create_time, update_time)
VALUES ($1::uuid, $2, $3::uuid, $4::uuid, $5, $6, $7, $8, false, 0, '{}', $9, 1, $10, $10)
ON CONFLICT DO NOTHING RETURNING true
"""

_CHANGE: Final = """
UPDATE conversations SET title = $3, title_folded = $4, title_state = $5, model = $6, archived = $7, fingerprint = $8,
    revision = $9, update_time = $10, delete_time = $11, contents_due = $12
WHERE organization_id = $1::uuid AND conversation_id = $2
"""

_ADVANCE: Final = """
UPDATE conversations SET message_count = $3, costs = $4::text::jsonb, update_time = $5
WHERE organization_id = $1::uuid AND conversation_id = $2
"""

_SHOWN: Final = """($7::boolean OR NOT archived) AND ($8::boolean OR delete_time IS NULL)
    AND strpos(title_folded, $9::text) > 0"""

# Backwards along the index of the organization, between two places of it. Of a user or project, rows are compared and
# sorted with the owner, so that no other index will do whatever Postgres believes of the owners.
_RANGE: Final = """organization_id = $1::uuid AND (create_time, conversation_id) >= ($2::timestamptz, '')
    AND (create_time, conversation_id) < ($3::timestamptz, $4::text)"""
_LATEST_FIRST: Final = "ORDER BY create_time DESC, conversation_id DESC"
_PLACE: Final = "SELECT create_time, conversation_id FROM conversations"


def _range_of(owner: str, number: int) -> str:
    return f"""organization_id = $1::uuid
    AND ({owner}, create_time, conversation_id) >= (${number}::uuid, $2::timestamptz, '')
    AND ({owner}, create_time, conversation_id) < (${number}::uuid, $3::timestamptz, $4::text)"""


def _list_of(owner: str, further: str) -> str:
    return f"""SELECT {_COLUMNS} FROM conversations WHERE {_range_of(owner, 11)} {further}
    AND ({owner}, create_time, conversation_id) >= ($11::uuid, $5::timestamptz, $6::text) AND {_SHOWN}
    ORDER BY {owner} DESC, create_time DESC, conversation_id DESC LIMIT $10"""


def _bound_of(owner: str) -> str:
    order = f"ORDER BY {owner} DESC, create_time DESC, conversation_id DESC"
    return f"{_PLACE} WHERE {_range_of(owner, 6)} {order} OFFSET $5 LIMIT 1"


_BOUND: Final = f"{_PLACE} WHERE {_RANGE} {_LATEST_FIRST} OFFSET $5 LIMIT 1"
_BOUND_OF_USER: Final = _bound_of("user_id")
_BOUND_OF_PROJECT: Final = _bound_of("project_id")
_LIST: Final = f"""SELECT {_COLUMNS} FROM conversations WHERE {_RANGE}
    AND (create_time, conversation_id) >= ($5::timestamptz, $6::text) AND {_SHOWN} {_LATEST_FIRST} LIMIT $10"""
_LIST_OF_USER: Final = _list_of("user_id", "AND ($12::uuid IS NULL OR project_id = $12::uuid)")
_LIST_OF_PROJECT: Final = _list_of("project_id", "")

# Along the index of a user's conversations, from the first on.
_OF_USER_AFTER: Final = f"""
SELECT {_COLUMNS} FROM conversations WHERE organization_id = $1::uuid AND user_id = $2::uuid
    AND (create_time, conversation_id) > ($3::timestamptz, $4::text)
ORDER BY create_time, conversation_id LIMIT $5
"""

# Jumps along the primary key, and looks into the user's range of each organization.
_ORGANIZATIONS_OF_USER: Final = f"""{jumps("conversations", limit="$3")}
SELECT organization_id::text, EXISTS (
    SELECT FROM conversations c
    WHERE c.organization_id = ANY (ARRAY[looked.organization_id]) AND c.user_id = $2::uuid
)
FROM looked
"""

# Along the index of the conversations whose contents have to go.
_DUE_AFTER: Final = """
SELECT organization_id::text, conversation_id FROM conversations
WHERE contents_due AND (organization_id, conversation_id) > ($1::uuid, $2::text)
ORDER BY organization_id, conversation_id LIMIT $3
"""
_END_DUE: Final = """
UPDATE conversations SET contents_due = false WHERE organization_id = $1::uuid AND conversation_id = $2
"""

# Along the index of titles. A title that somebody changes at the moment is left to the next round.
_EXPIRE_TITLES: Final = """
UPDATE conversations AS c
SET title = '', title_folded = '', title_state = 'EXPIRED', fingerprint = '', revision = c.revision + 1
FROM (
    SELECT conversation_id FROM conversations
    WHERE organization_id = $1::uuid AND update_time < $2::timestamptz AND title <> ''
    ORDER BY update_time LIMIT $3 FOR UPDATE SKIP LOCKED
) AS old
WHERE c.organization_id = $1::uuid AND c.conversation_id = old.conversation_id
RETURNING true
"""
_NEXT_TITLED: Final = """
SELECT organization_id::text FROM conversations WHERE organization_id > $1::uuid AND title <> ''
ORDER BY organization_id LIMIT 1
"""


class Place(NamedTuple):
    """Where a conversation stands in a list."""

    create_time: datetime
    conversation_id: str


class Listed(NamedTuple):
    """Which conversations are listed."""

    start_time: datetime
    before: Place
    user_id: str | None
    project_id: str | None
    folded: str
    show_archived: bool
    show_deleted: bool


async def find(connection: RawConnection, organization_id: str, conversation_id: str) -> Conversation | None:
    row = await connection.fetchrow(_FIND, organization_id, conversation_id)
    return None if row is None else _conversation(row)


async def lock(connection: RawConnection, organization_id: str, conversation_id: str) -> Conversation | None:
    """Return a conversation, locked against other changes and messages."""
    row = await connection.fetchrow(_LOCK, organization_id, conversation_id)
    return None if row is None else _conversation(row)


async def add(connection: RawConnection, begun: Beginning, title: Title, now: datetime) -> bool:
    """Begin a conversation; return whether there was none of its id. Waits for whoever is beginning it."""
    fingerprint = begun.fingerprint if title.state in (TextState.KEPT, TextState.NONE) else b""
    values = (*begun[:4], *title, begun.model, fingerprint, now)
    return bool(await connection.fetchval(_ADD, *values))


async def change(connection: RawConnection, conversation: Conversation) -> None:
    """Write what a change of a conversation can change."""
    await connection.execute(
        _CHANGE,
        conversation.organization_id,
        conversation.conversation_id,
        *conversation.title,
        conversation.model,
        conversation.archived,
        conversation.fingerprint,
        conversation.revision,
        conversation.update_time,
        conversation.delete_time,
        conversation.contents_due,
    )


async def advance(connection: RawConnection, conversation: Conversation) -> None:
    """Write what one more message changes."""
    costs = json.dumps(dict(conversation.costs))
    key = conversation.organization_id, conversation.conversation_id
    await connection.execute(_ADVANCE, *key, conversation.message_count, costs, conversation.update_time)


async def list_conversations(
    connection: RawConnection, organization_id: str, listed: Listed, limit: int
) -> tuple[list[Conversation], Place | None]:
    """Return a page, the latest first, and where the next begins; None when there is no more."""
    of_user = listed.user_id is not None
    within = (organization_id, listed.start_time, *listed.before)
    bound, listing, owner = _BOUND, _LIST, ()  # type: str, str, tuple[str | None, ...]
    if of_user:
        bound, listing, owner = _BOUND_OF_USER, _LIST_OF_USER, (listed.user_id, listed.project_id)
    elif listed.project_id is not None:
        bound, listing, owner = _BOUND_OF_PROJECT, _LIST_OF_PROJECT, (listed.project_id,)
    row = await connection.fetchrow(bound, *within, max(SCAN_MAX, limit) - 1, *owner[:1])
    last = None if row is None else Place(row[0], row[1])
    first = last or Place(listed.start_time, "")
    shown = (listed.show_archived, listed.show_deleted, listed.folded, limit)
    rows = await connection.fetch(listing, *within, *first, *shown, *owner)
    found = [_conversation(row) for row in rows]
    if len(found) == limit:
        return found, Place(found[-1].create_time, found[-1].conversation_id)
    return found, last


async def of_user_after(
    connection: RawConnection, organization_id: str, user_id: str, after: Place, limit: int
) -> list[Conversation]:
    """Return conversations of a user, the earliest first."""
    rows = await connection.fetch(_OF_USER_AFTER, organization_id, user_id, *after, limit)
    return [_conversation(row) for row in rows]


async def due_after(connection: RawConnection, after: tuple[str, str], limit: int) -> list[tuple[str, str]]:
    """Return conversations whose contents have to go."""
    return [(row[0], row[1]) for row in await connection.fetch(_DUE_AFTER, *after, limit)]


async def end_due(connection: RawConnection, organization_id: str, conversation_id: str) -> None:
    """Note that the contents of a conversation, which is locked, have gone."""
    await connection.execute(_END_DUE, organization_id, conversation_id)


async def expire_titles(connection: RawConnection, organization_id: str, before: datetime, limit: int) -> int:
    """Delete titles of conversations that nothing has happened in since a moment; return how many those were."""
    return len(await connection.fetch(_EXPIRE_TITLES, organization_id, before, limit))


async def organizations_of_user(
    connection: RawConnection, after: str, user_id: str, limit: int
) -> list[tuple[str, bool]]:
    """Return the next organizations that have conversations, each with whether the user has any there."""
    rows = await connection.fetch(_ORGANIZATIONS_OF_USER, after, user_id, limit)
    return [(row[0], row[1]) for row in rows]


async def next_titled(connection: RawConnection, after: str) -> str | None:
    """Return the next organization that has titles."""
    found: str | None = await connection.fetchval(_NEXT_TITLED, after)
    return found


def _conversation(row: asyncpg.Record) -> Conversation:
    values = tuple(row)
    title = Title(values[4], values[5], TextState(values[6]))
    costs = json.loads(values[10]) or NO_COSTS
    first = (*values[:4], title, *values[7:10], costs, *values[11:])
    return Conversation(*first)
