"""Records the usage of calls that were settled in parts.

The dedupe row of such a call is there before its usage, with an empty fingerprint. So a batch that records usage finds
that the operation is taken, and only then are the parts read: other usage costs nothing more because of them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import Conflict, DeadlineExceeded, Unavailable
from services.metering.usage import part_store, store
from services.metering.usage.announcements import UsageEvents, announce_usage
from services.metering.usage.counting import Counting
from services.metering.usage.dimensions import KnownDimensions
from services.metering.usage.domain import Accepted, Authorization, LimitState, Recorded, Work, repeat_of
from services.metering.usage.part_domain import InParts, contradiction
from services.metering.usage.proposals import Proposals
from services.metering.usage.store import LastSettlement
from services.metering.usage.tries import tries


class LastRecorded(NamedTuple):
    """The usage of a call as it was recorded now, and the limits that it is counted in."""

    recorded: Recorded
    limits: Sequence[LimitState]


End = LastRecorded | Accepted | Exception
"""The usage as it was recorded now, the answer to a repeat, or why nothing was recorded."""


class LastSettlements:
    """Records what a call has used as a whole, and charges what its parts have not captured."""

    def __init__(
        self,
        proposals: Proposals,
        counting: Counting,
        dimensions: KnownDimensions,
        clock: Clock,
        events: UsageEvents,
        *,
        relay_after: timedelta,
    ) -> None:
        self._events = events
        self._proposals = proposals
        self._counting = counting
        self._dimensions = dimensions
        self._clock = clock
        self._relay_after = relay_after

    async def record(self, database: Database, works: Mapping[int, Work]) -> dict[int, End]:
        """Record works of a shard, each of another operation, and return what became of each, by its key.

        A part that is stored meanwhile makes a settlement be decided anew, a few times; then it is a Conflict.
        """
        ends: dict[int, End] = {}
        async for _ in tries():
            ends |= await self._try(database, {place: work for place, work in works.items() if place not in ends})
            if len(ends) == len(works):
                return ends
        return {place: ends.get(place, Conflict()) for place in works}

    async def _try(self, database: Database, works: Mapping[int, Work]) -> dict[int, End]:
        """Record what can be; what another writer was faster with is left out. A work that fails fails alone."""
        try:
            return await self._try_together(database, works)
        except Conflict:
            return {}
        except (Unavailable, DeadlineExceeded) as refusal:
            return dict.fromkeys(works, refusal)
        except Exception as error:  # noqa: BLE001 -- an error of one work is what becomes of that work.
            if len(works) == 1:
                return dict.fromkeys(works, error)
        middle, places = len(works) // 2, list(works)
        halves = ({place: works[place] for place in half} for half in (places[:middle], places[middle:]))
        first, second = [await self._try(database, half) for half in halves]
        return first | second

    async def _try_together(self, database: Database, works: Mapping[int, Work]) -> dict[int, End]:
        keys = {place: (work.organization_id, work.operation_id) for place, work in works.items()}
        async with database.raw_connection() as connection:
            in_parts = await part_store.find(connection, list(keys.values()))
            whole = [key for key in keys.values() if key not in in_parts or not in_parts[key].open]
            stored = await store.find(connection, whole) if whole else {}
            found = await store.find_authorizations(connection, list(keys.values()))
        authorizations = {(one.organization_id, one.operation_id): one for one in found}
        ends: dict[int, End] = {
            place: repeat_of(*stored[key], works[place]) for place, key in keys.items() if key in stored
        }
        now = self._clock.now()
        last: dict[int, LastSettlement] = {}
        for place, key in keys.items():
            if key not in stored and key in in_parts and in_parts[key].open:
                end = await self._propose(works[place], authorizations.get(key), in_parts[key], now)
                if isinstance(end, LastSettlement):
                    last[place] = end
                elif end is not None:
                    ends[place] = end
        if last:
            counted = await self._counting.propose(
                database, [(one.recorded, authorizations.get(keys[place])) for place, one in last.items()]
            )
            written = [one._replace(recorded=recorded) for one, recorded in zip(last.values(), counted, strict=True)]
            claimed = await self._write(database, written, now)
            ends |= {
                place: LastRecorded(one.recorded, claimed[one.recorded.usage_id])
                for place, one in zip(last, written, strict=True)
                if one.recorded.usage_id in claimed
            }
        return ends

    async def _propose(
        self, work: Work, authorization: Authorization | None, known: InParts, now: datetime
    ) -> LastSettlement | Exception | None:
        """Return the usage of a call, or how it contradicts the last part; None while its price is not known here."""
        if known.last is None or not await self._proposals.knows_price(known.last):
            return None
        recorded = self._proposals.propose(work, authorization, now, known.last)
        contradicts = contradiction(known.last, recorded.work, recorded.cost)
        return contradicts or LastSettlement(recorded, known.usage_id)

    async def _write(
        self, database: Database, last: Sequence[LastSettlement], now: datetime
    ) -> dict[str, Sequence[LimitState]]:
        """Write usages, and return the ids of those that were written, with the limits that they are counted in."""
        await store.know_dimensions(database, self._dimensions, (one.recorded for one in last))
        due_time = now + self._relay_after
        wanted = await self._events.wanted(database, [one.recorded for one in last])
        if not wanted and not any(one.recorded.counts is not None for one in last):
            async with database.raw_connection() as connection:
                return dict.fromkeys(await store.record_last(connection, last, now=now, due_time=due_time), ())
        async with database.raw_transaction() as connection:
            claimed = await store.record_last(connection, last, now=now, due_time=due_time)
            new = [one.recorded for one in last if one.recorded.usage_id in claimed]
            added = await self._counting.add(connection, new)
            await announce_usage(connection, wanted, claimed, now)
        states = await self._counting.states(database, new, added)
        return {usage_id: states.get(usage_id, ()) for usage_id in claimed}
