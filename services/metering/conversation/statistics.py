"""Messages and costs of a user by month, both from sums that are kept."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from libs.common.clock import Clock
from libs.common.shards import Shards
from services.metering.conversation import message_store
from services.metering.conversation.domain import month_of, months_until
from services.metering.conversation.message_store import Counts
from services.metering.usage.query import Part, Query
from services.metering.usage.summaries import Summary, summarize
from services.metering.usage.windows import MONTH

_SUMMARIES_MAX: Final = 36 * 200
"""Months times currencies, of both the platform and the providers."""


class Month(NamedTuple):
    """One month of a user."""

    start: datetime
    counts: Counts
    summaries: list[Summary]
    """One for each currency."""


class Statistics:
    """Answers how much users wrote and spent."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock

    async def months(self, organization_id: str, user_id: str, count: int) -> list[Month]:
        """Return the last months of a user, the earliest first."""
        starts = months_until(self._clock.now(), count)
        database = self._shards.of(organization_id)
        async with database.raw_connection() as connection:
            counts = await message_store.months(connection, organization_id, user_id, starts[0])
        query = Query(
            organization_id=organization_id,
            organization_ids=(),
            start_time=starts[0],
            end_time=month_of(starts[-1] + timedelta(days=32)),
            window=MONTH,
            group_by=(),
            filters={"user_id": [user_id]},
            zone=ZoneInfo("UTC"),
        )
        part = Part((organization_id,), query.start_time, query.end_time)
        async with database.transaction() as transaction:
            found = await summarize(transaction, query, part, after=None, limit=_SUMMARIES_MAX)
        by_month: dict[datetime, list[Summary]] = {}
        for summary in found:
            by_month.setdefault(summary.start_time, []).append(summary)
        return [Month(start, counts.get(start, Counts()), by_month.get(start, [])) for start in starts]
