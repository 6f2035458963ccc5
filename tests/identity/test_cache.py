"""The key cache of a process: interleavings and time limits that cannot be tested through the API."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from libs.common.ids import new_id
from services.identity.api_key.domain import Environment, KeyRecord, standing_of
from services.identity.api_key.verify import cache as cache_module
from services.identity.api_key.verify.cache import ENTRY_AGE_MAX_S, MISSING_MAX_S, STALE_MAX_S, Entry, KeyCache
from services.identity.revisions import Change, ChangeKind, SubjectType

DIGEST = bytes(range(32))


def _record(*, revoked: bool = False) -> KeyRecord:
    return KeyRecord(
        organization_id="organization",
        api_key_id="key",
        project_id="project",
        user_id="user",
        service_account_id=None,
        environment=Environment.LIVE,
        scopes=(),
        allowed_models=(),
        allowed_addresses=(),
        metadata={},
        external_id="",
        expire_time=None,
        disabled=False,
        revoked=revoked,
        owner_active=True,
        subscription_id=None,
    )


def _entry(revision: int, *, read_s: float = 0, revoked: bool = False, digest: bytes = DIGEST) -> Entry[str]:
    record = _record(revoked=revoked)
    return Entry(digest, standing_of(record), revision, read_s, record.subjects(), "answer")


def _change(revision: int, subject_id: str = "key", kind: ChangeKind = ChangeKind.REVOKED) -> Change:
    return Change(revision, kind, SubjectType.API_KEY, subject_id, "organization", datetime(2026, 1, 1, tzinfo=UTC))


class _Interleaving:
    """A read that pauses after it has read the key as not revoked, and continues after the revocation was pushed."""

    def __init__(self, cache: KeyCache[str]) -> None:
        self._cache = cache
        self._read_done, self._pushed = asyncio.Event(), asyncio.Event()

    async def read(self) -> None:
        entry = _entry(10)
        self._read_done.set()
        await self._pushed.wait()
        self._cache.remember(entry)

    async def revoke(self) -> None:
        await self._read_done.wait()
        self._cache.note([_change(11)], seen_revision=11, confirmed_s=0)
        self._pushed.set()

    async def run(self) -> Entry[str] | None:
        await asyncio.gather(self.read(), self.revoke())
        return self._cache.find(DIGEST, now_s=1, min_revision=0)


async def test_read_overtaken_by_a_revocation_is_never_written_back() -> None:
    assert await _Interleaving(KeyCache(10)).run() is None


class _UnfencedCache(KeyCache[str]):
    def overtaken(self, entry: Entry[str]) -> bool:
        return False


async def test_without_the_fence_the_same_interleaving_would_serve_the_revoked_key() -> None:
    stale = await _Interleaving(_UnfencedCache(10)).run()

    assert stale is not None
    assert not stale.standing.revoked


@pytest.mark.parametrize("subject", ["key", "user", "project", "organization"])
def test_change_of_anything_behind_a_key_evicts_it(subject: str) -> None:
    cache: KeyCache[str] = KeyCache(10)
    assert cache.remember(_entry(10))
    cache.note([_change(11, subject)], seen_revision=11, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=0) is None
    assert not cache.remember(_entry(10))
    assert cache.remember(_entry(11))
    assert cache.find(DIGEST, now_s=0, min_revision=0) is not None


def test_change_of_something_else_leaves_a_key_warm_at_the_new_revision() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10))
    assert cache.find(DIGEST, now_s=0, min_revision=11) is None
    cache.note([_change(11, "another key")], seen_revision=11, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=11) is not None


def test_nothing_is_believed_after_the_feed_falls_silent() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10, read_s=0))
    assert cache.find(DIGEST, now_s=STALE_MAX_S, min_revision=0) is not None
    assert cache.find(DIGEST, now_s=STALE_MAX_S + 0.1, min_revision=0) is None
    cache.note([], seen_revision=10, confirmed_s=100)
    assert cache.find(DIGEST, now_s=100 + STALE_MAX_S, min_revision=0) is not None
    assert cache.find(DIGEST, now_s=100 + STALE_MAX_S + 0.1, min_revision=0) is None
    cache.note([], seen_revision=10, confirmed_s=ENTRY_AGE_MAX_S + 1)
    assert cache.find(DIGEST, now_s=ENTRY_AGE_MAX_S + 1, min_revision=0) is None


def test_unknown_secret_is_remembered_briefly_and_not_for_a_later_revision() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember_missing(DIGEST, revision=10, read_s=0)
    assert cache.knows_missing(DIGEST, now_s=MISSING_MAX_S, min_revision=10) == 10
    assert cache.knows_missing(DIGEST, now_s=MISSING_MAX_S + 0.1, min_revision=0) is None
    assert cache.knows_missing(DIGEST, now_s=0, min_revision=11) is None


def test_lost_changes_drop_everything_and_bar_older_reads() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10))
    cache.forget_all(seen_revision=50, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=0) is None
    assert not cache.remember(_entry(49))
    assert cache.remember(_entry(50))


def test_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    cache: KeyCache[str] = KeyCache(3)
    digests: Sequence[bytes] = [bytes([n]) * 32 for n in range(4)]
    for digest in digests[:3]:
        cache.remember(_entry(10, digest=digest))
    cache.find(digests[0], now_s=0, min_revision=0)
    cache.remember(_entry(10, digest=digests[3]))

    assert len(cache) == 3
    assert cache.find(digests[0], now_s=0, min_revision=0) is not None
    assert cache.find(digests[1], now_s=0, min_revision=0) is None


def test_more_changes_than_can_be_remembered_drop_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_FENCES_MAX", 100)
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10))
    cache.note([_change(11 + n, new_id()) for n in range(101)], seen_revision=111, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=0) is None
    assert not cache.remember(_entry(110))


def test_change_of_a_project_concerns_the_keys_of_those_who_worked_in_it() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for organization_id, revision in (("elsewhere", 11), ("organization", 12)):
        change = Change(
            revision, ChangeKind.PROJECT_DELETED, SubjectType.PROJECT, "another project", organization_id, moment
        )
        assert cache.find(DIGEST, now_s=0, min_revision=0) is not None
        cache.note([change], seen_revision=revision, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=0) is None


@pytest.mark.parametrize("kind", [ChangeKind.CREATED, ChangeKind.IMPORTED])
def test_keys_that_are_new_drop_none_that_are_known(kind: ChangeKind) -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10))
    cache.note([_change(11, "organization", kind)], seen_revision=11, confirmed_s=0)

    assert cache.find(DIGEST, now_s=0, min_revision=11) is not None


def test_stale_entry_is_found_for_so_long_and_never_once_a_change_has_named_it() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10, read_s=0))
    cache.note([], seen_revision=10, confirmed_s=100)
    last_s = 100 + STALE_MAX_S + 7

    assert cache.find(DIGEST, now_s=last_s, min_revision=0) is None
    assert cache.find_stale(DIGEST, now_s=last_s, beyond_s=7) is not None
    assert cache.find_stale(DIGEST, now_s=last_s + 0.1, beyond_s=7) is None
    cache.note([_change(11)], seen_revision=11, confirmed_s=100)
    assert cache.find_stale(DIGEST, now_s=100, beyond_s=7) is None


def test_stale_entry_grows_no_older_than_entries_may_and_the_time_beyond() -> None:
    cache: KeyCache[str] = KeyCache(10)
    cache.remember(_entry(10, read_s=0))
    cache.note([], seen_revision=10, confirmed_s=ENTRY_AGE_MAX_S)

    assert cache.find_stale(DIGEST, now_s=ENTRY_AGE_MAX_S + 7, beyond_s=7) is not None
    assert cache.find_stale(DIGEST, now_s=ENTRY_AGE_MAX_S + 7.1, beyond_s=7) is None
