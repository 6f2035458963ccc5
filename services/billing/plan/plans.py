"""The use cases of plans. Access is checked by the pipeline before they are called."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from libs.common.audit.recording import PLATFORM, record_event
from libs.common.call import is_limited
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, StaleEtag
from libs.common.ids import new_id
from libs.common.repeats.once import Repeatable, once
from services.billing import errors
from services.billing.plan import experiment_store, store
from services.billing.plan.changes import plan_changes
from services.billing.plan.domain import (
    FALLBACK_FIELD,
    PLANS_MAX,
    VERSIONS_MAX,
    Changes,
    NewPlan,
    PastDueEnd,
    Place,
    Plan,
    Version,
    VersionState,
    changed,
    fallback_problem,
    minimum_flaws,
)
from services.billing.tables import plan_requests

_PLANS_AT_A_TIME: Final = 8
"""How many plans are read at a time: each may have half a megabyte."""
_PAGE_BYTES_MAX: Final = 2_000_000
"""What the plans of a page have at most; a single plan has less."""


class Rendered(Protocol):
    """A plan as it is answered."""

    def ByteSize(self) -> int:  # noqa: N802 -- protobuf's name.
        """Return the size in an answer."""


_R = TypeVar("_R", bound=Rendered)


@dataclass(frozen=True, slots=True)
class Page(Generic[_R]):
    """Plans as they are answered."""

    plans: list[_R]
    next_after: Place | None = None
    """After what the next page begins, where there is one."""


class Plans:
    """Changes and reads plans. Every change takes one lock first, so changes are made one after another."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """`database` is that of billing's own schema."""
        self._database = database
        self._clock = clock

    async def create(self, new: NewPlan, repeatable: Repeatable, render: Callable[[Plan], bytes]) -> tuple[bytes, bool]:
        """Add a plan with a draft; return the rendered response, and whether it is a replay.

        Raises:
            InvalidArgument: the fallback plan cannot be one, or the minimum is in another currency than the price.
            PlanExists: there is a plan of this code.
            ProviderReferenceTaken: a reference is another plan's.
            TooManyPlans: there are as many plans as there can be.
        """

        async def add(connection: Transaction) -> bytes:
            await store.lock_plans(connection)
            now = self._clock.now()
            plan = _new_plan(new, now)
            if await store.find_plan(connection, plan_code=new.plan_code) is not None:
                raise errors.PlanExists(plan_code=new.plan_code)
            if await store.count_plans(connection) >= PLANS_MAX:
                raise errors.TooManyPlans(plans=PLANS_MAX)
            _require_minimum(plan)
            await _require_fallback(connection, plan)
            await _require_free_references(connection, plan)
            await store.add_plan(connection, plan)
            await store.put_draft(connection, plan.plan_id, plan.newest)
            await store.replace_references(connection, plan)
            await _record(connection, None, plan)
            return render(plan)

        return await once(self._database, plan_requests, self._clock, repeatable, add)

    async def get(self, plan_id: str, plan_code: str, asked_version: int) -> tuple[Plan, Version | None]:
        """Return a plan as the caller may see it, and the asked version where that is neither of the two.

        Raises:
            NotFound: there is no such plan or version, or it is a draft and the caller may see none.
        """
        async with self._database.transaction() as connection:
            plan = await store.find_plan(connection, plan_id=plan_id, plan_code=plan_code)
            if plan is not None and is_limited():
                plan = _without_draft(plan)
            if plan is None:
                raise NotFound(resource_type="plan", resource_name=plan_id or plan_code)
            shown = [one.version for one in (plan.published, plan.draft) if one is not None]
            if not asked_version or asked_version in shown:
                return plan, None
            version = await store.find_version(connection, plan.plan_id, asked_version)
        if version is None:
            raise _no_version(plan, asked_version)
        return plan, version

    async def list_plans(
        self, *, after: Place | None, include_inactive: bool, limit: int, render: Callable[[Plan], _R]
    ) -> Page[_R]:
        """Return the plans after a place in their order that the caller may see, as many as fit into an answer.

        Raises:
            InactivePlansForOperatorsOnly: the caller may not see plans that are not offered.
        """
        limited = is_limited()
        if limited and include_inactive:
            raise errors.InactivePlansForOperatorsOnly
        page: list[_R] = []
        size = 0
        async with self._database.transaction() as connection:
            while True:
                wanted = min(_PLANS_AT_A_TIME, limit + 1 - len(page))
                portion = await store.list_plans(
                    connection,
                    after=after,
                    include_inactive=include_inactive,
                    published_only=limited,
                    limit=wanted,
                )
                for plan in portion:
                    rendered = render(replace(plan, draft=None) if limited else plan)
                    size += rendered.ByteSize()
                    if len(page) == limit or (page and size > _PAGE_BYTES_MAX):
                        return Page(page, next_after=after)
                    page.append(rendered)
                    after = plan.sort_order, plan.plan_code
                if len(portion) < wanted:
                    return Page(page)

    async def update(
        self,
        plan_id: str,
        changes: Changes,
        etag: str,
        repeatable: Repeatable,
        render: Callable[[Plan], bytes],
    ) -> tuple[bytes, bool]:
        """Change some fields of a plan; return the rendered response, and whether it is a replay.

        Raises:
            InvalidArgument: the fallback plan cannot be one, or the minimum is in another currency than the price.
            NotFound: there is no such plan.
            PlanArchived: the plan is archived.
            ProviderReferenceTaken: a reference is another plan's.
            StaleEtag: the plan has changed since it had this etag.
            TooManyPlanVersions: a draft is needed, and the plan has as many versions as it can have.
        """

        async def change(connection: Transaction) -> bytes:
            before = await _locked(connection, plan_id)
            _require_etag(before, etag)
            if before.archive_time is not None:
                raise errors.PlanArchived(plan_code=before.plan_code)
            now = self._clock.now()
            after = changed(before, changes, now)
            _require_minimum(after)
            if "past_due" in changes.of_terms:
                await _require_fallback(connection, after)
            if after == before:
                return render(before)
            if after.newest.version > VERSIONS_MAX:
                raise errors.TooManyPlanVersions(plan_code=before.plan_code, versions=VERSIONS_MAX)
            if after.provider_references != before.provider_references:
                await _require_free_references(connection, after)
                await store.replace_references(connection, after)
            if after.draft is not None and after.draft != before.draft:
                await store.put_draft(connection, plan_id, after.draft)
            return render(await _replace(connection, before, after, now))

        return await once(self._database, plan_requests, self._clock, repeatable, change)

    async def publish(self, plan_id: str, version: int, etag: str) -> Plan:
        """Publish the draft of a plan, and return the plan; a version that is published stays so.

        Raises:
            FallbackPlanUnusable: unpaid subscriptions could not go to the plan that it names.
            NotFound: there is no such plan or version.
            PlanArchived: the plan is archived.
            PlanVersionArchived: the version was replaced by a later one.
            StaleEtag: the plan has changed since it had this etag.
        """
        async with self._database.transaction() as connection:
            before = await _locked(connection, plan_id)
            if before.published is not None and before.published.version == version:
                return before
            if before.archive_time is not None:
                raise errors.PlanArchived(plan_code=before.plan_code)
            draft = before.draft
            if draft is None or draft.version != version:
                if await store.find_version(connection, plan_id, version) is None:
                    raise _no_version(before, version)
                raise errors.PlanVersionArchived(plan_code=before.plan_code, version=version)
            _require_etag(before, etag)
            problem = await _fallback_problem(connection, before)
            if problem:
                code = draft.terms.past_due.fallback_plan_code
                raise errors.FallbackPlanUnusable(fallback_plan_code=code, problem=problem)
            now = self._clock.now()
            published = replace(draft, state=VersionState.PUBLISHED, publish_time=now)
            await store.publish(connection, plan_id, published, now)
            return await _replace(connection, before, replace(before, published=published, draft=None), now)

    async def archive(self, plan_id: str) -> Plan:
        """Archive a plan, and return it; one that is archived stays as it is. Raises NotFound, PlanInExperiment."""
        async with self._database.transaction() as connection:
            before = await _locked(connection, plan_id)
            if before.archive_time is not None:
                return before
            experiment = await experiment_store.find_running_with(connection, [plan_id])
            if experiment is not None:
                raise errors.PlanInExperiment(plan_code=before.plan_code, experiment_id=experiment.experiment_id)
            now = self._clock.now()
            return await _replace(connection, before, replace(before, archive_time=now), now)


