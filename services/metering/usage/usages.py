"""The use cases of usage outside the hot path: the rules for times and backfill, and queries."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from libs.common.access import Scope
from libs.common.call import may, require_scope
from libs.common.clock import Clock
from libs.common.database import Database
from libs.common.errors import FieldViolation, NotFound, PermissionDenied, Refusal
from services.metering.usage import store
from services.metering.usage.domain import EARLY_MAX, LATE_MAX, NIL, Outcome, Recorded, Work
from services.metering.usage.engine import UsageEngine
from services.metering.usage.months import Months
from services.metering.usage.summaries import Query, Summary, summarize

_log = structlog.get_logger("usage")

LIST_RANGE_MAX: Final = timedelta(days=400)


class Usages:
    """Records usage and answers queries about it."""

    def __init__(self, database: Database, engine: UsageEngine, months: Months, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._months = months
        self._clock = clock

    def now(self) -> datetime:
        """Return the moment that stands for an occur time that is not given."""
        return self._clock.now()

    def check_time(self, occur_time: datetime, *, backfill: bool, violations: list[FieldViolation]) -> None:
        """Add a violation for a time outside the window in which usage is taken."""
        now = self._clock.now()
        if occur_time > now + EARLY_MAX:
            violations.append(FieldViolation("occur_time", "must be at most 5 minutes ahead"))
        elif occur_time < now - LATE_MAX and not backfill:
            violations.append(FieldViolation("occur_time", "must be at most 35 days ago"))

    async def record(self, works: Sequence[Work], *, history: Sequence[datetime] = ()) -> list[Outcome]:
        """Record works; the months of `history` are made first."""
        if history:
            try:
                await self._months.ensure(history)
            except Refusal as refusal:
                _log.warning("months not made; their usage goes to the default partition", reason=refusal.reason)
        return await self._engine.record(works)

    async def get(self, organization_id: str, operation_id: str) -> Recorded:
        key = (organization_id, operation_id)
        async with self._database.raw_connection() as connection:
            found = await store.find(connection, [key])
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
        filters: Sequence[str | None],
        limit: int,
    ) -> tuple[Sequence[Recorded], tuple[datetime, str] | None]:
        """Return a page of usages, the latest first, and where the next begins."""
        async with self._database.raw_connection() as connection:
            return await store.list_usages(
                connection,
                organization_id=organization_id,
                start_time=start_time,
                before=after or (end_time, NIL),
                filters=filters,
                limit=limit,
            )

    async def query(self, query: Query, *, after: Sequence[str] | None, limit: int) -> Sequence[Summary]:
        _require_own_share(query)
        async with self._database.transaction() as connection:
            return await summarize(connection, query, after=after, limit=limit)


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
