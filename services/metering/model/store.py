"""The SQL statements of the catalogue, which is a few small tables."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import ARRAY, Row, Select, Text, Tuple, any_, bindparam, cast, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from libs.common.database_errors import refusal_for
from services.metering.model.card_json import card_json, card_of_json
from services.metering.model.domain import Model, PriceVersion
from services.metering.model.rates import FACTOR_DIGITS, NANO_DIGITS
from services.metering.model.units import Kind, Unit
from services.metering.tables import (
    TOKEN_CLASSES,
    catalogue_state,
    models,
    price_versions,
    units,
)

_STATE_REVISION: Final = select(catalogue_state.c.revision)
_NEXT_REVISION: Final = (
    update(catalogue_state).values(revision=catalogue_state.c.revision + 1).returning(catalogue_state.c.revision)
)
_PORTION_ROWS: Final = 500


class RowsRefused(Exception):
    """The database rejects at least one row because of its content."""


async def take_next_revision(connection: AsyncConnection) -> int:
    """Return the number of a new change. Locks the one row until the transaction ends, so changes are serialized."""
    return int((await connection.execute(_NEXT_REVISION)).scalar_one())


async def read_revision(connection: AsyncConnection) -> int:
    return int((await connection.execute(_STATE_REVISION)).scalar_one())


async def units_since(connection: AsyncConnection, revision: int) -> list[Unit]:
    """Return the units changed after a revision; by the index on revisions. There are a few hundred at most."""
    c = units.c
    statement = select(
        c.unit_id, c.name, c.description, c.kind, c.counts_toward_context, c.step_thousandths, c.archived
    ).where(c.revision > revision)
    rows = await connection.execute(statement)
    return [Unit(row[0], row[1], row[2], Kind(row[3]), row[4], row[5], row[6]) for row in rows]


async def models_since(connection: AsyncConnection, revision: int) -> AsyncIterator[list[Model]]:
    """Yield the models changed after a revision, in portions; by the index on revisions."""
    statement = select(models).where(models.c.revision > revision)
    async for rows in _portions(connection, statement):
        yield [_model(row) for row in rows]


async def price_versions_since(connection: AsyncConnection, revision: int) -> AsyncIterator[list[PriceVersion]]:
    """Yield the versions added after a revision, in portions; by the index on revisions."""
    statement = select(price_versions).where(price_versions.c.revision > revision)
    async for rows in _portions(connection, statement):
        yield [_price_version(row) for row in rows]


async def _portions(
    connection: AsyncConnection, statement: Select[tuple[object, ...]]
) -> AsyncIterator[Sequence[Row[tuple[object, ...]]]]:
    """Read with a cursor, so that other calls are served between the portions of a large catalogue."""
    result = await connection.stream(statement, execution_options={"yield_per": _PORTION_ROWS})
    async for rows in result.partitions():
        yield rows


async def prices_in_force(
    connection: AsyncConnection, model_ids: Sequence[str], moment: datetime
) -> dict[str, PriceVersion]:
    """Return each model's price for everybody at the moment; by the unique key on organization, model and time."""
    c = price_versions.c
    statement = (
        select(price_versions)
        .ext(distinct_on(c.model_id))
        .where(c.organization_id.is_(None), c.model_id == any_(bindparam("model_ids", type_=ARRAY(Text))))
        .where(c.effective_time <= moment)
        .order_by(c.model_id, c.effective_time.desc())
    )
    rows = await connection.execute(statement, {"model_ids": list(model_ids)})
    return {row.model_id: _price_version(row) for row in rows}


async def find_price_version(connection: AsyncConnection, price_version_id: str) -> PriceVersion | None:
    """Return a version; by primary key."""
    statement = select(price_versions).where(price_versions.c.price_version_id == price_version_id)
    row = (await connection.execute(statement)).first()
    return None if row is None else _price_version(row)


async def set_by_hand(connection: AsyncConnection, model_ids: Sequence[str]) -> set[str]:
    """Return those of the models whose price was set by hand; by primary key."""
    c = models.c
    statement = select(c.model_id).where(
        c.model_id == any_(bindparam("model_ids", type_=ARRAY(Text))), c.price_set_by_hand
    )
    return set((await connection.execute(statement, {"model_ids": list(model_ids)})).scalars())


async def add_priced_models(
    connection: AsyncConnection, added: Sequence[tuple[Model, PriceVersion]], revision: int
) -> None:
    """Add price versions, and their models where they do not exist yet.

    Raises:
        RowsRefused: the database rejects a row. Nothing is stored, and the transaction can be continued.
    """
    try:
        async with connection.begin_nested():
            await add_models(connection, [model for model, _ in added])
            await add_price_versions(connection, [version for _, version in added], revision)
    except DBAPIError as error:
        if refusal_for(error) is not None:
            raise
        raise RowsRefused from error


async def find_model(connection: AsyncConnection, model_id: str, *, lock: bool = False) -> Model | None:
    """Return a model, with a row lock if `lock` is set; by primary key."""
    statement = select(models).where(models.c.model_id == model_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).first()
    return None if row is None else _model(row)


