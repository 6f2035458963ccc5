"""Checking the invariants of a service: shard by shard, table by table, range by range."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Kind, Refusal
from libs.common.integrity import store
from libs.common.integrity.domain import Check, Finding, Invariant, Key, Progress, Range, Scope, Summary, Walk

FINDINGS_MAX: Final = 1_000
ROWS_MAX: Final = 50_000
PROGRESS_EVERY_S: Final = 1.0
_SHARDS_AT_A_TIME: Final = 2


class CheckFailed(Refusal):
    """A statement of a check failed or took too long, so that nothing can be said about all that is stored."""

    kind = Kind.ABORTED
    reason = "CHECK_FAILED"
    template = "The check of {invariants} in {shard}, {range}, did not finish: {cause}"


class Verification:
    """Checks the invariants of one service, in all of its shards."""

    def __init__(
        self, shards: Sequence[Database], clock: Clock, walks: Sequence[Walk], rows_max: int = ROWS_MAX
    ) -> None:
        self._shards = shards
        self._clock = clock
        self._walks = walks
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
        shards = iter(self._shards)
        workers = {asyncio.create_task(self._check(run, shards)) for _ in self._shards[:_SHARDS_AT_A_TIME]}
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

    async def _check(self, run: "_Run", shards: Iterator[Database]) -> None:
        for shard in shards:
            for walk in self._walks:
                await self._walk(run, shard, walk)

    async def _walk(self, run: "_Run", shard: Database, walk: Walk) -> None:
        """Check one range after the other. Each has a snapshot of its own, which ends with the range."""
        after: Key | None = None
        examined, estimate = 0, None
        more = True
        while more:
            try:
                async with shard.snapshot() as tx:
                    await store.prepare(tx)
                    if estimate is None:
                        whole = run.scope.organization_id is None and run.scope.since_time is None
                        estimate = await store.estimate_rows(tx, walk) if whole else 0
                    until = None
                    if walk.key:
                        until = await store.find_bound(tx, walk, run.scope, after, self._rows_max)
                    range_ = Range(after, until)
                    rows = self._rows_max if until and not walk.bound else await store.count_rows(tx, walk, run.scope, range_)
                    findings = await store.find_violations(tx, walk, run.scope, range_, FINDINGS_MAX + 1)
            except Refusal as refusal:
                raise _failure(walk, shard, after, refusal) from refusal
            except Exception as error:
                error.add_note(_failure(walk, shard, after, error).message)
                raise
            examined += rows
            run.note(walk, rows, findings, Progress(walk.name, examined, estimate))
            after, more = until, until is not None


def _failure(walk: Walk, shard: Database, after: Key | None, cause: Exception) -> CheckFailed:
    names = ", ".join(invariant.name for invariant in walk.invariants)
    where = f"from the beginning of {walk.table}" if after is None else f"{walk.table} after {'/'.join(map(str, after))}"
    return CheckFailed(invariants=names, shard=shard.schema, range=where, cause=str(cause))


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

    def note(self, walk: Walk, rows: int, findings: Sequence[Finding], progress: Progress) -> None:
        self.progress = progress
        for invariant in walk.invariants:
            self._tallies[invariant.name].rows_examined += rows
        for finding in findings:
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
