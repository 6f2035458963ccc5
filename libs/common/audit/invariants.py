"""The invariant of the audit trail, which every service checks.

It compares the stored hashes; only VerifyAuditChain computes them again.
"""

from typing import Final

from libs.common.integrity.domain import Invariant

# Compares each event with the one before it, and each head with the last event. Reads each table once.
AUDIT_INVARIANT: Final = Invariant(
    "audit_events_are_chained",
    "An organization's audit events have a gap, do not name the hash of the event before, or do not end at the head.",
    """
    SELECT organization_id, 'audit_events/' || sequence AS resource, 'it does not follow from the event before it'
    FROM (
        SELECT organization_id, sequence, previous_hash, event_time, lag(event_time) OVER w AS time_before,
            lag(sequence, 1, CAST(0 AS bigint)) OVER w AS before,
            lag(hash, 1, decode(repeat('00', 32), 'hex')) OVER w AS hash_before
        FROM audit_events
        WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))
        WINDOW w AS (PARTITION BY organization_id ORDER BY sequence)
    ) AS chained
    WHERE sequence <> before + 1 OR previous_hash <> hash_before OR event_time < time_before
    UNION ALL
    SELECT coalesce(h.organization_id, e.organization_id), 'audit_heads', 'it differs from the last event of its chain'
    FROM (
        SELECT * FROM audit_heads
        WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))
    ) AS h
    FULL JOIN (
        SELECT DISTINCT ON (organization_id) organization_id, sequence, hash, event_time FROM audit_events
        WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))
        ORDER BY organization_id, sequence DESC
    ) AS e ON e.organization_id = h.organization_id
    WHERE (h.sequence, h.hash, h.event_time) IS DISTINCT FROM (e.sequence, e.hash, e.event_time)
    """,
    """
    SELECT count(*) FROM audit_events
    WHERE (CAST(:organization_id AS uuid) IS NULL OR organization_id = CAST(:organization_id AS uuid))
    """,
)
