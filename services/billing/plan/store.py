"""The SQL statements on plans, of which there are a thousand at most."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Row, delete, func, literal, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.billing.plan.domain import Place, Plan, ProviderReference, Terms, Version, VersionState
from services.billing.plan.terms_json import terms_json, terms_of_json
from services.billing.tables import plan_drafts, plan_references, plan_versions, plans

_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('billing.plans', 0))")

_references_of_plan: Final = (
    select(
        func.jsonb_agg(
            aggregate_order_by(
                func.jsonb_build_array(
                    plan_references.c.provider, plan_references.c.kind, plan_references.c.external_id
                ),
                plan_references.c.provider,
                plan_references.c.kind,
                plan_references.c.external_id,
            )
        )
    )
    .where(plan_references.c.plan_id == plans.c.plan_id)
    .scalar_subquery()
)
_published: Final = plan_versions.alias("published")
_drafts: Final = plan_drafts.alias("draft")
# Of each plan a row of the drafts, by primary key; a row of the versions, by the index on those in force; and the
# references, by their index on plans.
_PLANS: Final = (
    select(
        plans,
        _references_of_plan.label("provider_references"),
        _published.c.version.label("published_version"),
        _published.c.terms.label("published_terms"),
        _published.c.create_time.label("published_create_time"),
        _published.c.publish_time.label("published_publish_time"),
        _drafts.c.version.label("draft_version"),
        _drafts.c.terms.label("draft_terms"),
        _drafts.c.create_time.label("draft_create_time"),
    )
    .outerjoin(_published, (_published.c.plan_id == plans.c.plan_id) & _published.c.archive_time.is_(None))
    .outerjoin(_drafts, _drafts.c.plan_id == plans.c.plan_id)
)


async def lock_plans(connection: AsyncConnection) -> None:
    """Take an advisory lock until the transaction ends, so that changes of plans are made one after another."""
    await connection.execute(_LOCK)


async def find_plan(connection: AsyncConnection, *, plan_id: str = "", plan_code: str = "") -> Plan | None:
    """Return the plan of an id, or else of a code; by primary key or by the unique key on codes."""
    named = plans.c.plan_id == plan_id if plan_id else plans.c.plan_code == plan_code
    row = (await connection.execute(_PLANS.where(named))).first()
    return None if row is None else _plan(row)


async def list_plans(
    connection: AsyncConnection,
    *,
    after: Place | None,
    include_inactive: bool,
    published_only: bool,
    limit: int,
) -> list[Plan]:
    """Return plans by sort_order and code; by the index on their order."""
    place = tuple_(plans.c.sort_order, plans.c.plan_code)
    statement = _PLANS.order_by(plans.c.sort_order, plans.c.plan_code).limit(limit)
    if after is not None:
        sort_order, plan_code = after
        bound = tuple_(literal(sort_order, plans.c.sort_order.type), literal(plan_code, plans.c.plan_code.type))
        statement = statement.where(place > bound)
    if not include_inactive:
        statement = statement.where(plans.c.active, plans.c.archive_time.is_(None))
    if published_only:
        statement = statement.where(_published.c.version.is_not(None))
    return [_plan(row) for row in await connection.execute(statement)]


async def find_version(connection: AsyncConnection, plan_id: str, version: int) -> Version | None:
    """Return a version that was published; by primary key."""
    c = plan_versions.c
    row = (await connection.execute(select(plan_versions).where(c.plan_id == plan_id, c.version == version))).first()
    if row is None:
        return None
    state = VersionState.PUBLISHED if row.archive_time is None else VersionState.ARCHIVED
    terms = terms_of_json(row.terms)
    return Version(row.version, state, terms, row.create_time, row.publish_time, row.archive_time)


async def count_plans(connection: AsyncConnection) -> int:
    """Return how many plans there are; reads all of them."""
    return int((await connection.execute(select(func.count()).select_from(plans))).scalar_one())


async def find_taken(
    connection: AsyncConnection, plan_id: str, references: Sequence[ProviderReference]
) -> ProviderReference | None:
    """Return the first of the references that is another plan's; by primary key."""
    c = plan_references.c
    wanted = [(one.provider, one.kind, one.external_id) for one in references]
    statement = (
        select(c.provider, c.kind, c.external_id)
        .where(tuple_(c.provider, c.kind, c.external_id).in_(wanted), c.plan_id != plan_id)
        .order_by(c.provider, c.kind, c.external_id)
        .limit(1)
    )
    row = (await connection.execute(statement)).first() if wanted else None
    return None if row is None else ProviderReference(*row)


