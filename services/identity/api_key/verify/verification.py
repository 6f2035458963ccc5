"""Verifies presented secrets.

The cache is asked first, then the form of the secret is checked, then the database is read: malformed secrets never
reach the database. The cache holds the state of keys, never a decision: expiry, scopes, addresses, model and the rest
are checked on every call.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final, Generic, TypeVar

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.staleness import StaleAnswers
from services.identity.api_key.domain import KeyRecord, Verdict, standing_of
from services.identity.api_key.secret import (
    KEY_MAX_LENGTH,
    OWN_PREFIX,
    MemoryDigests,
    Peppers,
    is_well_formed,
    plain_digest,
)
from services.identity.api_key.verify.cache import Entry, KeyCache
from services.identity.api_key.verify.guesses import Guesses
from services.identity.api_key.verify.last_used import LastUsed
from services.identity.api_key.verify.prefixes import ImportedPrefixes
from services.identity.api_key.verify.questions import Question
from services.identity.api_key.verify.reader import KeyReader, Reading
from services.identity.errors import RevisionNotReached

_READS_MAX: Final = 3
_STALE_AFTER_S: Final = 0.5
"""How long a read may take before a stale entry is used instead, where the settings allow that."""
_READ_AGAIN_AFTER_S: Final = 0.2

A = TypeVar("A")
Answer = tuple[Verdict, Entry[A] | None, int]


class Staleness(Generic[A]):
    """How long stale entries may be used while the database does not answer, and how their answers are marked."""

    def __init__(self, beyond_s: float, mark: Callable[[A], A]) -> None:
        self.beyond_s = beyond_s
        self.mark = mark
        self.answers = StaleAnswers("database")
        self.read_again_s = 0.0
        """Until then, callers with a stale entry do not try the database again."""


class Verifier(Generic[A]):
    """Verifies secrets: cache, then form, then database.

    `prepare` builds the answer for a valid key, once per read instead of once per call.
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
        prefixes: ImportedPrefixes,
        staleness: Staleness[A] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._peppers = peppers
        self._memory = MemoryDigests()
        self._cache = cache
        self._reader = reader
        self._last_used = last_used
        self._clock = clock
        self._prepare = prepare
        self._prefixes = prefixes
        self._staleness = staleness
        self._guesses = Guesses(monotonic_s)
        self._monotonic_s = monotonic_s

    def known(
        self, key: str, required_scopes: Collection[str], model: str, min_revision: int, client_address: str = ""
    ) -> Answer[A] | None:
        """Return what `verify` would return, if that takes no read, else None; never waits."""
        if not 0 < len(key) <= KEY_MAX_LENGTH:
            return Verdict.NOT_FOUND, None, 0
        digest = self._memory.digest(key)
        now_s = self._monotonic_s()
        entry = self._cache.find(digest, now_s=now_s, min_revision=min_revision)
        if entry is not None:
            return self._decide(entry, required_scopes, model, client_address)
        if not is_well_formed(key):
            if key.startswith(OWN_PREFIX):
                return Verdict.NOT_FOUND, None, 0
            if not self._prefixes.begin(key):
                return (Verdict.NOT_FOUND, None, 0) if self._prefixes.are_known_at(min_revision) else None
        missing_at = self._cache.knows_missing(digest, now_s=now_s, min_revision=min_revision)
        return None if missing_at is None else (Verdict.NOT_FOUND, None, missing_at)

    def recall(self, question: Question) -> Entry[A] | None:
        """Return the entry of a memoized request's key if the cache alone says that it is valid; never waits."""
        entry = self._cache.find(question.digest, now_s=self._monotonic_s(), min_revision=question.min_revision)
        if entry is None:
            return None
        verdict, _, _ = self._decide(entry, question.required_scopes, question.model, question.client_address)
        return entry if verdict is Verdict.VALID else None

    def guesses_left(self, client_address: str) -> int:
        """Return how many unknown secrets may still be looked up for an address now."""
        return self._guesses.left(client_address)

    async def verify(
        self, key: str, required_scopes: Collection[str], model: str, min_revision: int, client_address: str = ""
    ) -> Answer[A]:
        """Return the verdict, the entry, and the revision they reflect; zero when neither cache nor database was asked.

        Raises:
            RevisionNotReached: `min_revision` lies ahead of every change.
            TooManyUnknownKeys: the address has presented too many secrets that nobody has.
            Unavailable: memory does not know the key, and the database does not answer.
        """
        known = self.known(key, required_scopes, model, min_revision, client_address)
        if known is not None:
            return known
        digests = await self._digests(key, min_revision)
        if not digests:
            return Verdict.NOT_FOUND, None, 0
        self._guesses.check(client_address)
        digest = self._memory.digest(key)
        found = await self._read(digests, None if min_revision else self._stale(digest))
        if isinstance(found, Entry):
            return self._decide(found, required_scopes, model, client_address)
        reading = found
        for _ in range(_READS_MAX):
            if reading.revision < min_revision:
                raise RevisionNotReached(min_revision=min_revision, revision=reading.revision)
            if reading.record is None:
                self._cache.remember_missing(digest, revision=reading.revision, read_s=reading.read_s)
                self._guesses.note(client_address)
                return Verdict.NOT_FOUND, None, reading.revision
            entry = self._entry(digest, reading, reading.record)
            if self._cache.remember(entry):
                break
            # The key changed while it was read, and a caller may already rely on that change: read again.
            reading = await self._reader.read(digests)
        else:
            entry = self._entry(digest, reading, reading.record) if reading.record else entry
        return self._decide(entry, required_scopes, model, client_address)

    async def _digests(self, key: str, min_revision: int) -> tuple[bytes, ...]:
        """Return the digests under which the key may be stored; none when it need not be looked up."""
        if is_well_formed(key):
            return self._peppers.all_digests(key)
        if not self._prefixes.begin(key):
            # The prefix may have been imported a moment ago: wait for the feed once, for all who ask meanwhile.
            await self._prefixes.reach(min_revision)
        return self._peppers.all_imported_digests(plain_digest(key)) if self._prefixes.begin(key) else ()

    def _stale(self, digest: bytes) -> Entry[A] | None:
        """Return the stale entry that may be used if the read fails, or None."""
        if self._staleness is None:
            return None
        entry = self._cache.find_stale(digest, now_s=self._monotonic_s(), beyond_s=self._staleness.beyond_s)
        return entry and replace(entry, answer=self._staleness.mark(entry.answer), stale=True)

    async def _read(self, digests: tuple[bytes, ...], stale: Entry[A] | None) -> Reading | Entry[A]:
        """Return what the database says; the stale entry when there is one and the database does not answer in time."""
        staleness = self._staleness
        if staleness is None:
            return await self._reader.read(digests)
        if stale is None or self._monotonic_s() >= staleness.read_again_s:
            try:
                async with asyncio.timeout(None if stale is None else _STALE_AFTER_S):
                    reading = await self._reader.read(digests)
            except (Unavailable, TimeoutError):
                if stale is None:
                    raise
                staleness.read_again_s = self._monotonic_s() + _READ_AGAIN_AFTER_S
            else:
                staleness.answers.note_fresh()
                return reading
        staleness.answers.note_stale()
        return stale

    def _entry(self, digest: bytes, reading: Reading, record: KeyRecord) -> Entry[A]:
        return Entry(
            digest=digest,
            standing=standing_of(record),
            revision=reading.revision,
            read_s=reading.read_s,
            subjects=record.subjects(),
            answer=self._prepare(record, reading.revision),
        )

    def _decide(self, entry: Entry[A], required_scopes: Collection[str], model: str, client_address: str) -> Answer[A]:
        now = self._clock.now()
        verdict = entry.standing.decide(
            required_scopes=required_scopes, model=model, client_address=client_address, now=now
        )
        if verdict is Verdict.VALID:
            self._last_used.note(entry.subjects[0], now)
        return verdict, entry, entry.revision
