"""Passwords: rules for new ones, how they are hashed, and how a hash is compared without slowing down other calls.

Hashing is expensive by design, and every sign-in needs one hash. It runs in threads of its own with the lowest priority
and a bounded queue: a flood of sign-ins delays or refuses sign-ins, and no other calls.
"""

import asyncio
import os
import sys
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from libs.common.errors import Overloaded

_log = structlog.get_logger("passwords")

# OWASP and ASVS recommend 46 MiB for a single pass. On two cores of a small cloud server one hash takes 37 ms and two
# threads make 48 a second, so that 20 sign-ins a second use less than half of the machine. The accepted minimum, 19 MiB
# in two passes, takes 15 ms but lets an attacker's graphics card run 2.4 times as fast; 64 MiB takes 52 ms and leaves
# hardly any headroom above 20 sign-ins a second.
MEMORY_KIB: Final = 46 * 1024
PASSES: Final = 1
LANES: Final = 1
# Two threads process this many in about a second, the longest anybody should wait for a sign-in.
WAITING_MAX: Final = 40

LENGTH_MIN: Final = 12
LENGTH_MIN_FLOOR: Final = 8
LENGTH_MAX: Final = 128
_SALT_BYTES: Final = 16
_TAG_BYTES: Final = 32
_LOWEST_PRIORITY: Final = 19
_WORD_MIN: Final = 4
_DISTINCT_MIN: Final = 5
_PADDING_MAX: Final = 3
_DIGITS_IN_A_ROW: Final = "0123456789" * 13

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of comparing a password with a stored hash."""

    right: bool
    outdated: bool
    """The hash was made with older parameters: hash the password again while it is available."""


class Passwords:
    """Hashes passwords with argon2id and compares them, away from the event loop."""

    def __init__(
        self,
        *,
        threads: int | None = None,
        queue_max: int = WAITING_MAX,
        memory_kib: int = MEMORY_KIB,
        passes: int = PASSES,
        lanes: int = LANES,
    ) -> None:
        threads = threads or os.cpu_count() or 1
        self._hasher = PasswordHasher(
            time_cost=passes,
            memory_cost=memory_kib,
            parallelism=lanes,
            hash_len=_TAG_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )
        self._dummy_hash = _new_dummy_hash(memory_kib, passes, lanes)
        self._places = threading.Semaphore(threads + queue_max)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="passwords", initializer=_lower_priority)

    async def hash(self, password: str) -> str:
        """Return the hash to store for the password.

        Raises:
            Overloaded: as many hashes wait as may.
        """
        normal = normalise(password)
        return await self._run(lambda: self._hasher.hash(normal))

    async def verify(self, stored: str | None, password: str) -> Verification:
        """Compare a password with a stored hash.

        Without a stored hash (no such user, or no password) the same work is done and the password is wrong, so that
        the time of the answer does not reveal which users exist.

        Raises:
            Overloaded: as many hashes wait as may.
        """
        normal = normalise(password)
        return await self._run(lambda: self._compare(stored, normal))

    async def close(self) -> None:
        """Drop the queued work, and return when no hash is running."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)

    def _compare(self, stored: str | None, normal: str) -> Verification:
        try:
            self._hasher.verify(stored or self._dummy_hash, normal)
        except VerifyMismatchError:
            return Verification(right=False, outdated=False)
        except (InvalidHashError, VerificationError):
            _log.error("a stored password hash is malformed; its user cannot sign in with the password")
            return Verification(right=False, outdated=False)
        return Verification(right=True, outdated=self._hasher.check_needs_rehash(stored or self._dummy_hash))

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Overloaded
        try:
            running = self._executor.submit(work)
        except BaseException:
            self._places.release()
            raise
        running.add_done_callback(self._leave)
        # A caller who gives up while queued frees their place; a hash that is running is finished.
        return await asyncio.wrap_future(running)

    def _leave(self, _: Future[T]) -> None:
        self._places.release()


def normalise(password: str) -> str:
    """Return the form that is hashed, so that the same password from another keyboard or system matches."""
    return unicodedata.normalize("NFKC", password)


def password_problem(password: str, *, user_words: Collection[str], length_min: int = LENGTH_MIN) -> str | None:
    """Return what is wrong with a new password, or None. There is no rule about kinds of characters.

    Args:
        password: What the user wants.
        user_words: What anybody can know of the user, such as the part of the email before the `@`.
        length_min: The smallest number of characters; never taken as less than eight.
    """
    normal = normalise(password)
    length_min = max(length_min, LENGTH_MIN_FLOOR)
    if len(normal) < length_min:
        return f"must have at least {length_min} characters"
    if len(normal) > LENGTH_MAX:
        return f"must have at most {LENGTH_MAX} characters"
    folded = _fold(password)
    if _is_common(folded):
        return "is too common: it is among the first an attacker tries"
    words = (_fold(word) for word in user_words)
    if any(word in folded for word in words if len(word) >= _WORD_MIN):
        return "must not contain the username or the name in the email"
    return None


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", normalise(text).casefold())


_COMMON: Final = frozenset(_fold(password) for password in FREQUENCY_LISTS["passwords"])


def _is_common(folded: str) -> bool:
    """Return whether it is a common password, one padded with digits and signs, or made of very few different
    characters."""
    first = next((at for at, character in enumerate(folded) if character.isalpha()), len(folded))
    last = next((at for at, character in enumerate(reversed(folded)) if character.isalpha()), len(folded))
    bare = folded[first : len(folded) - last]
    return (
        folded in _COMMON
        or (bare in _COMMON and len(bare) * _PADDING_MAX >= len(folded))
        or len(set(folded)) < _DISTINCT_MIN
        or folded in _DIGITS_IN_A_ROW
        or folded[::-1] in _DIGITS_IN_A_ROW
    )


def _new_dummy_hash(memory_kib: int, passes: int, lanes: int) -> str:
    """Return a hash that no password matches, and that costs as much to compare as any other."""
    salt, tag = (b64encode(os.urandom(size)).decode().rstrip("=") for size in (_SALT_BYTES, _TAG_BYTES))
    return f"$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${tag}"


def _lower_priority() -> None:
    """Give this thread the lowest priority. Only Linux has priorities of single threads."""
    if sys.platform != "linux":
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    except OSError:
        _log.warning("the priority of password hashing could not be lowered")