async def add_plan(connection: AsyncConnection, plan: Plan) -> None:
    """Add a plan without its versions and references."""
    await connection.execute(insert(plans).values(_values(plan)))


async def replace_plan(connection: AsyncConnection, plan: Plan) -> None:
    """Change a plan, but not its versions and references; by primary key."""
    await connection.execute(update(plans).where(plans.c.plan_id == plan.plan_id).values(_values(plan)))


async def replace_references(connection: AsyncConnection, plan: Plan) -> None:
    """Make the references of a plan those that it has; by the index on plans."""
    await connection.execute(delete(plan_references).where(plan_references.c.plan_id == plan.plan_id))
    values = [
        {"provider": one.provider, "kind": one.kind, "external_id": one.external_id, "plan_id": plan.plan_id}
        for one in plan.provider_references
    ]
    if values:
        await connection.execute(insert(plan_references), values)


async def put_draft(connection: AsyncConnection, plan_id: str, draft: Version) -> None:
    """Add the draft of a plan, or change its terms; by primary key."""
    terms = terms_json(draft.terms)
    added = insert(plan_drafts).values(
        plan_id=plan_id, version=draft.version, terms=terms, create_time=draft.create_time
    )
    await connection.execute(added.on_conflict_do_update(constraint="plan_drafts_pkey", set_={"terms": terms}))


async def publish(connection: AsyncConnection, plan_id: str, published: Version, now: datetime) -> None:
    """Put a version in place of the draft and of the one in force; by primary key and the index on those in force."""
    c = plan_versions.c
    in_force = update(plan_versions).where(c.plan_id == plan_id, c.archive_time.is_(None))
    await connection.execute(in_force.values(archive_time=now))
    await connection.execute(delete(plan_drafts).where(plan_drafts.c.plan_id == plan_id))
    await connection.execute(
        insert(plan_versions).values(
            plan_id=plan_id,
            version=published.version,
            terms=terms_json(published.terms),
            create_time=published.create_time,
            publish_time=published.publish_time,
        )
    )


def _values(plan: Plan) -> dict[str, object]:
    return {name: getattr(plan, name) for name in plans.c.keys()}


def _plan(row: Row[tuple[object, ...]]) -> Plan:
    return Plan(
        plan_id=row.plan_id,
        plan_code=row.plan_code,
        name=row.name,
        description=row.description,
        active=row.active,
        sort_order=row.sort_order,
        provider_references=tuple(ProviderReference(*one) for one in row.provider_references or ()),
        published=_version(row, VersionState.PUBLISHED),
        draft=_version(row, VersionState.DRAFT),
        revision=row.revision,
        create_time=row.create_time,
        update_time=row.update_time,
        archive_time=row.archive_time,
    )


def _version(row: Row[tuple[object, ...]], state: VersionState) -> Version | None:
    if state is VersionState.DRAFT:
        number, terms, create_time, publish_time = row.draft_version, row.draft_terms, row.draft_create_time, None
    else:
        number, terms, create_time = row.published_version, row.published_terms, row.published_create_time
        publish_time = row.published_publish_time
    return None if number is None else Version(number, state, _terms(terms), create_time, publish_time)


def _terms(stored: object) -> Terms:
    return terms_of_json(stored)  # type: ignore[arg-type]  # what `put_draft` and `publish` have written.
