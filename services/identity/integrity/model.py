"""What a check finds."""

from dataclasses import dataclass
from datetime import datetime


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
