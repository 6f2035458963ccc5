"""The cache of keys in one process, and when its entries become invalid.

An entry is immutable and reflects the revision it was read at. It may be used while two things hold: no later change of
its key, owner, project or organization is known (the fence), and it is recent enough: it was just read, or the change
feed has lately caught up. So entries of keys that do not change stay valid for long, and none is used for more than
`STALE_MAX_S` after the feed stops.

The fence is checked when an entry is stored as well as when it is used: a read during which the key changed is not
cached.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.identity.api_key.domain import Standing
from services.identity.revisions import Change, ChangeKind, SubjectType

STALE_MAX_S: Final = 5.0
"""How long an entry may be used while the change feed delivers nothing."""
MISSING_MAX_S: Final = 2.0
"""How long it is cached that no key has a secret."""
ENTRY_AGE_MAX_S: Final = 600.0
"""The age at which entries are read again, whatever the feed says."""
_FENCE_KEPT_S: Final = ENTRY_AGE_MAX_S + 60
_FENCES_MAX: Final = 50_000
_MISSING_ENTRIES_MAX: Final = 20_000
_MAKE_NEW_KEYS: Final = frozenset({ChangeKind.CREATED, ChangeKind.IMPORTED})
"""Kinds of changes that cannot concern a cached key."""

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Entry(Generic[A]):
    """A key at one revision, with the answer for when it is valid.

    The first of `subjects` is the key's id, the last its organization's.
    """

    digest: bytes
    standing: Standing
    revision: int
    read_s: float
    subjects: tuple[str, ...]
    answer: A
    stale: bool = False
    """Whether the entry is used beyond its age limit, because the database cannot be read."""

    @property
    def organization_id(self) -> str:
        return self.subjects[-1]


@dataclass(frozen=True, slots=True)
class _Missing:
    revision: int
    read_s: float


class KeyCache(Generic[A]):
    """An LRU cache of keys by the digest of the whole key, with a bounded number of entries."""

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
        """The feed has delivered every change up to this revision."""
        return self._seen_revision

    def find(self, digest: bytes, *, now_s: float, min_revision: int) -> Entry[A] | None:
        """Return the entry if it is valid and reflects at least `min_revision`."""
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
        # No change up to the seen revision concerns an entry that is not fenced, so it counts as read at that revision.
        if min_revision > entry.revision and min_revision > self._seen_revision:
            return None
        self._entries.move_to_end(digest)
        return entry

    def find_stale(self, digest: bytes, *, now_s: float, beyond_s: float) -> Entry[A] | None:
        """Return an entry that exceeded its age limit by at most `beyond_s`, if no change of it is known."""
        entry = self._entries.get(digest)
        if entry is None or self.overtaken(entry):
            return None
        confirmed_s = min(self._confirmed_s, entry.read_s + ENTRY_AGE_MAX_S - STALE_MAX_S)
        return entry if now_s - max(entry.read_s, confirmed_s) <= STALE_MAX_S + beyond_s else None

    def knows_missing(self, digest: bytes, *, now_s: float, min_revision: int) -> int | None:
        """Return the revision at which no key had the secret, if that was read recently enough."""
        missing = self._missing.get(digest)
        if missing is None or now_s - missing.read_s > MISSING_MAX_S or missing.revision < min_revision:
            return None
        return missing.revision

    def overtaken(self, entry: Entry[A]) -> bool:
        """Return whether a change after the entry's revision concerns it."""
        if entry.revision < self._floor:
            return True
        fences = self._fences
        return bool(fences) and any(fences.get(subject, 0) > entry.revision for subject in entry.subjects)

    def remember(self, entry: Entry[A]) -> bool:
        """Store an entry and return True, unless a later change concerns it."""
        if self.overtaken(entry):
            return False
        self._missing.pop(entry.digest, None)
        self._entries[entry.digest] = entry
        self._entries.move_to_end(entry.digest)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return True

    def remember_missing(self, digest: bytes, *, revision: int, read_s: float) -> None:
        """Cache for a short time that no key has the secret. These have a limit of their own and never evict keys."""
        self._missing[digest] = _Missing(revision, read_s)
        self._missing.move_to_end(digest)
        if len(self._missing) > _MISSING_ENTRIES_MAX:
            self._missing.popitem(last=False)

    def note(self, changes: Iterable[Change], *, seen_revision: int, confirmed_s: float) -> None:
        """Apply the changes up to a revision; at `confirmed_s` there were no later ones."""
        for change in changes:
            # A new secret cannot have been cached as a key before.
            if change.kind in _MAKE_NEW_KEYS:
                continue
            self._fence(change.subject_id, change.revision, confirmed_s)
            if change.subject_type is SubjectType.PROJECT and change.organization_id is not None:
                # Owners may have held scopes through this project for keys that are bound to no project.
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
        """Drop everything that was read before this revision, because the changes up to it were not delivered one by
        one."""
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