def require_subscribable(plan: Plan | None, plan_code: str) -> Plan:
    """Return a plan that was looked for by its code and has a published version.

    Raises:
        NotFound: there is none, or it is a draft and the caller may see none.
        PlanArchived, PlanNotPublished: nobody can subscribe to it.
    """
    if plan is None or (plan.published is None and is_limited()):
        raise NotFound(resource_type="plan", resource_name=plan_code)
    if plan.archive_time is not None:
        raise errors.PlanArchived(plan_code=plan_code)
    if plan.published is None:
        raise errors.PlanNotPublished(plan_code=plan_code)
    return plan


def _new_plan(new: NewPlan, now: datetime) -> Plan:
    return Plan(
        plan_id=new_id(),
        plan_code=new.plan_code,
        name=new.name,
        description=new.description,
        active=new.active,
        sort_order=new.sort_order,
        provider_references=new.provider_references,
        published=None,
        draft=Version(1, VersionState.DRAFT, new.terms, now),
        revision=1,
        create_time=now,
        update_time=now,
    )


def _without_draft(plan: Plan) -> Plan | None:
    """Return a plan as users see it; None where nothing of it was ever published."""
    return None if plan.published is None else replace(plan, draft=None)


def _no_version(plan: Plan, version: int) -> NotFound:
    return NotFound(resource_type="plan version", resource_name=f"{plan.plan_code}/{version}")


