"""The statements of forgetting users, by primary key where they say nothing else."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from libs.common.database import RawConnection
from libs.common.ids import NIL
from libs.common.timestamps import EPOCH, time_of_text, time_text

ROWS_MAX: Final = 20_000
STEPS: Final = 4
CONVERSATIONS: Final = 2
"""The step that is not done here."""
_CALLS: Final = 3


class Forgotten(NamedTuple):
    """How far the texts of a user are emptied."""

    user_id: str
    emptied: int
    shard: int
    step: int
    """0 for usage, 1 for the lines of corrections, 2 for conversations, 3 for authorizations and parts of calls."""
    after: Sequence[str]
    """The key after which to go on; empty at the beginning of a step."""
    create_time: datetime
    done_time: datetime | None


_COLUMNS: Final = "user_id::text, emptied_count, shard, step, after, create_time, done_time"
_FIND: Final = f"SELECT {_COLUMNS} FROM forgotten_users WHERE user_id = $1::uuid"  # noqa: S608 -- ours.
_BEGIN: Final = f"""
INSERT INTO forgotten_users (user_id, emptied_count, shard, step, after, create_time, lease_time)
VALUES ($1::uuid, 0, 0, 0, '{{}}', $2, $2)
ON CONFLICT (user_id) DO UPDATE
SET emptied_count = 0, shard = 0, step = 0, after = '{{}}', create_time = $2, done_time = NULL, lease_time = $2
WHERE forgotten_users.done_time IS NOT NULL
RETURNING {_COLUMNS}
"""  # noqa: S608
# The table has a row for each user who was ever forgotten; those that are not done come first.
_TAKE: Final = f"""
UPDATE forgotten_users SET lease_time = $2 WHERE user_id = (
    SELECT user_id FROM forgotten_users WHERE done_time IS NULL AND lease_time <= $1
    ORDER BY create_time, user_id LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING {_COLUMNS}
"""  # noqa: S608
# Only from the place that is known: another process may have gone on from it.
_SAVE: Final = """
UPDATE forgotten_users SET emptied_count = emptied_count + $5, shard = $6, step = $7, after = $8, done_time = $9,
    lease_time = $10
WHERE user_id = $1::uuid AND shard = $2 AND step = $3 AND after = $4 AND done_time IS NULL
"""
_IN_USAGE: Final = "SELECT * FROM forget_user_in_usage($1::uuid, $2::uuid, $3, $4::uuid, $5::integer)"
_IN_LINES: Final = "SELECT * FROM forget_user_in_lines($1::uuid, $2::uuid, $3::uuid, $4, $5, $6::integer)"
_IN_CALLS: Final = "SELECT * FROM forget_user_in_calls($1::uuid, $2::uuid, $3, $4::integer)"


async def find(connection: RawConnection, user_id: str) -> Forgotten | None:
    row = await connection.fetchrow(_FIND, user_id)
    return None if row is None else Forgotten(*row)


async def begin(connection: RawConnection, user_id: str, now: datetime) -> Forgotten | None:
    """Begin to forget a user, anew if that was done before; None if it is in progress."""
    row = await connection.fetchrow(_BEGIN, user_id, now)
    return None if row is None else Forgotten(*row)


async def take(connection: RawConnection, now: datetime, lease_time: datetime) -> Forgotten | None:
    """Take the next user whom nobody works on, until the lease ends."""
    row = await connection.fetchrow(_TAKE, now, lease_time)
    return None if row is None else Forgotten(*row)


async def save(
    connection: RawConnection, before: Forgotten, after: Forgotten, emptied: int, lease_time: datetime
) -> None:
    """Store how far it is, if it was where it was taken."""
    known = before.shard, before.step, list(before.after)
    now = after.shard, after.step, list(after.after), after.done_time
    await connection.execute(_SAVE, before.user_id, *known, emptied, *now, lease_time)


async def empty(connection: RawConnection, one: Forgotten) -> tuple[int, Sequence[str]]:
    """Empty the texts in the next rows of a step; return how many had some, and the key to go on after."""
    if one.step == 0:
        place = (one.after[0], time_of_text(one.after[1]), one.after[2]) if one.after else (NIL, EPOCH, NIL)
        (row,) = await connection.fetch(_IN_USAGE, one.user_id, *place, ROWS_MAX)
        return row[0], () if row[1] is None else (str(row[1]), time_text(row[2]), str(row[3]))
    if one.step == _CALLS:
        call = tuple(one.after) or (NIL, "")
        (row,) = await connection.fetch(_IN_CALLS, one.user_id, *call, ROWS_MAX)
        return row[0], () if row[1] is None else (str(row[1]), row[2])
    line = (*one.after[:2], int(one.after[2]), one.after[3] == "1") if one.after else (NIL, NIL, 0, False)
    (row,) = await connection.fetch(_IN_LINES, one.user_id, *line, ROWS_MAX)
    return row[0], () if row[1] is None else (str(row[1]), str(row[2]), str(row[3]), str(int(row[4])))
