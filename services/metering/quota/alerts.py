"""Alerts: a limit's thresholds, each reported once in a window.

An alert is stored in the transaction that counts what reaches the threshold, while the counter is locked: so none is
lost, and none is stored for use that is not counted. The rows are an outbox: whoever sends alerts reads those that are
not delivered, and notes that they are.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from libs.common.clock import Clock
from libs.common.database import RawConnection
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.quota import alert_store
from services.metering.quota.alert_store import Alert, Place
from services.metering.quota.counters import Standings
from services.metering.quota.decisions import Counter, Take
from services.metering.quota.domain import Limit

_STORED_MAX: Final = 100_000
_HUNDRED: Final = 100

Used = tuple[str, Counter, Decimal]
"""An organization, one of its counters, and what is used in it."""


def reached(limit: Limit, used: Decimal) -> Sequence[int]:
    """Return the thresholds, in percent of the maximum, that this use reaches. No use reaches none."""
    maximum, thresholds = limit.terms.maximum, limit.terms.thresholds
    if not thresholds or maximum is None or not used:
        return ()
    return [threshold for threshold in thresholds if used * _HUNDRED >= maximum * threshold]


def used_of(takes: Iterable[tuple[str, Take]], standings: Standings) -> list[Used]:
    """Return what is used of the limits that have thresholds, from what organizations take and what is counted then."""
    return [
        (organization_id, take.place.counter, standings[organization_id][take.place.counter.counter_id].used)
        for organization_id, take in takes
        if take.limit.terms.thresholds
    ]


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

    async def add(self, connection: RawConnection, counted: Iterable[Used]) -> None:
        """Store an alert for each threshold that is reached the first time in a window.

        `counted` is what is used in counters that the running transaction has locked and changed.
        """
        now = self._clock.now()
        due = {
            (counter.counter_id, threshold): _alert(organization_id, counter, threshold, used, now)
            for organization_id, counter, used in counted
            for threshold in reached(counter.limit, used)
            if (counter.counter_id, threshold) not in self._stored
        }
        if due:
            await alert_store.add(connection, due.values())

    def quiet_up_to(self, counter: Counter) -> Decimal | None:
        """Return what may be used and reserved in a counter so that no alert can be due; None where that is any amount.

        Only alerts that this process has stored lately, or found stored, are left out.
        """
        terms = counter.limit.terms
        maximum, thresholds = terms.maximum, terms.thresholds
        if maximum is None or not thresholds:
            return None
        due = [threshold for threshold in thresholds if (counter.counter_id, threshold) not in self._stored]
        return (maximum * min(due) / _HUNDRED).next_minus() if due else None

    def remember(self, counted: Iterable[Used]) -> None:
        """Note that the transaction is committed that has counted this, so that its alerts need not be stored again."""
        for _, counter, used in counted:
            for threshold in reached(counter.limit, used):
                self._stored[counter.counter_id, threshold] = None
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
