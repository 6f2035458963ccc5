"""Invariants, the walks that check them, and what a check yields."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from libs.common.ids import NIL, first_id_of
from libs.common.windows import Span

Key = tuple[object, ...]
"""A row's place in the order of a walk: the values of the columns of the walk's key."""

Digests = Sequence[tuple[str, int, int]]
"""Organizations, each with the number of its rows and the exclusive or of their digests."""

CLOCKS_DIFFER_BY: Final = timedelta(minutes=1)
"""How much older a row's id may be than its time, since the clocks of several processes differ."""
_COMMITTED_AFTER: Final = timedelta(minutes=10)
"""No transaction lasts so long: rows with ids older than this are there, whichever of two tables is read first."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule that what is stored must keep. `description` is one sentence that says what is wrong otherwise."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a key, with its type in Postgres."""

    name: str
    kind: str


ORGANIZATION: Final = Column("organization_id", "uuid")


@dataclass(frozen=True, slots=True)
class Walk:
    """Reads one table in the order of an index, a bounded range of rows at a time, and checks invariants on the way.

    `violations` is a statement that returns a row for each violation among the rows of a range: the invariant's name,
    an organization or null, a resource, and what is wrong with it. It must find the same whatever the ranges are, and
    find nothing wrong that is only half committed: each range is read in a snapshot of its own. The same row may be
    found in several ranges, and a range without rows is not asked about. `{range}` in it stands for the condition that
    limits `table` to the range. It may use `:now`, the time when the check began, `:since_time`, which is null if
    nothing is left out, and `:settled_id`: see `Pairing`.

    `key` is the columns of the index; they are not null. A walk without a key is one statement over a table that
    is small, or no table at all.
    """

    table: str
    key: tuple[Column, ...]
    invariants: tuple[Invariant, ...]
    violations: str
    organization_column: str = "organization_id"
    """What the check of one organization limits; empty if the walk is the same for all organizations."""
    digests: str = ""
    """See `Pairing`."""
    rows_min: int = 500
    """How few rows a range may have after others took too long: 1 where each row needs many rows of other tables."""
    by_pages: bool = False
    """Whether all rows are read in the order in which they lie in the table, which has no partitions, instead of the
    order of the index. Every range is of some pages then. One organization is read by the index."""

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table,)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Reads rows of many organizations in windows of time, which is how they lie in the table, and checks invariants.

    The table has an index of the organization and `time`, a time or an id that begins with one. `violations` is as in
    `Walk`; `{window}` in it stands for the condition that limits `table` to the window, and `{window of COLUMN}` for
    that of another table. `beside` are such other tables with their times, which may have rows of organizations and
    hours of which `table` has none.
    """

    table: str
    time: Column
    invariants: tuple[Invariant, ...]
    violations: str
    unit: timedelta
    """Windows begin and end at multiples of it."""
    beside: tuple[tuple[str, Column], ...] = ()
    early: timedelta = timedelta()
    """How much older `time` may be than what the check is asked to begin with."""
    suspects: str = ""
    """A statement that takes less time than `violations` and returns the organizations that `violations` could name in
    a window: all of these, and others besides. `violations` then reads their rows alone."""
    digests: str = ""
    """See `Pairing`."""

    @property
    def tables(self) -> tuple[str, ...]:
        return (self.table, *(table for table, _ in self.beside))


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two tables in which each row of one stands for a row of the other, compared without a join.

    Most rows agree, so both tables are read by themselves. `digests` of a side returns, for each organization in a
    range or window, the number of rows with ids before `:settled_id` and the exclusive or of their digests, and the
    number of other rows. Those were written since shortly before the check began, so they may be in one of the tables
    only because that was read later: `violations` compares them row by row. So it does with everything, `:settled_id`
    being the lowest id, for the organizations whose digests differ, and for the check of a single organization. A
    walk's `violations` is left out where all rows of a range are settled.
    """

    sides: tuple[Sweep | Walk, Sweep | Walk]
    beside_first: tuple[Sweep | Walk, ...] = ()
    """Further tables whose rows belong to the first side: together with it they have a row for each of the second."""

    @property
    def all_sides(self) -> tuple[Sweep | Walk, ...]:
        return (*self.sides, *self.beside_first)

    @property
    def invariants(self) -> tuple[Invariant, ...]:
        return tuple(one for side in self.all_sides for one in side.invariants)


Check = Walk | Sweep | Pairing


@dataclass(frozen=True, slots=True)
class Scope:
    """What is checked: everything, or one organization; all of the past, or only what is new since a moment."""

    now: datetime
    organization_id: str | None = None
    since_time: datetime | None = None

    @property
    def is_everything(self) -> bool:
        return self.organization_id is None and self.since_time is None

    @property
    def settled_id(self) -> str:
        """The lowest id that pairings compare row by row; of one organization they compare all."""
        return NIL if self.organization_id is not None else first_id_of(self.now - _COMMITTED_AFTER)


@dataclass(frozen=True, slots=True)
class Range:
    """The rows whose keys are after `after`, up to and including `until`; None means without this end."""

    after: Key | None
    until: Key | None


@dataclass(frozen=True, slots=True)
class Pages:
    """The rows in the pages from `first` until before `end`."""

    first: int
    end: int


class Window(NamedTuple):
    """The rows of some organizations from a time until before another, in microseconds."""

    organization_ids: Sequence[str]
    span: Span


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of one invariant."""

    invariant: str
    organization_id: str
    resource: str
    detail: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the walk over one table has come; `rows_estimated` is 0 where that is not known."""

    table: str
    rows_examined: int
    rows_estimated: int

    def after(self, rows: int) -> "Progress":
        return replace(self, rows_examined=self.rows_examined + rows)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of one invariant came to."""

    invariant: str
    description: str
    rows_examined: int
    findings: int
    more_findings: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """Every check of a complete verification, and when it began."""

    checks: tuple[Checked, ...]
    snapshot_time: datetime
