"""What a verification found: the checks it made, and the violations."""

from dataclasses import asdict, dataclass, field
from typing import Final

from libs.cli.failures import CommandFailed

KEPT_MAX: Final = 1000
"""Of so many violations of one invariant all are named; further ones are only counted."""


class NoVerdict(CommandFailed):
    """The verification could not be completed, so nothing is said about what it had found. The exit status is 3."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of an invariant."""

    service: str
    invariant: str
    organization_id: str
    subject: str
    detail: str


@dataclass(slots=True)
class Check:
    """One invariant that was checked."""

    service: str
    invariant: str
    rule: str
    examined: int
    violations: int


@dataclass(slots=True)
class Verdict:
    """The checks and the violations. Of very many violations of one invariant only the first are kept."""

    checks: list[Check] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def violation_count(self) -> int:
        return sum(check.violations for check in self.checks)

    def report(self, check: Check, organization_id: str, subject: str, detail: str) -> None:
        """Count a violation of a check, and keep it if it is one of the first."""
        check.violations += 1
        if check.violations <= KEPT_MAX:
            self.violations.append(Violation(check.service, check.invariant, organization_id, subject, detail))

    def as_json(self) -> dict[str, object]:
        return {
            "violations": self.violation_count,
            "checks": [asdict(check) for check in self.checks],
            "findings": [asdict(violation) for violation in self.violations],
        }
