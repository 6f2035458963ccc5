"""Alerts: a limit's thresholds, each reported once in a window.

An alert is stored as soon as what reaches the threshold is counted. Should the process die in between, the next use
that is counted in the window stores it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import structlog

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.quota import alert_store
from services.metering.quota.alert_store import Alert, Place
from services.metering.quota.decisions import Counter
from services.metering.quota.domain import Limit

_log = structlog.get_logger("limits")

_STORED_MAX: Final = 100_000
_HUNDRED: Final = 100


def reached(limit: Limit, used: Decimal) -> Sequence[int]:
    """Return the thresholds, in percent of the maximum, that this use reaches. No use reaches none."""
    maximum = limit.terms.maximum
    if maximum is None or not used:
        return ()
    return [threshold for threshold in limit.terms.thresholds if used * _HUNDRED >= maximum * threshold]


class Alerts:
    """Stores and lists alerts."""

    def __init__(self, shards: Shards, clock: Clock) -> None:
        self._shards = shards
        self._clock = clock
        self._stored: OrderedDict[tuple[str, int], None] = OrderedDict()
        """Alerts that this process has stored lately, by counter and threshold."""

    def now(self) -> datetime:
        """Return the moment by which lists end that are given no end."""
        return self._clock.now()

    async def note(self, database: Database, counted: Iterable[tuple[str, Counter, Decimal]]) -> None:
        """Store an alert for each threshold that is reached the first time in a window.

        `counted` are organizations of a shard with counters and what is used in them now, which is committed. Where
        alerts cannot be stored, it is logged, and the next use that is counted stores them.
        """
        now = self._clock.now()
        due = {
            (counter.counter_id, threshold): _alert(organization_id, counter, threshold, used, now)
            for organization_id, counter, used in counted
            if counter.limit.terms.thresholds
            for threshold in reached(counter.limit, used)
            if (counter.counter_id, threshold) not in self._stored
        }
        if not due:
            return
        try:
            async with database.raw_connection() as connection:
                await alert_store.add(connection, due.values())
        except Refusal as refusal:
            _log.warning("alerts of limits not stored", schema=database.schema, reason=refusal.reason)
            return
        self._stored.update(dict.fromkeys(due))
        while len(self._stored) > _STORED_MAX:
            self._stored.popitem(last=False)

    async def page(
        self, organization_id: str, *, start_time: datetime, end_time: datetime, after: Place | None, limit: int
    ) -> Sequence[Alert]:
        """Return alerts of an organization that came from one moment until before another, the latest first."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            before = after or (end_time, NIL, 0)
            return await alert_store.page(connection, organization_id, start_time, before, limit)


def _alert(organization_id: str, counter: Counter, threshold: int, used: Decimal, now: datetime) -> Alert:
    limit, shape = counter.limit, counter.limit.shape
    return Alert(
        organization_id,
        counter.counter_id,
        threshold,
        limit.limit_id,
        limit.name,
        shape.metric,
        shape.currency_code,
        shape.scope.value,
        counter.subject,
        shape.window.value,
        counter.span.start,
        counter.span.end,
        limit.terms.maximum or Decimal(0),
        used,
        now,
    )
