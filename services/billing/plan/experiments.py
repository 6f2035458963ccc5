"""The use cases of experiments on plans. Access is checked by the pipeline before they are called."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from libs.common.audit.recording import PLATFORM, differences, record_event
from libs.common.call import current_actor
from libs.common.clock import Clock
from libs.common.database import Database, Transaction
from libs.common.errors import FieldViolation, InvalidArgument, NotFound, StaleEtag
from libs.common.ids import NIL, new_id
from libs.common.shards import Shards
from services.billing import errors
from services.billing.clients.subjects import Members
from services.billing.plan import experiment_store, store
from services.billing.plan.domain import Plan
from services.billing.plan.experiment_domain import Experiment, Result, Variant, variant_for, variant_problem
from services.billing.plan.plans import require_subscribable

_SUBJECTS_AT_A_TIME: Final = 500
"""Of how many subjects one statement reads the subscriptions."""
_FIRST: Final = (NIL, NIL)


class Experiments:
    """Changes experiments, gives subjects their variants, and counts what became of them."""

    def __init__(
        self, platform: Database, shards: Shards, reports: Shards, clock: Clock, *, members: Members | None
    ) -> None:
        """`reports` are the shards again, for long reads. Without `members` any user is taken as a member."""
        self._platform = platform
        self._shards = shards
        self._reports = reports
        self._clock = clock
        self._members = members

    async def set(self, plan_code: str, weights: Mapping[str, int], etag: str) -> Experiment:
        """Begin an experiment, change its weights, or end it if there are none; return it as it is then.

        `weights` are those of the variants, by the codes of their plans, in the order of the request.

        Raises:
            InvalidArgument: a plan cannot be a variant.
            NotFound: there is no such plan, or no experiment to end.
            PlanArchived, PlanNotPublished: nobody can subscribe to the plan.
            ExperimentRunning: one with other variants runs.
            PlanInExperiment: one of the plans is part of another plan's experiment.
            StaleEtag: the latest experiment has changed since it had this etag.
        """
        async with self._platform.transaction() as connection:
            await store.lock_plans(connection)
            plan = await _plan(connection, plan_code)
            latest = await experiment_store.find_latest(connection, plan.plan_id)
            running = latest if latest is not None and latest.is_running else None
            if not weights and running is None:
                return _existing(latest, plan_code)
            if running is not None and running.weights == weights:
                return running
            if etag and (latest is None or etag != latest.etag):
                raise StaleEtag(resource_type="plan experiment")
            now = self._clock.now()
            if running is None:
                begun = await _begun(connection, plan, weights, now)
                await experiment_store.add_experiment(connection, begun)
                return await _recorded(connection, None, begun)
            changed = replace(_changed(running, weights, now), revision=running.revision + 1, update_time=now)
            await experiment_store.replace_experiment(connection, changed)
            return await _recorded(connection, running, changed)

    async def report(self, plan_code: str, experiment_id: str) -> tuple[Experiment, list[Result]]:
        """Return an experiment, the latest one if none is named, with what became of the subjects of each variant.

        Raises NotFound. It reads a bounded number of subjects at a time, and all of them, shard by shard.
        """
        async with self._platform.transaction() as connection:
            plan = await _plan(connection, plan_code)
            if experiment_id:
                found = await experiment_store.find_experiment(connection, plan.plan_id, experiment_id)
            else:
                found = await experiment_store.find_latest(connection, plan.plan_id)
        experiment = _existing(found, experiment_id or plan_code)
        results = {variant.plan_id: Result(variant.plan_code) for variant in experiment.variants}
        for shard in self._reports:
            after: experiment_store.Subject | None = _FIRST
            while after is not None:
                async with shard.raw_connection() as connection_:
                    page = await experiment_store.outcomes_after(connection_, experiment, after, _SUBJECTS_AT_A_TIME)
                for _, outcome in page:
                    results[outcome.plan_id] = results[outcome.plan_id].with_outcome(outcome)
                after = page[-1][0] if len(page) == _SUBJECTS_AT_A_TIME else None
        return experiment, [*results.values()]

    async def offer(self, organization_id: str, user_id: str, plan_code: str) -> tuple[Plan, str]:
        """Return the plan that a subject gets under a code, without its draft, and the id of the experiment, if any.

        `user_id` is empty for the organization itself. The subject keeps the plan as long as the experiment runs.

        Raises:
            NotFound: there is no such plan, or it is a draft and the caller may see none, or the user is no member.
            PlanArchived, PlanNotPublished: nobody can subscribe to the plan.
        """
        asked = await self._subscribable(plan_code)
        if user_id and self._members is not None and not await self._members.is_member(organization_id, user_id):
            raise NotFound(resource_type="user", resource_name=user_id)
        found = await self._found(organization_id, user_id, plan_code, keep=True)
        if found is None:
            return asked, ""
        experiment, variant = found
        return await self._subscribable(variant.plan_code), experiment.experiment_id

    async def plan_code_for(
        self, organization_id: str, user_id: str | None, plan_code: str, *, keep: bool = True
    ) -> str:
        """Return the code of the plan that a subject gets under a code, which is that code where no experiment runs.

        With `keep` the subject keeps it as long as the experiment runs.
        """
        found = await self._found(organization_id, user_id or "", plan_code, keep=keep)
        return plan_code if found is None else found[1].plan_code

    async def _subscribable(self, plan_code: str) -> Plan:
        async with self._platform.transaction() as connection:
            plan = await store.find_plan(connection, plan_code=plan_code)
        return replace(require_subscribable(plan, plan_code), draft=None)

    async def _found(
        self, organization_id: str, user_id: str, plan_code: str, *, keep: bool
    ) -> tuple[Experiment, Variant] | None:
        """Return the experiment that runs on a plan and the subject's variant; None where none runs."""
        async with self._platform.transaction() as connection:
            experiment = await experiment_store.find_running(connection, plan_code)
        if experiment is None:
            return None
        by_plan = {variant.plan_id: variant for variant in experiment.variants}
        subject = organization_id, user_id or NIL
        async with self._shards.of(organization_id).raw_connection() as raw:
            plan_id = await experiment_store.find_assigned(raw, experiment.experiment_id, subject)
            if plan_id is None:
                chosen = variant_for(experiment, organization_id, user_id)
                if not keep:
                    return experiment, chosen
                await experiment_store.add_assignment(
                    raw, experiment.experiment_id, subject, chosen.plan_id, current_actor(), self._clock.now()
                )
                # Another request may have been faster, and known other weights.
                plan_id = await experiment_store.find_assigned(raw, experiment.experiment_id, subject)
        assert plan_id is not None
        return experiment, by_plan[plan_id]


