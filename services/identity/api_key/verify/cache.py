"""What one process remembers about keys, and how it stops believing it.

An entry is immutable and true at the revision it was read at. It may be used while nothing newer is known about its
key, owner, project or organization (the fence), and while somebody has lately made sure that nothing newer exists:
either the entry was just read, or the feed of changes has just caught up. So entries of quiet keys stay warm for long,
and yet none is believed for more than `STALE_MAX_S` after the feed falls silent.

The fence is asked on the way in and on the way out: a read that was overtaken by a change is never put back.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.identity.api_key.domain import Standing
from services.identity.revisions import Change, ChangeKind, SubjectType

STALE_MAX_S: Final = 5.0
"""How long a key may still be believed when no news of changes arrives."""
MISSING_MAX_S: Final = 2.0
"""How long a secret nobody has is known to be unknown."""
ENTRY_AGE_MAX_S: Final = 600.0
"""Entries are read anew after this, whatever the feed says."""
_FENCE_KEPT_S: Final = ENTRY_AGE_MAX_S + 60
_FENCES_MAX: Final = 50_000
_MISSING_ENTRIES_MAX: Final = 20_000
_MAKE_NEW_KEYS: Final = frozenset({ChangeKind.CREATED, ChangeKind.IMPORTED})
"""Changes that concern no key there was before."""

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Entry(Generic[A]):
    """A key as it was at a revision, with the answer for whenever it is valid. `subjects` begins with the key's id."""

    digest: bytes
    standing: Standing
    revision: int
    read_s: float
    subjects: tuple[str, ...]
    answer: A
    stale: bool = False
    """Whether it is given beyond its time, because nothing newer can be read."""


@dataclass(frozen=True, slots=True)
class _Missing:
    revision: int
    read_s: float


class KeyCache(Generic[A]):
    """Bounded memory of keys by their whole digest, least recently used out first."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[bytes, Entry[A]] = OrderedDict()
        self._missing: OrderedDict[bytes, _Missing] = OrderedDict()
        self._fences: dict[str, int] = {}
        self._fence_log: deque[tuple[float, str, int]] = deque()
        self._floor = 0
        self._seen_revision = 0
        self._confirmed_s = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def seen_revision(self) -> int:
        """Every change up to here has been noted."""
        return self._seen_revision

    def find(self, digest: bytes, *, now_s: float, min_revision: int) -> Entry[A] | None:
        """Return the entry if it may still be believed, at `min_revision` or later."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if now_s - entry.read_s > STALE_MAX_S and (
            now_s - self._confirmed_s > STALE_MAX_S or now_s - entry.read_s > ENTRY_AGE_MAX_S
        ):
            return None
        if self.overtaken(entry):
            del self._entries[digest]
            return None
        # Nothing up to the seen revision concerns an entry that is not fenced, so it is as good as read there.
        if min_revision > entry.revision and min_revision > self._seen_revision:
            return None
        self._entries.move_to_end(digest)
        return entry

    def find_stale(self, digest: bytes, *, now_s: float, beyond_s: float) -> Entry[A] | None:
        """Return an entry that could be believed until lately and that no change is known to concern."""
        entry = self._entries.get(digest)
        if entry is None or self.overtaken(entry):
            return None
        confirmed_s = min(self._confirmed_s, entry.read_s + ENTRY_AGE_MAX_S - STALE_MAX_S)
        return entry if now_s - max(entry.read_s, confirmed_s) <= STALE_MAX_S + beyond_s else None

    def knows_missing(self, digest: bytes, *, now_s: float, min_revision: int) -> int | None:
        """Return the revision at which nobody had the secret, if that may still be believed."""
        missing = self._missing.get(digest)
        if missing is None or now_s - missing.read_s > MISSING_MAX_S or missing.revision < min_revision:
            return None
        return missing.revision

    def overtaken(self, entry: Entry[A]) -> bool:
        """Tell whether a change newer than the entry concerns it."""
        if entry.revision < self._floor:
            return True
        fences = self._fences
        return bool(fences) and any(fences.get(subject, 0) > entry.revision for subject in entry.subjects)

    def remember(self, entry: Entry[A]) -> bool:
        """Keep an entry, unless a change has overtaken its read; tell which."""
        if self.overtaken(entry):
            return False
        self._missing.pop(entry.digest, None)
        self._entries[entry.digest] = entry
        self._entries.move_to_end(entry.digest)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return True

    def remember_missing(self, digest: bytes, *, revision: int, read_s: float) -> None:
        """Keep for a short while that nobody has the secret. A flood of these never pushes out real keys."""
        self._missing[digest] = _Missing(revision, read_s)
        self._missing.move_to_end(digest)
        if len(self._missing) > _MISSING_ENTRIES_MAX:
            self._missing.popitem(last=False)

    def note(self, changes: Iterable[Change], *, seen_revision: int, confirmed_s: float) -> None:
        """Take in the changes up to a revision; as of `confirmed_s` there were no others."""
        for change in changes:
            # A secret that was just made up by chance is no entry yet.
            if change.kind in _MAKE_NEW_KEYS:
                continue
            self._fence(change.subject_id, change.revision, confirmed_s)
            if change.subject_type is SubjectType.PROJECT and change.organization_id is not None:
                # Its members may have held scopes through it, for keys that are bound to no project.
                self._fence(change.organization_id, change.revision, confirmed_s)
        self._seen_revision = seen_revision
        self._confirmed_s = confirmed_s
        self._drop_old_fences(confirmed_s)
        if len(self._fences) > _FENCES_MAX:
            self.forget_all(seen_revision=seen_revision, confirmed_s=confirmed_s)

    def _fence(self, subject_id: str, revision: int, confirmed_s: float) -> None:
        self._fences[subject_id] = revision
        self._fence_log.append((confirmed_s, subject_id, revision))

    def forget_all(self, *, seen_revision: int, confirmed_s: float) -> None:
        """Believe nothing read before this revision: changes up to it were not told one by one."""
        self._entries.clear()
        self._missing.clear()
        self._fences.clear()
        self._fence_log.clear()
        self._floor = self._seen_revision = seen_revision
        self._confirmed_s = confirmed_s

    def _drop_old_fences(self, now_s: float) -> None:
        while self._fence_log and now_s - self._fence_log[0][0] > _FENCE_KEPT_S:
            _, subject, revision = self._fence_log.popleft()
            if self._fences.get(subject) == revision:
                del self._fences[subject]
