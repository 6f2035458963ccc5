"""Counts holds that nobody captured or released in time: the calls they were placed for were never settled."""

from typing import Final

from opentelemetry import metrics

METRIC: Final = "tollhouse.holds_expired"


class ExpiredHolds:
    """Counts in a metric, and for this process."""

    def __init__(self) -> None:
        self._counter = metrics.get_meter("tollhouse").create_counter(
            METRIC, description="Holds that expired, because the call they were placed for was not settled in time."
        )
        self.count = 0
        """How many this process has ended since it began."""

    def add(self, count: int) -> None:
        """Count holds once the transaction that ended them is committed; each hold ends once."""
        self.count += count
        if count:
            self._counter.add(count)


EXPIRED_HOLDS: Final = ExpiredHolds()