async def list_models(
    connection: AsyncConnection,
    *,
    after: str,
    provider: str,
    capabilities: Sequence[str],
    active_only: bool,
    limit: int,
) -> list[Model]:
    """Return models sorted by id; by primary key, or the index on providers or on capabilities."""
    listed: ReadOnlyColumnCollection[str, Any] = models.c
    if capabilities:
        # They are found by their own index first, and sorted then: they are few, or all are.
        able = select(models).where(models.c.capabilities.op("@>")(cast(list(capabilities), ARRAY(Text)))).offset(0)
        listed = able.subquery().c
    statement = select(*listed).where(listed.model_id > after).order_by(listed.model_id).limit(limit)
    if provider:
        statement = statement.where(listed.provider == provider)
    if active_only:
        statement = statement.where(listed.active)
    return [_model(row) for row in await connection.execute(statement)]


async def add_models(connection: AsyncConnection, added: Sequence[Model]) -> set[str]:
    """Add the models that do not exist yet and return their ids."""
    if not added:
        return set()
    values = [{column: getattr(model, column) for column in models.c.keys()} for model in added]
    for value in values:
        value["capabilities"] = list(value["capabilities"])
    statement = insert(models).on_conflict_do_nothing().returning(models.c.model_id)
    # Given as parameters of one statement, the rows need no statement text to be compiled for their number.
    return set((await connection.execute(statement, values)).scalars())


async def replace_model(connection: AsyncConnection, model: Model) -> None:
    """Update a model whose row is locked; by primary key."""
    values = {column: getattr(model, column) for column in models.c.keys() if column != "model_id"}
    values["capabilities"] = list(model.capabilities)
    await connection.execute(update(models).where(models.c.model_id == model.model_id).values(values))


async def add_price_versions(connection: AsyncConnection, versions: Sequence[PriceVersion], revision: int) -> set[str]:
    """Add the versions whose effective time is not taken, and return their ids."""
    if not versions:
        return set()
    statement = (
        insert(price_versions)
        .on_conflict_do_nothing(constraint="price_versions_one_at_a_time")
        .returning(price_versions.c.price_version_id)
    )
    values = [_price_values(version, revision) for version in versions]
    return set((await connection.execute(statement, values)).scalars())


async def list_price_versions(
    connection: AsyncConnection,
    *,
    model_id: str,
    organization_id: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[PriceVersion]:
    """Return versions, the latest first; by the unique key on organization, model and time."""
    c = price_versions.c
    owner = c.organization_id == organization_id if organization_id else c.organization_id.is_(None)
    statement = select(price_versions).where(owner, c.model_id == model_id)
    if before is not None:
        statement = statement.where(tuple_(c.effective_time, c.price_version_id) < _bound(*before))
    statement = statement.order_by(c.effective_time.desc(), c.price_version_id.desc()).limit(limit)
    return [_price_version(row) for row in await connection.execute(statement)]


def _bound(moment: datetime, price_version_id: str) -> Tuple:
    return tuple_(
        literal(moment, price_versions.c.effective_time.type),
        literal(price_version_id, price_versions.c.price_version_id.type),
    )


def _model(row: Row[tuple[object, ...]]) -> Model:
    values: Mapping[str, object] = dict(row._mapping)
    return Model(**{**values, "capabilities": tuple(row.capabilities)})  # type: ignore[arg-type]


def _price_version(row: Row[tuple[object, ...]]) -> PriceVersion:
    return PriceVersion(
        price_version_id=row.price_version_id,
        model_id=row.model_id,
        organization_id=row.organization_id,
        card=card_of_json(row.currency_code, row.rate_card),
        effective_time=row.effective_time,
        create_time=row.create_time,
        source=row.source,
    )


def _price_values(version: PriceVersion, revision: int) -> dict[str, object]:
    plain = version.plain
    factor = int(version.card.factor.scaleb(FACTOR_DIGITS)) if version.card.factor != 1 else 1
    by_class: Sequence[Decimal | None] = [None] * len(TOKEN_CLASSES)
    per_request: Decimal | None = None
    if plain is not None:
        by_class = [_per_million(weight, factor) for weight in plain.weights]
        per_request = _per_million(plain.request_weight, factor).scaleb(-6) if plain.request_weight else None
    return {
        "price_version_id": version.price_version_id,
        "organization_id": version.organization_id,
        "model_id": version.model_id,
        "currency_code": version.card.currency_code,
        **dict(zip(TOKEN_CLASSES, by_class, strict=True)),
        "per_request": per_request,
        "rate_card": card_json(version.card),
        "is_plain": plain is not None,
        "context_max": None if plain is None else plain.context_max,
        "factor": version.card.factor,
        "effective_time": version.effective_time,
        "create_time": version.create_time,
        "source": version.source,
        "revision": revision,
    }


def _per_million(weight: int, factor: int) -> Decimal:
    """Return the price of a million that a weight in a plain card stands for, before the card's factor."""
    return Decimal(weight // factor).scaleb(-NANO_DIGITS)
