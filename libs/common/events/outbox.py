"""Announces events, in the transaction of the change that they tell of.

An event that is announced is there exactly if the change is. Whoever wants it is sent it later, by
`libs.common.events.worker`; that costs the change nothing.

    await announce(tx, [NewEvent(organization_id, "tollhouse.payment.completed", f"payment/{payment_id}", data)], now)
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import RawConnection, Transaction
from libs.common.ids import new_id
from libs.common.sharding import PLATFORM as PLATFORM
from libs.common.text import NUL, REPLACEMENT

AnyTransaction = Transaction | RawConnection
"""A transaction of SQLAlchemy or of the driver."""
Data = Mapping[str, object]
"""What can be written as JSON: texts, whole numbers, truth values, None, lists and mappings of these. No floats:
amounts are decimal strings."""

DATA_BYTES_MAX: Final = 65_536
SUBJECT_CHARS_MAX: Final = 256
_TYPE: Final = re.compile(r"tollhouse\.[a-z][a-z0-9_]{0,40}\.[a-z][a-z0-9_]{0,40}")
_SUBJECT: Final = re.compile(rf"[!-~]{{1,{SUBJECT_CHARS_MAX}}}")
_AT_ONCE: Final = 500

# Locks each subject's row until commit, by primary key and in the order of the keys. Others who announce events of the
# same subject wait, so numbers become visible in order and without a gap. Times never decrease along a subject.
_ANNOUNCE: Final = """
WITH given AS (
    SELECT *, row_number() OVER (PARTITION BY organization_id, subject ORDER BY place) AS nth
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[]) WITH ORDINALITY
        AS g(organization_id, event_id, subject, type, data, sealed_data, place)
), heads AS (
    INSERT INTO event_subjects AS head (organization_id, subject, sequence, event_time)
    SELECT organization_id, subject, count(*), $7::timestamptz FROM given
    GROUP BY organization_id, subject ORDER BY organization_id, subject COLLATE "C"
    ON CONFLICT (organization_id, subject) DO UPDATE
    SET sequence = head.sequence + excluded.sequence, event_time = greatest(head.event_time, excluded.event_time)
    RETURNING organization_id, subject, sequence, event_time
), counts AS (
    SELECT organization_id, subject, count(*) AS count FROM given GROUP BY organization_id, subject
)
INSERT INTO events (organization_id, event_id, subject, sequence, type, event_time, data, sealed_data)
SELECT g.organization_id, g.event_id, g.subject, h.sequence - c.count + g.nth, g.type, h.event_time, g.data::jsonb,
    g.sealed_data
FROM given AS g JOIN heads AS h USING (organization_id, subject) JOIN counts AS c USING (organization_id, subject)
"""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """Something that happened to a subject.

    `organization_id` is whom it belongs to, PLATFORM for nobody; `type` is `tollhouse.<noun>.<what>`; `subject` names
    what it happened to, such as `payment/0198…`, in printable ASCII. `data` is sent as it is: it must hold no secret.
    `sealed_data` is what only endpoints of the platform are sent, as `libs.common.sealing` has encrypted it.

    Raises:
        ValueError: a part of it is not of its form, or the data is larger than 64 KiB.
    """

    organization_id: str
    type: str
    subject: str
    data: Data
    sealed_data: bytes | None = None
    json: str = field(init=False, repr=False, compare=False)
    """The data as JSON in ASCII."""

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.type):
            raise ValueError(f"{self.type!r} is not of the form tollhouse.<noun>.<what>")
        if not _SUBJECT.fullmatch(self.subject):
            raise ValueError("the subject is not 1 to 256 characters of visible ASCII")
        text = json.dumps(_storable(self.data), separators=(",", ":"), allow_nan=False)
        if len(text) > DATA_BYTES_MAX:
            raise ValueError(f"the data of {self.type} is larger than {DATA_BYTES_MAX} bytes")
        object.__setattr__(self, "json", text)


def _storable(value: object) -> object:
    """Return a value as Postgres stores it: U+0000 and half of a surrogate pair become U+FFFD and a question mark."""
    if isinstance(value, str):
        return value.replace(NUL, REPLACEMENT).encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {str(_storable(str(name))): _storable(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(held) for held in value]
    return value


async def announce(connection: AnyTransaction, events: Sequence[NewEvent], now: datetime) -> None:
    """Write events in the running transaction, numbered within each subject in the order in which they are given.

    The connection must be one to where their organizations are. The subjects stay locked until the transaction ends, so
    call this after the statements of the change, once, or in the order of organization and subject.
    """
    for start in range(0, len(events), _AT_ONCE):
        part = events[start : start + _AT_ONCE]
        values = (
            [event.organization_id for event in part],
            [new_id() for _ in part],
            [event.subject for event in part],
            [event.type for event in part],
            [event.json for event in part],
            [event.sealed_data for event in part],
            now,
        )
        if isinstance(connection, AsyncConnection):
            await connection.exec_driver_sql(_ANNOUNCE, values)
        else:
            await connection.execute(_ANNOUNCE, *values)
