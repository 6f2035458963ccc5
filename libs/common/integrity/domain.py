"""Invariants, the walks that check them, and what a check yields."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from libs.common.ids import first_id_of

Key = tuple[object, ...]
"""A row's place in the order of a walk: the values of the columns of the walk's key."""

_CLOCKS_DIFFER_BY: Final = timedelta(minutes=1)
"""How much older a row's id may be than its time, since the clocks of several processes differ."""


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
    found in several ranges. `{range}` in it stands for the condition that limits `table` to the range. It may use
    `:now`, the time when the check began, and `:since_time`, which is null if nothing is left out.

    `key` is the columns of the index; they are not null. A walk without a key is one statement over a table that
    is small, or no table at all.
    """

    table: str
    key: tuple[Column, ...]
    invariants: tuple[Invariant, ...]
    violations: str
    organization_column: str = "organization_id"
    """What the check of one organization limits; empty if the walk is the same for all organizations."""
    since: str = ""
    """A condition, on columns of the index, that leaves out what is older than `:since_time` or `:since_id`."""
    bound: tuple[str, ...] = ()
    """Expressions for the end of a range whose last row is given, if a range may not end at any row."""
    others: tuple["OtherRange", ...] = ()
    splits: bool = False
    """Whether the statement treats organizations that lie in the range as a whole, `{whole}`, otherwise than those at
    its two ends, `{ends}`, of which the range may have a small part: all rows of the former may be joined by hash
    tables. `{organizations}` limits another table to the former, whatever the time."""


@dataclass(frozen=True, slots=True)
class OtherRange:
    """The same range in another table, under a placeholder of its own: the columns that stand for those of the key."""

    placeholder: str
    columns: tuple[str, ...]
    since: str = ""


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
    def since_id(self) -> str | None:
        """The lowest id that anything recorded since then can have."""
        return None if self.since_time is None else first_id_of(self.since_time - _CLOCKS_DIFFER_BY)


@dataclass(frozen=True, slots=True)
class Range:
    """The rows whose keys are after `after`, up to and including `until`; None means without this end."""

    after: Key | None
    until: Key | None


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


@dataclass(frozen=True, slots=True)
class Check:
    """The check of one invariant."""

    invariant: str
    description: str
    rows_examined: int
    findings: int
    more_findings: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """Every check of a complete verification, and when it began."""

    checks: tuple[Check, ...]
    snapshot_time: datetime
