"""The audit trail: numbered without gaps, chained, written with the change or not at all."""

import asyncio
from datetime import UTC, datetime

from libs.common.audit.recording import PLATFORM, Changed, record_event
from libs.common.database import Database

NOW = datetime(2026, 5, 1, tzinfo=UTC)


async def test_fifty_events_at_once_make_one_chain_without_a_gap(identity_database: Database) -> None:
    async def record(number: int) -> None:
        if number % 2:
            async with identity_database.transaction() as tx:
                await record_event(tx, now=NOW, organization_id=PLATFORM, resource_type="x", resource_id=str(number))
        else:
            async with identity_database.raw_transaction() as connection:
                await record_event(
                    connection,
                    now=NOW,
                    organization_id=PLATFORM,
                    resource_type="x",
                    resource_id=str(number),
                    changed=(Changed("a", before="b", after="c"),),
                )

    await asyncio.gather(*(record(number) for number in range(50)))
    async with identity_database.raw_connection() as connection:
        rows = await connection.fetch("SELECT sequence, hash, previous_hash FROM audit_events ORDER BY sequence")
    assert [row[0] for row in rows] == list(range(1, 51))
    assert [row[2] for row in rows[1:]] == [row[1] for row in rows[:-1]]
