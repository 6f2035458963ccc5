"""The SQL statements on experiments, in billing's own schema, and on the variants of subjects, in their shards."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Final

import asyncpg
from sqlalchemy import Row, Select, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.common.database import RawConnection
from libs.common.ids import NIL
from services.billing.plan.experiment_domain import Experiment, Outcome, Variant, sums
from services.billing.tables import plan_experiments, plans

Subject = tuple[str, str]
"""The organization, and the user in it; NIL for the organization itself."""

_c: Final = plan_experiments.c
# Each with the code of its plan, by the primary key of plans.
_EXPERIMENTS: Final = select(plan_experiments, plans.c.plan_code).join(plans, plans.c.plan_id == _c.plan_id)

# One probe of the primary key.
_FIND: Final = """
    SELECT plan_id::text FROM plan_assignments
    WHERE organization_id = $1::uuid AND experiment_id = $2::uuid AND user_id = $3::uuid
"""

_ADD: Final = """
    INSERT INTO plan_assignments (organization_id, experiment_id, user_id, plan_id, actor, create_time)
    VALUES ($1::uuid, $2::uuid, $3::uuid, $4::uuid, $5, $6)
    ON CONFLICT ON CONSTRAINT plan_assignments_pkey DO NOTHING
"""

# A range of the index of assignments on experiments. For each of them the subject's subscriptions, by their index on
# users, and their events, by primary key. A subscription counts from the event on that brought it to the variant's
# plan. A change of plan at the end of a period begins none: the next event does.
_OUTCOMES: Final = """
    WITH page AS MATERIALIZED (
        SELECT a.organization_id, a.user_id, a.plan_id, a.create_time FROM plan_assignments AS a
        WHERE a.experiment_id = $1::uuid AND (a.organization_id, a.user_id) > ($2::uuid, $3::uuid)
        ORDER BY a.organization_id, a.user_id LIMIT $4
    )
    SELECT page.organization_id::text, page.user_id::text, page.plan_id::text,
        came.tried, came.periods > 0 AS subscribed, came.periods > 1 AS stayed, came.currency_codes, came.amounts
    FROM page
    LEFT JOIN LATERAL (
        SELECT facts.tried, facts.periods, money.currency_codes, money.amounts
        FROM (
            SELECT s.subscription_id FROM subscriptions AS s
            WHERE s.organization_id = page.organization_id AND s.user_id = page.user_id
            UNION ALL
            SELECT s.subscription_id FROM subscriptions AS s
            WHERE s.organization_id = page.organization_id AND s.user_id IS NULL AND page.user_id = $6::uuid
        ) AS s
        CROSS JOIN LATERAL (
            SELECT e.sequence FROM subscription_events AS e
            WHERE e.organization_id = page.organization_id AND e.subscription_id = s.subscription_id
                AND e.kind IN ('CREATED', 'PLAN_CHANGE_SCHEDULED', 'PLAN_CHANGED') AND NOT e.planned
                AND e.details ->> 'plan_id' = page.plan_id::text
                AND e.create_time >= page.create_time AND ($5::timestamptz IS NULL OR e.create_time < $5)
            ORDER BY e.sequence LIMIT 1
        ) AS entry
        CROSS JOIN LATERAL (
            SELECT coalesce(bool_or(e.to_state = 'TRIALING'), false) AS tried,
                count(DISTINCT e.period_end_time) FILTER (WHERE e.to_state = 'ACTIVE') AS periods
            FROM subscription_events AS e
            WHERE e.organization_id = page.organization_id AND e.subscription_id = s.subscription_id
                AND e.sequence >= entry.sequence AND NOT e.planned AND e.details ->> 'plan_id' = page.plan_id::text
                AND (e.kind IN ('TRIAL_STARTED', 'PERIOD_STARTED', 'PAYMENT_MADE', 'RESUMED')
                    OR e.kind = 'PLAN_CHANGED' AND e.effective_time < e.period_end_time)
        ) AS facts
        CROSS JOIN LATERAL (
            SELECT array_agg(of_currency.code) AS currency_codes, array_agg(of_currency.amount) AS amounts
            FROM (
                SELECT line -> 'amount' ->> 'currency_code' AS code,
                    sum(CAST(line -> 'amount' ->> 'value' AS numeric)) AS amount
                FROM subscription_events AS e
                CROSS JOIN LATERAL jsonb_array_elements(e.details -> 'lines') AS line
                WHERE e.organization_id = page.organization_id AND e.subscription_id = s.subscription_id
                    AND e.sequence >= entry.sequence AND NOT e.planned
                    AND e.kind <> 'PAYMENT_REFUSED' AND e.to_state <> 'PAST_DUE'
                    AND line ->> 'plan_id' = page.plan_id::text
                GROUP BY code
            ) AS of_currency
        ) AS money
    ) AS came ON true
    ORDER BY page.organization_id, page.user_id
