"""A rule over what is stored, and what a check of it finds."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule, and two statements: one finds what breaks it, one counts the rows it is checked over.

    The first returns an organization or null, a resource and what is wrong with it. Both may read whole tables;
    `:organization_id` narrows them to one organization where it is not null, `:now` is the moment of the check.
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
    """What one invariant's check covered."""

    invariant: str
    description: str
    rows_examined: int
    findings: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a complete verification."""

    checks: tuple[Check, ...]
    snapshot_time: datetime
