"""Where a watcher of usage is: which transactions it was told of, and which it is being told of."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from libs.common.ids import NIL, first_id_of, is_id
from libs.common.timestamps import time_text
from services.metering.usage.correction.domain import Correction

LAG_MAX: Final = timedelta(minutes=2)
"""The longest from the making of a usage's id to its commit. Statements are given up after two seconds; the rest is for
clocks of several machines that differ."""
_SNAPSHOT: Final = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):([0-9]{1,19}(,[0-9]{1,19})*)?")
_TIME: Final = re.compile(r"[0-9]{1,17}")
_ID_END: Final = first_id_of(datetime(9999, 1, 1, tzinfo=UTC))
"""The times of higher ids are beyond the calendar."""


class Position(NamedTuple):
    """A place among an organization's usage and corrections, in the order of their commits.

    A snapshot is Postgres's text of which transactions it sees. What `until` sees and `since` does not is the step that
    is being told.
    """

    since: str
    """The snapshot in which everything visible was told; empty for none."""
    lowest: str
    """No usage that is to be told has a lower id."""
    until: str = ""
    """The snapshot up to which the step goes; empty between two steps."""
    next_lowest: str = NIL
    """No usage that `until` does not see has a lower id."""
    usage_id: str = NIL
    """The last usage of the step that was told."""
    correction: tuple[str, str] = ("", "")
    """The time, in microseconds, and operation id of the last correction of the step that was told."""

    def parts(self) -> tuple[str, ...]:
        """Return the texts that say it."""
        return *self[:5], *self.correction

    def after(self, told: Correction) -> "Position":
        """Return the place after a correction of the step."""
        return self._replace(correction=(time_text(told.create_time), told.operation_id))

    def begun(self, until: str, now: datetime) -> "Position":
        """Return the place at the beginning of a step up to a snapshot, which was taken at a moment or later."""
        return self._replace(until=until, next_lowest=lowest_id(now), usage_id=self.lowest)

    def ended(self) -> "Position":
        """Return the place after the step."""
        return Position(self.until, self.next_lowest)


def lowest_id(moment: datetime) -> str:
    """Return an id that is no higher than that of any usage which is committed after a moment."""
    return first_id_of(moment - LAG_MAX)


def position_of(parts: Sequence[str]) -> Position | None:
    """Return the position that texts say; None if they say none."""
    if len(parts) != 7:
        return None
    since, lowest, until, next_lowest, usage_id, time, operation_id = parts
    snapshots = all(not one or _is_snapshot(one) for one in (since, until))
    is_whole = bool(_TIME.fullmatch(time)) if operation_id else not time
    ids = all(map(is_id, (lowest, next_lowest, usage_id))) and max(lowest.lower(), next_lowest.lower()) < _ID_END
    if not (snapshots and ids and is_whole):
        return None
    return Position(since, lowest, until, next_lowest, usage_id, (time, operation_id))


def _is_snapshot(text: str) -> bool:
    """Tell whether Postgres takes a text for a snapshot: the transactions in progress are within its bounds, sorted."""
    if not _SNAPSHOT.fullmatch(text):
        return False
    first, following, *in_progress = (int(one) for one in text.rstrip(":").replace(":", ",").split(","))
    return 0 < first <= following and in_progress == sorted(one for one in in_progress if first <= one < following)


def next_transaction(snapshot: str) -> int:
    """Return the number that the first transaction after a snapshot has."""
    return int(snapshot.split(":")[1])
