"""Checking the invariants of a service: shard by shard, table by table, range by range."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import DeadlineExceeded, Kind, Refusal, Unavailable
from libs.common.integrity import store
from libs.common.integrity.domain import Check, Finding, Invariant, Key, Progress, Range, Scope, Summary, Walk
from libs.common.sharding import PLATFORM
from libs.common.shards import Shards

_T = TypeVar("_T")

FINDINGS_MAX: Final = 1_000
ROWS_MAX: Final = 50_000
_ROWS_MIN: Final = 500
_ROWS_DIVISOR: Final = 5
"""By how much a range becomes smaller when it could not be read within the time of a statement."""
PROGRESS_EVERY_S: Final = 1.0
_WALKS_AT_A_TIME: Final = 2
_FOUND_MAX: Final = FINDINGS_MAX + 1
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Part:
    """A schema, and what is to be checked in it."""

    database: Database
    walks: Sequence[Walk]


class CheckFailed(Refusal):
    """A statement of a check failed or took too long, so that nothing can be said about all that is stored."""

    kind = Kind.ABORTED
    reason = "CHECK_FAILED"
    template = "The check of {invariants} over the rows of {table} {range} did not finish: {cause}"


class Verification:
    """Checks the invariants of one service, in all of its shards."""

    def __init__(
        self,
        shards: Shards,
        clock: Clock,
        walks: Sequence[Walk],
        platform: Part | None = None,
        *,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Check `walks` in each of the shards, and `platform`, a schema beside them.

        `rows_max` is how many rows one statement reads of the table that is walked.
        """
        self._shards = shards
        self._clock = clock
        self._walks = walks
        self._platform = platform
        self._rows_max = rows_max

    async def verify(
        self, organization_id: str | None = None, since_time: datetime | None = None
    ) -> AsyncIterator[Finding | Progress | Summary]:
        """Yield violations as they are found, at most `FINDINGS_MAX` per invariant, and at the end the summary.

        While it runs it yields how far it is, every second.

        Raises:
            CheckFailed: a statement failed; what was not checked by then has not been checked.
        """
        run = _Run(Scope(self._clock.now(), organization_id, since_time), self._walks)
        walks = iter([(part.database, walk) for part in self._parts(organization_id) for walk in part.walks])
        workers = {asyncio.create_task(self._check(run, walks)) for _ in range(_WALKS_AT_A_TIME)}
        try:
            while workers:
                done, workers = await asyncio.wait(
                    workers, timeout=PROGRESS_EVERY_S, return_when=asyncio.FIRST_COMPLETED
                )
                for finding in run.take_findings():
                    yield finding
                for worker in done:
                    worker.result()
                if workers and run.progress is not None:
                    yield run.progress
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        yield run.summary()

    def _parts(self, organization_id: str | None) -> list[Part]:
        """Return what is to be checked, of one organization or of all."""
        platform = [] if self._platform is None else [self._platform]
        if organization_id is None:
            return [*platform, *(Part(shard, self._walks) for shard in self._shards)]
        if organization_id == PLATFORM and platform:
            return platform
        return [Part(self._shards.of(organization_id), self._walks)]

    async def _check(self, run: "_Run", walks: Iterator[tuple[Database, Walk]]) -> None:
        """Take the next walk again and again; several of these share the walks of all shards."""
        for database, walk in walks:
            await self._walk(run, database, walk)

    async def _walk(self, run: "_Run", database: Database, walk: Walk) -> None:
        """Check one range after the other."""
        after: Key | None = None
        examined, estimate, more = 0, 0, True
        if run.scope.is_everything:
            estimate = await _tried(lambda: _estimate(database, walk), walk, database, None)
        rows = self._rows_max
        while more:
            read = partial(self._read, run.scope, database, walk, after, rows)
            try:
                piece = await _tried(read, walk, database, after)
            except CheckFailed as failed:
                if not isinstance(failed.__cause__, DeadlineExceeded) or rows <= _ROWS_MIN:
                    raise
                rows = max(rows // _ROWS_DIVISOR, _ROWS_MIN)
                continue
            examined += piece.rows
            run.note(walk, piece, Progress(walk.table, examined, estimate))
            after, more = piece.until, piece.until is not None

    async def _read(self, scope: Scope, database: Database, walk: Walk, after: Key | None, rows_max: int) -> "_Piece":
        """Check the next range, of at most `rows_max` rows, in a snapshot that ends with it."""
        async with database.snapshot() as tx:
            await store.prepare(tx, walk)
            if not walk.key:
                return _Piece(None, 0, await store.find_violations(tx, walk, scope, Range(None, None), _FOUND_MAX))
            until = await store.find_bound(tx, walk, scope, after, rows_max)
            range_ = Range(after, until)
            rows = rows_max
            if until is None or walk.bound:
                rows = await store.count_rows(tx, walk, scope, range_)
            return _Piece(until, rows, await store.find_violations(tx, walk, scope, range_, _FOUND_MAX))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One range that was checked; `until` is None if it was the last."""

    until: Key | None
    rows: int
    findings: Sequence[Finding]


async def _estimate(database: Database, walk: Walk) -> int:
    async with database.snapshot() as tx:
        return await store.estimate_rows(tx, walk)


async def _tried(read: Callable[[], Awaitable[_T]], walk: Walk, database: Database, after: Key | None) -> _T:
    """Read, and read again for a while if the database or a free connection cannot be had.

    Raises:
        CheckFailed: it did not work; says which invariants and which rows are concerned.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            return await read()
        except Unavailable as refusal:
            if pause_s is None:
                raise _failure(walk, database, after, refusal) from refusal
            await asyncio.sleep(pause_s)
        except Refusal as refusal:
            raise _failure(walk, database, after, refusal) from refusal
        except Exception as error:
            error.add_note(_failure(walk, database, after, error).message)
            raise
    raise AssertionError("the last pause is None")


def _failure(walk: Walk, database: Database, after: Key | None, cause: Exception) -> CheckFailed:
    names = ", ".join(invariant.name for invariant in walk.invariants)
    where = "from the first on" if after is None else f"from {'/'.join(map(str, after))} on"
    return CheckFailed(invariants=names, table=f"{database.schema}.{walk.table}", range=where, cause=str(cause))


@dataclass(slots=True)
class _Tally:
    """What has been found about one invariant. A violation that several ranges find counts once."""

    invariant: Invariant
    rows_examined: int = 0
    findings: set[Finding] = field(default_factory=set)
    more_findings: bool = False


class _Run:
    """What all walks of one verification have found so far."""

    def __init__(self, scope: Scope, walks: Sequence[Walk]) -> None:
        self.scope = scope
        self.progress: Progress | None = None
        self._tallies = {one.name: _Tally(one) for walk in walks for one in walk.invariants}
        self._untold: list[Finding] = []

    def note(self, walk: Walk, piece: _Piece, progress: Progress) -> None:
        self.progress = progress
        for invariant in walk.invariants:
            self._tallies[invariant.name].rows_examined += piece.rows
        for finding in piece.findings:
            tally = self._tallies[finding.invariant]
            if finding in tally.findings:
                continue
            if len(tally.findings) >= FINDINGS_MAX:
                tally.more_findings = True
                continue
            tally.findings.add(finding)
            self._untold.append(finding)

    def take_findings(self) -> list[Finding]:
        untold, self._untold = self._untold, []
        return untold

    def summary(self) -> Summary:
        checks = [
            Check(
                tally.invariant.name,
                tally.invariant.description,
                tally.rows_examined,
                len(tally.findings),
                tally.more_findings,
            )
            for tally in self._tallies.values()
        ]
        return Summary(tuple(checks), self.scope.now)
