"""The invariant of the audit trail, which every service checks.

It compares the stored hashes; only VerifyAuditChain computes them again.
"""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Column, Invariant, Walk

_CHAINED: Final = Invariant(
    "audit_events_are_chained",
    "An organization's audit events have a gap, do not name the hash of the event before, or do not end at the head.",
)

# An event and its head are written in one transaction, and neither is deleted. Every chain leads back to event 1, where
# it is checked that there is a head at all.
AUDIT_CHECKS: Final[Sequence[Walk]] = (
    Walk(
        "audit_events",
        (ORGANIZATION, Column("sequence", "bigint")),
        (_CHAINED,),
        """
        SELECT 'audit_events_are_chained', e.organization_id, 'audit_events/' || e.sequence,
            'it does not follow from the event before it'
        FROM (SELECT * FROM audit_events WHERE {range}) AS e
        LEFT JOIN audit_events AS p ON p.organization_id = e.organization_id AND p.sequence = e.sequence - 1
        WHERE e.sequence > 1 AND p.sequence IS NULL OR e.event_time < p.event_time
            OR e.previous_hash <> coalesce(p.hash, decode(repeat('00', 32), 'hex'))
        UNION ALL
        SELECT 'audit_events_are_chained', e.organization_id, 'audit_heads',
            'it differs from the last event of its chain'
        FROM (SELECT organization_id, sequence FROM audit_events WHERE {range}) AS e
        LEFT JOIN audit_heads AS h ON h.organization_id = e.organization_id
        WHERE e.sequence = 1 AND h.organization_id IS NULL
        """,
    ),
    Walk(
        "audit_heads",
        (ORGANIZATION,),
        (_CHAINED,),
        """
        SELECT 'audit_events_are_chained', h.organization_id, 'audit_heads',
            'it differs from the last event of its chain'
        FROM (SELECT * FROM audit_heads WHERE {range}) AS h
        LEFT JOIN LATERAL (
            SELECT sequence, hash, event_time FROM audit_events AS e
            WHERE e.organization_id = h.organization_id ORDER BY e.sequence DESC LIMIT 1
        ) AS last ON true
        WHERE (h.sequence, h.hash, h.event_time) IS DISTINCT FROM (last.sequence, last.hash, last.event_time)
        """,
    ),
)
