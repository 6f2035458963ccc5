"""Reads keys that are not cached; concurrent callers share one statement.

A caller only joins a read that has not started, so the answer is never older than its own call.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from libs.common.database import Database
from libs.common.errors import Overloaded, Unavailable
from services.identity.api_key.domain import KeyRecord
from services.identity.api_key.verify.store import read_keys

_BATCH_MAX: Final = 256
_WAITING_MAX: Final = 4_096
READS_AT_ONCE: Final = 2
"""The number of connections that reads use at most."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one snapshot holds of a presented secret; `read_s` is a time before the snapshot."""

    revision: int
    read_s: float
    record: KeyRecord | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    digests: tuple[bytes, ...]
    answer: asyncio.Future[Reading]


class KeyReader:
    """Batched reads with bounded queues; concurrent reads of the same key are merged."""

    def __init__(self, database: Database, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic_s = monotonic_s
        self._waiting: dict[bytes, _Waiting] = {}
        self._readers: set[asyncio.Task[None]] = set()

    async def read(self, digests: tuple[bytes, ...]) -> Reading:
        """Read the key stored under the first digest, or under one of the others, which older peppers gave.

        Raises:
            Overloaded: too many different secrets are waited for.
            Unavailable: the database does not answer.
        """
        waiting = self._waiting.get(digests[0])
        if waiting is None:
            if len(self._waiting) >= _WAITING_MAX:
                raise Overloaded
            waiting = self._waiting[digests[0]] = _Waiting(digests, asyncio.get_running_loop().create_future())
            if len(self._readers) < READS_AT_ONCE:
                reader = asyncio.create_task(self._read_waiting())
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
        # Other callers may wait for the same read, so one caller's cancellation must not cancel it.
        return await asyncio.shield(waiting.answer)

    async def close(self) -> None:
        """Wait for the reads that are running."""
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.pop(digest) for digest in list(self._waiting)[:_BATCH_MAX]]
            try:
                await self._read_batch(batch)
            except BaseException as error:
                _fail(batch, error)
                if not isinstance(error, Exception):
                    raise

    async def _read_batch(self, batch: list[_Waiting]) -> None:
        """Read a batch in one statement; where that fails, in halves, so that only the odd key's callers fail.

        If the database does not answer at all, the batch is not split: no key is the cause.

        Raises:
            Unavailable: the database does not answer.
        """
        read_s = self._monotonic_s()
        try:
            revision, found = await read_keys(
                self._database, [digest for waiting in batch for digest in waiting.digests]
            )
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever one key causes must not reach the callers of the others.
            if len(batch) == 1:
                _fail(batch, error)
                return
            middle = len(batch) // 2
            await self._read_batch(batch[:middle])
            await self._read_batch(batch[middle:])
            return
        for waiting in batch:
            records = (found[digest] for digest in waiting.digests if digest in found)
            waiting.answer.set_result(Reading(revision, read_s, next(records, None)))


def _fail(batch: list[_Waiting], error: BaseException) -> None:
    for waiting in batch:
        if waiting.answer.done():
            continue
        if isinstance(error, Exception):
            waiting.answer.set_exception(error)
            waiting.answer.exception()  # Marks the error as seen, in case the caller has gone.
        else:
            waiting.answer.cancel()
