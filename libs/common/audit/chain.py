"""Audit events, and the hash chain that links each of them to all earlier ones.

Every organization has a chain of its own in each service. Its events are numbered from 1 without a gap, and each
carries the hash of the one before it, or 32 zero bytes for the first. The hash of an event can be recomputed from its
row alone:

    hash = SHA-256(previous_hash ‖ value ‖ value ‖ …)

where each value is its UTF-8 text preceded by the number of its bytes as four bytes, highest first, and an absent value
is the four bytes FF FF FF FF alone. The values are, in this order: the text `tollhouse audit event 1`, organization_id,
sequence, event_id, event_time, action, actor, api_key_id, resource_type, resource_id, peer_address, user_agent,
request_id, the number of changes, and for each change its field, before and after. Ids are in lower-case hexadecimal
with hyphens, numbers are decimal, and a time is the decimal number of microseconds since 1970-01-01T00:00:00Z.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

NO_HASH: Final = bytes(32)
"""The previous hash of the first event."""
_FORM: Final = "tollhouse audit event 1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ABSENT: Final = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Changed:
    """A field that changed. Its values are left out where they are secret or personal."""

    field: str
    before: str | None = None
    after: str | None = None


def differences(before: Mapping[str, str | None], after: Mapping[str, str | None]) -> tuple[Changed, ...]:
    """Return the fields whose values differ, with both values; None stands for a field that one side lacks."""
    names = [*before, *(name for name in after if name not in before)]
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return tuple(Changed(name, old, new) for name, old, new in pairs if old != new)


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one resource, as it is stored."""

    organization_id: str
    sequence: int
    event_id: str
    event_time: datetime
    action: str
    actor: str
    api_key_id: str | None
    resource_type: str
    resource_id: str
    changes: tuple[Changed, ...]
    peer_address: str
    user_agent: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Head:
    """The number and the hash of the newest event of a chain at some time."""

    sequence: int
    hash: bytes


START: Final = Head(0, NO_HASH)
"""The head of an empty chain."""


@dataclass(frozen=True, slots=True)
class Link:
    """An event with its own hash and that of the event before it."""

    event: Event
    previous_hash: bytes
    hash: bytes


class Flaw(Enum):
    """How a chain is broken."""

    EVENT_CHANGED = "event_changed"
    EVENTS_MISSING = "events_missing"
    CHAIN_BROKEN = "chain_broken"
    HEAD_MOVED = "head_moved"
    EXPECTED_HEAD_MISSING = "expected_head_missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place at which a chain is broken."""

    sequence: int
    flaw: Flaw
    description: str


def link(event: Event, previous_hash: bytes) -> Link:
    """Link an event to the event before it, whose hash is given."""
    return Link(event, previous_hash, hash_of(event, previous_hash))


def hash_of(event: Event, previous_hash: bytes) -> bytes:
    """Return the hash of an event, given the hash of the event before it."""
    return hashlib.sha256(previous_hash + b"".join(map(_framed, _values(event)))).digest()


def _values(event: Event) -> Iterator[str | None]:
    yield from (_FORM, event.organization_id, str(event.sequence), event.event_id)
    yield str((event.event_time - _EPOCH) // timedelta(microseconds=1))
    yield from (event.action, event.actor, event.api_key_id, event.resource_type, event.resource_id)
    yield from (event.peer_address, event.user_agent, event.request_id, str(len(event.changes)))
    for change in event.changes:
        yield from (change.field, change.before, change.after)


def _framed(value: str | None) -> bytes:
    if value is None:
        return _ABSENT
    encoded = value.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def flaws(links: Sequence[Link], after: Head) -> Iterator[Finding]:
    """Yield what is wrong in a run of events ordered by sequence: a gap, or a hash that does not match."""
    expected = after
    for found in links:
        sequence = found.event.sequence
        if hash_of(found.event, found.previous_hash) != found.hash:
            yield Finding(sequence, Flaw.EVENT_CHANGED, f"event {sequence} is not what was written")
        if sequence <= expected.sequence:
            yield Finding(sequence, Flaw.CHAIN_BROKEN, f"there is no place {sequence} after {expected.sequence}")
            continue
        if sequence != expected.sequence + 1:
            yield missing(expected.sequence + 1, sequence - 1, seen_at=sequence)
        elif found.previous_hash != expected.hash:
            yield Finding(sequence, Flaw.CHAIN_BROKEN, f"event {sequence} does not follow from event {sequence - 1}")
        expected = Head(sequence, found.hash)


def missing(first: int, last: int, *, seen_at: int) -> Finding:
    """Return the finding for events that are missing."""
    return Finding(seen_at, Flaw.EVENTS_MISSING, f"events {first} to {last} are missing")
