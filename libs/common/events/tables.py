"""The tables of events, the same in every service's schema and in every shard.

Those of organizations are in their shard; the service's own schema has the events that belong to no organization and
the endpoints of the platform. A delivery is beside its event, also where the endpoint is one of the platform.
"""

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy import PrimaryKeyConstraint as PrimaryKey
from sqlalchemy.dialects.postgresql import JSONB

DELETED_ENDPOINTS: Final = "event_endpoints_deleted"
"""The index of deleted endpoints, which is newer than the tables."""
_ID: Final = Uuid(as_uuid=False)
_TIME: Final = DateTime(timezone=True)
_KEY: Final = Text(collation="C")
_UNFINISHED: Final = "status IN ('WAITING', 'PENDING')"


def declare_event_tables(metadata: MetaData) -> tuple[Table, ...]:
    """Add the tables of events to a schema's, in the order of `_events`, `_subjects` and so on below."""
    return tuple(declare(metadata) for declare in (_events, _subjects, _endpoints, _deliveries, _requests))


def _events(metadata: MetaData) -> Table:
    return Table(
        "events",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("event_id", _ID, nullable=False),
        Column("subject", _KEY, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("type", _KEY, nullable=False),
        # Never before that of the subject's event before it.
        Column("event_time", _TIME, nullable=False),
        Column("data", JSONB, nullable=False),
        # What only endpoints of the platform are sent, encrypted; null where there is nothing such.
        Column("sealed_data", LargeBinary),
        # Whether the deliveries to those who want it are made.
        Column("dispatched", Boolean, nullable=False, server_default=text("false")),
        PrimaryKey("organization_id", "event_id", name="events_pkey"),
        CheckConstraint("sequence > 0", name="events_sequence_from_one"),
        Index("events_of_subject", "organization_id", "subject", "sequence", unique=True),
        Index("events_by_time", "organization_id", "event_time", "event_id"),
        Index("events_by_type", "organization_id", "type", "event_time", "event_id"),
        # The queue of a schema, and what is the oldest of it, over all organizations.
        Index(
            "events_to_dispatch",
            *("event_time", "organization_id", "subject", "sequence"),
            postgresql_where=text("NOT dispatched"),
        ),
        Index("events_by_age", "event_time", "organization_id", "subject", "sequence"),
    )


def _subjects(metadata: MetaData) -> Table:
    """The number and the time of each subject's newest event."""
    return Table(
        "event_subjects",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("subject", _KEY, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("event_time", _TIME, nullable=False),
        PrimaryKey("organization_id", "subject", name="event_subjects_pkey"),
    )


def _endpoints(metadata: MetaData) -> Table:
    return Table(
        "event_endpoints",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("endpoint_id", _ID, nullable=False),
        Column("url", Text, nullable=False),
        # Which events are sent: types, or beginnings that end in `.*`; none for all.
        Column("types", ARRAY(Text), nullable=False),
        Column("description", Text, nullable=False),
        Column("enabled", Boolean, nullable=False),
        # Why the service has switched it off; empty where it has not.
        Column("disabled_reason", Text, nullable=False, server_default=text("''")),
        # Encrypted; null once the endpoint is deleted. The one before counts until its time.
        Column("secret", LargeBinary),
        Column("previous_secret", LargeBinary),
        Column("previous_secret_expire_time", _TIME),
        # Since when every attempt has failed; null where the last one has not.
        Column("failing_since", _TIME),
        Column("version", BigInteger, nullable=False, server_default=text("1")),
        Column("create_time", _TIME, nullable=False),
        Column("update_time", _TIME, nullable=False),
        Column("delete_time", _TIME),
        PrimaryKey("organization_id", "endpoint_id", name="event_endpoints_pkey"),
        # Over all organizations: which of a schema were deleted long ago.
        Index(DELETED_ENDPOINTS, "delete_time", postgresql_where=text("delete_time IS NOT NULL")),
    )


def _deliveries(metadata: MetaData) -> Table:
    return Table(
        "event_deliveries",
        metadata,
        # The event's organization, which is not the endpoint's where that is one of the platform.
        Column("organization_id", _ID, nullable=False),
        Column("event_id", _ID, nullable=False),
        Column("endpoint_id", _ID, nullable=False),
        Column("subject", _KEY, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        # WAITING for the subject's event before it, PENDING, DELIVERED, or FAILED for good.
        Column("status", Text, nullable=False),
        Column("attempt_count", Integer, nullable=False, server_default=text("0")),
        # How many attempts have failed since it was made or last replayed.
        Column("failure_count", Integer, nullable=False, server_default=text("0")),
        # While an attempt is under way, until when it has the delivery for itself.
        Column("next_attempt_time", _TIME, nullable=False),
        Column("last_attempt_time", _TIME),
        Column("last_reason", Text, nullable=False, server_default=text("''")),
        Column("last_detail", Text, nullable=False, server_default=text("''")),
        Column("http_status", Integer, nullable=False, server_default=text("0")),
        Column("replay_count", Integer, nullable=False, server_default=text("0")),
        # When it was made or last replayed: from then on it is tried for so long, and then given up.
        Column("start_time", _TIME, nullable=False),
        Column("finish_time", _TIME),
        PrimaryKey("organization_id", "event_id", "endpoint_id", name="event_deliveries_pkey"),
        CheckConstraint("status IN ('WAITING', 'PENDING', 'DELIVERED', 'FAILED')", name="event_deliveries_status"),
        CheckConstraint(f"({_UNFINISHED}) = (finish_time IS NULL)", name="event_deliveries_finished"),
        Index("event_deliveries_by_endpoint", "organization_id", "endpoint_id", "event_id"),
        Index(
            "event_deliveries_lanes",
            *("organization_id", "subject", "endpoint_id", "sequence"),
            postgresql_where=text(_UNFINISHED),
        ),
        # The queues of a schema, over all organizations: what to send to each endpoint, and what waits for long.
        Index(
            "event_deliveries_due",
            *("endpoint_id", "next_attempt_time", "organization_id", "event_id"),
            postgresql_where=text("status = 'PENDING'"),
        ),
        Index(
            "event_deliveries_waiting",
            *("start_time", "organization_id", "event_id", "endpoint_id"),
            postgresql_where=text("status = 'WAITING'"),
        ),
    )


def _requests(metadata: MetaData) -> Table:
    """Request ids, each with a digest of every field of its request and what it did."""
    return Table(
        "event_requests",
        metadata,
        Column("organization_id", _ID, nullable=False),
        Column("method", _KEY, nullable=False),
        Column("request_id", _KEY, nullable=False),
        Column("field_digests", JSONB, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("create_time", _TIME, nullable=False),
        PrimaryKey("organization_id", "method", "request_id", name="event_requests_pkey"),
        Index("event_requests_by_age", "create_time"),
    )
