"""Checking the invariants of a service: shard by shard, table by table, range by range."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.integrity.differences import Differences
from libs.common.integrity.domain import (
    Check,
    Checked,
    Finding,
    Invariant,
    Pairing,
    Progress,
    Scope,
    Summary,
    Sweep,
    Walk,
)
from libs.common.integrity.reading import FINDINGS_MAX, ROWS_MAX, Piece, Reading
from libs.common.sharding import PLATFORM
from libs.common.shards import Shards

PROGRESS_EVERY_S: Final = 1.0
_CHECKS_AT_A_TIME: Final = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A schema, and what is to be checked in it."""

    database: Database
    checks: Sequence[Check]


class Verification:
    """Checks the invariants of one service, in all of its shards."""

    def __init__(
        self,
        shards: Shards,
        clock: Clock,
        checks: Sequence[Check],
        platform: Part | None = None,
        *,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """Do `checks` in each of the shards, and `platform`, a schema beside them.

        `rows_max` is how many rows one statement reads of the table that it checks.
        """
        self._shards = shards
        self._clock = clock
        self._checks = checks
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
        every = (*self._checks, *(self._platform.checks if self._platform else ()))
        run = _Run(Scope(self._clock.now(), organization_id, since_time), every)
        checks = iter([entry for part in self._parts(organization_id) for entry in _entries(part)])
        workers = {asyncio.create_task(self._check(run, checks)) for _ in range(_CHECKS_AT_A_TIME)}
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
            return [*platform, *(Part(shard, self._checks) for shard in self._shards)]
        if organization_id == PLATFORM and platform:
            return platform
        return [Part(self._shards.of(organization_id), self._checks)]

    async def _check(self, run: "_Run", checks: "Iterator[tuple[Database, Check | _Look]]") -> None:
        """Take the next check again and again; several of these share the checks of all shards."""
        for database, check in checks:
            if isinstance(check, _Look):
                reading = Reading(database, run.scope, self._rows_max, run.note)
                run.empty[database] = await reading.empty(check.walks)
            elif isinstance(check, Walk) and check.key and check.table in run.empty.get(database, ()):
                continue
            elif isinstance(check, Pairing):
                await self._pair(run, database, check)
            else:
                await self._read(run, database, [check], run.scope)

    async def _pair(self, run: "_Run", database: Database, pairing: Pairing) -> None:
        """Compare the digests of two tables, and then row by row what differs."""
        if run.scope.organization_id is not None:
            await self._read(run, database, pairing.all_sides, run.scope)
            return
        differences = Differences()
        first, second = pairing.sides
        for side, sign in ((first, 1), *((one, 1) for one in pairing.beside_first), (second, -1)):
            await Reading(database, run.scope, self._rows_max, run.note, partial(differences.add, sign)).read(side)
        if not differences.exist():
            return
        tables = [table for side in pairing.all_sides for table in side.tables]
        everything = Reading(database, run.scope, self._rows_max, run.note)
        async for organization_ids in everything.organizations(pairing.sides[0], tables):
            for organization_id in filter(differences.may_be_in, organization_ids):
                scope = replace(run.scope, organization_id=organization_id)
                await self._read(run, database, pairing.all_sides, scope)

    async def _read(self, run: "_Run", database: Database, checks: Sequence[Walk | Sweep], scope: Scope) -> None:
        for check in checks:
            await Reading(database, scope, self._rows_max, run.note).read(check)


@dataclass(frozen=True, slots=True)
class _Look:
    """Comes before the checks of a schema: finds the tables without rows, so that each need not be asked about."""

    walks: Sequence[Walk]


def _entries(part: Part) -> Iterator[tuple[Database, "Check | _Look"]]:
    walks = [check for check in part.checks if isinstance(check, Walk) and check.key]
    if walks:
        yield part.database, _Look(walks)
    yield from ((part.database, check) for check in part.checks)


@dataclass(slots=True)
class _Tally:
    """What has been found about one invariant. A violation that several ranges find counts once."""

    invariant: Invariant
    rows_examined: int = 0
    findings: set[Finding] = field(default_factory=set)
    more_findings: bool = False


class _Run:
    """What all checks of one verification have found so far."""

    def __init__(self, scope: Scope, checks: Sequence[Check]) -> None:
        self.scope = scope
        self.progress: Progress | None = None
        self.empty: dict[Database, frozenset[str]] = {}
        """The tables of schemas that are known to have no rows."""
        self._tallies = {one.name: _Tally(one) for check in checks for one in check.invariants}
        self._untold: list[Finding] = []

    def note(self, check: Walk | Sweep, piece: Piece, progress: Progress) -> None:
        self.progress = progress
        for invariant in check.invariants:
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
            Checked(
                tally.invariant.name,
                tally.invariant.description,
                tally.rows_examined,
                len(tally.findings),
                tally.more_findings,
            )
            for tally in self._tallies.values()
        ]
        return Summary(tuple(checks), self.scope.now)
