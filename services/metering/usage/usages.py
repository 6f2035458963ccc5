"""The use cases of usage: what is checked before the engine records, and questions about what was recorded."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog

from libs.common.access import Scope
from libs.common.call import may, require_scope
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, PermissionDenied, Refusal
from libs.common.ids import NIL
from libs.common.shards import Shards
from services.metering.clients.organizations import Organizations
from services.metering.errors import OrganizationNotFound
from services.metering.model.catalogue import Catalogue
from services.metering.model.units import Units, token_units
from services.metering.usage import dropped_store, store
from services.metering.usage.beginnings import full_hour_after, full_hour_before
from services.metering.usage.domain import Accepted, Outcome, Recorded, Work, month_of, time_violation
from services.metering.usage.dropped_store import dropped_months, find_dropped, month_text, sealed_months
from services.metering.usage.engine import UsageEngine
from services.metering.usage.months import Months
from services.metering.usage.query import Part, Query
from services.metering.usage.ranking_store import TOP_ROWS_MAX, ranked
from services.metering.usage.reports import report, walk
from services.metering.usage.summaries import Summary, require_few_usages, summarize
from services.metering.usage.windows import MINUTE
from services.metering.usage_errors import TooManyRows, UsageDropped, UsageMonthDropped, UsageNotDropped

_log = structlog.get_logger("usage")

LIST_RANGE_MAX: Final = timedelta(days=400)
_LISTED_MAX: Final = 200
"""The most organizations whose usage one page lists; each takes up to three statements."""
_LOOKED_AT_MAX: Final = 5_000
"""The number of organizations after which a page ends, whether they have usage or not."""


class ListPlace(NamedTuple):
    """Where a page of usages of several organizations begins: within one before a usage, or after it."""

    organization_id: str
    before: tuple[datetime, str] | None = None


class Usages:
    """Records usage and answers queries about it."""

    def __init__(
        self,
        shards: Shards,
        catalogue: Catalogue,
        engine: UsageEngine,
        organizations: Organizations,
        months: Months,
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._catalogue = catalogue
        self._engine = engine
        self._organizations = organizations
        self._months = months
        self._clock = clock

    def now(self) -> datetime:
        """Return the moment that stands for an occur time that is not given."""
        return self._clock.now()

    @property
    def units(self) -> Units:
        """The units of the catalogue as they were at the last `refresh`."""
        return self._catalogue.units

    async def know_units(self, unit_ids: Iterable[str]) -> None:
        """Reload the catalogue if it is older than two seconds, or lacks a unit that another process may have added."""
        await self._catalogue.refresh()
        if not all(unit_id in self._catalogue.units for unit_id in unit_ids):
            await self._catalogue.refresh_for_unknown()

    async def record(self, works: Sequence[Work], *, backfilled: Collection[int] = ()) -> list[Outcome]:
        """Record works, and return what became of each, in their order.

        `backfilled` are the places of those that are history: they may be of any age, and their months are made first.
        """
        refused = await self.refused(works, backfilled)
        history = [works[place] for place in backfilled if place not in refused]
        if history:
            try:
                await self._months.ensure((work.organization_id, work.occur_time) for work in history)
            except Refusal as refusal:
                _log.warning("months not made; their usage goes to the default partition", reason=refusal.reason)
        if not refused:
            return await self._link(works, await self._engine.record(works))
        places = [place for place in range(len(works)) if place not in refused]
        recorded = await self._engine.record([works[place] for place in places]) if places else []
        outcomes = refused | dict(zip(places, recorded, strict=True))
        return await self._link(works, [outcomes[place] for place in range(len(works))])

    async def _link(self, works: Sequence[Work], outcomes: list[Outcome]) -> list[Outcome]:
        """Store which dropped usage works correct that are recorded; return the outcomes.

        A process that dies before has answered nobody: the repeat stores it.
        """
        links: dict[Database, list[tuple[str, str, str]]] = {}
        for work, outcome in zip(works, outcomes, strict=True):
            if work.corrects_operation_id is not None and isinstance(outcome, Accepted):
                link = work.organization_id, work.operation_id, work.corrects_operation_id
                links.setdefault(self._shards.of(work.organization_id), []).append(link)
        for database, some in links.items():
            async with database.raw_connection() as connection:
                await dropped_store.link(connection, some)
        return outcomes

    async def refused(self, works: Sequence[Work], backfilled: Collection[int] = ()) -> dict[int, Outcome]:
        """Return the refusals of works that may not be recorded, by place: for their time, units or organization.

        None of this is asked of work that is recorded already: a repeat is answered as one, however late it comes.
        Where it cannot be read whether it is, the failure is the outcome.
        """
        now = self._clock.now()
        refused = await self._of_dropped_months(works, backfilled)
        for place, work in enumerate(works):
            violation = time_violation(work.occur_time, now, backfilled=place in backfilled)
            violations = [] if violation is None else [violation]
            if not work.settles:
                # Authorized work is charged whatever has been archived since.
                violations += [
                    FieldViolation("quantities", f"{unit_id} is an archived unit")
                    for unit_id in work.quantities
                    if self._catalogue.units[unit_id].archived
                ]
            if violations:
                refused[place] = InvalidArgument(violations)
        unknown = await self._organizations.find_unknown({work.organization_id for work in works})
        if unknown:
            for place, work in enumerate(works):
                if work.organization_id in unknown:
                    refused[place] = OrganizationNotFound(organization_id=work.organization_id)
        if not refused:
            return refused
        keys = {place: (works[place].organization_id, works[place].operation_id) for place in refused}
        by_shard: dict[Database, list[store.Key]] = {}
        for key in keys.values():
            by_shard.setdefault(self._shards.of(key[0]), []).append(key)
        recorded: set[store.Key] = set()
        unread: dict[store.Key, Refusal] = {}
        for database, shard_keys in by_shard.items():
            try:
                async with database.raw_connection() as connection:
                    recorded.update(await store.find(connection, shard_keys))
                    recorded.update(await find_dropped(connection, set(shard_keys) - recorded))
            except Refusal as failure:
                unread.update(dict.fromkeys(shard_keys, failure))
        return {
            place: unread.get(keys[place], refusal) for place, refusal in refused.items() if keys[place] not in recorded
        }

    async def _of_dropped_months(self, works: Sequence[Work], backfilled: Collection[int]) -> dict[int, Outcome]:
        """Return the refusals of history in months that are dropped, by place, and of corrections of other usage.

        Usage that is no history is younger than any dropped month.
        """
        refused: dict[int, Outcome] = {}
        by_shard: dict[Database, list[int]] = {}
        for place in backfilled:
            by_shard.setdefault(self._shards.of(works[place].organization_id), []).append(place)
        for database, places in by_shard.items():
            months = {place: (works[place].organization_id, month_of(works[place].occur_time)) for place in places}
            async with database.raw_connection() as connection:
                sealed = await sealed_months(connection, months.values(), self._clock.now())
            for place, (organization_id, month) in months.items():
                if (organization_id, month) in sealed:
                    refused[place] = UsageMonthDropped(organization_id=organization_id, month=month_text(month))
        for place, work in enumerate(works):
            if work.corrects_operation_id is not None:
                refusal = await self._not_dropped(work.organization_id, work.corrects_operation_id)
                if refusal is not None:
                    refused[place] = refusal
        return refused

    async def _not_dropped(self, organization_id: str, operation_id: str) -> Refusal | None:
        """Return why usage cannot be corrected by other usage; None if its record was dropped."""
        key = organization_id, operation_id
        async with self._shards.of(organization_id).raw_connection() as connection:
            if await store.find(connection, [key]):
                return UsageNotDropped(operation_id=operation_id)
            if await find_dropped(connection, [key]):
                return None
        return NotFound(resource_type="usage", resource_name=operation_id)

    async def dropped_months(
        self, organization_id: str | None, start_time: datetime, end_time: datetime
    ) -> Sequence[str]:
        """Return the months in which usage was dropped: of an organization, or of any."""
        database = self._shards[0] if organization_id is None else self._shards.of(organization_id)
        async with database.raw_connection() as connection:
            return await dropped_months(connection, organization_id, start_time, end_time)

    async def model_of(self, organization_id: str, operation_id: str) -> str | None:
        """Return the model with which usage was recorded, whoever asks; None where there is none."""
        key = (organization_id, operation_id)
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find(connection, [key])
        return found[key][0].work.model if found else None

    async def get(self, organization_id: str, operation_id: str) -> Recorded:
        key = (organization_id, operation_id)
        async with self._shards.of(organization_id).raw_connection() as connection:
            found = await store.find(connection, [key])
            dropped = {} if found else await find_dropped(connection, [key])
        if key in dropped and may(Scope.SCOPE_USAGE_READ):
            raise UsageDropped(operation_id=operation_id, month=month_text(dropped[key][1]))
        if key not in found:
            raise NotFound(resource_type="usage", resource_name=operation_id)
        recorded = found[key][0]
        require_scope(
            Scope.SCOPE_USAGE_READ, project_id=recorded.work.project_id or "", user_id=recorded.work.user_id or ""
        )
        return recorded

    async def list_usages(
        self,
        *,
        organization_id: str,
        start_time: datetime,
        end_time: datetime,
        after: tuple[datetime, str] | None,
        filters: store.Filters,
        limit: int,
    ) -> tuple[Sequence[Recorded], tuple[datetime, str] | None]:
        """Return a page of usages, the latest first, and where the next begins."""
        async with self._shards.of(organization_id).raw_connection() as connection:
            return await store.list_usages(
                connection,
                organization_id=organization_id,
                start_time=start_time,
                before=after or (end_time, NIL),
                filters=filters,
                limit=limit,
            )

    async def list_over_organizations(
        self,
        *,
        organization_ids: Sequence[str],
        start_time: datetime,
        end_time: datetime,
        begin: ListPlace | None,
        filters: store.Filters,
        limit: int,
    ) -> tuple[Sequence[Recorded], ListPlace | None]:
        """Return a page of the usages of some organizations, or of all, and where the next begins.

        They come shard by shard, in each by organization, the latest of each first.
        """
        page: list[Recorded] = []

        async def add(organization_id: str, before: tuple[datetime, str] | None) -> ListPlace | None:
            usages, following = await self.list_usages(
                organization_id=organization_id,
                start_time=start_time,
                end_time=end_time,
                after=before,
                filters=filters,
                limit=limit - len(page),
            )
            page.extend(usages)
            return None if following is None else ListPlace(organization_id, following)

        last = NIL
        if begin is not None:
            last = begin.organization_id
            if begin.before is not None and (unread := await add(last, begin.before)) is not None:
                return page, unread
        asked = looked_at = 0
        hours = full_hour_before(start_time), full_hour_after(end_time)
        async for batch in walk(self._shards, organization_ids, last, *hours, size=_LISTED_MAX):
            for organization_id in batch.organization_ids:
                if len(page) == limit or asked == _LISTED_MAX:
                    return page, ListPlace(last)
                asked += 1
                last = organization_id
                if (unread := await add(organization_id, None)) is not None:
                    return page, unread
            last = batch.last
            looked_at += batch.looked_at
            if looked_at >= _LOOKED_AT_MAX:
                return page, ListPlace(last)
        return page, None

    async def query(
        self, query: Query, *, after: Sequence[str] | None, limit: int
    ) -> tuple[Sequence[Summary], Sequence[str] | None]:
        """Return a page of sums, and where the next begins; None when there is no more.

        Raises:
            TooManyCalls: minutes are asked for, of more calls than one answer reads.
            TooManyRows: the largest groups are asked for, in more windows than one answer has.
        """
        _require_own_share(query)
        if not query.organization_id:
            return await report(self._shards, query, after, limit)
        part = Part((query.organization_id,), query.start_time, query.end_time)
        async with self._shards.of(query.organization_id).transaction() as connection:
            if query.window == MINUTE:
                await require_few_usages(connection, part)
            if query.top is not None:
                query, limit = await ranked(connection, query, part, token_units(self.units)), TOP_ROWS_MAX + 1
            summaries = await summarize(connection, query, part, after=after, limit=limit)
        if query.top is not None:
            if len(summaries) == limit:
                raise TooManyRows(rows=TOP_ROWS_MAX)
            return summaries, None
        return summaries, summaries[-1].key if len(summaries) == limit else None


def _require_own_share(query: Query) -> None:
    """Refuse a query for more than the caller may see: the organization, some projects, or the caller's own usage."""
    scope = Scope.SCOPE_USAGE_READ
    projects, users = query.filters["project_id"], query.filters["user_id"]
    if may(scope):
        return
    if projects and all(may(scope, project_id=project_id) for project_id in projects):
        return
    if users and all(may(scope, user_id=user_id) for user_id in users):
        return
    raise PermissionDenied