"""


async def find_latest(connection: AsyncConnection, plan_id: str) -> Experiment | None:
    """Return the latest experiment on a plan: the one that runs, if one does. By the index on plans, from its end."""
    return await _first(connection, _EXPERIMENTS.where(_c.plan_id == plan_id).order_by(_c.experiment_id.desc()))


async def find_experiment(connection: AsyncConnection, plan_id: str, experiment_id: str) -> Experiment | None:
    """Return an experiment on a plan; by primary key."""
    return await _first(connection, _EXPERIMENTS.where(_c.plan_id == plan_id, _c.experiment_id == experiment_id))


async def find_running(connection: AsyncConnection, plan_code: str) -> Experiment | None:
    """Return the experiment that runs on a plan; by the plans' unique key and the index on those that run."""
    return await _first(connection, _EXPERIMENTS.where(plans.c.plan_code == plan_code, _c.end_time.is_(None)))


async def find_running_with(
    connection: AsyncConnection, plan_ids: Collection[str], *, except_on: str = ""
) -> Experiment | None:
    """Return an experiment that runs and has one of the plans, on whichever plan but one; reads all that run."""
    has_plan = (_c.variants.contains([{"plan_id": plan_id}]) for plan_id in plan_ids)
    statement = _EXPERIMENTS.where(_c.end_time.is_(None), or_(_c.plan_id.in_(plan_ids), *has_plan))
    return await _first(connection, statement.where(_c.plan_id != except_on) if except_on else statement)


async def add_experiment(connection: AsyncConnection, experiment: Experiment) -> None:
    """Add an experiment."""
    await connection.execute(insert(plan_experiments).values(_values(experiment)))


async def replace_experiment(connection: AsyncConnection, experiment: Experiment) -> None:
    """Change an experiment; by primary key."""
    named = _c.experiment_id == experiment.experiment_id
    await connection.execute(update(plan_experiments).where(named).values(_values(experiment)))


async def find_assigned(connection: RawConnection, experiment_id: str, subject: Subject) -> str | None:
    """Return the id of the plan that a subject has in an experiment."""
    organization_id, user_id = subject
    found: str | None = await connection.fetchval(_FIND, organization_id, experiment_id, user_id)
    return found


async def add_assignment(
    connection: RawConnection, experiment_id: str, subject: Subject, plan_id: str, actor: str, now: datetime
) -> None:
    """Give a subject a plan in an experiment, unless it has one; waits for whoever does so at the same time."""
    organization_id, user_id = subject
    await connection.execute(_ADD, organization_id, experiment_id, user_id, plan_id, actor, now)


async def outcomes_after(
    connection: RawConnection, experiment: Experiment, after: Subject, limit: int
) -> list[tuple[Subject, Outcome]]:
    """Return what became of a shard's subjects in an experiment, after one of them, in order."""
    rows = await connection.fetch(_OUTCOMES, experiment.experiment_id, *after, limit, experiment.end_time, NIL)
    by_subject = groupby(rows, key=lambda row: (row["organization_id"], row["user_id"]))
    return [(subject, _outcome(list(of_subject))) for subject, of_subject in by_subject]


def _outcome(subscriptions: Sequence[asyncpg.Record]) -> Outcome:
    """Return the outcome of a subject from the rows of its subscriptions, or from one without any."""
    brought = [
        dict(zip(row["currency_codes"] or (), map(Decimal, row["amounts"] or ()), strict=True)) for row in subscriptions
    ]
    return Outcome(
        plan_id=subscriptions[0]["plan_id"],
        tried=any(row["tried"] for row in subscriptions),
        subscribed=any(row["subscribed"] for row in subscriptions),
        stayed=any(row["stayed"] for row in subscriptions),
        brought=sums(brought),
    )


async def _first(connection: AsyncConnection, statement: Select[tuple[object, ...]]) -> Experiment | None:
    row = (await connection.execute(statement.limit(1))).first()
    return None if row is None else _experiment(row)


def _values(experiment: Experiment) -> dict[str, object]:
    variants = [
        {"plan_id": one.plan_id, "plan_code": one.plan_code, "weight": one.weight} for one in experiment.variants
    ]
    return {name: getattr(experiment, name) for name in _c.keys() if name != "variants"} | {"variants": variants}


def _experiment(row: Row[tuple[object, ...]]) -> Experiment:
    return Experiment(
        experiment_id=row.experiment_id,
        plan_id=row.plan_id,
        plan_code=row.plan_code,
        variants=tuple(Variant(one["plan_id"], one["plan_code"], one["weight"]) for one in row.variants),
        revision=row.revision,
        start_time=row.start_time,
        update_time=row.update_time,
        end_time=row.end_time,
    )