async def _locked(connection: Transaction, plan_id: str) -> Plan:
    await store.lock_plans(connection)
    plan = await store.find_plan(connection, plan_id=plan_id)
    if plan is None:
        raise NotFound(resource_type="plan", resource_name=plan_id)
    return plan


def _require_etag(plan: Plan, etag: str) -> None:
    if etag and etag != plan.etag:
        raise StaleEtag(resource_type="plan")


def _require_minimum(plan: Plan) -> None:
    flaws = list(minimum_flaws(plan.newest.terms))
    if flaws:
        raise InvalidArgument(flaws)


async def _require_fallback(connection: Transaction, plan: Plan) -> None:
    problem = await _fallback_problem(connection, plan)
    if problem:
        raise InvalidArgument([FieldViolation(FALLBACK_FIELD, problem)])


async def _fallback_problem(connection: Transaction, plan: Plan) -> str:
    """Return why unpaid subscriptions to the newest version cannot go where they would; empty if they can."""
    past_due = plan.newest.terms.past_due
    if past_due.end is not PastDueEnd.CHANGE_PLAN:
        return ""
    fallback = await store.find_plan(connection, plan_code=past_due.fallback_plan_code)
    return fallback_problem(plan.plan_code, fallback)


async def _require_free_references(connection: Transaction, plan: Plan) -> None:
    taken = await store.find_taken(connection, plan.plan_id, plan.provider_references)
    if taken is not None:
        raise errors.ProviderReferenceTaken(
            provider=taken.provider, kind=taken.kind, external_id=taken.external_id, resource_type="plan"
        )


async def _replace(connection: Transaction, before: Plan, after: Plan, now: datetime) -> Plan:
    """Store the plan as it is after a change, note the change, and return the plan."""
    after = replace(after, revision=before.revision + 1, update_time=now)
    await store.replace_plan(connection, after)
    await _record(connection, before, after)
    return after


async def _record(connection: Transaction, before: Plan | None, after: Plan) -> None:
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="plan",
        resource_id=after.plan_id,
        changed=plan_changes(before, after),
    )
