"""Whose secret was presented, and whether it may be used now.

On the way to an answer memory comes first, then the shape of the secret, then the database: what is remembered was
well formed, and what is malformed never reaches the database. What is remembered is the state of keys, never a
decision: expiry, scopes, model and the rest are decided on every call.
"""

import time
from collections.abc import Callable, Collection
from typing import Final, Generic, TypeVar

from libs.common.clock import Clock
from services.identity.api_key.cache import Entry, KeyCache
from services.identity.api_key.last_used import LastUsed
from services.identity.api_key.model import KeyRecord, Verdict, standing_of
from services.identity.api_key.reader import KeyReader, Reading
from services.identity.api_key.secret import MemoryDigests, Peppers, is_well_formed
from services.identity.errors import RevisionNotReached

_READS_MAX: Final = 3

A = TypeVar("A")


class Verifier(Generic[A]):
    """Verifies secrets: memory, then shape, then the database.

    `prepare` makes what goes out for a valid key; it is called once per read rather than once per call.
    """

    def __init__(
        self,
        *,
        peppers: Peppers,
        cache: KeyCache[A],
        reader: KeyReader,
        last_used: LastUsed,
        clock: Clock,
        prepare: Callable[[KeyRecord, int], A],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peppers = peppers
        self._memory = MemoryDigests()
        self._cache = cache
        self._reader = reader
        self._last_used = last_used
        self._clock = clock
        self._prepare = prepare
        self._monotonic_s = monotonic_s

    def verify_from_memory(
        self, key: str, required_scopes: Collection[str], model: str, min_revision: int
    ) -> tuple[Verdict, Entry[A] | None, int] | None:
        """Return verdict, entry and revision as `verify` does, if that takes no read; never waits."""
        digest = self._memory.digest(key)
        now_s = self._monotonic_s()
        entry = self._cache.find(digest, now_s=now_s, min_revision=min_revision)
        if entry is not None:
            return self._decide(entry, required_scopes, model)
        if not is_well_formed(key):
            return Verdict.NOT_FOUND, None, 0
        missing_at = self._cache.knows_missing(digest, now_s=now_s, min_revision=min_revision)
        return None if missing_at is None else (Verdict.NOT_FOUND, None, missing_at)

    async def verify(
        self, key: str, required_scopes: Collection[str], model: str, min_revision: int
    ) -> tuple[Verdict, Entry[A] | None, int]:
        """Return the verdict, the key it is about, and the revision it reflects; zero where no state was looked at.

        Raises:
            RevisionNotReached: `min_revision` lies ahead of every change.
            Unavailable: memory does not know the key, and the database does not answer.
        """
        known = self.verify_from_memory(key, required_scopes, model, min_revision)
        if known is not None:
            return known
        digest = self._memory.digest(key)
        digests = (self._peppers.digest(key), *self._peppers.older_digests(key))
        reading = await self._reader.read(digests)
        for _ in range(_READS_MAX):
            if reading.revision < min_revision:
                raise RevisionNotReached(min_revision=min_revision, revision=reading.revision)
            if reading.record is None:
                self._cache.remember_missing(digest, revision=reading.revision, read_s=reading.read_s)
                return Verdict.NOT_FOUND, None, reading.revision
            entry = self._entry(digest, reading, reading.record)
            if self._cache.remember(entry):
                break
            # A change was noted while the read was on its way, so a caller may already have been told of it.
            reading = await self._reader.read(digests)
        else:
            entry = self._entry(digest, reading, reading.record) if reading.record else entry
        return self._decide(entry, required_scopes, model)

    def _entry(self, digest: bytes, reading: Reading, record: KeyRecord) -> Entry[A]:
        return Entry(
            digest=digest,
            standing=standing_of(record),
            revision=reading.revision,
            read_s=reading.read_s,
            subjects=record.subjects(),
            answer=self._prepare(record, reading.revision),
        )

    def _decide(
        self, entry: Entry[A], required_scopes: Collection[str], model: str
    ) -> tuple[Verdict, Entry[A] | None, int]:
        now = self._clock.now()
        verdict = entry.standing.decide(required_scopes=required_scopes, model=model, now=now)
        if verdict is Verdict.VALID:
            self._last_used.note(entry.subjects[0], now)
        return verdict, entry, entry.revision
