"""What a verification finds, for tests that run one without a server."""

from libs.common.integrity.domain import Finding, Summary
from libs.common.integrity.verification import Verification


async def findings_of(verification: Verification) -> list[Finding]:
    """Return everything that is found, sorted; the summary must come last and count the same."""
    pieces = [piece async for piece in verification.verify()]
    found = [piece for piece in pieces if isinstance(piece, Finding)]
    summary = pieces[-1]
    assert isinstance(summary, Summary)
    assert sum(check.findings for check in summary.checks) == len(found)
    return sorted(found, key=lambda one: (one.invariant, one.organization_id, one.resource, one.detail))
