"""The invariants of events, which every service checks in each of its databases."""

from collections.abc import Sequence
from typing import Final

from libs.common.integrity.domain import ORGANIZATION, Column, Invariant, Walk

_IN_ORDER: Final = Invariant(
    "events_are_in_order",
    "A subject's events have a gap or go back in time, or do not end at the number that is kept for the subject.",
)
_MOVE: Final = Invariant(
    "event_deliveries_move",
    "A delivery waits though no earlier event of its subject is under way, or is one of no event.",
)

# An event and the number of its subject are written in one transaction. Old events leave from the lowest number on, and
# never before the seventh day: of a subject with an event within six days the last one must be there.
EVENT_CHECKS: Final[Sequence[Walk]] = (
    Walk(
        "events",
        (ORGANIZATION, Column("event_id", "uuid")),
        (_IN_ORDER,),
        """
        SELECT 'events_are_in_order', e.organization_id, 'events/' || e.event_id,
            CASE WHEN s.sequence IS NULL OR s.sequence < e.sequence THEN 'its number is beyond that of its subject'
                 WHEN p.event_time > e.event_time THEN 'it is before the event with the number before'
                 ELSE 'there is no event with the number before, though there are lower ones' END
        FROM (SELECT * FROM events WHERE {range}) AS e
        LEFT JOIN event_subjects AS s ON s.organization_id = e.organization_id AND s.subject = e.subject
        LEFT JOIN events AS p ON p.organization_id = e.organization_id AND p.subject = e.subject
            AND p.sequence = e.sequence - 1
        WHERE s.sequence IS NULL OR s.sequence < e.sequence OR p.event_time > e.event_time
            OR p.sequence IS NULL AND EXISTS (
                SELECT FROM events AS l
                WHERE l.organization_id = e.organization_id AND l.subject = e.subject AND l.sequence < e.sequence)
        """,
    ),
    Walk(
        "event_subjects",
        (ORGANIZATION, Column("subject", "text")),
        (_IN_ORDER,),
        """
        SELECT 'events_are_in_order', s.organization_id, 'event_subjects/' || s.subject,
            'its last event is not there'
        FROM (SELECT * FROM event_subjects WHERE {range}) AS s
        LEFT JOIN events AS e ON e.organization_id = s.organization_id AND e.subject = s.subject
            AND e.sequence = s.sequence
        WHERE e.sequence IS NULL AND (
            s.event_time > CAST(:now AS timestamptz) - interval '6 days' OR EXISTS (
                SELECT FROM events AS l WHERE l.organization_id = s.organization_id AND l.subject = s.subject))
        """,
    ),
    Walk(
        "event_deliveries",
        (ORGANIZATION, Column("event_id", "uuid"), Column("endpoint_id", "uuid")),
        (_MOVE,),
        """
        SELECT 'event_deliveries_move', d.organization_id, 'event_deliveries/' || d.event_id || '/' || d.endpoint_id,
            CASE WHEN e.event_id IS NULL THEN 'there is no such event' ELSE 'it waits for nothing' END
        FROM (SELECT * FROM event_deliveries WHERE {range}) AS d
        LEFT JOIN events AS e ON e.organization_id = d.organization_id AND e.event_id = d.event_id
        WHERE e.event_id IS NULL OR d.status = 'WAITING' AND NOT EXISTS (
            SELECT FROM event_deliveries AS l
            WHERE l.organization_id = d.organization_id AND l.subject = d.subject AND l.endpoint_id = d.endpoint_id
                AND l.status IN ('WAITING', 'PENDING') AND l.sequence < d.sequence)
        """,
    ),
)