async def _plan(connection: Transaction, plan_code: str) -> Plan:
    plan = await store.find_plan(connection, plan_code=plan_code)
    if plan is None:
        raise NotFound(resource_type="plan", resource_name=plan_code)
    return plan


def _existing(experiment: Experiment | None, name: str) -> Experiment:
    if experiment is None:
        raise NotFound(resource_type="plan experiment", resource_name=name)
    return experiment


async def _begun(connection: Transaction, plan: Plan, weights: Mapping[str, int], now: datetime) -> Experiment:
    """Return a new experiment on a plan; raises as `Experiments.set` does."""
    require_subscribable(plan, plan.plan_code)
    found = [await store.find_plan(connection, plan_code=plan_code) for plan_code in weights]
    problems = [FieldViolation(f"variants[{at}].plan_code", variant_problem(one)) for at, one in enumerate(found)]
    if any(problem.description for problem in problems):
        raise InvalidArgument([problem for problem in problems if problem.description])
    plans = {one.plan_id: one.plan_code for one in (plan, *found) if one is not None}
    other = await experiment_store.find_running_with(connection, plans, except_on=plan.plan_id)
    if other is not None:
        theirs = {other.plan_id, *(variant.plan_id for variant in other.variants)}
        shared = min(plan_code for plan_id, plan_code in plans.items() if plan_id in theirs)
        raise errors.PlanInExperiment(plan_code=shared, experiment_id=other.experiment_id)
    variants = (Variant(one.plan_id, one.plan_code, weights[one.plan_code]) for one in found if one is not None)
    return Experiment(
        experiment_id=new_id(),
        plan_id=plan.plan_id,
        plan_code=plan.plan_code,
        variants=tuple(sorted(variants, key=lambda variant: variant.plan_code)),
        revision=1,
        start_time=now,
        update_time=now,
        end_time=None,
    )


def _changed(running: Experiment, weights: Mapping[str, int], now: datetime) -> Experiment:
    """Return an experiment with other weights, or ended if there are none. Raises ExperimentRunning."""
    if not weights:
        return replace(running, end_time=now)
    if weights.keys() != running.weights.keys():
        raise errors.ExperimentRunning(plan_code=running.plan_code)
    return replace(
        running, variants=tuple(replace(variant, weight=weights[variant.plan_code]) for variant in running.variants)
    )


async def _recorded(connection: Transaction, before: Experiment | None, after: Experiment) -> Experiment:
    await record_event(
        connection,
        now=after.update_time,
        organization_id=PLATFORM,
        resource_type="plan_experiment",
        resource_id=after.experiment_id,
        changed=differences({} if before is None else _fields(before), _fields(after)),
    )
    return after


def _fields(experiment: Experiment) -> dict[str, str | None]:
    return {
        "plan_code": experiment.plan_code,
        **{f"variants.{plan_code}": str(weight) for plan_code, weight in experiment.weights.items()},
        "ended": str(not experiment.is_running).lower(),
    }
