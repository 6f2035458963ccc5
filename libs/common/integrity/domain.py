"""An invariant, and the result of checking it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule that what is stored must keep, as two statements.

    `violations` returns one row per violation: an organization or null, a resource, and what is wrong with it.
    `examined` counts the rows that were checked. Both may read whole tables. Both may use two parameters:
    `:organization_id` limits them to one organization if it is not null; `:now` is the time of the check.
    `description` is one sentence that says what is wrong when there is a violation.
    """

    name: str
    description: str
    violations: str
    examined: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of one invariant."""

    invariant: str
    organization_id: str
    resource: str
    detail: str


@dataclass(frozen=True, slots=True)
class Check:
    """The check of one invariant."""

    invariant: str
    description: str
    rows_examined: int
    findings: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Every check of a complete verification."""

    checks: tuple[Check, ...]
    snapshot_time: datetime
